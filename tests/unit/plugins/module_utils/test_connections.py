# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which connections take another request, and which do not."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _connections
from ansible_collections.homelab.llamacpp.plugins.module_utils._connections import KeptConnections
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import Client, PassingError, read_whole


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.connections: list[socket.socket] = []
        self.answered = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone."""


class Handler(BaseHTTPRequestHandler):
    """Answers with the path, as many times as the path says."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.answered += 1
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[3:])
            body = b"over there"
        else:
            self.send_response(200)
            body = self.path.encode() * int(self.path.rpartition("*")[2] or 1)
        self.send_header("Content-Length", str(len(body)))
        if "/last" in self.path:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield one
        one.shutdown()


def get(client: Client, url: str) -> bytes:
    with client.open(url) as answer:
        return read_whole(answer, url)


def test_one_connection_serves_many_requests(server: Server) -> None:
    client = Client(timeout=10)
    for path in ("/a*1", "/to/b*1", "/c*3"):
        assert get(client, server.url + path).startswith(b"/")
    assert (server.answered, len(server.connections)) == (4, 1)


def test_an_answer_ends_where_its_length_says(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python before 3.12 does not count what read1 has read, and would wait for more."""

    def read1(self: Any, n: int = -1) -> bytes:
        return bytes(self.fp.read1(min(n, self.length)))

    monkeypatch.setattr(http.client.HTTPResponse, "read1", read1)
    client = Client(timeout=10)
    for number in range(2):
        assert get(client, f"{server.url}/{number}*1") == f"/{number}*1".encode()
    assert len(server.connections) == 1


def test_an_answer_that_was_not_read_costs_the_connection(server: Server) -> None:
    client = Client(timeout=10)
    with client.open(f"{server.url}/long*100") as answer:
        assert answer.read1(5) == b"/long"
    assert get(client, f"{server.url}/next*1") == b"/next*1"
    assert len(server.connections) == 2


def test_a_connection_that_the_server_ends_is_not_kept(server: Server) -> None:
    client = Client(timeout=10)
    assert get(client, f"{server.url}/last*1") == b"/last*1"
    assert get(client, f"{server.url}/next*1") == b"/next*1"
    assert len(server.connections) == 2


def test_a_connection_that_was_closed_meanwhile_is_made_again(server: Server) -> None:
    client = Client(timeout=10)
    get(client, f"{server.url}/a*1")
    server.connections[0].shutdown(socket.SHUT_RDWR)
    assert get(client, f"{server.url}/b*1") == b"/b*1"
    assert len(server.connections) == 2


def test_a_server_that_is_gone_is_told(server: Server) -> None:
    client = Client(timeout=10)
    get(client, f"{server.url}/a*1")
    server.shutdown()
    server.server_close()
    server.connections[0].shutdown(socket.SHUT_RDWR)
    with pytest.raises(PassingError, match="no connection"):
        get(client, f"{server.url}/b*1")


def test_a_connection_that_was_idle_for_long_is_not_trusted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connections, "IDLE_SECONDS", 0.0)
    client = Client(timeout=10)
    for _turn in range(2):
        get(client, f"{server.url}/a*1")
    assert len(server.connections) == 2


def test_each_host_has_its_own_connections(server: Server) -> None:
    client = Client(timeout=10)
    for host in ("127.0.0.1", "localhost"):
        get(client, f"http://{host}:{server.server_port}/a*1")
    assert len(server.connections) == 2


class Tunnel:
    """A connection through a proxy that notes what it sends."""

    made: list[Tunnel] = []  # noqa: RUF012  (of the test)

    def __init__(self, *_args: Any, **_more: Any) -> None:
        self.made.append(self)
        self.to_proxy: dict[str, str] = {}
        self.to_server: list[dict[str, str]] = []
        self.response_class: Any = None

    def set_tunnel(self, _host: str, headers: dict[str, str]) -> None:
        self.to_proxy = headers

    def request(self, _method: str, _selector: str, headers: dict[str, str]) -> None:
        self.to_server.append(headers)

    def getresponse(self) -> Any:
        ours, theirs = socket.socketpair()
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        answer = self.response_class(ours)
        answer.begin()
        return answer


def test_a_proxys_password_goes_to_the_proxy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = urllib.request.ProxyHandler({"https": "http://user:s3cret@proxy.example:3128"})
    opener = urllib.request.build_opener(proxy, KeptConnections(None))
    monkeypatch.setattr(http.client, "HTTPSConnection", Tunnel)
    for _turn in range(2):
        with opener.open("https://hub.example/x", timeout=10) as answer:
            assert answer.read() == b"{}"
    (tunnel,) = Tunnel.made
    assert list(tunnel.to_proxy) == ["Proxy-Authorization"]
    assert [set(headers) for headers in tunnel.to_server] == [{"Host", "User-Agent"}] * 2
