# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is tried again, how often and after how long, and where a token goes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import (
    Backoff,
    Client,
    FetchError,
    PassingError,
    patiently,
    shown,
)


class Server(HTTPServer):
    """Answers /STATUS with that status, and /to/ADDRESS with a redirection there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokens: list[tuple[str, str | None]] = []

    def address(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.tokens.append((self.path, self.headers["Authorization"]))
        _empty, kind, rest = self.path.split("/", 2)
        self.send_response(308 if kind == "to" else int(kind))
        if kind == "to":
            self.send_header("Location", rest)
        self.send_header("Retry-After", "7")
        self.send_header("X-Error-Message", "so it is")
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield one
        one.shutdown()


@pytest.mark.parametrize("status", [401, 403, 404, 410, 416])
def test_what_will_not_pass(server: Server, status: int) -> None:
    with pytest.raises(FetchError) as error:
        Client().open(f"{server.address()}/{status}/?key=s3cret")
    assert error.value.status == status
    assert str(error.value).startswith(f"{server.address()}/{status}/: {status} so it is")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass(server: Server, status: int) -> None:
    with pytest.raises(PassingError) as error:
        Client().open(f"{server.address()}/{status}/")
    assert error.value.asked == 7


def test_nobody_there_may_pass_and_no_such_host_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as gone:
        address = gone.address()
    with pytest.raises(PassingError, match="no connection"):
        Client(timeout=60).open(f"{address}/200/")
    said = iter([socket.EAI_NONAME, socket.EAI_AGAIN])

    def no_answer(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(next(said), "as the name service says")

    monkeypatch.setattr(socket, "getaddrinfo", no_answer)
    with pytest.raises(FetchError, match="no such host"):
        Client().open("http://nobody.invalid/")
    with pytest.raises(PassingError):
        Client().open("http://somebody.invalid/")


def test_the_token_goes_to_its_own_server_alone(server: Server) -> None:
    own, other = server.address(), server.address("localhost")
    client = Client(endpoint=own, token="t")
    client.json(f"{own}/to/{own}/200/a")
    client.json(f"{own}/to/{other}/200/b")
    client.json(f"{other}/200/c")
    got = dict(server.tokens)
    assert got["/200/a"] == "Bearer t"
    assert got["/200/b"] is got["/200/c"] is None


def test_a_redirection_to_something_else_is_not_followed(server: Server) -> None:
    with pytest.raises(FetchError, match="https or http was wanted"):
        Client().open(f"{server.address()}/to/ftp://nobody.invalid/x")


def test_pauses_grow_and_end() -> None:
    slept: list[float] = []
    backoff = Backoff(3, slept.append)
    for _turn in range(3):
        backoff.wait(PassingError("it was lost"))
    assert [round(pause) for pause in slept] == pytest.approx([1, 2, 4], abs=1)
    with pytest.raises(FetchError, match="it was lost; tried 4 times in a row"):
        backoff.wait(PassingError("it was lost"))


def test_progress_begins_anew_and_the_server_may_ask_for_longer() -> None:
    slept: list[float] = []
    backoff = Backoff(1, slept.append)
    backoff.wait(PassingError("x", 90))
    backoff.progressed()
    backoff.wait(PassingError("x"))
    assert slept[0] == 90
    assert slept[1] < 2
    with pytest.raises(FetchError, match="asks to wait for 3600 seconds"):
        Backoff(5, slept.append).wait(PassingError("x", 3600))


def test_patiently() -> None:
    answers: list[Exception | str] = [PassingError("x"), "well"]

    def call() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call, 1) == "well"


def test_an_address_is_shown_without_its_secrets() -> None:
    assert shown("https://me:pw@h:8443/a/b.gguf?X-Signature=s#f") == "https://h:8443/a/b.gguf"
