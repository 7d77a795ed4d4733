# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A watched router's report as metrics: plain data, which the exporter hands to its library."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils import _foreign

MIB = 1 << 20
STATUSES = ("unloaded", "loading", "loaded", "sleeping")
PROBLEMS = ("unreachable", "key", "certificate", "refused")
VERDICTS = ("healthy", "degraded", "down")
CHILD_BYTES = 1 << 18  # of a model's metrics; they are 2 KiB
_NAME = re.compile(r"llamacpp:[a-zA-Z0-9_:]{1,100}")  # a model's; the exporter's own begin with llamacpp_


class Family(NamedTuple):
    """One metric. `samples` are pairs of labels and value; a counter's name has no _total here."""

    name: str
    kind: str  # gauge, counter
    help: str
    samples: list[tuple[dict[str, str], float]]


def families(report: Mapping[str, Any]) -> Iterator[Family]:
    """All but the models' own metrics. What is not known has no sample."""
    for family in (*_router(report), *_models(report), *_machine(report)):
        if family.samples:
            yield family


def of_children(texts: Mapping[str, str]) -> list[Family]:
    """The models' own metrics, by the ids of the models, with a label that names the model.

    A line that is no sample of theirs is left out and counted: it must not cost the scrape.
    """
    found: dict[str, Family] = {}
    bad = []
    for model, text in texts.items():
        count = _of_child(model, text, found)
        if count:
            bad.append(({"model": model}, float(count)))
    lines = Family("llamacpp_exporter_bad_lines", "gauge", "Lines of its metrics that are none.", bad)
    return [*found.values(), *([lines] if bad else [])]


def _of_child(model: str, text: str, found: dict[str, Family]) -> int:
    """Add the samples of one model. Returns how many lines were none."""
    helps: dict[str, str] = {}
    kinds: dict[str, str] = {}
    seen: set[str] = set()
    bad = 0
    for line in text.split("\n"):
        words = line.split(" ", 3)
        if line.startswith("#"):
            if len(words) == 4 and words[1] == "HELP":
                helps[words[2]] = _foreign.text(words[3])
            elif len(words) == 4 and words[1] == "TYPE":
                kinds[words[2]] = words[3]
        elif line.strip():
            name, value = _sample(words, kinds)
            counts = kinds.get(name) == "counter" and name.endswith("_total")
            kind = "counter" if counts else "gauge"  # n_tokens_max calls itself a counter, and is none
            family_name = name[: -len("_total")] if counts else name
            if value is None or name in seen or found.get(family_name, Family("", kind, "", [])).kind != kind:
                bad += 1
                continue
            seen.add(name)
            family = found.setdefault(family_name, Family(family_name, kind, helps.get(name, ""), []))
            family.samples.append(({"model": model}, value))
    return bad


def _sample(words: list[str], kinds: Mapping[str, str]) -> tuple[str, float | None]:
    """Name and value of a line; None for one that is no sample of a model."""
    name = words[0]
    if len(words) != 2 or not _NAME.fullmatch(name) or kinds.get(name) not in ("gauge", "counter"):
        return name, None
    try:
        return name, float(words[1])  # NaN and infinities are values
    except ValueError:
        return name, None


def ask_children(report: Mapping[str, Any], timeout: float = 1.0) -> dict[str, str]:
    """The metrics of the loaded models, from their own processes: the router's way would load one that has just gone.

    A sleeper is left alone. They need no key on the loopback; this neither wakes them nor keeps them awake. All are
    asked at once, and those that hang are left out after `timeout` seconds: their connections are shut then, so that
    none keeps its thread by sending a byte now and then.
    """
    found: dict[str, str] = {}
    ports = {row["id"]: row["port"] for row in report["models"] if row["status"] == "loaded" and _is_port(row["port"])}
    asked = [_Asked(model, port, timeout, found) for model, port in ports.items()]
    deadline = time.monotonic() + timeout
    for one in asked:
        one.start()
    for one in asked:
        one.join(max(0.0, deadline - time.monotonic()))
    told = dict(found)
    for one in asked:
        one.shut()
    return told


def _is_port(value: object) -> bool:
    return isinstance(value, int) and 0 < value < 1 << 16


