# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lists of networks, mount points and devices against their numbered keys, netN, mpN and devN.

A list is wanted whole. An entry keeps the key that it has, known by its own property; an entry that is new takes the
first free key; what is found and not listed goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import (
    ConfigError,
    Found,
    Properties,
    Wanted,
    format_properties,
    parse_properties,
    wanted_properties,
    wanted_text,
)

# Key without its number -> the property that tells one entry from another, and how many keys there are.
FAMILIES = {"net": ("name", 32), "mp": ("mp", 256), "dev": ("path", 256)}


def as_keys(option: str, family: str, value: Any, found: Found | None) -> Wanted:
    """The keys for an option's value: a dictionary names them itself, a list is matched.

    Raises ConfigError for another value, for a key of another family, and as list_as_keys does.
    """
    if isinstance(value, list):
        return list_as_keys(option, family, [wanted_properties(f"{family}0", entry) for entry in value], found)
    if not isinstance(value, dict):
        raise ConfigError(f"{option}: wanted a dictionary or a list, found {value!r}")
    wanted = {}
    for key, entry in value.items():
        if not re.fullmatch(family + r"\d+", str(key)):
            raise ConfigError(f"{option}: wanted keys such as {family}0, found {key!r}")
        wanted[str(key)] = wanted_text(str(key), entry)
    return wanted


def devices_as_keys(devices: Iterable[Mapping[str, Any]], found: Found | None) -> Wanted:
    """The devN keys for a list of devices. Raises ConfigError for a path that stands twice or is no device's."""
    entries = []
    for device in devices:
        properties = {str(name).replace("_", "-"): value for name, value in device.items()}
        path, mode = str(properties.get("path") or ""), properties.get("mode")
        if not re.fullmatch(r"/dev/[^\s,]*[^\s,/]", path):
            raise ConfigError(f"devices: wanted the path of a device node below /dev, found {path!r}")
        if mode is not None and not re.fullmatch(r"0[0-7]{3}", str(mode)):
            raise ConfigError(f"devices: {path}: wanted a mode of a 0 and three octal digits, quoted, found {mode!r}")
        entries.append(wanted_properties("dev0", properties))
    return list_as_keys("devices", "dev", entries, found)


def list_as_keys(option: str, family: str, entries: Iterable[Properties], found: Found | None) -> Wanted:
    """The keys for a whole list.

    A key whose removal waits for a restart is not free: over it another entry would have to wait too. The same entry
    takes it back, and nothing waits any more.
    Raises ConfigError for an entry that stands twice or cannot be told from others, and for too many.
    """
    name, limit = FAMILIES[family]
    config, running = (found.config, found.running) if found else ({}, {})
    keys = [key for key in config if re.fullmatch(family + r"\d+", key)]
    going = [key for key in running if re.fullmatch(family + r"\d+", key) and key not in config]
    known = {_identity(parse_properties(key, running[key]), name): key for key in going}
    known.update({_identity(parse_properties(key, config[key]), name): key for key in keys})
    free = (key for key in (f"{family}{number}" for number in range(limit)) if key not in config and key not in running)
    wanted: Wanted = dict.fromkeys(keys)
    seen = set()
    for entry in entries:
        identity = _identity(entry, name)
        if not identity:
            raise ConfigError(f"{option}: wanted a {name} in every entry of the list, found {entry}")
        if identity in seen:
            raise ConfigError(f"{option}: {identity} stands twice")
        seen.add(identity)
        key = known.get(identity) or next(free, None)
        if key is None:
            raise ConfigError(f"{option}: wanted more than the {limit} that a container can have")
        wanted[key] = format_properties(key, entry)
    return wanted


def _identity(entry: Mapping[str, str], name: str) -> str:
    """What tells an entry from the others: a path without the slash at its end, or a name."""
    return entry.get(name, "").rstrip("/")
