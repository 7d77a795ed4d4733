# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a router is told to stop. What convergence does to a real one is in tests/functional/router."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_service
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import PROBE, HoldError, PortHold
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    Client,
    Model,
    Refused,
    RouterError,
    Unreachable,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_service import Convergence, Outcome, Wanted
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import LoadError
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, UnitError

FINISH = 60


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: Any) -> None:
        pass


class Hold(PortHold):
    def __init__(self, refused: str = "") -> None:
        super().__init__()
        self.calls: list[str] = []
        self.refused = refused

    def take(self, pid: int) -> None:
        self.calls.append("take")
        if self.refused:
            raise HoldError(self.refused)

    def give(self) -> None:
        self.calls.append("give")


def let_finish(
    monkeypatch: pytest.MonkeyPatch, hold: Hold, quiet: list[bool], quiet_timeout: float = 300
) -> Convergence:
    """Until the router may be stopped; `quiet` has what each look at it finds."""
    wanted = Wanted(None, None, None, [], "", "", 60, 60, quiet_timeout, FINISH)
    convergence = Convergence(Unit(lambda argv: (0, "", ""), "u"), Client("http://127.0.0.1:1"), wanted, hold)

    def look(pid: int, timeout: float, lasting: float = 0) -> bool:
        hold.calls.append(f"look {'to the end' if timeout == FINISH else 'once more'}" if lasting else "look")
        return quiet.pop(0)

    monkeypatch.setattr(_router_service, "wait_until_quiet", look)
    convergence._let_finish(1)
    assert quiet == []
    return convergence


def test_a_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold()
    assert let_finish(monkeypatch, hold, [True, True]).outcome.warnings == []
    assert hold.calls == ["look", "take", "look once more"]


def test_an_answer_that_began_just_before_the_hold_is_not_waited_for_by_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold = Hold()
    assert let_finish(monkeypatch, hold, [True, False, True, True]).outcome.warnings == []
    assert hold.calls == ["look", "take", "look once more", "give", "look", "take", "look once more"]


def test_no_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold()
    assert let_finish(monkeypatch, hold, [False, True]).outcome.warnings == []
    assert hold.calls == ["look", "take", "look to the end"]


@pytest.mark.parametrize("quiet", [[False, False], [True, False]])
def test_an_answer_that_does_not_end(monkeypatch: pytest.MonkeyPatch, quiet: list[bool]) -> None:
    (warning,) = let_finish(monkeypatch, Hold(), quiet, quiet_timeout=0).outcome.warnings
    assert "an answer was broken off: the router was busy for 0 s, and for 60 s more" in warning


def test_a_port_that_cannot_be_held_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold(refused="the kernel is old")
    (warning,) = let_finish(monkeypatch, hold, [True, True]).outcome.warnings
    assert "refused, because the kernel is old" in warning
    assert hold.calls == ["look", "take", "look to the end"]


def test_a_router_that_comes_up_on_another_port_is_not_waited_for_on_the_one_that_is_held(tmp_path: Path) -> None:
    """As after a change of llama_router_port."""
    switch = tmp_path / "tcp_migrate_req"  # in the place of the kernel's, which belongs to the whole machine
    switch.write_text("0")
    hold = PortHold(str(switch), str(tmp_path / "lock"))
    with socket.socket() as old:
        old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        old.bind(("127.0.0.1", 0))
        old.listen()
        hold.take(os.getpid())
    with HTTPServer(("127.0.0.1", 0), Health) as new:
        threading.Thread(target=new.serve_forever, args=(0.01,), daemon=True).start()
        up = f"LoadState=loaded\nActiveState=active\nSubState=running\nNeedDaemonReload=no\nMainPID={os.getpid()}\n"
        client = Client(f"http://127.0.0.1:{new.server_port}")
        wanted = Wanted(None, None, None, [], "", "", 60, 60, 300, FINISH)
        convergence = Convergence(Unit(lambda argv: (0, up, ""), "u"), client, wanted, hold)
        convergence.outcome.action = "restart"
        try:
            convergence._wait_until_up(0)
            assert not hold.taken
        finally:
            hold.give()
            new.shutdown()


