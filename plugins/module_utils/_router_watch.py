# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens to a router's models from one look to the next, so that no load, eviction or answer is missed.

Two streams tell of it. The router's events (GET /models/sse) have each change of a model's status, and the exit code of
a process that ended. Its journal has what they do not: that a model made room for another one, what a load took of each
device, and the tokens of each answer, which the process of a model forgets when it ends.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _offload
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RUNNING, Model
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_report import ERRORS, error_of

EVENTS = 100  # are remembered
LOAD_LINES = 2000  # of one load at the most
LONGEST = 1000  # characters of a line that count
MODELS = 10_000  # at the most: names come from the router, and from requests
LOADED = ("loaded", "sleeping")
_CHILD = re.compile(r"\[(\d{1,5})\] (.*)")
_SPAWN = re.compile(r"spawning server instance with name=(.+) on port (\d{1,5})\b")
# For a client that loads a model, and for a request that waits for one.
_EVICT = re.compile(r"(?:removing|evicting idle) LRU name=(.+?)(?: for a queued request)?$")
_QUEUE = re.compile(r"request for name=(.+) queued at position \d+$")
_TOKENS = re.compile(r"\| +(prompt eval|eval|total) time = .* / +(\d{1,12}) tokens")


@dataclass
class History:
    """One model since the watch began. Times are seconds, `since` that of its status since the epoch."""

    status: str = "unloaded"
    since: float = 0.0
    port: int = 0
    loading_since: float | None = None
    loads: int = 0
    load_seconds: float | None = None
    load_seconds_total: float = 0.0
    wakes: int = 0
    queued: int = 0
    evictions: int = 0
    evicted: bool = False  # and its process has not ended yet
    failures: Counter[int] = field(default_factory=Counter)
    answers: int = 0
    prompt_tokens: int = 0
    predicted_tokens: int = 0


