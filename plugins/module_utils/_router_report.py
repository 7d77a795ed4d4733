# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is true of a router now, in one dictionary: the status command, the status module, the exporter and its page all
say what stands here. Nothing in it wakes or loads a model, or makes one look used.

The report, in MiB, seconds and seconds since the epoch; null is what is not known:

- at: when it was made
- verdict: healthy, degraded (it serves, and something is to be mended) or down; reasons: why, one sentence each
- unit: name, state, sub, enabled, since, restarts, memory_mib, errors (its last ones, without their times),
  delays (what held up the guest's start: name, seconds, for (the units that wait for the network to be online))
- router: url, up, reason (why not), problem (the same in a word: unreachable, key, certificate, refused), role, build,
  limit, autoload, loaded (the ids that hold a slot)
- models: one each, by id: id, aliases, status, failed, exit_code, source, ctx_size, pinned, port, planned (whether the
  plan has it), memory (device, planned_mib, used_mib; used by its own log's word, as long as it runs), offloaded,
  layers, on_cpu (whether layers of it lie on the CPU that were planned on a device)
- devices: those of the plan, name, total_mib, usable_mib, used_mib (the running models'; planned if the log is silent)
- gpus, driver: as nvidia-smi and the files of the kernel module tell
- gpu_reading: at (when nvidia-smi last answered), ok (whether its last answer was one; null where there is none to
  ask), reason (why not)
- memory: total_mib, available_mib of the guest; disk: path, total_mib, free_mib of the models' folder
- certificates: address (of who shows it), expires, reason (why that is not known)
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import (
    _bounded,
    _certificate,
    _foreign,
    _gpu_load,
    _nvidia,
    _offload,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._peer import Recipients
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    Client,
    Model,
    Refused,
    RouterError,
    Unreachable,
    read_key,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import Places
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError

LINES = 20_000  # of the journal: a load is some 200 at the verbosity that tells of it, an answer some 20
ERRORS = 5  # of the unit's errors are told
DISK_FREE = 0.05  # of the models' disk: below it, it counts as full
DELAY = 10.0  # seconds, from which on a unit delays the guest's start
EXPIRES_SOON = 14 * 86400.0  # seconds before its end, from which on a certificate is to be renewed
OVER_PLAN = 1.05  # times its plan is still as planned: the graph's scratch depends on the build
_ERROR = re.compile(r"(?:\[\d+\] )?[\d.]+ E (.*)")
_WAIT = ("Id", "ActiveState", "ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic")
_UNIT = ("ActiveState", "SubState", "UnitFileState", "ActiveEnterTimestampMonotonic", "NRestarts", "MemoryCurrent")


def gather(places: Places, run: Run) -> dict[str, Any]:
    """The report, with one look at everything."""
    router, models = router_of(places.url, lambda: connect(places))
    unit = unit_of(run, places.unit)
    log = Unit(run, places.unit).journal(unit["since"] or 0, lines=LINES, read=LINES)
    unit["errors"] = errors_in(log, unit["state"])
    unit["delays"] = delays_of(run)
    host = {**gpus_of(run), **host_of(places), "unit": unit}
    found: dict[str, Any] = _foreign.data(report(router, models, host, plan_of(places.plan), loads_in(log, models)))
    return found


# --- the parts --------------------------------------------------------------------------------------------------


def connect(places: Places, timeout: float = 10) -> Client:
    """A client with the first key, which waits so many seconds for an answer; RouterError when there is none."""
    recipients = Recipients.of_unit(_bounded.run_bounded, places.unit)
    key = read_key(places.keys)
    return Client(places.url, key, places.validate_certs, request_timeout=timeout, recipients=recipients)


def router_of(url: str, client: Callable[[], Client]) -> tuple[dict[str, Any], list[Model]]:
    """What the router says of itself, and its models; `up` is false, with the reason, when it does not answer."""
    found: dict[str, Any] = dict.fromkeys(("reason", "problem", "role", "build", "limit", "autoload"))
    found.update({"url": url, "up": False, "loaded": []})
    try:
        asked = client()
        props, models = dict(asked.props()), asked.models()
    except RouterError as error:
        return {**found, "reason": str(error), "problem": _problem(error)}, []
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"expected the answers of a router at {url}, found something else ({type(error).__name__})"
        return {**found, "reason": reason, "problem": "refused"}, []
    told = {
        "up": True,
        "role": str(props.get("role", "")),
        "build": str(props.get("build_info", "")),
        "limit": _whole(props.get("max_instances")),
        "autoload": props.get("models_autoload") is True,
        "loaded": sorted(model.id for model in models if model.running),
    }
    return {**found, **told}, models


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _problem(error: RouterError) -> str:
    if isinstance(error, Refused):
        return "key" if error.status == 401 else "refused"
    if isinstance(error, Unreachable):
        return "certificate" if error.tls else "unreachable"
    return "key" if str(error).startswith("api_key") else "refused"


def unit_of(run: Run, name: str) -> dict[str, Any]:
    """What systemd says of the unit, its errors apart."""
    found: dict[str, Any] = {"name": name, "state": "unknown", "sub": "", "enabled": None, "errors": []}
    found.update(dict.fromkeys(("since", "restarts", "memory_mib")))
    try:
        told = Unit(run, name).properties(*_UNIT)
    except UnitError as error:
        return {**found, "errors": [str(error)]}
    entered = int(told["ActiveEnterTimestampMonotonic"] or 0)
    memory = told["MemoryCurrent"]
    found.update(
        state=told["ActiveState"],
        sub=told["SubState"],
        enabled=told["UnitFileState"] or "not installed",
        since=round(time.time() - time.monotonic() + entered / 1e6) if entered else None,
        restarts=int(told["NRestarts"] or 0),
        memory_mib=int(memory) >> 20 if memory.isdigit() and int(memory) < 1 << 60 else None,  # else: not counted
    )
    return found


def delays_of(run: Run) -> list[dict[str, Any]]:
    """What waits for the network to be online, or waited for long: in a Proxmox guest nobody tells it."""
    try:
        wanted = Unit(run, "network-online.target").properties("WantedBy", "RequiredBy")
    except UnitError:
        return []
    waiting = sorted({name for names in wanted.values() for name in names.split()} - {"multi-user.target"})
    if not waiting:
        return []
    status, output, _errors = run(["systemctl", "show", "*-wait-online.service", f"--property={','.join(_WAIT)}"])
    found = []
    for block in output.strip().split("\n\n") if status == 0 else ():
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        begin, end = (int(unit.get(name) or 0) / 1e6 for name in _WAIT[2:])
        if unit.get("ActiveState") == "activating":
            end = time.monotonic()
        if begin and end - begin >= DELAY:
            found.append({"name": unit["Id"], "seconds": round(end - begin), "for": waiting})
    return found


def errors_in(log: Sequence[str], state: str) -> list[str]:
    """The last errors of a running unit; the last words of one that does not run."""
    if state not in ("active", "reloading", "refreshing"):
        return list(log[-ERRORS:])
    return [error for error in map(error_of, log) if error][-ERRORS:]


def error_of(line: str) -> str | None:
    """What a line of llama-server's log complains of, without its time."""
    found = _ERROR.fullmatch(line) if " E " in line else None
    return found[1] if found else None


def loads_in(log: Iterable[str], models: Iterable[Model]) -> dict[str, _offload.Offload]:
    """What the processes of the running models said of their loads, by id."""
    lines: dict[str, list[str]] = {f"[{model.port}]": [] for model in models if model.running}
    for line in log:
        port, _blank, text = line.partition(" ")
        if port in lines:
            lines[port].append(text)
    seen = {model.id: _offload.read(lines[f"[{model.port}]"]) for model in models if model.running}
    return {name: load for name, load in seen.items() if load}


def gpus_of(run: Run) -> dict[str, Any]:
    """GPUs and driver. It takes as long as nvidia-smi, so `run` has to be bounded."""
    nvidia, status = _nvidia.read(run)
    gpus = _gpu_load.look(run) if nvidia["gpus"] else []
    asked = status is not None and status != _bounded.NOT_FOUND
    ok = bool(gpus) if asked else None
    reason = None if ok is not False else nvidia["driver"]["reason"] or "nvidia-smi lists no GPU"
    reading = {"at": time.time() if ok else None, "ok": ok, "reason": reason}
    return {"gpus": gpus, "driver": nvidia["driver"], "gpu_reading": reading}


def host_of(places: Places) -> dict[str, Any]:
    """Memory, the models' disk, certificates."""
    return {
        "memory": memory_of(),
        "disk": disk_of(places.models),
        "certificates": [_certificate.look(address) for address in places.certificates],
    }


def memory_of(path: str = "/proc/meminfo") -> dict[str, Any]:
    with open(path, encoding="ascii") as file:
        found = dict(line.split(":") for line in file)
    total, available = (int(found[key].split()[0]) // 1024 for key in ("MemTotal", "MemAvailable"))
    return {"total_mib": total, "available_mib": available}


def disk_of(path: str) -> dict[str, Any]:
    try:
        disk = os.statvfs(path)
    except OSError:
        return {"path": path, "total_mib": None, "free_mib": None}
    total, free = (blocks * disk.f_frsize >> 20 for blocks in (disk.f_blocks, disk.f_bavail))
    return {"path": path, "total_mib": total, "free_mib": free}


def plan_of(path: str) -> dict[str, Any]:
    """The plan that llama_router left; an empty one where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            plan = json.load(file)
    except (OSError, ValueError, RecursionError):
        plan = None
    return {"devices": [], "models": [], **(plan if isinstance(plan, dict) else {})}


# --- the whole --------------------------------------------------------------------------------------------------


def report(
    router: Mapping[str, Any],
    models: Sequence[Model],
    host: Mapping[str, Any],
    plan: Mapping[str, Any],
    loads: Mapping[str, _offload.Offload],
) -> dict[str, Any]:
    """The parts as one, with a verdict."""
    planned = {entry["name"]: entry for entry in plan["models"]}
    rows = [_model(model, planned.get(model.id), loads.get(model.id)) for model in models]
    rows.sort(key=lambda row: str(row["id"]))
    devices = [
        {
            "name": device["name"],
            "total_mib": device["total_mib"],
            "usable_mib": device["usable_mib"],
            "used_mib": sum(_taken(row, device["name"]) for row in rows),
        }
        for device in plan["devices"]
    ]
    found = {"at": time.time(), "router": dict(router), "models": rows, "devices": devices, **host}
    down = list(_down(found))
    reasons = [*(down or _wrong(found, planned)), *_delays(found["unit"])]
    return {**found, "verdict": "down" if down else "degraded" if reasons else "healthy", "reasons": reasons}


def _model(model: Model, planned: Mapping[str, Any] | None, load: _offload.Offload | None) -> dict[str, Any]:
    wanted = {} if planned is None else {row["device"]: row["total_mib"] for row in planned["devices"]}
    if planned is not None:
        wanted[_offload.HOST] = planned["host_mib"]
    used = load.memory if load else {}
    names = [*wanted, *(name for name in used if name not in wanted)]
    return {
        "id": model.id,
        "aliases": list(model.aliases),
        "status": model.status,
        "failed": model.failed and not model.running,
        "exit_code": model.exit_code if model.failed and not model.running else None,
        "source": model.source,
        "ctx_size": model.ctx_size,
        "pinned": model.loads_on_startup,
        "port": model.port,
        "planned": planned is not None,
        "memory": [
            {
                "device": name,
                "planned_mib": wanted.get(name),
                # A sleeper has given its buffers back.
                "used_mib": used.get(name, 0.0) if load and model.status != "sleeping" else None,
            }
            for name in names
        ],
        "offloaded": load.offloaded if load else None,
        "layers": load.layers if load else None,
        "on_cpu": _on_cpu(model, planned, load) if load else None,
    }


def _on_cpu(model: Model, planned: Mapping[str, Any] | None, load: _offload.Offload) -> bool:
    if planned is None or not planned["total_mib"]:
        return False
    exact = planned["exactness"] == "exact"
    devices = [row["device"] for row in planned["devices"] if exact and row["weights_mib"]]
    return _offload.complaint(model.id, load, devices, model.options.get("n-gpu-layers", "all")) is not None


def _taken(row: Mapping[str, Any], device: str) -> float:
    """What a model holds of a device, in MiB."""
    if row["status"] not in ("loading", "loaded"):
        return 0.0
    return float(
        next(
            (
                (entry["planned_mib"] if entry["used_mib"] is None else entry["used_mib"]) or 0.0
                for entry in row["memory"]
                if entry["device"] == device
            ),
            0.0,
        )
    )


def _down(found: Mapping[str, Any]) -> Iterable[str]:
    unit, router = found["unit"], found["router"]
    if unit["state"] in ("inactive", "failed", "activating", "deactivating"):
        yield f"{unit['name']} is {unit['state']} ({unit['sub']}): journalctl -u {unit['name']} tells why"
    elif not router["up"]:
        yield str(router["reason"])


def _delays(unit: Mapping[str, Any]) -> Iterable[str]:
    for delay in unit.get("delays", ()):
        yield (
            f"{delay['name']} delayed the guest's start by {delay['seconds']} s, for {', '.join(delay['for'])}:"
            f" systemctl disable {delay['name']}"
        )


def _wrong(found: Mapping[str, Any], planned: Mapping[str, Any]) -> Iterable[str]:
    """What is to be mended while it serves, one sentence each."""
    models = found["models"]
    for row in models:
        if row["failed"]:
            yield f"{row['id']} failed: its process ended with exit code {row['exit_code']}"
        if row["on_cpu"]:
            yield f"{row['id']} computes on the CPU: {row['offloaded']} of {row['layers']} layers are on a device"
        for entry in row["memory"]:
            used, wanted = entry["used_mib"], entry["planned_mib"]
            if entry["device"] != _offload.HOST and used and wanted is not None and used > wanted * OVER_PLAN:
                yield f"{row['id']} takes {used:.0f} MiB of {entry['device']}, planned are {wanted:.0f}"
    if not models:
        yield "the router has no models"
    elif all(row["failed"] for row in models):
        yield "no model can be used: each one's last process failed"
    missing = sorted(set(planned) - {row["id"] for row in models})
    if missing:
        yield f"planned and not served: {', '.join(missing)}"
    driver = found["driver"]
    if driver["reason"] and any(device["name"].startswith("CUDA") for device in found["devices"]):
        yield str(driver["reason"])
    disk = found["disk"]
    if disk["total_mib"] is None:
        yield f"the models' folder {disk['path']} cannot be looked at"
    elif disk["free_mib"] < disk["total_mib"] * DISK_FREE:
        yield f"the models' disk is full: {disk['free_mib']} MiB of {disk['total_mib']} are free at {disk['path']}"
    for shown in found["certificates"]:
        left = (shown["expires"] or 0) - found["at"]
        if shown["expires"] is None:
            yield f"{shown['address']} shows no certificate: {shown['reason']}"
        elif left < EXPIRES_SOON:
            ends = f"ends in {left / 86400:.0f} days" if left > 0 else "has ended"
            yield f"the certificate of {shown['address']} {ends}: renew it"
