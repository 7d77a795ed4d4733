# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A router's report as lines for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._foreign import text

NOTHING = "-"
_WIDEST = 2000  # characters of a line


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """Without control characters, which a terminal would obey."""
    return [text(line, _WIDEST) for line in _lines(report)]


def _lines(report: Mapping[str, Any]) -> list[str]:
    return [
        *_service(report),
        *(f"{report['verdict']}: {reason}" for reason in report["reasons"]),
        *([] if report["reasons"] else [str(report["verdict"])]),
        "",
        *_table(_models(report)),
        *([""] if report["models"] else []),
        *_machine(report),
        *(f"error: {line}" for line in report["unit"]["errors"]),
    ]


def _service(report: Mapping[str, Any]) -> Iterator[str]:
    unit, router = report["unit"], report["router"]
    since = (
        "" if unit["since"] is None else f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(unit['since']))}"
    )
    counted = "" if unit["restarts"] is None else f", {unit['restarts']} restarts"
    memory = "" if unit["memory_mib"] is None else f", {unit['memory_mib']} MiB"
    states = ", ".join(word for word in (unit["sub"], unit["enabled"]) if word)
    yield f"{unit['name']}: {unit['state']}{f' ({states})' if states else ''}{since}{counted}{memory}"
    if router["up"]:
        limit = f"of at most {router['limit']} " if router["limit"] else ""
        yield f"router at {router['url']}: build {router['build']}, {len(router['loaded'])} {limit}models loaded"


def _models(report: Mapping[str, Any]) -> list[list[str]]:
    """The cells: what a model takes of each device beside its plan, in MiB."""
    if not report["models"]:
        return []
    devices = list(dict.fromkeys(entry["device"] for model in report["models"] for entry in model["memory"]))
    rows = [["MODEL", "STATUS", "CONTEXT", *(f"{name.upper()} MiB" for name in devices), "NOTE"]]
    for model in report["models"]:
        memory = {entry["device"]: entry for entry in model["memory"]}
        cells = [_share(memory.get(name)) for name in devices]
        rows.append([model["id"], model["status"], str(model["ctx_size"] or NOTHING), *cells, _note(model)])
    return rows


def _share(entry: Mapping[str, Any] | None) -> str:
    if entry is None or not (entry["used_mib"] or entry["planned_mib"]):
        return NOTHING
    used, planned = (NOTHING if mib is None else f"{mib:.0f}" for mib in (entry["used_mib"], entry["planned_mib"]))
    return f"{used} of {planned}"


def _note(model: Mapping[str, Any]) -> str:
    notes = []
    if model["failed"]:
        notes.append(f"its process ended with exit code {model['exit_code']}")
    if model["on_cpu"]:
        notes.append(f"on the CPU: {model['offloaded']} of {model['layers']} layers on a device")
    if model["pinned"]:
        notes.append("pinned")
    return ", ".join(notes)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        left = map(str.ljust, row[:2], widths)
        yield "  ".join([*left, *map(str.rjust, row[2:-1], widths[2:]), row[-1]]).rstrip()


def _machine(report: Mapping[str, Any]) -> Iterator[str]:
    for device in report["devices"]:
        yield f"{device['name']}: {device['used_mib']:.0f} of {device['usable_mib']:.0f} usable MiB taken by models"
    for gpu in report["gpus"]:
        yield f"GPU {gpu['index']} {gpu['product']}: " + (", ".join(_gpu(gpu)) or NOTHING)
    driver = report["driver"]
    if driver["agree"] is not None:
        same = "the same" if driver["agree"] else "NOT the same"
        yield f"driver: kernel module {driver['kernel_version']}, libraries {driver['library_version']}: {same}"
    memory, disk = report["memory"], report["disk"]
    yield f"memory of the guest: {memory['total_mib'] - memory['available_mib']} of {memory['total_mib']} MiB used"
    if disk["total_mib"] is not None:
        yield f"disk of the models: {disk['free_mib']} of {disk['total_mib']} MiB free ({disk['path']})"
    for shown in report["certificates"]:
        if shown["expires"] is not None:
            day = time.strftime("%Y-%m-%d", time.gmtime(shown["expires"]))
            yield f"certificate of {shown['address']}: until {day}"


def _gpu(gpu: Mapping[str, Any]) -> Iterator[str]:
    if gpu["memory_used_mib"] is not None:  # a GPU that shares the machine's has none of its own
        yield f"{gpu['memory_used_mib']} of {gpu['memory_total_mib']} MiB used"
    for name, unit in (("utilization_percent", "%"), ("temperature_celsius", "degrees"), ("power_watts", "W")):
        if gpu[name] is not None:
            yield f"{gpu[name]:.0f} {unit}"
    if gpu["throttling"]:
        yield f"held down by {' and '.join(gpu['throttling'])}"
