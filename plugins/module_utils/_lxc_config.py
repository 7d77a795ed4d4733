# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A container's configuration: what is wanted against what is found.

A key that is wanted is wanted whole: a property that is not named is taken away, apart from those that
Proxmox makes up itself (the MAC address of a network, the volume behind `storage:size`). A key that is not
named is left alone. An empty value takes the key away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Optional

# Property name -> text. None stands for a key that is to go.
Properties = dict[str, str]
Wanted = dict[str, Optional[str]]


class ConfigError(Exception):
    """A wanted value that Proxmox cannot hold, or that this module will not do; the text says what mends it."""


@dataclass(frozen=True)
class Kind:
    """How one family of keys reads its property strings."""

    default_key: str | None = None
    # What a property means when it is not there; such a property may be written out or not.
    defaults: Mapping[str, str] = field(default_factory=dict)
    # Properties that Proxmox adds; kept as found unless named.
    generated: tuple[str, ...] = ()


NET = Kind(defaults={"firewall": "0", "link_down": "0", "host-managed": "0"}, generated=("hwaddr", "type"))
MOUNT = Kind(
    default_key="volume",
    defaults={"ro": "0", "backup": "0", "quota": "0", "shared": "0", "keepattrs": "0", "replicate": "1"},
    generated=("size",),
)
DEVICE = Kind(default_key="path", defaults={"uid": "0", "gid": "0", "mode": "0660", "deny-write": "0"})
FEATURES = Kind(
    defaults={"nesting": "0", "keyctl": "0", "fuse": "0", "mknod": "0", "force_rw_sys": "0"},
)
STARTUP = Kind(default_key="order")

KINDS = (
    (re.compile(r"net\d+"), NET),
    (re.compile(r"mp\d+|rootfs"), MOUNT),
    (re.compile(r"dev\d+"), DEVICE),
    (re.compile(r"features"), FEATURES),
    (re.compile(r"startup"), STARTUP),
)
FLAGS = ("onboot", "protection", "unprivileged", "console", "debug", "template")
# `storage:GiB`: a volume that is still to be made.
NEW_VOLUME = re.compile(r"([^:/\s]+):(\d+(?:\.\d+)?)")
SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
GIB = {"": 2**-30, "K": 2**-20, "M": 2**-10, "G": 1.0, "T": 1024.0}
BOOLEANS = {"on": "1", "yes": "1", "true": "1", "off": "0", "no": "0", "false": "0"}
# What a running container takes at once, as pve-container has it; every other change waits for a restart.
# For Proxmox VE the hostname is such a one; the guest itself takes it at its start.
HOT = re.compile(r"description|onboot|startup|protection|hookscript|cores|tags|cpulimit|cpuunits|swap|net\d+")
HOT_SET = re.compile(r"memory")
HOT_ADD = re.compile(r"(mp|dev)\d+")


def kind_of(key: str) -> Kind | None:
    """How the key's property string is read, or None for a plain value."""
    return next((kind for pattern, kind in KINDS if pattern.fullmatch(key)), None)


def is_mount(key: str) -> bool:
    """Whether the key is a mount point's or the root volume's."""
    return kind_of(key) is MOUNT


