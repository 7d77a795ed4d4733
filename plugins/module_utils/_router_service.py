# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Converge a running router to the files on disk, whatever an earlier run left half done.

Two records make that possible. `applied` says with which files the running process started: the unit writes it
itself at each start, so it is true after a crash or a reboot too. `pending` names the models that are to be loaded
again: it is written before anything is stopped and goes when they run, so the successor of an interrupted run still
loads them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _options, _router_children, _router_files
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import PROBE, HoldError, PortHold, listening
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import Preset, PresetError, served_name
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    Client,
    Model,
    RouterError,
    Unreachable,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_quiet import GRACE, wait_until_quiet
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import LoadError, Router, running, telling
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError, UnitState

# For how long everybody waits for an answer that began between a quiet moment and the hold of the port, in seconds.
_BETWEEN = 0.5

# The options of a module that restarts a router: the fragment router_unit.
UNIT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "default": "llama-router.service"},
    "presets": {"type": "path"},
    "models_dir": {"type": "path"},
    "placed_in": {"type": "path"},
    "watch": {"type": "list", "elements": "path", "default": []},
    "applied": {"type": "path", "default": "/run/homelab-llamacpp/llama-router.service.applied"},
    "pending": {"type": "path", "default": "/var/lib/llama-router/pending.json"},
    "timeout": {"type": "int", "default": 60},
    "load_timeout": {"type": "int", "default": 300},
    "quiet_timeout": {"type": "int", "default": 300},
    "finish_timeout": {"type": "int", "default": 60},
}

# What a router says last when it cannot start, and what mends it.
_CRASHES = (
    ("failed to initialize router models", "correct the presets or the models folder"),
    ("couldn't bind", "another process has its port: stop that one, or give the router another port"),
    ("failed to load models on startup", "set load-on-startup for fewer models, or raise the limit"),
    ("failed to open file", "see that the service's user may read that file"),
    ("invalid argument", "correct the command line in the unit"),
)


@dataclass(frozen=True)
class Wanted:
    """Where things lie, and how many seconds each wait may take.

    `timeout` is for the router to come up or to reload, `load_timeout` for one model, `quiet_timeout` for a moment in
    which no answer is under way, `finish_timeout` for those that are when no such moment came.
    """

    presets: str | None
    models_dir: str | None
    placed_in: str | None
    watch: Sequence[str]
    applied: str
    pending: str
    timeout: float
    load_timeout: float
    quiet_timeout: float
    finish_timeout: float


