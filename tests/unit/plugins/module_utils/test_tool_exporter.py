# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program's options and threads. What it serves: test_exporter_metrics.py, and the lab."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_places, _tool_exporter
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Refused, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import Places
from ansible_collections.homelab.llamacpp.plugins.module_utils._tool_exporter import Source


class Started(Exception):
    """Instead of a server."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the program makes of its options."""
    found: dict[str, Any] = {}

    def server(address: str, port: int, source: Source, allow: list[str]) -> None:
        found.update(address=address, port=port, places=source.places, journal=source._journal, allow=allow)
        raise Started

    monkeypatch.setattr(_tool_exporter, "Server", server)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return found


def test_without_options_it_looks_where_the_role_puts_things(told: dict[str, Any]) -> None:
    with pytest.raises(Started):
        _tool_exporter.main([])
    assert (told["address"], told["port"], told["allow"]) == ("127.0.0.1", 9836, [])
    assert told["places"] == Places()
    lines = str(_tool_exporter._router_report.LINES)
    assert told["journal"] == [
        *("journalctl", "--unit", "llama-router.service", "--follow", "--lines", lines),
        *("--output", "short-unix", "--no-pager", "--quiet"),
    ]


def test_every_option(told: dict[str, Any]) -> None:
    options = "--address ::1 --port 1 --allow 192.0.2.0/24 --allow fd00::/8 --unit u.service --url https://h:1"
    more = "--url-insecure --tls a:1 --tls b:2 --api-key-file /k --plan /p --models-dir /m"
    with pytest.raises(Started):
        _tool_exporter.main([*options.split(), *more.split()])
    assert (told["address"], told["port"], told["allow"]) == ("::1", 1, ["192.0.2.0/24", "fd00::/8"])
    assert told["places"] == Places("u.service", "https://h:1", "/k", "/p", "/m", False, ("a:1", "b:2"))
    assert told["journal"][1:3] == ["--unit", "u.service"]