def scalar(value: Any) -> str:
    """A YAML value as Proxmox writes it: 1 and 0 for booleans, a list joined by semicolons."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return ";".join(scalar(item) for item in value)
    return str(value)


def parse_properties(key: str, text: str) -> Properties:
    """The properties of a string such as `name=eth0,bridge=vmbr0`, in their order."""
    kind = kind_of(key) or Kind()
    found: Properties = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            if not kind.default_key or kind.default_key in found:
                raise ConfigError(f"{key}: wanted name=value, found {part!r} in {text!r}")
            name, value = kind.default_key, part
        if name in found:
            raise ConfigError(f"{key}: {name} stands twice in {text!r}")
        found[name] = value
    return found


def format_properties(key: str, properties: Mapping[str, str]) -> str:
    """The property string; the default property comes first and bare, as Proxmox writes it."""
    kind = kind_of(key) or Kind()
    bare = [value for name, value in properties.items() if name == kind.default_key]
    return ",".join(bare + [f"{name}={value}" for name, value in properties.items() if name != kind.default_key])


def wanted_properties(key: str, value: Any) -> Properties:
    """The properties that a dictionary or a property string asks for; null and empty ones are left out."""
    if not isinstance(value, dict):
        return parse_properties(key, str(value))
    found: Properties = {}
    for name, item in value.items():
        if item is None or item == "":
            continue
        text = scalar(item)
        if "," in text or not re.fullmatch(r"[\w-]+", str(name)):
            raise ConfigError(f"{key}: {name}: {text!r} cannot stand in a property string (no comma, a plain name)")
        found[str(name)] = text
    return found


def wanted_text(key: str, value: Any) -> str | None:
    """A wanted value as the text to send, None for a key that is to go."""
    if value is None or value in ("", [], {}):
        return None
    if kind_of(key):
        return format_properties(key, wanted_properties(key, value)) or None
    return scalar(value)


def new_volume(key: str, text: str | None) -> re.Match[str] | None:
    """The storage and the GiB of a volume that is still to be made; None for any other value."""
    return NEW_VOLUME.fullmatch(parse_properties(key, text).get("volume", "")) if text and is_mount(key) else None


def bind_source(key: str, text: str) -> str | None:
    """The node's path that a mount point shows, None for one with a volume."""
    volume = parse_properties(key, text).get("volume", "")
    return volume if volume.startswith("/") else None


def bridge_of(key: str, text: str) -> str | None:
    """The bridge that a network joins, None for one without and for any other key."""
    return parse_properties(key, text).get("bridge") if kind_of(key) is NET else None


def size_gib(text: str) -> float:
    """A size as Proxmox writes it, in GiB; 0 for none."""
    parts = SIZE.fullmatch(text)
    return float(parts.group(1)) * GIB[parts.group(2)] if parts else 0.0


def size_text(gib: float) -> str:
    """A size as Proxmox writes it, with the largest unit that needs no fraction."""
    return next(f"{gib / GIB[unit]:.0f}{unit}" for unit in "TGMK" if unit == "K" or not (gib / GIB[unit]) % 1)


def _keep_volume(key: str, wanted: Properties, found: Properties) -> None:
    """Let a wanted `storage:GiB` mean the volume that is already there."""
    new = NEW_VOLUME.fullmatch(wanted.get("volume", ""))
    volume = found.get("volume", "")
    if not new or volume.startswith("/") or not volume:
        return
    storage = volume.partition(":")[0]
    if storage != new.group(1):
        raise ConfigError(
            f"{key}: wanted a volume on {new.group(1)}, found {volume}: a volume is not moved here. On the node: "
            f"`pct move-volume VMID {key} {new.group(1)}`, or write the storage that it has"
        )
    wanted["volume"] = volume


def merged(key: str, wanted: str, found: str | None, running: str | None = None) -> str:
    """The wanted text with what Proxmox made up itself kept from the found one.

    running: what the container runs with, where the found one, or its removal, waits for a restart. A volume's size is
    told there.
    """
    kind = kind_of(key)
    found = running if found is None else found
    if kind is None or found is None:
        return wanted
    ours, theirs = parse_properties(key, wanted), parse_properties(key, found)
    if kind is MOUNT:
        _keep_volume(key, ours, theirs)
        if ours.get("volume") != theirs.get("volume"):
            return wanted
        sizes = parse_properties(key, running or "")
        if sizes.get("volume") == theirs.get("volume"):
            theirs.update({name: size for name, size in sizes.items() if name == "size"})
    for name in kind.generated:
        if name in theirs:
            ours.setdefault(name, theirs[name])
    return format_properties(key, ours)


def meaning(key: str, text: str | None) -> Any:
    """What a value means: equal for two spellings of the same thing."""
    kind = kind_of(key)
    if kind:
        properties = {name: BOOLEANS.get(value, value) for name, value in parse_properties(key, text or "").items()}
        if "hwaddr" in properties:
            properties["hwaddr"] = properties["hwaddr"].upper()
        return {name: value for name, value in properties.items() if value != kind.defaults.get(name)}
    if key in FLAGS:
        return BOOLEANS.get(text or "0", text or "0")
    if text is None:
        return None
    if key == "tags":
        return sorted({tag.lower() for tag in re.split(r"[;, ]+", text) if tag})
    if key in ("nameserver", "searchdomain"):
        return [part for part in re.split(r"[;, ]+", text) if part]
    return text.rstrip("\n") if key == "description" else text


