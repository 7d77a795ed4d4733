# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a router does not do by itself: unload what is idle, and bring back what is to stay.

Whether a model is used is asked of its own process, on its port on the loopback, and not through the router: there
asking would count as a use. Neither that nor the router's list loads or wakes a model, or keeps one from its sleep.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.llamacpp.plugins.module_utils import _port_hold
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Model, Refused, RouterError

# A router that has just started, or is told to reload, brings its models back by itself: it is not to be met half way.
GRACE = 5  # seconds
_LARGEST = 1 << 20  # bytes of a process's metrics


@dataclass(frozen=True)
class Use:
    """What a model's process has done since it started, by its counters, and whether it is at work."""

    done: Mapping[str, str]
    busy: bool


@dataclass(frozen=True)
class Wanted:
    """`unload_idle` in seconds, 0 or less for never; `keep`: ids of models that are to stay.

    `patience` in seconds: for how long a model must have been idle to make room for one that is to stay, and how long
    one that was brought back is not brought back again.
    """

    unload_idle: float
    keep: Sequence[str]
    patience: float


@dataclass
class _Seen:
    port: int
    done: Mapping[str, str]
    since: float


class Keeper:
    """It knows for how long a model has been idle from its own looks: a new keeper begins to count anew."""

    def __init__(
        self,
        wanted: Wanted,
        say: Callable[[str], None],
        use: Callable[[int], Use | None] | None = None,
        connected: Callable[[int], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = wanted
        self._say = say
        self._use = use or read_use
        self._connected = connected or is_connected
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._missing: dict[str, float] = {}
        self._brought_back: dict[str, float] = {}

    def look(self, client: Client) -> bool:
        """One look. Whether it has done something, so that another one is worth while soon."""
        models = client.models()
        idle = self._idle(models)
        unloaded = [
            self._unload(client, model, f"it was idle for {idle[model.id]:.0f} s")
            for model in models
            if 0 < self.wanted.unload_idle <= idle.get(model.id, -1) and model.id not in self.wanted.keep
        ]
        return any(unloaded) or self._bring_back(client, models, idle)

    def _idle(self, models: Sequence[Model]) -> dict[str, float]:
        """For how many seconds each model that could be unloaded has been idle; 0 for one that is at work."""
        now = self._clock()
        ready = {model.id: model for model in models if model.status in ("loaded", "sleeping")}
        self._seen = {name: seen for name, seen in self._seen.items() if name in ready}
        for name, model in ready.items():
            use = self._use(model.port)
            before = self._seen.get(name)
            if use is None or use.busy:
                self._seen[name] = _Seen(model.port, {}, now)
            elif before is None or (before.port, before.done) != (model.port, use.done):
                self._seen[name] = _Seen(model.port, use.done, now)
        return {name: now - seen.since for name, seen in self._seen.items()}

    def _unload(self, client: Client, model: Model, why: str) -> bool:
        # A request that came since its counters were read. One that comes from here on, in less than a millisecond,
        # the router may still give to the process that it is about to end; a later one waits until it is loaded again.
        if self._connected(model.port):
            return False
        try:
            client.unload(model.id)
        except Refused as error:
            if error.status != 400:  # 400: it has gone meanwhile
                raise
            return False
        self._say(f"{model.id} is unloaded: {why}")
        return True

    def _bring_back(self, client: Client, models: Sequence[Model], idle: Mapping[str, float]) -> bool:
        """Load the first model that is to stay and does not run, or make room for it."""
        model = self._due(models)
        if model is None:
            return False
        running = [other for other in models if other.running]
        limit = int(client.props()["max_instances"])
        if 0 < limit <= len(running):
            victim = _longest_idle(running, idle, self.wanted.keep)
            if victim is None or idle[victim.id] < self.wanted.patience:
                return False
            why = f"it was idle for {idle[victim.id]:.0f} s, and {model.id}, which is to stay, needs its place"
            return self._unload(client, victim, why)
        self._brought_back[model.id] = self._clock()
        try:
            client.load(model.id, client.request_timeout)
        except Refused as error:
            if error.status not in (400, 500):  # 400: another one loads it; 500: another one took the place
                raise
            return False
        ended = f"; its process had ended with exit code {model.exit_code}" if model.failed else ""
        self._say(f"{model.id} is loaded again: it is to stay, and did not run{ended}")
        return True

    def _due(self, models: Sequence[Model]) -> Model | None:
        now = self._clock()
        missing = {model.id: model for model in models if model.status == "unloaded" and model.id in self.wanted.keep}
        self._missing = {name: self._missing.get(name, now) for name in missing}
        for name in self.wanted.keep:
            waited = now - self._brought_back.get(name, float("-inf")) >= self.wanted.patience
            if name in missing and waited and now - self._missing[name] >= GRACE:
                return missing[name]
        return None


def read_use(port: int) -> Use | None:
    """What the process on this port has done; None when it does not tell, as one that loads or ends."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        # Without this the connection would look like a request under way.
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read(_LARGEST).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return use_of(text) if response.status in (200, 501) else None


def use_of(text: str) -> Use:
    """The counters among the metrics of a model's process. RouterError when they are others, or not there."""
    values = dict(line.rpartition(" ")[::2] for line in text.splitlines() if line.startswith("llamacpp:"))
    try:
        at_work = [values["llamacpp:requests_processing"], values["llamacpp:requests_deferred"]]
        done = {name: values[name] for name in values if name.endswith("_total")}
    except KeyError:
        raise RouterError(
            "models with metrics were wanted, to see whether they are used; a model's process has none, or others:"
            " run the router with --metrics, and see GET /metrics?model=NAME&autoload=false"
        ) from None
    return Use(done, any(value != "0" for value in at_work))


def is_connected(port: int) -> bool:
    """Whether this port, of a model's process, has a connection: each request to it is one."""
    return any(c.established and c.port == port for c in _port_hold.connections())


def _longest_idle(running: Sequence[Model], idle: Mapping[str, float], keep: Collection[str]) -> Model | None:
    candidates = [model for model in running if model.id in idle and model.id not in keep]
    return max(candidates, key=lambda model: idle[model.id], default=None)
