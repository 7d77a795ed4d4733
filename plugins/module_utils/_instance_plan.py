# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Dedicated llama-servers of one model each: what their command lines are, and what they take of the devices.

The memory that instances hold is not the router's to plan with, so both roles take it from here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _names, _options
from ansible_collections.homelab.llamacpp.plugins.module_utils._gpu_choice import ChoiceError, choose
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import VramError
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_place import device_name
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import vram_plan

STATES = ("started", "stopped", "absent")
# What a unit may be called without escaping, in systemd and in a file's name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PLAIN = re.compile(r"[A-Za-z0-9_./:,=@%+-]+")
# Options that an entry says in a key of its own.
_ELSEWHERE = {
    "model": "model or path",
    "host": "host",
    "port": "port",
    "alias": "name",
    "api-key": "api_keys",
    "api-key-file": "api_keys",
}


class InstanceError(Exception):
    """What was wanted of which instance, what was found and what mends it."""


def plan(
    instances: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]] = (),
    devices: Sequence[Any] = (),
    ports: Mapping[Any, str] | None = None,
    common: Mapping[str, Any] | None = None,
    allow_options: Collection[str] = (),
    **limits: Any,
) -> dict[str, Any]:
    """The instances as they are to run, and `reserved_mib`, what others and the started ones hold of each device.

    `models` are gguf_info's, `devices` the machine's (choose_gpus' with their UUIDs, or any that the planner takes),
    none for a CPU. `ports` are those of others, with their names. `limits` are the planner's overhead_mib, margin_mib
    and reserved_mib. `allow_options` names options by which clients run commands (see _options.refusal). Raises
    InstanceError.
    """
    found = {model["id"]: model for model in models}
    taken = {int(port): owner for port, owner in (ports or {}).items()}
    names: set[str] = set()
    ready: list[dict[str, Any]] = []
    room = _Room(devices, limits)
    for entry in instances:
        name, state = _name(entry, names), entry.get("state", "started")
        if state not in STATES:
            raise InstanceError(f"instance {name}: state: one of {', '.join(STATES)} was wanted, {state!r} was found")
        if state == "absent":
            ready.append({"name": name, "state": state})
            continue
        port = _port(name, entry.get("port"), taken)
        model = _model(name, entry, found)
        places = _places(name, entry, devices)
        options = {**(common or {}), **(entry.get("options") or {})}
        if model.get("projector"):
            options = {"mmproj": model["projector"], **options}
        if devices and state == "started":
            options = {**room.take(name, entry, model, options, places), **options}
        ready.append(
            {
                "name": name,
                "state": state,
                "port": port,
                "environment": {
                    "MODEL": model.get("path", ""),
                    "HOST": str(entry.get("host") or "0.0.0.0"),
                    "PORT": str(port),
                    **_sees(devices, places),
                    "DEVICES": " ".join(_wanted(options, room.own(places))),
                    "DEVICE_OPTIONS": _join(
                        _words(name, {key: value for key, value in options.items() if key == "rpc"}, allow_options)
                    ),
                    "OPTIONS": _join(_words(name, options, allow_options)),
                },
            }
        )
    return {"instances": ready, "reserved_mib": room.reserved()}


class _Room:
    """The devices, and what is left of them."""

    def __init__(self, devices: Sequence[Any], limits: Mapping[str, Any]) -> None:
        self._devices = devices
        self._limits = limits
        self._held = [0.0] * len(devices)

    def own(self, places: Sequence[int]) -> list[Any]:
        """These devices as a llama-server that sees no others calls them."""
        return [
            {**self._devices[place], "device": f"CUDA{own}"} if _uuid(self._devices[place]) else self._devices[place]
            for own, place in enumerate(places)
        ]

    def take(
        self,
        name: str,
        entry: Mapping[str, Any],
        model: Mapping[str, Any],
        options: Mapping[str, Any],
        places: Sequence[int],
    ) -> dict[str, str]:
        """Reserve what an instance takes, and return the options that make that true."""
        need = {"vram_mib": entry["vram_mib"]} if entry.get("vram_mib") is not None else {"facts": model.get("facts")}
        if need.get("facts", True) is None:
            raise InstanceError(
                f"instance {name}: what it takes of the devices is not known; say vram_mib, or name a model of the"
                " models directory"
            )
        limits: dict[str, Any] = {
            key: [value[place] for place in places] if isinstance(value, (list, tuple)) else value
            for key, value in self._limits.items()
        }
        try:
            planned = vram_plan([{"name": name, "options": options, **need}], self.own(places), **limits)
        except VramError as error:
            raise InstanceError(f"instance {name}: {error}") from None
        for place, device, cost in zip(places, planned["devices"], planned["models"][0]["devices"]):
            self._held[place] += cost["total_mib"]
            if self._held[place] > device["usable_mib"]:
                raise InstanceError(
                    f"instance {name}: with it the instances take {math.ceil(self._held[place])} MiB of the device"
                    f" {device['name']}, which has {math.floor(device['usable_mib'])} MiB for models; give one of them"
                    " less context, other gpus, or the state stopped"
                )
        presets: dict[str, str] = planned["presets"][name]
        return presets

    def reserved(self) -> list[float]:
        """What the instances and those before them hold."""
        given = self._limits.get("reserved_mib", 0)
        others = given if isinstance(given, (list, tuple)) else [given] * len(self._devices)
        return [other + math.ceil(held) for other, held in zip(others, self._held)]