def test_a_service_that_does_not_listen_yet_is_not_asked() -> None:
    """Who asks on the held port waits, until the request's time is up."""
    hold = PortHold()
    hold._sockets = [socket.socket()]
    state = "LoadState=loaded\nActiveState=activating\nSubState=start-pre\nNeedDaemonReload=no\nMainPID=0\n"
    wanted = Wanted(None, None, None, [], "", "", 60, 60, 300, FINISH)
    convergence = Convergence(Unit(lambda argv: (0, state, ""), "u"), Client("http://127.0.0.1:1"), wanted, hold)
    assert not convergence._listens()
    hold._sockets.pop().close()
    assert convergence._listens()


def model(name: str, status: str = "unloaded", **more: Any) -> Model:
    given: dict[str, Any] = {"aliases": (), "options": {}, "source": "preset", **more}
    return Model(
        name, given["aliases"], (), status, False, None, given["source"], given["options"], (), 0, ("text",), {}
    )


class Guest:
    """A router with its unit: systemd, the router's answers, and the record that the unit writes when it starts.

    `models` are served, `ran` have a process. `dies` is what the unit's journal says when it cannot start.
    """

    url = "http://127.0.0.1:8012"
    request_timeout = 10.0

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, active: str = "active") -> None:
        self.root = root
        self.active, self.sub, self.loaded, self.reload_needed = active, "running", "loaded", "no"
        self.dies: list[str] | None = None
        self.records = True
        self.limit = 2
        self.models_: dict[str, Model] = {}
        self.after_reload: list[Model] | None = None
        self.children: dict[str, Any] = {}
        self.outdated: set[str] = set()
        self.asked: list[str] = []
        self.refused: dict[str, RouterError] = {}
        self.another = False
        self.hold = Hold()
        self.unit_file, self.presets = root / "unit", root / "models.ini"
        self.folder = root / "models"
        self.folder.mkdir()
        self.unit_file.write_text("[Service]\n")
        self.presets.write_text("[a]\nctx-size = 1\n[b]\n")
        self.wanted = Wanted(
            str(self.presets),
            None,
            str(self.folder),
            [str(self.unit_file)],
            str(root / "run" / "applied"),
            str(root / "lib" / "pending.json"),
            *(60, 60, 300, FINISH),
        )
        for name in ("a", "b"):
            self.models_[name] = model(name)
        self.record()
        monkeypatch.setattr(_router_service, "wait_until_quiet", lambda *_args: True)
        monkeypatch.setattr(_router_service.time, "sleep", lambda seconds: None)
        children = _router_service._router_children
        monkeypatch.setattr(children, "children", lambda pid: self.children if pid == 4711 else {})
        monkeypatch.setattr(children, "outdated", lambda child, folder: child in self.outdated)

    # --- systemd

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        if argv[0] == "journalctl":
            assert argv[2] == "llama-router.service"
            return 0, "\n".join(self.dies or []), ""
        verb = argv[1]
        if verb == "show":
            pid = 4711 if self.active == "active" else 0
            return (
                0,
                f"LoadState={self.loaded}\nActiveState={self.active}\nSubState={self.sub}\n"
                f"NeedDaemonReload={self.reload_needed}\nMainPID={pid}\n",
                "",
            )
        self.asked.append(verb)
        if verb == "daemon-reload":
            self.reload_needed = "no"
            if self.loaded == "bad-setting":
                self.loaded = "loaded"
        if verb == "restart":
            self.restart()
        return 0, "", ""

    def restart(self) -> None:
        self.models_ = {
            name: replace(one, status="loaded" if one.loads_on_startup else "unloaded")
            for name, one in self.models_.items()
        }
        if self.dies is not None:
            self.active, self.sub = "failed", "failed"
            return
        self.active, self.sub = "active", "running"
        self.record()

    def record(self) -> None:
        applied = Path(self.wanted.applied)
        applied.parent.mkdir(exist_ok=True)
        if self.records:
            files = [self.unit_file, self.presets]
            lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file}\n" for file in files if file.exists()]
            applied.write_text("".join(lines))

    # --- the router

    def marked(self, mark: int) -> Guest:
        assert mark == PROBE
        return self

    def healthy(self) -> bool:
        return self.active == "active" or self.another

    def props(self) -> dict[str, Any]:
        return {"role": "router", "max_instances": self.limit}

    def models(self) -> list[Model]:
        if "models" in self.refused:
            raise self.refused["models"]
        return list(self.models_.values())

    def answers(self, _name: str) -> bool:
        return True

    def load(self, name: str, _timeout: float) -> None:
        self.asked.append(f"load {name}")
        if name in self.refused:
            raise self.refused[name]
        self.models_[name] = replace(self.models_[name], status="loaded")

    def unload(self, name: str) -> None:
        self.asked.append(f"unload {name}")
        self.models_[name] = replace(self.models_[name], status="unloaded")

    def reload(self, _timeout: float) -> list[Model]:
        self.asked.append("reload")
        if "reload" in self.refused:
            raise self.refused["reload"]
        if self.after_reload is not None:
            self.models_ = {one.id: one for one in self.after_reload}
        return self.models()

    # --- a run

    def run(self, restart: bool = False, check_mode: bool = False, **wanted: Any) -> Outcome:
        self.asked.clear()
        client: Any = self
        unit = Unit(self, "llama-router.service")
        self.convergence = Convergence(unit, client, replace(self.wanted, **wanted), self.hold)
        self.convergence.run(restart, check_mode)
        return self.convergence.outcome

    def serve(self, **statuses: str) -> None:
        for name, status in statuses.items():
            self.models_[name] = replace(self.models_.get(name, model(name)), status=status)

    @property
    def pending(self) -> Any:
        path = Path(self.wanted.pending)
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(tmp_path, monkeypatch)


