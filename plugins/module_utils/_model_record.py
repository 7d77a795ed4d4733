# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a models directory: which files of each model were placed there, when, and their SHA-256.

Reading trusts nothing: an entry that this collection would not have written is left out, and its model is unknown.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _json
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, below, component

FORMAT = 1
ROLES = ("model", "projector", "draft")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 1 << 63  # bytes

# identity, commit, files by place, placed (seconds since the epoch, 0 for found there), and for later comparison the
# machine's boot id and its uptime in seconds at that moment
Entry = dict[str, Any]


def parse(data: bytes) -> dict[str, Entry]:
    """Return the entries of a record by model name; none for what is not a record."""
    try:
        found = _json.parse(data)
    except ValueError:
        return {}
    models = found.get("models") if isinstance(found, dict) and found.get("format") == FORMAT else None
    entries = {name: _entry(name, entry) for name, entry in models.items()} if isinstance(models, dict) else {}
    return {name: entry for name, entry in entries.items() if entry is not None}


def text_of(models: Mapping[str, Entry]) -> str:
    return json.dumps({"format": FORMAT, "models": models}, indent=1, sort_keys=True)


def _entry(name: str, found: Any) -> Entry | None:
    """An entry with the fields that are known, None for a bad one."""
    try:
        component(name)
        commit = found["commit"]
        if commit is not None:
            component(commit)
        files = {_place(name, place): _file(file) for place, file in found["files"].items()}
        entry = {"identity": found["identity"], "commit": commit, "files": files}
        if not isinstance(entry["identity"], str):
            return None
        for key in ("placed", "uptime"):
            if key in found:
                entry[key] = _seconds(found[key])
        if "boot" in found:
            entry["boot"] = component(found["boot"])
    except (BadName, ValueError, TypeError, KeyError, AttributeError):
        return None
    return entry


def _place(name: str, place: str) -> str:
    """A path below the models directory that belongs to this model."""
    below(place)
    if place not in (name, f"{name}.gguf") and not place.startswith(f"{name}/"):
        raise BadName(place)
    return place


def _file(found: Mapping[str, Any]) -> dict[str, Any]:
    if found["role"] not in ROLES:
        raise ValueError
    file = {"role": found["role"], "size": _whole(found["size"])}
    if "link" in found:
        if not isinstance(found["link"], str) or not os.path.isabs(found["link"]) or "\0" in found["link"]:
            raise ValueError
        return {**file, "link": found["link"]}
    if not _SHA256.fullmatch(found["sha256"]):
        raise ValueError
    file.update(mtime_ns=_whole(found["mtime_ns"]), sha256=found["sha256"])
    if found.get("shared") is True:
        file["shared"] = True
    return file


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError
    return value


# --- when it was placed ----------------------------------------------------------------------------------------------


def boot() -> str:
    """The id of this boot of the machine, empty where it is unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def now() -> dict[str, Any]:
    """This moment, as an entry tells when a model was placed."""
    return {"placed": time.time(), "boot": boot(), "uptime": time.clock_gettime(time.CLOCK_BOOTTIME)}


def placed(entry: Mapping[str, Any]) -> float:
    """When a model was placed, in seconds since the epoch by the clock as it is now; 0 for before this boot.

    A clock that was set meanwhile does not matter: the uptime tells how long ago it was. An entry of an earlier version
    has the clock's time alone; one that lies in the future is from before the clock was set back, and counts as 0.
    """
    when: float = entry.get("placed", 0)
    if when and entry.get("boot") and "uptime" in entry:
        if entry["boot"] != boot():
            return 0
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - float(entry["uptime"]))
    return when if when <= time.time() else 0