def test_the_key_is_the_units_credential(told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    with pytest.raises(Started):
        _tool_exporter.main([])
    assert told["places"].keys == "/run/credentials/x/api-keys"
    with pytest.raises(Started):
        _tool_exporter.main(["--api-key-file", "/k"])
    assert told["places"].keys == "/k"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(Started):
        _tool_exporter.main([])
    assert told["places"].keys == _router_places.KEYS


def test_a_library_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(_source: Source) -> Any:
        raise ImportError("prometheus_client")

    monkeypatch.setattr(_tool_exporter, "_library", missing)
    assert _tool_exporter.main([]) == 1
    assert capsys.readouterr().err == (
        "llama-router-exporter: its library is missing: apt-get install python3-prometheus-client\n"
    )


def test_the_first_scrape_waits_for_the_gpus_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(Places(), [])
    for name in ("_read_machine", "_follow_machine", "_follow_events", "_follow_journal"):
        monkeypatch.setattr(source, name, lambda: None)
    done: list[str] = []

    def gpus(read: threading.Event) -> None:
        threading.Event().wait(0.1)
        done.append("read")
        read.set()

    monkeypatch.setattr(source, "_follow_gpus", gpus)
    monkeypatch.setattr(_tool_exporter, "FIRST_SECONDS", 60)
    source.start()
    assert done == ["read"]
    monkeypatch.setattr(source, "_follow_gpus", lambda read: None)
    monkeypatch.setattr(_tool_exporter, "FIRST_SECONDS", 0.01)
    source.start()


def gpus(ok: bool | None, at: float | None) -> dict[str, Any]:
    return {"gpus": [], "gpu_reading": {"at": at, "ok": ok, "reason": None}}


def test_the_age_of_a_reading_is_that_of_the_last_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there was one, that of the first try; without GPUs there is none."""
    source = Source(Places(), [])
    clock = iter([100.0, 200.0, 300.0, 400.0])
    answers = [gpus(False, None), gpus(True, 205.0), gpus(False, None), gpus(None, None)]
    monkeypatch.setattr(_tool_exporter.time, "time", lambda: next(clock))
    monkeypatch.setattr(_tool_exporter._router_report, "gpus_of", lambda run: answers.pop(0))
    ages = []
    for _time in range(4):
        source._read_gpus()
        ages.append(source._gpus["gpu_reading"]["at"])
    assert ages == [100.0, 205.0, 205.0, None]


class Ended(Exception):
    """Instead of the pause before the next try."""


class Router:
    def __init__(self, events: list[Any], error: Exception | None = None) -> None:
        self.coming, self.error = events, error

    def events(self, silence: float) -> Any:
        assert silence == _tool_exporter.SILENCE
        if self.error:
            raise self.error
        return iter(self.coming)

    def models(self) -> list[str]:
        return ["a model"]


class Watch:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.calls.append((name, *given))


def follow(source: Source, monkeypatch: pytest.MonkeyPatch, router: Router) -> list[Any]:
    """The calls of the watch until the stream has ended once."""

    def pause(seconds: float) -> None:
        assert seconds == _tool_exporter.AGAIN
        raise Ended

    watch: Any = Watch()
    source.watch = watch
    monkeypatch.setattr(source, "_connect", lambda: router)
    monkeypatch.setattr(_tool_exporter.time, "sleep", pause)
    with pytest.raises(Ended):
        source._follow_events()
    calls: list[Any] = watch.calls
    return calls


def test_events_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows the state before the first event, and the ports of what has been loaded."""
    loaded = {"event": "status", "model": "a", "data": {"status": "loaded"}}
    loading = {"event": "status", "model": "a", "data": {"status": "loading"}}
    calls = follow(Source(Places(), []), monkeypatch, Router([loading, None, loaded]))
    assert calls == [
        ("sync", ["a model"]),
        ("event", loading),
        ("event", loaded),
        ("ports", ["a model"]),
        ("lost",),
    ]


def test_a_key_that_is_refused_for_long_has_been_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(_tool_exporter.time, "monotonic", lambda: clock[0])
    source = Source(Places(), [])
    assert not source.key_is_old
    for error in (RouterError("down"), Refused("", 503, "")):
        assert follow(source, monkeypatch, Router([], error)) == [("lost",)]
        clock[0] += 100
        assert not source.key_is_old
    follow(source, monkeypatch, Router([], Refused("", 401, "")))
    clock[0] += 60
    follow(source, monkeypatch, Router([], Refused("", 401, "")))
    assert not source.key_is_old
    clock[0] += 1
    assert source.key_is_old
    follow(source, monkeypatch, Router([]))
    assert not source.key_is_old


def test_a_client_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(Places(), [])
    made: list[float] = []
    client = object()

    def connect(places: Places, seconds: float) -> Any:
        assert places is source.places
        made.append(seconds)
        return client

    monkeypatch.setattr(_tool_exporter._router_report, "connect", connect)
    assert source._connect() is source._connect() is client
    assert made == [3.0]


def test_connections_that_were_refused_are_closed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many are kept, and none for longer than its time."""
    monkeypatch.setattr(_tool_exporter, "_library", lambda _source: (None, None, ""))
    monkeypatch.setattr(_tool_exporter, "REFUSED", 3)
    clock = [1000.0]
    monkeypatch.setattr(_tool_exporter.time, "monotonic", lambda: clock[0])
    with _tool_exporter.Server("127.0.0.1", 0, Source(Places(), []), []) as server:
        pairs = [socket.socketpair() for _time in range(5)]
        for ours, _theirs in pairs:
            server._refuse(ours, _tool_exporter.BUSY)
        assert [ours.fileno() < 0 for ours, _theirs in pairs] == [True, True, False, False, False]
        server.service_actions()
        assert sum(ours.fileno() < 0 for ours, _theirs in pairs) == 2
        clock[0] += _tool_exporter.REFUSED_SECONDS + 0.1
        server.service_actions()
        assert all(ours.fileno() < 0 for ours, _theirs in pairs)
        for _ours, theirs in pairs:
            assert theirs.recv(9999) == _tool_exporter.BUSY
            assert theirs.recv(1) == b""
            theirs.close()


def test_a_refused_key_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tool_exporter, "_library", lambda _source: (None, None, ""))
    source = Source(Places(), [])
    with _tool_exporter.Server("127.0.0.1", 0, source, []) as server:
        server.service_actions()
        monkeypatch.setattr(Source, "key_is_old", True)
        with pytest.raises(SystemExit, match="the router refuses this key"):
            server.service_actions()


def test_a_server_on_ipv6_has_an_address_of_its_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tool_exporter, "_library", lambda _source: (None, None, ""))
    for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        if family == socket.AF_INET6 and not Path("/proc/net/if_inet6").exists():
            continue
        with _tool_exporter.Server(address, 0, Source(Places(), []), []) as server:
            assert server.socket.family == family


def test_refusals_are_whole_answers() -> None:
    for answer, status in ((_tool_exporter.FORBIDDEN, b"403 Forbidden"), (_tool_exporter.BUSY, b"503 Service")):
        head, _end, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 " + status)
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the server, whose metrics are of a stand-in for the library."""
    source = Source(Places(), [])
    monkeypatch.setattr(source, "report", lambda: {"at": 1})
    monkeypatch.setattr(_tool_exporter, "_library", lambda found: ("registry", lambda asked: asked.encode(), "text/x"))
    with _tool_exporter.Server("127.0.0.1", 0, source, []) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "status", "kind", "text"),
    [
        ("/", 200, "text/html; charset=utf-8", _tool_exporter._status_page.PAGE),
        ("/report.json", 200, "application/json", '{"at": 1}'),
        ("/metrics", 200, "text/x", "registry"),
        ("/health", 200, "text/plain", "ok\n"),
        ("/else", 404, "text/plain", "There are /, /report.json, /metrics and /health.\n"),
    ],
)
def test_what_is_served(served: str, path: str, status: int, kind: str, text: str) -> None:
    try:
        answer = urllib.request.urlopen(served + path, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        assert (answer.status, answer.headers["Content-Type"], answer.read().decode()) == (status, kind, text)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == _tool_exporter._status_page.POLICY
        assert answer.headers["Server"].strip() == "llama-router-exporter"


@pytest.mark.parametrize(
    ("client", "here", "allowed"),
    [
        ("127.0.0.9", "x", True),
        ("::1", "x", True),
        ("::ffff:127.0.0.1", "x", True),
        ("192.0.2.7", "x", True),
        ("::ffff:192.0.2.7", "x", True),
        ("198.51.100.1", "198.51.100.1", True),
        ("198.51.100.1", "x", False),
        ("::ffff:198.51.100.1", "x", False),
        ("fd00::1%eth0", "x", True),
        ("fe80::1%eth0", "x", False),
    ],
)
def test_which_clients_may_ask(client: str, here: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tool_exporter, "_library", lambda _source: (None, None, ""))
    with _tool_exporter.Server("127.0.0.1", 0, Source(Places(), []), ["192.0.2.9/24", "fd00::/8"]) as server:
        assert server.allows(client, here) is allowed


def test_metrics_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter's samples end in _total, as the library wants them."""
    source = Source(Places(), [])
    families = [
        _tool_exporter._exporter_metrics.Family("llamacpp_a", "gauge", "A.", [({"x": "1"}, 2.0)]),
        _tool_exporter._exporter_metrics.Family("llamacpp_b", "counter", "B.", [({}, 3.0)]),
    ]
    monkeypatch.setattr(source, "metrics", lambda: iter(families))
    registry, generate, kind = _tool_exporter._library(source)
    lines = generate(registry).decode().splitlines()
    assert 'llamacpp_a{x="1"} 2.0' in lines
    assert "llamacpp_b_total 3.0" in lines
    assert "# TYPE llamacpp_b_total counter" in lines
    assert any(line.startswith("process_") for line in lines), "and what the exporter takes itself"
    assert kind.startswith("text/plain")


def test_the_program_serves_until_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    hook = threading.excepthook

    class Server:
        def __init__(self, *_given: Any) -> None:
            pass

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_error: object) -> None:
            did.append("closed")

        def serve_forever(self) -> None:
            did.append("serves")
            raise KeyboardInterrupt

    monkeypatch.setattr(_tool_exporter, "Server", Server)
    monkeypatch.setattr(Source, "start", lambda self: did.append("started"))
    try:
        assert _tool_exporter.main([]) == 0
        assert threading.excepthook is _tool_exporter._end
    finally:
        threading.excepthook = hook
    assert did == ["started", "serves", "closed"]