def test_nothing_to_do(guest: Guest) -> None:
    guest.serve(a="loaded")
    assert guest.run() == Outcome()
    assert guest.asked == []
    assert guest.pending is None


def test_a_stopped_service_is_started(guest: Guest) -> None:
    guest.active = "inactive"
    seen = guest.run(check_mode=True)
    assert (seen.action, seen.changed, guest.asked) == ("start", True, [])
    done = guest.run()
    assert (done.action, done.changed, done.stopped, done.loaded) == ("start", True, [], [])
    assert guest.asked == ["restart"]
    assert guest.run() == Outcome()


def test_a_failed_service_forgets_its_earlier_tries(guest: Guest) -> None:
    guest.active = "failed"
    guest.run()
    assert guest.asked == ["reset-failed", "restart"]


@pytest.mark.parametrize("reason", ["unit", "restart", "daemon-reload", "record"])
def test_a_restart_loads_again_what_ran(guest: Guest, reason: str) -> None:
    """The sleeping one last: it is the first that may be evicted."""
    guest.serve(a="sleeping", b="loaded")
    changed = []
    if reason == "unit":
        guest.unit_file.write_text("[Service]\nMemoryMax=1G\n")
        changed = [str(guest.unit_file)]
    if reason == "daemon-reload":
        guest.reload_needed = "yes"
    if reason == "record":
        Path(guest.wanted.applied).unlink()
        changed = [guest.wanted.applied]
    seen = guest.run(restart=reason == "restart", check_mode=True)
    assert (seen.action, seen.stopped, seen.loaded, seen.changed) == ("restart", ["b", "a"], ["b", "a"], True)
    assert seen.changed_files == changed
    assert (guest.asked, guest.pending) == ([], None)
    done = guest.run(restart=reason == "restart")
    assert (done.action, done.changed_files, done.changed) == ("restart", changed, True)
    assert (done.stopped, done.loaded, done.warnings) == (["b", "a"], ["b", "a"], [])
    expected = ["daemon-reload"] if reason == "daemon-reload" else []
    assert guest.asked == [*expected, "reset-failed", "restart", "load b", "load a"]
    assert guest.pending is None
    assert guest.hold.calls[:1] == ["take"]
    assert guest.hold.calls[-1] == "give"
    assert guest.run() == Outcome()