@dataclass
class Outcome:
    """`action` is none, start, reload or restart. True as far as it goes when an error ends the work."""

    action: str = "none"
    changed: bool = False
    changed_files: list[str] = field(default_factory=list)
    enabled: bool = False
    stopped: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Convergence:
    """One run. It may end in RouterError or UnitError, or be killed, after any step: the next one goes on.

    While it restarts the router it holds the port, and gives it back once the router is up. After an error `hold` is
    as it was then, for the caller to try again with, or to give.
    """

    def __init__(self, unit: Unit, client: Client, wanted: Wanted, hold: PortHold) -> None:
        self.unit = unit
        self.client = client
        self._probe = client.marked(PROBE)
        self.wanted = wanted
        self.hold = hold
        self.outcome = Outcome()
        self._pending: list[str] = []
        self._outdated: list[str] = []
        self._now: _router_files.Digests = {}

    @classmethod
    def from_params(cls, params: Mapping[str, Any], run: Run, hold: PortHold) -> Convergence:
        """The one that ARGUMENTS and UNIT_ARGUMENTS ask for; reads the key file."""
        wanted = Wanted(**{name: params[name] for name in Wanted.__dataclass_fields__})
        return cls(Unit(run, params["name"]), Client.from_params(params, params["name"]), wanted, hold)

    def enable(self, wanted: bool, check_mode: bool = False) -> None:
        """Whether the unit starts with the machine."""
        self._unit_state(check_mode)  # a file that was just written
        if self.unit.enabled() == wanted:
            return
        self.outcome.enabled = self.outcome.changed = True
        if not check_mode:
            self.unit.enable(wanted)

    def run(self, restart: bool = False, check_mode: bool = False) -> None:
        wanted, out = self.wanted, self.outcome
        # Hashed before anything is done: a file that changes from here on differs in the next run.
        self._now = _router_files.digests([*wanted.watch, *filter(None, [wanted.presets])])
        self._pending = _router_files.read_pending(wanted.pending)
        state = self._unit_state(check_mode)
        self._outdated = self._with_replaced_files(state)
        out.action, out.changed_files = self._decide(state, restart)
        if check_mode:
            out.stopped = self._running_ids(state) if out.action == "restart" else self._outdated
            out.loaded = _union(self._pending, out.stopped)
            out.changed = out.enabled or out.action != "none" or bool(out.loaded)
            return
        if out.action in ("start", "restart"):
            self._restart(state)
        else:
            self._wait_until_up(time.time())
            if out.action == "reload":
                self._reload()
        self._load_again()

    # --- what is to be done ------------------------------------------------------------------------------------

    def _unit_state(self, check_mode: bool) -> UnitState:
        state = self.unit.state()
        if state.loaded != "loaded" and state.needs_daemon_reload and not check_mode:
            self.unit.daemon_reload()
            state = self.unit.state()
        if state.loaded != "loaded" and not check_mode:
            raise RouterError(
                f"the unit {self.unit.name} was wanted, systemd says {state.loaded}; install its file without errors,"
                " and do not mask it"
            )
        return state

    def _decide(self, state: UnitState, restart: bool) -> tuple[str, list[str]]:
        """The action, and the files that ask for it."""
        wanted = self.wanted
        if not state.up:
            return "start", []
        applied = _router_files.read_applied(wanted.applied)
        if applied is None:
            return "restart", [wanted.applied]
        changed = [path for path, digest in self._now.items() if applied.get(path) != digest]
        if restart or state.needs_daemon_reload or any(path in wanted.watch for path in changed):
            return "restart", changed
        if changed:
            return "reload", changed
        if wanted.models_dir and self._folder_differs(wanted.models_dir):
            return "reload", [wanted.models_dir]
        if wanted.placed_in and self._outdated:
            return "reload", [wanted.placed_in]
        return "none", []

    def _folder_differs(self, folder: str) -> bool:
        """Whether the router serves other models from its folder than lie in it."""
        try:
            there = _router_files.folder_ids(folder)
        except OSError as error:
            raise RouterError(f"models_dir: a readable folder was wanted, {error.filename}: {error.strerror}") from None
        try:
            models = self.client.models()
        except Unreachable:
            return False  # waiting for it comes next
        served = {model.id for model in models}
        return bool(there - served or {model.id for model in models if model.source == "models_dir"} - there)

    def _with_replaced_files(self, state: UnitState) -> list[str]:
        """The running models whose files are others than those that they were loaded from."""
        folder = self.wanted.placed_in
        if not (folder and state.up and state.main_pid):
            return []
        children = _router_children.children(state.main_pid)
        return sorted(name for name, child in children.items() if _router_children.outdated(child, folder))

    # --- doing it ----------------------------------------------------------------------------------------------

    def _restart(self, state: UnitState) -> None:
        if state.up:
            self.outcome.stopped = self._running_ids(state)
            self._remember(_union(self._pending, self.outcome.stopped))
        elif state.active != "deactivating" and not self.hold.taken:
            self._refuse_a_taken_port()
        if state.needs_daemon_reload:
            self.unit.daemon_reload()
        if state.active != "inactive":  # tries that came to nothing, also our own, count towards its start limit
            self.unit.reset_failed()
        if state.up:
            self._let_finish(state.main_pid)
        since = time.time()
        self.outcome.changed = True
        try:
            self.unit.restart()
        except UnitError as error:
            raise RouterError(self._crash(since, str(error))) from None
        self._wait_until_up(since)
        applied = _router_files.read_applied(self.wanted.applied) or {}
        missing = [path for path, digest in self._now.items() if digest and path not in applied]
        if missing:
            raise RouterError(
                f"the unit {self.unit.name} was wanted to record in {self.wanted.applied} what it starts with, there is"
                f" no line for {', '.join(missing)}; let an ExecStartPre= of it write `sha256sum` of these files there"
            )

    def _let_finish(self, pid: int) -> None:
        """Wait until the router can be stopped without breaking off an answer; who comes then, waits."""
        deadline = time.monotonic() + self.wanted.quiet_timeout
        while True:
            found_quiet = wait_until_quiet(pid, deadline - time.monotonic())
            last_try = not found_quiet or time.monotonic() >= deadline
            try:
                self.hold.take(pid)
            except HoldError as error:
                last_try = True
                self.outcome.warnings.append(
                    f"requests that come while the router restarts are refused, because {error}"
                )
            if wait_until_quiet(pid, self.wanted.finish_timeout if last_try else _BETWEEN, GRACE):
                return
            if last_try:
                break
            self.hold.give()  # a long answer began in between: others shall not wait for its end
        self.outcome.warnings.append(
            f"an answer was broken off: the router was busy for {self.wanted.quiet_timeout:g} s, and for"
            f" {self.wanted.finish_timeout:g} s more after it got no new requests"
        )

    def _reload(self) -> None:
        router = Router(self.client)
        before = running(self.client.models())
        earlier = self._pending
        self._remember(_union(earlier, before))
        try:
            # A running model keeps the file that it was loaded from, and the router the path that it has read.
            router.unload([name for name in self._outdated if name in before], self.wanted.timeout)
            done = router.reload(self.wanted.timeout)
        except RouterError:
            with contextlib.suppress(RouterError):
                if running(self.client.models()) == before:
                    self._remember(earlier)
            raise
        stale = self._with_other_aliases(done.after)
        if stale:  # a model takes a new alias only while it does not run
            router.unload(stale, self.wanted.timeout)
            router.reload(self.wanted.timeout)
        self.outcome.stopped = _union(_union(done.stopped, stale), self._outdated)
        applied = {path: self._now[path] for path in self.outcome.changed_files if path in self._now}
        self.outcome.changed = self.outcome.enabled or done.changed or bool(applied or self._outdated)
        if applied:
            _router_files.amend_applied(self.wanted.applied, applied)

    def _load_again(self) -> None:
        if not self._pending:
            return
        out = self.outcome
        router = Router(self.client, why=lambda model, since: self.unit.journal(since, prefix=f"[{model.port}] "))
        models = {model.id: model for model in self.client.models()}
        # Those that the router loads by itself, maybe a moment from now, keep their slots whatever ran before.
        starts = out.action in ("start", "restart")
        slots = {model.id for model in models.values() if model.running or (starts and model.loads_on_startup)}
        gone, crowded, failures = [], [], {}
        for name in self._pending:
            if name not in models:
                gone.append(name)
            elif name not in slots and 0 < router.limit <= len(slots):
                crowded.append(name)
            else:
                slots.add(name)
                try:
                    router.load([name], self.wanted.load_timeout)
                except LoadError as error:
                    failures[name] = str(error)
                else:
                    out.loaded.append(name)
        out.changed = out.changed or router.acted
        if gone:
            out.warnings.append(f"{', '.join(gone)} ran before, the router does not know it any more")
        if crowded:
            out.warnings.append(f"{', '.join(crowded)} ran before, there is no room within the limit of {router.limit}")
        self._remember(list(failures))
        if failures:
            raise RouterError(
                f"{'; '.join(failures.values())}. It ran before: correct it and run this again, or take it out of"
                f" {self.wanted.pending}"
            )

    def _remember(self, names: list[str]) -> None:
        _router_files.write_pending(self.wanted.pending, names)
        self._pending = names

    def _with_other_aliases(self, models: Iterable[Model]) -> list[str]:
        """The running models that are served under other aliases than the presets give them."""
        if not self.wanted.presets:
            return []
        try:
            with open(self.wanted.presets, encoding="utf-8") as file:
                sections = Preset(file.read()).data()
        except (OSError, UnicodeDecodeError, PresetError):
            return []  # the router has just read it and is content
        aliases: dict[str, set[str]] = {}
        for section, options in sections.items():
            texts = [str(value) for key, value in options.items() if _options.canonical(key)[0] == "alias"]
            aliases[served_name(section)] = {alias.strip() for text in texts for alias in text.split(",")} - {""}
        return [model.id for model in models if model.running and set(model.aliases) != aliases.get(model.id, set())]

    def _running_ids(self, state: UnitState) -> list[str]:
        """What runs now, the sleeping ones last. A router with a key that was replaced refuses to tell."""
        try:
            if self.hold.taken:
                raise RouterError("who asks the held port waits")
            return running(sorted(self.client.models(), key=lambda model: model.status == "sleeping"))
        except RouterError:
            return sorted(_router_children.children(state.main_pid)) if state.main_pid else []

    # --- coming up ---------------------------------------------------------------------------------------------

    def _refuse_a_taken_port(self) -> None:
        try:
            taken = self.client.healthy()
        except Unreachable:
            raise
        except RouterError:
            taken = True
        if taken:
            raise RouterError(
                f"{self.unit.name} does not run, but {self.client.url} answers: another process has its"
                " port; stop that one, or give the router another port"
            )

    def _wait_until_up(self, since: float) -> None:
        started = self.outcome.action in ("start", "restart")
        deadline = time.monotonic() + self.wanted.timeout
        while True:
            up = self._listens() and (self._probe if self.hold.taken else self.client).healthy()
            if up and not started:
                return
            if up:
                self.hold.give()
            state = self.unit.state()
            if state.active in ("inactive", "failed") or state.sub == "auto-restart":
                raise RouterError(self._crash(since, f"it ended again ({state.active}, {state.sub})"))
            if up:
                return
            if time.monotonic() > deadline:
                found = f"{self.client.url} does not answer after {self.wanted.timeout:g} s"
                raise RouterError(self._crash(since, found))
            time.sleep(0.02 if self.hold.taken else 0.1)

    def _listens(self) -> bool:
        """Whether the service does, maybe on another port than the held one: before that who asks may have to wait."""
        # A script that starts llama-server listens by a child: it is seen by the port.
        if not self.hold.taken or self.hold.answered():
            return True
        try:
            return bool(listening(self.unit.state().main_pid))
        except HoldError:
            return False

    def _crash(self, since: float, found: str) -> str:
        lines = self.unit.journal(since)
        text = "\n".join(lines)
        mend = next((mend for sign, mend in _CRASHES if sign in text), f"see journalctl --unit {self.unit.name}")
        told = f"; its journal: {' | '.join(telling(lines))}" if lines else ""
        return f"{self.unit.name} was wanted running, {found}{told}; {mend}, then run this again"


def _union(first: Iterable[str], second: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))
