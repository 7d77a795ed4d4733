# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import threading
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_quiet
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import Connection


@pytest.mark.parametrize(
    ("state", "ready", "busy"),
    [(0x01, True, True), (0x0A, True, False), (0x06, True, False), (0x0A, False, True)],
)
def test_an_answer_is_a_connection_to_a_models_process(
    monkeypatch: pytest.MonkeyPatch, state: int, ready: bool, busy: bool
) -> None:
    table = [Connection(2, "127.0.0.1", 50001, state, 0, 0), Connection(2, "127.0.0.1", 8012, 0x01, 0, 0)]
    child = _router_quiet._router_children.Process(1, 0.0, ("--alias", "a", "--port", "50001"))
    monkeypatch.setattr(_router_quiet._router_children, "children", lambda pid: {"a": child})
    monkeypatch.setattr(_router_quiet._port_hold, "connections", lambda: iter(table))
    monkeypatch.setattr(_router_quiet, "_ready", lambda port: ready)
    assert _router_quiet.busy(1) is busy
    assert _router_quiet.wait_until_quiet(1, 0) is not busy


def test_quiet_has_to_last(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False, True, False, False, False, False, False, False])
    seen: list[bool] = []
    monkeypatch.setattr(_router_quiet, "_PAUSE", 0.02)
    monkeypatch.setattr(_router_quiet, "busy", lambda pid: seen.append(next(answers)) or seen[-1])
    assert _router_quiet.wait_until_quiet(1, 5, 0.03)
    assert len(seen) >= 5


class Process(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.mark.parametrize("status", [200, 503, 404, 201])
def test_a_process_is_ready_when_it_says_so(status: int) -> None:
    with HTTPServer(("127.0.0.1", 0), type("One", (Process,), {"status": status})) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert _router_quiet._ready(server.server_port) is (status == 200)
        server.shutdown()


def test_one_that_has_ended_or_says_something_else_is_not_ready() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert not _router_quiet._ready(port)
        listener.listen()

        def answer() -> None:
            connection = listener.accept()[0]
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-x\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        assert not _router_quiet._ready(port)


def test_a_router_without_models_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_router_quiet._router_children, "children", lambda pid: {})
    assert not _router_quiet.busy(1)


def test_the_wait_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(_router_quiet.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_router_quiet.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(_router_quiet, "busy", lambda pid: True)
    assert not _router_quiet.wait_until_quiet(1, 10)
    assert 110 <= clock[0] < 111
    # A moment that begins in time has to last, also beyond the time.
    monkeypatch.setattr(_router_quiet, "busy", lambda pid: clock[0] < 119.9)
    assert not _router_quiet.wait_until_quiet(1, 5)
    assert _router_quiet.wait_until_quiet(1, 60, lasting=_router_quiet.GRACE)
    assert 119.9 + _router_quiet.GRACE <= clock[0] < 121


def test_no_connection_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look would be one to a model's process, which makes it look busy."""
    closed: list[int] = []
    real = _router_quiet.http.client.HTTPConnection

    class Connection(real):  # type: ignore[misc, valid-type]
        def close(self) -> None:
            closed.append(self.port)
            super().close()

    monkeypatch.setattr(_router_quiet.http.client, "HTTPConnection", Connection)
    with HTTPServer(("127.0.0.1", 0), Process) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert _router_quiet._ready(server.server_port)
        assert closed[-1] == server.server_port
        server.shutdown()


@pytest.mark.parametrize("error", [OSError("x"), HTTPException("x"), ValueError("x")])
def test_any_failure_to_ask_is_not_ready(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_given: Any) -> None:
        raise error

    monkeypatch.setattr(_router_quiet.http.client.HTTPConnection, "request", fails)
    assert not _router_quiet._ready(1)