class _Asked(threading.Thread):
    def __init__(self, model: str, port: int, timeout: float, found: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._model, self._found = model, found
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._line: socket.socket | None = None  # the connection forgets it when the answer ends with it

    def run(self) -> None:
        try:
            self._connection.connect()
            self._line = self._connection.sock
            self._connection.request("GET", "/metrics")
            answer = self._connection.getresponse()
            text = answer.read(CHILD_BYTES + 1)
            if answer.status == 200 and len(text) <= CHILD_BYTES:
                self._found[self._model] = text.decode(errors="replace")
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # on its way out, or shut
        finally:
            self._connection.close()

    def shut(self) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)


# --- the metrics ------------------------------------------------------------------------------------------------


def _one(name: str, help_: str, value: object, kind: str = "gauge", **labels: str) -> Family:
    known = _foreign.number(value)
    return Family(f"llamacpp_{name}", kind, help_, [] if known is None else [(labels, known)])


def _router(report: Mapping[str, Any]) -> Iterator[Family]:
    router, unit, watch = report["router"], report["unit"], report["watch"]
    yield _one("up", "Whether the router answers as one.", router["up"])
    problems = [({"problem": word}, float(word == router["problem"])) for word in PROBLEMS]
    yield Family("llamacpp_problem", "gauge", "Why the router cannot be asked; one of them is 1 then.", problems)
    verdicts = [({"verdict": word}, float(word == report["verdict"])) for word in VERDICTS]
    yield Family("llamacpp_verdict", "gauge", "What the status command says; one of them is 1.", verdicts)
    if router["up"]:
        names = {"build": str(router["build"]), "role": str(router["role"])}
        yield _one("build_info", "The router's build and role.", 1, **names)
    yield _one("models_max", "The limit of models at once, 0 for none.", router["limit"])
    yield _one("models_running", "Models that hold a slot, also while they sleep.", len(router["loaded"]))
    usable = sum(not row["failed"] for row in report["models"])
    yield _one("models_usable", "Models whose last process did not fail.", usable)
    yield _one(
        "connections",
        "Clients' connections to the router, idle ones too, as of some seconds ago.",
        report["connections"],
    )
    yield _one(
        "unit_active", "Whether the router's unit is up.", unit["state"] in ("active", "reloading", "refreshing")
    )
    yield _one("unit_restarts", "Times that systemd restarted it.", unit["restarts"], "counter")
    yield _one("unit_start_time_seconds", "When it was started, since the epoch.", unit["since"])
    memory = None if unit["memory_mib"] is None else unit["memory_mib"] * MIB
    yield _one("unit_memory_bytes", "Memory of the router and its models' processes.", memory)
    sources = [({"source": name}, float(watch[name])) for name in ("events", "journal")]
    yield Family("llamacpp_exporter_watching", "gauge", "Whether the exporter hears of what happens.", sources)


def _models(report: Mapping[str, Any]) -> Iterator[Family]:
    rows = report["models"]

    def each(name: str, help_: str, key: str, kind: str = "gauge") -> Family:
        values = [(row["id"], _foreign.number(row["history"].get(key, row.get(key)))) for row in rows]
        samples = [({"model": model}, value) for model, value in values if value is not None]
        return Family(f"llamacpp_model_{name}", kind, help_, samples)

    states = [
        ({"model": row["id"], "status": status}, float(row["status"] == status))
        for row in rows
        for status in dict.fromkeys((*STATUSES, row["status"]))  # a download has others
    ]
    yield Family("llamacpp_model_status", "gauge", "The model's status; one of them is 1.", states)
    yield each("status_seconds", "Time in this status, as far as the exporter saw it.", "seconds")
    yield each("failed", "Whether its last process ended with an error.", "failed")
    # Without the exit codes: a series that begins with the first failure is one in which Prometheus sees no increase.
    failures = [({"model": row["id"]}, float(sum(row["history"]["failures"].values()))) for row in rows]
    yield Family("llamacpp_model_failures", "counter", "Processes that ended with an error.", failures)
    yield each("exit_code", "How its last process ended, where that was with an error.", "exit_code")
    yield each("loads", "Loads that came to their end.", "loads", "counter")
    yield each("load_seconds", "Time of all loads.", "load_seconds_total", "counter")
    yield each("last_load_seconds", "Time of the last load.", "load_seconds")
    yield each("wakes", "Times that a request woke it.", "wakes", "counter")
    yield each("queued", "Requests that had to wait until it was loaded.", "queued", "counter")
    yield each("evictions", "Times that it made room for another model.", "evictions", "counter")
    yield each("answers", "Answers that came to their end.", "answers", "counter")
    yield each("prompt_tokens", "Tokens read for answers, without those in the cache.", "prompt_tokens", "counter")
    yield each("predicted_tokens", "Tokens of answers.", "predicted_tokens", "counter")
    yield each("on_cpu", "Whether layers lie on the CPU that were planned on a device.", "on_cpu")
    yield each("context_tokens", "The context.", "ctx_size")
    for name, key, help_ in (
        ("memory_bytes", "used_mib", "What it takes of a device, by its own log."),
        ("planned_memory_bytes", "planned_mib", "What it was planned to take of a device while it is loaded."),
    ):
        samples = [
            ({"model": row["id"], "device": entry["device"]}, entry[key] * MIB)
            for row in rows
            for entry in row["memory"]
            if entry[key] is not None
        ]
        yield Family(f"llamacpp_model_{name}", "gauge", help_, samples)


