# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a router is told to stop. What convergence does to a real one is in tests/functional/router."""

from __future__ import annotations

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_service
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import HoldError, PortHold
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_service import Convergence, Wanted
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit

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