def _name(entry: Mapping[str, Any], names: set[str]) -> str:
    name = str(entry.get("name", ""))
    if not _NAME.fullmatch(name):
        raise InstanceError(f"name: letters, digits and . _ - were wanted (it names a unit), {name!r} was found")
    if name in names:
        raise InstanceError(f"instance {name}: the name is there twice; each instance needs one of its own")
    names.add(name)
    return name


def _port(name: str, port: Any, taken: dict[int, str]) -> int:
    if isinstance(port, bool) or not str(port).isdigit() or not 0 < int(port) < 65536:
        raise InstanceError(f"instance {name}: port: a number from 1 to 65535 was wanted, {port!r} was found")
    if int(port) in taken:
        raise InstanceError(f"instance {name}: port {port} is the one of {taken[int(port)]}; give it another one")
    taken[int(port)] = f"the instance {name}"
    return int(port)


def _model(name: str, entry: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    id, path = entry.get("model"), entry.get("path")
    if bool(id) == bool(path):
        raise InstanceError(f"instance {name}: either model (an id of the models directory) or path (a file) is wanted")
    if path:
        return {"path": str(path)}
    if not isinstance(id, str) or id not in found:
        there = ", ".join(sorted(found)) or "none"
        raise InstanceError(f"instance {name}: the model {id!r} was wanted in the models directory, which has {there}")
    if not found[id].get("complete", True):
        raise InstanceError(
            f"instance {name}: the model {id} is not whole; run the role llama_models, or fetch it again"
        )
    return found[id]


def _uuid(device: Any) -> str:
    return str(device.get("uuid", "")) if isinstance(device, Mapping) else ""


def _places(name: str, entry: Mapping[str, Any], devices: Sequence[Any]) -> list[int]:
    """Which of the devices it sees, by their places in the list, in its own order."""
    wanted = entry.get("gpus", "all")
    if wanted == "all":
        return list(range(len(devices)))
    uuids = [_uuid(device) for device in devices]
    if not devices or not all(uuids):
        raise InstanceError(
            f"instance {name}: gpus needs GPUs that were looked up; with devices by hand there is the option device"
        )
    if not isinstance(wanted, (list, tuple)) or not wanted:
        raise InstanceError(f"instance {name}: gpus: 'all' or a list was wanted, {wanted!r} was found")
    try:
        return [uuids.index(gpu["uuid"]) for gpu in choose(devices, wanted)]
    except ChoiceError as error:
        raise InstanceError(f"instance {name}: {error}") from None


def _sees(devices: Sequence[Any], places: Sequence[int]) -> dict[str, str]:
    uuids = [_uuid(devices[place]) for place in places]
    return {"CUDA_VISIBLE_DEVICES": ",".join(uuids)} if uuids and all(uuids) else {}


def _wanted(options: Mapping[str, Any], own: Sequence[Any]) -> list[str]:
    """The devices without which it must not start, as its own llama-server calls them."""
    chosen = options.get("device")
    if chosen is None:
        return [device_name(device, place) for place, device in enumerate(own)]
    names = chosen.split(",") if isinstance(chosen, str) else [str(name) for name in chosen]
    return [] if names == ["none"] else names


def _words(name: str, options: Mapping[str, Any], allow: Collection[str]) -> list[str]:
    """Options as words of a command line."""
    words = []
    for key, value in options.items():
        option = _options.find(key)
        canonical, negated = _options.canonical(key)
        if value is None:
            continue
        if canonical in _ELSEWHERE:
            raise InstanceError(f"instance {name}: the option {key} belongs in {_ELSEWHERE[canonical]}")
        refused = _options.refusal(key, value, allow)
        if refused:
            raise InstanceError(f"instance {name}: {refused}")
        if option is None or option.kind == "exits" or canonical in _options.REPLACED:
            raise InstanceError(f"instance {name}: {_options.complaint(key)}")
        try:
            text = _options.to_text(key, value)
        except ValueError as error:
            raise InstanceError(f"instance {name}: {error}") from None
        try:
            _names.line(text, f"the value of {key}")
        except _names.BadName as error:
            raise InstanceError(f"instance {name}: {error}") from None
        if option.kind != "flag":
            words += [_dashed(option.names), text]
        elif (text == "true") != negated:
            words.append(_dashed(option.names))
        elif option.negations:
            words.append(_dashed(option.negations))
    return words


def _dashed(names: Sequence[str]) -> str:
    longest = max(names, key=len)
    return f"--{longest}" if len(longest) > 1 else f"-{longest}"


def _join(words: Sequence[str]) -> str:
    """Words as systemd, and shlex, split them again where a unit says $OPTIONS."""
    return " ".join(
        word if _PLAIN.fullmatch(word) else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words
    )