def _machine(report: Mapping[str, Any]) -> Iterator[Family]:
    for name, key, help_ in (
        ("usable", "usable_mib", "What the plan gives to models."),
        ("used", "used_mib", "What the running models take."),
    ):
        samples = [({"device": device["name"]}, device[key] * MIB) for device in report["devices"]]
        yield Family(f"llamacpp_device_{name}_bytes", "gauge", help_, samples)
    driver, gpus, reading = report["driver"], report["gpus"], report["gpu_reading"]
    yield _one("gpu_reading_success", "Whether the last reading of the GPUs succeeded.", reading["ok"])
    age = None if reading["at"] is None else max(0.0, report["at"] - reading["at"])
    yield _one("gpu_reading_age_seconds", "Time since the last reading of the GPUs that succeeded.", age)
    yield _one("driver_agrees", "Whether kernel module and libraries are the same version.", driver["agree"])
    if driver["kernel_version"]:
        versions = {"kernel": driver["kernel_version"], "library": driver["library_version"] or ""}
        yield _one("driver_info", "The driver's two versions.", 1, **versions)
    for name, key, factor, help_ in (
        ("memory_total_bytes", "memory_total_mib", MIB, "Memory of the GPU."),
        ("memory_used_bytes", "memory_used_mib", MIB, "Memory in use, by whomever."),
        ("utilization_ratio", "utilization_percent", 0.01, "Part of the time in which it computed."),
        ("temperature_celsius", "temperature_celsius", 1, "Its temperature."),
        ("power_watts", "power_watts", 1, "Power drawn."),
        ("power_limit_watts", "power_limit_watts", 1, "Power allowed."),
    ):
        samples = [(_labels(gpu), gpu[key] * factor) for gpu in gpus if gpu[key] is not None]
        yield Family(f"llamacpp_gpu_{name}", "gauge", help_, samples)
    throttled = [(_labels(gpu), float(bool(gpu["throttling"]))) for gpu in gpus if gpu["throttling"] is not None]
    yield Family("llamacpp_gpu_throttled", "gauge", "Whether power or heat holds its clocks down.", throttled)
    memory, disk = report["memory"], report["disk"]
    yield _one("memory_total_bytes", "Memory of the guest.", memory["total_mib"] * MIB)
    yield _one("memory_available_bytes", "Memory that is to be had.", memory["available_mib"] * MIB)
    for name, key, help_ in (("total", "total_mib", "Size"), ("free", "free_mib", "Room left")):
        value = None if disk[key] is None else disk[key] * MIB
        yield _one(f"models_disk_{name}_bytes", f"{help_} of the models' disk.", value)
    ends = [({"address": shown["address"]}, shown["expires"]) for shown in report["certificates"] if shown["expires"]]
    yield Family("llamacpp_certificate_expiry_timestamp_seconds", "gauge", "The end of the certificate shown.", ends)


def _labels(gpu: Mapping[str, Any]) -> dict[str, str]:
    return {"gpu": str(gpu["index"]), "uuid": gpu["uuid"], "product": gpu["product"]}


def names(found: Iterable[Family]) -> set[str]:
    """As Prometheus knows them."""
    return {family.name + ("_total" if family.kind == "counter" else "") for family in found}
