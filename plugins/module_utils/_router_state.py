# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a router's models into the state that is wanted, and wait until that is true.

The router answers a load and an unload before they are done, tells a failed load only by the model being unloaded
again, and has no status for a model on its way out. So each step here decides from the list, posts, and polls.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    Client,
    Model,
    Refused,
    RouterError,
)

# From a failed model and the time (seconds since the epoch) at which it was asked for, to lines that say why.
Why = Callable[[Model, float], "list[str]"]


_LONGEST = 500  # characters of a line in a message
# How llama-server begins a line: seconds since its start with its parts, and a letter for the level.
_CLOCK = re.compile(r"\d+(\.\d+){3} ")
_ERROR = re.compile(_CLOCK.pattern + "E ")
# What systemd itself says of a unit in its journal, beside what the unit's processes say.
_SYSTEMD = re.compile(r"[\w@.-]+\.service: |(Starting|Started|Stopping|Stopped|Failed to start) ")


class LoadError(RouterError):
    """One model could not be brought to the state that was wanted; the router itself is well."""


@dataclass(frozen=True)
class Reloaded:
    """What a reload did, as ids in the order of the lists `before` and `after` it."""

    before: list[Model]
    after: list[Model]

    @property
    def stopped(self) -> list[str]:
        up = running(self.after)
        return [name for name in running(self.before) if name not in up]

    @property
    def added(self) -> list[str]:
        known = {model.id for model in self.before}
        return [model.id for model in self.after if model.id not in known]

    @property
    def removed(self) -> list[str]:
        known = {model.id for model in self.after}
        return [model.id for model in self.before if model.id not in known]

    @property
    def modified(self) -> list[str]:
        """Those in both lists whose options, aliases, tags or source differ."""
        known = {model.id: _definition(model) for model in self.before}
        return [model.id for model in self.after if known.get(model.id, _definition(model)) != _definition(model)]

    @property
    def changed(self) -> bool:
        return bool(self.stopped or self.added or self.removed or self.modified)


class Router:
    """A router's models; RouterError when another kind of server answers.

    `limit` is how many run at once, 0 for no limit. `acted` tells, also after an error, whether anything was changed.
    """

    def __init__(self, client: Client, why: Why | None = None) -> None:
        self.client = client
        self.limit = int(client.props()["max_instances"])
        self.acted = False
        self._why = why

    def check_limit(self, ids: Sequence[str]) -> None:
        """RouterError when these cannot all run at once."""
        if 0 < self.limit < len(ids):
            raise RouterError(
                f"{len(ids)} models were wanted loaded at once ({', '.join(ids)}), the router at {self.client.url} runs"
                f" {self.limit} (--models-max); name fewer, or raise its limit"
            )

    def load(self, names: Sequence[str], timeout: float, wait: bool = True) -> None:
        """Load those that do not run, in order. `timeout` in seconds is for all of them together."""
        deadline = time.monotonic() + timeout
        models = self.client.models()
        ids = resolve_all(models, names)
        self.check_limit(ids)
        if not ids:
            return
        if not wait:
            for model_id in ids:
                self._ask_to_load(find(models, model_id), deadline)
            return
        # A load may evict one of the names that ran before it, the one used the longest ago. Loaded again it is the
        # one used last, so each name needs that at most once, and as many rounds as there are names are enough.
        for _round in ids:
            for model_id in ids:
                self._load(find(models, model_id), deadline, timeout)
            models = self.client.models()
            if all(find(models, model_id).running for model_id in ids):
                return
        lost = [model_id for model_id in ids if not find(models, model_id).running]
        raise LoadError(
            f"{', '.join(ids)} were wanted loaded together, others' requests keep evicting {', '.join(lost)} at the"
            f" limit of {self.limit}; raise the limit or stop those clients"
        )

    def unload(self, names: Sequence[str], timeout: float, wait: bool = True) -> None:
        """Unload those that run. `timeout` in seconds is for all of them together."""
        deadline = time.monotonic() + timeout
        models = self.client.models()
        going = [model for model in (find(models, name) for name in resolve_all(models, names)) if model.running]
        for model in going:
            try:
                self.acted = True
                self.client.unload(model.id)
            except Refused as error:
                if error.status != 400:  # 400: it has gone meanwhile
                    raise
        if wait:
            for model in going:
                self._wait_unloaded(model, deadline, timeout)

    def reload(self, timeout: float) -> Reloaded:
        """Make the router read its presets and its folder again; what it stops is gone when this returns."""
        before = self.client.models()
        try:
            after = self.client.reload(max(timeout, self.client.request_timeout))
        except Refused as error:
            if error.status != 500:
                raise
            raise RouterError(
                f"the router at {self.client.url} refused the presets and goes on with those it has: {error.reason};"
                " correct the preset file and reload again"
            ) from None
        return Reloaded(before, after)

    def _ask_to_load(self, model: Model, deadline: float) -> str:
        """Post a load of a model that is unloaded. Answers what stands in the way, empty when nothing does."""
        if model.running:
            return ""
        try:
            self.client.load(model.id, max(deadline - time.monotonic(), self.client.request_timeout))
        except Refused as error:
            if error.status == 400:
                return "the router says that it is running, its list says that it is not"
            if error.status == 500 and "limit" in error.reason:
                return "no slot is free"
            raise
        self.acted = True
        return ""

    def _load(self, model: Model, deadline: float, timeout: float) -> None:
        since = time.time()
        posted = False
        obstacle = ""
        pauses = _pauses(deadline)
        while True:
            if model.status == "sleeping":
                return
            if model.status == "loaded":
                if posted or self.client.answers(model.id):
                    return
                obstacle = "it is being unloaded, and its process has not ended"
            elif model.status == "unloaded":
                if posted:
                    raise LoadError(self._failure(model, since))
                obstacle = self._ask_to_load(model, deadline)
                posted = not obstacle
            else:
                obstacle = f"it is still {model.status}"
            if not next(pauses):
                raise LoadError(self._too_slow(model, obstacle, timeout))
            model = find(self.client.models(), model.id)

    def _wait_unloaded(self, model: Model, deadline: float, timeout: float) -> None:
        port = model.port
        for in_time in _pauses(deadline):
            now = next((entry for entry in self.client.models() if entry.id == model.id), None)
            if now is None or not now.running:
                return
            if now.port != port:
                raise LoadError(
                    f"{model.id} was wanted unloaded, it was, and a request loaded it again at once; stop the clients"
                    " that ask for it, or run the router with --no-models-autoload"
                )
            if not in_time:
                raise LoadError(
                    f"{model.id} was wanted unloaded, it is still {now.status} after {timeout:g} s: its process has not"
                    " ended; raise timeout above its stop-timeout (10 s when not set)"
                )

    def _failure(self, model: Model, since: float) -> str:
        if model.failed:
            found = f"its process ended with exit code {model.exit_code}"
        else:
            found = "it is unloaded again: its process ended by itself, or another client unloaded it"
        lines = telling(self._why(model, since)) if self._why else []
        told = "; it said: " + " | ".join(lines) if lines else "; its output is in the journal of the router"
        return f"{model.id} was wanted loaded, {found}{told}"

    def _too_slow(self, model: Model, obstacle: str, timeout: float) -> str:
        start = f"{model.id} was wanted loaded within {timeout:g} s, {obstacle or f'it is {model.status}'}"
        if obstacle == "no slot is free":
            holders = [f"{m.id} ({m.status})" for m in self.client.models() if m.running]
            return (
                f"{start}: the limit of {self.limit} is reached and none is idle, the slots are held by"
                f" {', '.join(holders)}; unload one of them, raise the router's limit, or raise timeout"
            )
        if model.status == "loading":
            return (
                f"{start}; raise timeout if it is large, else see the router's journal (a section that names no model"
                " file stays like this for ever: unload it)"
            )
        return f"{start}; raise timeout"