@dataclass(frozen=True)
class Changes:
    """What makes the found configuration the wanted one."""

    put: dict[str, str]
    delete: list[str]

    def __bool__(self) -> bool:
        return bool(self.put or self.delete)

    def over(self, found: Mapping[str, str]) -> dict[str, str]:
        """The configuration after the change."""
        return {**{key: value for key, value in found.items() if key not in self.delete}, **self.put}

    def waiting(self, found: Found) -> list[str]:
        """The keys that a running container would then take only at its next start."""
        left = [key for key in found.waiting if key not in self.put and key not in self.delete]
        left += [key for key in self.delete if key in found.running and not HOT.fullmatch(key)]
        for key, text in self.put.items():
            now = found.running.get(key)
            hot = HOT.fullmatch(key) or HOT_SET.fullmatch(key) or (now is None and HOT_ADD.fullmatch(key))
            # Back to what the container runs with: nothing is left to wait for.
            if not hot and meaning(key, text) != meaning(key, now):
                left.append(key)
        return sorted(left)


def changes(wanted: Wanted, found: Mapping[str, str], running: Mapping[str, str] = MappingProxyType({})) -> Changes:
    """Only what differs, in the order of the keys. found, running: as Found has them.

    Raises ConfigError for a change that cannot be made to a container that exists.
    """
    put: dict[str, str] = {}
    delete: list[str] = []
    for key in sorted(wanted):
        value, current = wanted[key], found.get(key)
        if value is None:
            if current is not None:
                delete.append(key)
            continue
        value = merged(key, value, current, running.get(key))
        if meaning(key, value) == meaning(key, current):
            continue
        if key == "unprivileged":
            raise ConfigError(
                f"unprivileged: wanted {value}, found {current or '0'}: it is fixed when a container is made. Back the "
                "container up and restore it with the other setting, or write what it has"
            )
        # Back to what it runs with, in its very words: for Proxmox another spelling would still wait for a restart.
        put[key] = running[key] if key in running and meaning(key, value) == meaning(key, running[key]) else value
    return Changes(put, delete)


def growth(wanted: Wanted, found: Found) -> dict[str, str]:
    """Key -> new size, for each volume that is smaller than its wanted `storage:GiB`; none is ever made smaller."""
    grown = {}
    for key, value in sorted(wanted.items()):
        new = new_volume(key, value)
        if not new:
            continue
        now = parse_properties(key, found.running.get(key, ""))
        # One whose removal waits for a restart is taken back, see merged.
        then = parse_properties(key, found.config.get(key, found.running.get(key, "")))
        # A volume without a size is one without a limit.
        if now.get("volume") == then.get("volume") and 0 < size_gib(now.get("size", "")) < float(new.group(2)):
            grown[key] = size_text(float(new.group(2)))
    return grown


@dataclass(frozen=True)
class Found:
    """A container's configuration as the API's list of values and pending changes tells it."""

    # Changes that wait for a restart are counted as made.
    config: dict[str, str]
    # What a running container runs with.
    running: dict[str, str]
    # Keys whose change waits for a restart.
    waiting: list[str]
    digest: str | None
    lock: str | None

    @classmethod
    def parse(cls, entries: Iterable[Mapping[str, Any]]) -> Found:
        """From the answer of `nodes/N/lxc/ID/pending`."""
        config, running, waiting = {}, {}, []
        for entry in sorted(entries, key=lambda entry: str(entry["key"])):
            key = str(entry["key"])
            now = entry.get("value")
            then = entry.get("pending", None if entry.get("delete") else now)
            if "pending" in entry or entry.get("delete"):
                waiting.append(key)
            if now is not None:
                running[key] = scalar(now)
            if then is not None:
                config[key] = scalar(then)
        for key in ("digest", "lock"):
            running.pop(key, None)
        return cls(config, running, waiting, config.pop("digest", None), config.pop("lock", None))

    def grown(self, sizes: Mapping[str, str]) -> Found:
        """As it is once the volumes of these keys have these sizes; what waits for a restart keeps its old words."""
        new = {
            key: format_properties(key, {**parse_properties(key, self.running[key]), "size": size})
            for key, size in sizes.items()
        }
        settled = {key: text for key, text in new.items() if key not in self.waiting}
        return replace(self, config={**self.config, **settled}, running={**self.running, **new})