def test_what_ran_is_remembered_before_it_is_stopped(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed in between loads nothing; the next one does."""
    guest.serve(a="loaded")
    guest.unit_file.write_text("new")

    def killed() -> None:
        assert guest.pending == ["a"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guest, "restart", killed)
        with pytest.raises(KeyboardInterrupt):
            guest.run()
    guest.active = "inactive"
    guest.serve(a="unloaded")
    assert guest.run(check_mode=True).loaded == ["a"]
    done = guest.run()
    assert (done.action, done.loaded, guest.pending) == ("start", ["a"], None)


def test_what_is_still_to_be_loaded_is_a_change(guest: Guest) -> None:
    Path(guest.wanted.pending).parent.mkdir()
    Path(guest.wanted.pending).write_text('["a"]')
    seen = guest.run(check_mode=True)
    assert (seen.action, seen.loaded, seen.changed) == ("none", ["a"], True)
    done = guest.run()
    assert (done.action, done.loaded, done.changed) == ("none", ["a"], True)
    assert guest.asked == ["load a"]


def test_what_came_up_by_itself_meanwhile_is_no_change(guest: Guest) -> None:
    Path(guest.wanted.pending).parent.mkdir()
    Path(guest.wanted.pending).write_text('["a"]')
    guest.serve(a="loaded")
    done = guest.run()
    assert (done.loaded, done.changed, guest.asked, guest.pending) == (["a"], False, [], None)


def test_changed_presets_are_only_reloaded(guest: Guest) -> None:
    guest.serve(a="loaded", b="loaded")
    guest.presets.write_text("[a]\nctx-size = 2\n[b]\n")
    guest.after_reload = [model("a", options={"ctx-size": "2"}), model("b", "loaded")]
    seen = guest.run(check_mode=True)
    assert (seen.action, seen.changed, seen.stopped, guest.asked) == ("reload", True, [], [])
    done = guest.run()
    assert (done.action, done.changed_files, done.changed) == ("reload", [str(guest.presets)], True)
    assert (done.stopped, done.loaded) == (["a"], ["a", "b"])
    assert guest.asked == ["reload", "load a"]
    assert guest.pending is None
    guest.after_reload = None
    assert guest.run() == Outcome()


def test_a_reload_that_is_refused_leaves_nothing_to_be_loaded(guest: Guest) -> None:
    """Nothing was stopped; only what an earlier run left is still remembered."""
    guest.serve(a="loaded")
    guest.presets.write_text("[a]\nbad = 1\n")
    guest.refused["reload"] = Refused("no", 500, "option 'bad' not recognized in preset 'a'")
    with pytest.raises(RouterError, match="goes on with those it has: option 'bad' not recognized"):
        guest.run()
    assert guest.pending is None
    Path(guest.wanted.pending).parent.mkdir(exist_ok=True)
    Path(guest.wanted.pending).write_text('["b"]')
    with pytest.raises(RouterError):
        guest.run()
    assert guest.pending == ["b"]


def test_a_reload_that_broke_off_halfway_is_remembered(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    guest.serve(a="loaded")
    guest.presets.write_text("[a]\nctx-size = 2\n")

    def reload(_timeout: float) -> list[Model]:
        guest.serve(a="unloaded")
        raise Unreachable("no answer", transient=False)

    monkeypatch.setattr(guest, "reload", reload)
    with pytest.raises(Unreachable):
        guest.run()
    assert guest.pending == ["a"]


@pytest.mark.parametrize(("place", "reloads"), [("c.gguf", True), ("a.gguf", False), ("mmproj-a.gguf", False)])
def test_a_folder_with_other_models_than_are_served(guest: Guest, place: str, reloads: bool) -> None:
    guest.models_ = {"a": model("a", source="models_dir")}
    for name in ("a.gguf", place):
        (guest.folder / name).touch()
    seen = guest.run(check_mode=True, models_dir=str(guest.folder))
    assert seen.action == ("reload" if reloads else "none")
    assert seen.changed_files == ([str(guest.folder)] if reloads else [])
    assert guest.run(check_mode=True).action == "none"


def test_a_served_model_whose_file_is_gone(guest: Guest) -> None:
    guest.models_ = {"a": model("a", source="models_dir"), "b": model("b")}
    assert guest.run(check_mode=True, models_dir=str(guest.folder)).action == "reload"
    (guest.folder / "a.gguf").touch()
    assert guest.run(check_mode=True, models_dir=str(guest.folder)).action == "none"
    with pytest.raises(RouterError, match=r"models_dir: a readable folder was wanted, .*nowhere: No such file"):
        guest.run(models_dir=str(guest.folder / "nowhere"))


def test_a_router_that_does_not_answer_yet_has_no_other_folder(guest: Guest) -> None:
    (guest.folder / "c.gguf").touch()
    guest.refused["models"] = Unreachable("no answer", transient=False)
    assert guest.run(check_mode=True, models_dir=str(guest.folder)).action == "none"


def test_a_replaced_file_is_loaded_anew(guest: Guest) -> None:
    guest.serve(a="loaded", b="loaded")
    guest.children = {"b": "process b", "a": "process a"}
    guest.outdated = {"process a"}  # type: ignore[assignment]
    seen = guest.run(check_mode=True)
    assert (seen.action, seen.stopped, seen.loaded) == ("reload", ["a"], ["a"])
    assert seen.changed_files == [str(guest.folder)]
    done = guest.run()
    assert guest.asked == ["unload a", "reload", "load a"]
    assert (done.stopped, done.loaded, done.changed) == (["a"], ["a", "b"], True)
    assert guest.run(check_mode=True, placed_in=None).action == "none"


def test_other_aliases_need_another_start_of_the_model(guest: Guest) -> None:
    guest.serve(a="loaded", b="loaded")
    guest.models_["b"] = replace(guest.models_["b"], aliases=("x", "y"))
    guest.presets.write_text("[a]\nalias = chat, code\n[b]\na = y,x\n")
    done = guest.run()
    assert guest.asked == ["reload", "unload a", "reload", "load a"]
    assert (done.stopped, done.loaded) == (["a"], ["a", "b"])


def test_presets_that_cannot_be_read_have_no_aliases(guest: Guest) -> None:
    guest.models_["a"] = model("a", "loaded", aliases=("x",))
    guest.presets.unlink()
    guest.run()
    assert guest.asked == ["reload"]


def test_a_model_that_is_gone_or_has_no_room_is_told(guest: Guest) -> None:
    guest.serve(a="loaded", b="loaded", c="loaded", auto="loaded", gone="loaded")
    guest.limit = 2
    guest.models_["auto"] = replace(guest.models_["auto"], options={"load-on-startup": "true"})
    guest.unit_file.write_text("new")
    restart = guest.restart

    def without() -> None:
        restart()
        del guest.models_["gone"]

    guest.restart = without  # type: ignore[method-assign]
    done = guest.run()
    # The one that the router loads by itself keeps its place.
    assert done.loaded == ["a", "auto"]
    assert done.warnings == [
        "gone ran before, the router does not know it any more",
        "b, c ran before, there is no room within the limit of 2",
    ]
    assert guest.pending is None


def test_without_a_limit_everything_is_loaded(guest: Guest) -> None:
    guest.serve(a="loaded", b="loaded", c="loaded")
    guest.limit = 0
    assert guest.run(restart=True).loaded == ["a", "b", "c"]


def test_a_model_that_does_not_load_again_is_remembered_and_told_last(guest: Guest) -> None:
    guest.serve(a="loaded", b="loaded")
    guest.refused["a"] = LoadError("a was wanted loaded, its process ended with exit code 1")
    with pytest.raises(RouterError, match=r"exit code 1\. It ran before: correct it and run this again, or take"):
        guest.run(restart=True)
    assert guest.convergence.outcome.loaded == ["b"]
    assert guest.convergence.outcome.changed
    assert guest.pending == ["a"]


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("0.01 E srv  couldn't bind HTTP server socket", "another process has its port"),
        ("failed to initialize router models: x", "correct the presets or the models folder"),
        ("error: invalid argument: --x", "correct the command line in the unit"),
        ("failed to open file '/k'", "see that the service's user may read that file"),
        ("failed to load models on startup", "set load-on-startup for fewer models"),
        ("killed", "see journalctl --unit llama-router.service"),
    ],
)
def test_a_router_that_does_not_start_says_why(guest: Guest, said: str, mend: str) -> None:
    guest.serve(a="loaded")
    guest.dies = [said]
    with pytest.raises(RouterError) as caught:
        guest.run(restart=True)
    assert f"it ended again (failed, failed); its journal: {said}; {mend}" in str(caught.value)
    assert guest.convergence.outcome.changed
    assert guest.pending == ["a"]


def test_a_router_between_two_tries_has_ended(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def restart() -> None:
        guest.active, guest.sub, guest.dies = "activating", "auto-restart", []

    monkeypatch.setattr(guest, "restart", restart)
    with pytest.raises(RouterError, match=r"it ended again \(activating, auto-restart\); see journalctl"):
        guest.run(restart=True)


def test_systemd_that_refuses_is_told_with_the_journal(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    guest.dies = ["failed to open file"]

    def restart() -> None:
        raise UnitError("systemctl restart failed: x")

    monkeypatch.setattr(guest, "restart", restart)
    with pytest.raises(RouterError, match="systemctl restart failed: x; its journal: failed to open file; see that"):
        guest.run(restart=True)


def test_a_router_that_never_answers(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "healthy", lambda: False)
    with pytest.raises(RouterError, match=r"http://127.0.0.1:8012 does not answer after 0 s"):
        guest.run(restart=True, timeout=0)
    with pytest.raises(RouterError, match="does not answer after 0 s"):
        guest.run(timeout=0)


def test_a_running_router_is_waited_for(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [False, False, True]
    monkeypatch.setattr(guest, "healthy", lambda: answers.pop(0))
    assert guest.run() == Outcome()
    assert answers == []


def test_a_port_that_another_one_has(guest: Guest) -> None:
    guest.active = "inactive"
    guest.another = True
    with pytest.raises(RouterError, match=r"does not run, but http://127.0.0.1:8012 answers: another process has its"):
        guest.run()
    assert guest.asked == []
    guest.active = "deactivating"  # then it is the router itself, on its way out
    guest.run()
    assert "restart" in guest.asked


@pytest.mark.parametrize(
    ("error", "told"), [(Unreachable("slow", transient=False), "slow"), (RouterError("odd"), "answers: another")]
)
def test_an_odd_answer_is_another_process_and_none_is_not(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, error: RouterError, told: str
) -> None:
    def healthy() -> bool:
        raise error

    monkeypatch.setattr(guest, "healthy", healthy)
    guest.active = "inactive"
    with pytest.raises(RouterError, match=told):
        guest.run()
    assert guest.asked == []


def test_a_unit_that_does_not_record_what_it_starts_with(guest: Guest) -> None:
    guest.records = False
    Path(guest.wanted.applied).unlink()
    with pytest.raises(RouterError) as caught:
        guest.run()
    assert f"there is no line for {guest.unit_file}, {guest.presets}; let an ExecStartPre=" in str(caught.value)


def test_a_watched_file_that_is_not_there_needs_no_line(guest: Guest) -> None:
    guest.unit_file.unlink()
    assert guest.run().action == "restart"
    assert guest.run().action == "none"


@pytest.mark.parametrize("loaded", ["not-found", "masked", "error"])
def test_a_unit_that_is_not_loaded(guest: Guest, loaded: str) -> None:
    guest.loaded, guest.active = loaded, "inactive"
    with pytest.raises(RouterError, match=f"systemd says {loaded}; install its file without errors"):
        guest.run()
    assert guest.asked == []
    # Its file may be what the play would have written before.
    assert guest.run(check_mode=True).action == "start"


def test_a_unit_that_systemd_has_not_read_again(guest: Guest) -> None:
    guest.loaded, guest.reload_needed, guest.active = "bad-setting", "yes", "inactive"
    guest.run(check_mode=True)
    assert guest.asked == []
    guest.run()
    assert guest.asked == ["daemon-reload", "restart"]


def test_a_router_that_does_not_tell_its_models_is_asked_by_its_processes(guest: Guest) -> None:
    """As one whose key was replaced."""
    guest.children = {"b": "x", "a": "y"}
    guest.refused["models"] = Refused("", 401, "Invalid API Key")
    assert guest.run(restart=True, check_mode=True).stopped == ["a", "b"]


def test_a_held_port_is_not_asked(guest: Guest) -> None:
    """Who asks there waits; and a port that is held is no other process's."""
    guest.serve(a="loaded")
    guest.children = {"b": "x"}
    with socket.socket() as held:
        guest.hold._sockets = [held]
        assert guest.run(restart=True, check_mode=True).stopped == ["b"]
        guest.active, guest.another = "inactive", True
        guest.hold.answered = lambda: True  # type: ignore[method-assign]
        guest.run()
        assert "restart" in guest.asked
        guest.hold._sockets.clear()


def test_the_options_of_the_module(tmp_path: Path) -> None:
    params = {name: option.get("default") for name, option in _router_service.UNIT_ARGUMENTS.items()}
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-some-length\n")
    params.update(
        url="http://127.0.0.1:8012", api_key=None, api_key_file=str(keys), validate_certs=True, request_timeout=10
    )
    params.update(ca_path=None, server_user=None)
    one = Convergence.from_params(params, lambda argv: (0, "", ""), PortHold())
    assert one.unit.name == "llama-router.service"
    assert one.client.url == "http://127.0.0.1:8012"
    assert one.wanted == Wanted(
        *(None, None, None, []),
        "/run/homelab-llamacpp/llama-router.service.applied",
        "/var/lib/llama-router/pending.json",
        *(60, 300, 300, 60),
    )