class Watch:
    """Fed by two threads, read by others."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.started = clock()
        self.events_up = self.journal_up = False
        self._models: dict[str, History] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._errors: deque[str] = deque(maxlen=ERRORS)
        self._names: dict[int, str] = {}  # by port
        self._logs: dict[int, list[str]] = {}  # of loads under way
        self._loads: dict[int, _offload.Offload] = {}
        self._known = False

    # --- what is told ---

    def sync(self, models: Iterable[Model]) -> None:
        """The router's list, just after its events are heard (again): what was missed counts, but at the first time."""
        with self._lock:
            for model in models:
                history = self._history(model.id)
                if model.running:
                    self._names[model.port] = model.id
                # As long as its port is not known, the process that was told of last.
                told = not history.port and history.status in LOADED and model.status in LOADED
                fresh = model.running and not told and (history.status not in RUNNING or history.port != model.port)
                if fresh and model.status == "loading":
                    history.loading_since = self._clock()  # the event that it is loaded is to come
                    self._note(model.id, "loading")
                elif fresh and self._known:
                    history.loads += 1
                    self._note(model.id, "loaded")
                elif self._known and history.status in RUNNING and not model.running and model.failed:
                    self._fail(model.id, history, model.exit_code or 0)
                self._set(history, model.status)
                history.port = model.port if model.running else 0
            self._known = self.events_up = True

    def ports(self, models: Iterable[Model]) -> None:
        """The router's list, after a load: by its port a model's next process is known for another one."""
        with self._lock:
            for model in models:
                if model.running and model.id in self._models:
                    self._models[model.id].port = model.port
                    self._names[model.port] = model.id

    def event(self, told: Mapping[str, Any]) -> None:
        """One of the router's events."""
        name, data = str(told.get("model")), told.get("data") or {}
        with self._lock:
            if told.get("event") == "models_reload":
                self._note(name, "reloaded")
                return
            if "status" not in data:
                return
            history = self._history(name)
            status, now = str(data["status"]), self._clock()
            if status == "loading" and history.status == "sleeping":
                history.wakes += 1
                self._note(name, "woken")  # and it reads its file again, in the same process
                history.loading_since = None
            elif status == "loading" and history.status != "loading":
                history.loading_since, history.port = now, 0
                self._note(name, "loading")
            elif status == "loaded" and history.status == "loading" and history.loading_since is not None:
                history.loads += 1
                history.load_seconds = max(0.0, now - history.loading_since)
                history.loading_since = None
                history.load_seconds_total += history.load_seconds
                self._note(name, "loaded", seconds=round(history.load_seconds, 3))
            elif status == "sleeping" and history.status != "sleeping":
                self._note(name, "sleeping")
            elif status == "unloaded" and data.get("exit_code"):
                if history.status == "unloaded":
                    return  # the list has told of it, which was asked for when this was on its way
                self._fail(name, history, int(data["exit_code"]))
            elif status == "unloaded" and history.status in RUNNING:
                self._note(name, "evicted" if history.evicted else "unloaded")
                history.evicted = False
            self._set(history, status)

    def line(self, text: str, at: float) -> None:
        """One line of the router's journal; of those from before the watch began only what still holds counts."""
        text = printable(text, LONGEST)
        child, error = _CHILD.match(text), error_of(text)
        with self._lock:
            if error:
                self._errors.append(error)
            if child:
                self._child(int(child[1]), child[2], at >= self.started)
                return
            spawned, queued, evicted = _SPAWN.search(text), _QUEUE.search(text), _EVICT.search(text)
            if spawned:
                self._spawned(spawned[1], int(spawned[2]))
            elif queued and at >= self.started:
                self._history(queued[1]).queued += 1
            elif evicted and at >= self.started:
                history = self._history(evicted[1])
                history.evictions += 1
                history.evicted = history.status in RUNNING
                if not history.evicted:
                    self._late(evicted[1])

    def lost(self) -> None:
        """The router's events are not heard any more."""
        with self._lock:
            self.events_up = False

    # --- what is known ---

    def loads(self, models: Iterable[Model]) -> dict[str, _offload.Offload]:
        """What the processes of the running models said of their loads, by id."""
        with self._lock:
            return {m.id: self._loads[m.port] for m in models if m.running and m.port in self._loads}

    def tell(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report with what only a watch knows: `watch`, `events` (the latest first), a `history` for each model."""
        with self._lock:
            now = self._clock()
            for row in report["models"]:
                history = self._models.get(row["id"], History(since=now))
                row["history"] = {
                    # The two looks are not at the same time.
                    "seconds": max(0.0, now - history.since) if history.status == row["status"] else 0.0,
                    "loads": history.loads,
                    "load_seconds": history.load_seconds,
                    "load_seconds_total": history.load_seconds_total,
                    "wakes": history.wakes,
                    "queued": history.queued,
                    "evictions": history.evictions,
                    "failures": {str(code): count for code, count in history.failures.items()},
                    "answers": history.answers,
                    "prompt_tokens": history.prompt_tokens,
                    "predicted_tokens": history.predicted_tokens,
                }
            report["events"] = list(reversed(self._events))
            report["unit"]["errors"] = list(self._errors)
            report["watch"] = {"since": self.started, "events": self.events_up, "journal": self.journal_up}
        return report

    # --- with the lock held ---

    def _spawned(self, name: str, port: int) -> None:
        """What is known of the model's processes before, and of others behind this port, goes: ports are many."""
        for old in [port, *(other for other, model in self._names.items() if model == name)]:
            for known in (self._names, self._logs, self._loads):
                known.pop(old, None)
        self._names[port] = name

    def _child(self, port: int, text: str, counts: bool) -> None:
        if _offload.BEGIN in text:
            self._logs[port] = [text]
            return
        log = self._logs.get(port)
        if log is not None:
            log.append(text)
            if _offload.LOADED in text or len(log) > LOAD_LINES:
                load = _offload.read(self._logs.pop(port))
                if load:
                    self._loads[port] = load
            return
        tokens = _TOKENS.search(text) if counts and " time = " in text else None
        history = self._models.get(self._names.get(port, ""))
        if tokens is None or history is None:
            return
        if tokens[1] == "prompt eval":
            history.prompt_tokens += int(tokens[2])
        elif tokens[1] == "eval":
            history.predicted_tokens += int(tokens[2])
        else:
            history.answers += 1

    def _history(self, name: str) -> History:
        if name not in self._models and len(self._models) >= MODELS:
            return History(since=self._clock())
        return self._models.setdefault(name, History(since=self._clock()))

    def _set(self, history: History, status: str) -> None:
        if history.status != status:
            history.status, history.since = status, self._clock()

    def _fail(self, name: str, history: History, code: int) -> None:
        history.failures[code] += 1
        history.evicted = False
        self._note(name, "failed", exit_code=code)

    def _late(self, name: str) -> None:
        """The journal came after the event."""
        last = next((event for event in reversed(self._events) if event["model"] == name), None)
        if last and last["what"] == "unloaded":
            last["what"] = "evicted"

    def _note(self, name: str, what: str, **more: Any) -> None:
        self._events.append({"at": self._clock(), "model": name, "what": what, **more})