def find(models: Iterable[Model], model_id: str) -> Model:
    """The model with this id, which was in the list a moment ago."""
    for model in models:
        if model.id == model_id:
            return model
    raise LoadError(f"{model_id} was in the router's list, it is not any more: its presets or its folder have changed")


def resolve(models: Sequence[Model], name: str) -> Model:
    """The model with this id or alias; RouterError names the ones there are."""
    for model in models:
        if name == model.id:
            return model
    for model in models:
        if name in model.aliases:
            return model
    known = [model.id for model in models]
    if not known:
        raise RouterError(f"the model {name!r} was wanted, the router knows none; write presets or place model files")
    everything = [*known, *(alias for model in models for alias in model.aliases)]
    by_lower = {text.lower(): text for text in reversed(everything)}
    close = difflib.get_close_matches(name.lower(), list(by_lower), 1)
    hint = f"; did you mean {by_lower[close[0]]!r}?" if close else ""
    raise RouterError(f"the model {name!r} was wanted, the router knows {', '.join(sorted(known))}{hint}")


def resolve_all(models: Sequence[Model], names: Iterable[str]) -> list[str]:
    """The ids of these ids and aliases, each once."""
    return list(dict.fromkeys(resolve(models, name).id for name in names))


def running(models: Iterable[Model]) -> list[str]:
    """The ids of those that hold a slot."""
    return [model.id for model in models if model.running]


def telling(log: Iterable[str], most: int = 5) -> list[str]:
    """The last lines of a llama-server's log that are errors, without their clocks; just the last ones when none is."""
    lines = list(log)
    errors = [line for line in lines if _ERROR.match(line)]
    own = [line for line in lines if not _SYSTEMD.match(line)]
    return [printable(_CLOCK.sub("", line), _LONGEST) for line in (errors or own or lines)[-most:]]


def _definition(model: Model) -> tuple[object, ...]:
    return (dict(model.options), sorted(model.aliases), sorted(model.tags), model.source)


def _pauses(deadline: float) -> Iterator[bool]:
    """Sleep a little longer each time; yields whether there was time left before the sleep."""
    pause = 0.02
    while True:
        left = deadline - time.monotonic()
        if left > 0:
            time.sleep(min(pause, left))
        yield left > 0
        pause = min(pause * 1.5, 0.5)
