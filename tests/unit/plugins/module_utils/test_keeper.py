# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the keeper decides. Whether that is right with the real router: tests/functional/router/test_keeper.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._keeper import (
    Keeper,
    Use,
    Wanted,
    is_connected,
    read_use,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model, Refused, RouterError

IDLE = Use({"n_decode_total": "1"}, busy=False)


class Case:
    """A router whose models have these statuses, their ports counted from 1, and what the keeper asks of it."""

    def __init__(self, limit: int = 2, **wanted: Any) -> None:
        self.statuses: dict[str, str] = {}
        self.uses: dict[str, Use | None] = {}
        self.limit = limit
        self.ports: dict[str, int] = {}
        self.connected: set[int] = set()
        self.refusal: Refused | None = None
        self.asked: list[str] = []
        self.said: list[str] = []
        self.now = 0.0
        self.request_timeout = 10
        self.keeper = Keeper(
            Wanted(**{"unload_idle": -1, "keep": (), "patience": 300, **wanted}),
            self.said.append,
            use=lambda port: self.uses.get(next(name for name in self.ports if self.ports[name] == port), IDLE),
            connected=lambda port: port in self.connected,
            clock=lambda: self.now,
        )

    def models(self) -> list[Model]:
        for name in self.statuses:
            self.ports.setdefault(name, len(self.ports) + 1)
        return [
            Model(name, (), (), status, name == "crashed", 1, "preset", {}, (), self.ports[name], (), {})
            for name, status in self.statuses.items()
        ]

    def props(self) -> dict[str, Any]:
        return {"role": "router", "max_instances": self.limit}

    def unload(self, name: str) -> None:
        self.ask("unload", name)

    def load(self, name: str, _timeout: float) -> None:
        self.ask("load", name)

    def ask(self, verb: str, name: str) -> None:
        self.asked.append(f"{verb} {name}")
        if self.refusal:
            raise self.refusal

    def look(self, after: float = 0, **statuses: str) -> bool:
        self.now += after
        self.statuses.update(statuses)
        return self.keeper.look(self)  # type: ignore[arg-type]


@pytest.mark.parametrize("use", [None, Use({}, busy=True)])
def test_what_does_not_tell_or_is_at_work_is_not_idle(use: Use | None) -> None:
    case = Case(unload_idle=10)
    case.uses["a"] = use
    case.look(a="loaded")
    assert not case.look(after=1000)
    case.uses["a"] = IDLE
    assert not case.look(after=1000)
    assert not case.look(after=9)
    assert case.look(after=1)
    assert case.asked == ["unload a"]


@pytest.mark.parametrize("status", ["loading", "unloaded", "downloading"])
def test_what_is_not_loaded_is_neither_asked_nor_unloaded(status: str) -> None:
    case = Case(unload_idle=10)
    case.uses["a"] = IDLE
    case.look(a=status)
    assert not case.look(after=1000)
    assert case.asked == []


def test_another_process_of_a_model_begins_anew() -> None:
    case = Case(unload_idle=10)
    case.look(a="loaded")
    case.ports["a"] = 99
    assert not case.look(after=11)


def test_a_connection_keeps_it() -> None:
    case = Case(unload_idle=10)
    case.look(a="loaded")
    case.connected = {1}
    assert not case.look(after=11)
    case.connected = set()
    assert case.look()


def test_one_that_has_gone_meanwhile_is_no_error() -> None:
    case = Case(unload_idle=10)
    case.look(a="loaded")
    case.refusal = Refused("", 400, "model is not running")
    assert not case.look(after=11)
    assert case.said == []
    case.refusal = Refused("", 401, "")
    with pytest.raises(Refused):
        case.look()


def test_without_a_time_nothing_is_unloaded() -> None:
    case = Case()
    case.look(a="loaded", b="sleeping")
    assert not case.look(after=10**6)


def test_what_is_to_stay_is_no_victim_of_another_one_that_is() -> None:
    case = Case(keep=("a", "b"), limit=1)
    case.look(a="loaded", b="unloaded")
    assert not case.look(after=1000)
    assert case.asked == []


def test_the_one_idle_for_the_longest_makes_room_if_it_is_for_long_enough() -> None:
    case = Case(keep=("a",), limit=2)
    case.look(a="unloaded", b="sleeping", c="loaded")
    case.uses["b"] = Use({"n_decode_total": "2"}, busy=False)
    assert not case.look(after=299)
    assert case.look(after=1)
    assert case.asked == ["unload c"]
    assert case.said == ["c is unloaded: it was idle for 300 s, and a, which is to stay, needs its place"]


def test_without_a_limit_there_is_always_room() -> None:
    case = Case(keep=("crashed",), limit=0)
    case.look(crashed="unloaded", b="loaded", c="loaded")
    assert case.look(after=5)
    assert case.said == [
        "crashed is loaded again: it is to stay, and did not run; its process had ended with exit code 1"
    ]


def test_one_that_does_not_come_up_does_not_keep_the_next_one_away() -> None:
    case = Case(keep=("a", "b"), limit=2)
    case.look(a="unloaded", b="unloaded")
    case.refusal = Refused("", 500, "model limit reached, try again later")
    assert not case.look(after=5)
    case.refusal = None
    assert case.look(after=15)
    assert case.asked == ["load a", "load b"]


def test_a_name_that_the_router_does_not_know_is_passed_over() -> None:
    assert not Case(keep=("gone",)).look(after=1000, a="loaded")


class Process(HTTPServer):
    def __init__(self, status: int, text: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def process() -> Iterator[Callable[[int, str], int]]:
    servers: list[Process] = []

    def start(status: int, text: str) -> int:
        servers.append(Process(status, text))
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


GAUGES = "llamacpp:requests_processing {}\nllamacpp:requests_deferred {}\nllamacpp:predicted_tokens_seconds 17.3\n"


@pytest.mark.parametrize(("gauges", "busy"), [((0, 0), False), ((1, 0), True), ((0, 2), True)])
def test_use_is_the_counters_and_whether_it_is_at_work(
    process: Callable[[int, str], int], gauges: tuple[int, int], busy: bool
) -> None:
    text = "# HELP llamacpp:n_decode_total calls\nllamacpp:n_decode_total 3\n" + GAUGES.format(*gauges)
    assert read_use(process(200, text)) == Use({"llamacpp:n_decode_total": "3"}, busy)


def test_a_process_that_does_not_answer_does_not_tell(process: Callable[[int, str], int]) -> None:
    assert read_use(process(503, "loading")) is None
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert read_use(nobody.getsockname()[1]) is None


@pytest.mark.parametrize(("status", "text"), [(501, "{}"), (200, "llamacpp:n_decode_total 3\n")])
def test_other_metrics_are_said(process: Callable[[int, str], int], status: int, text: str) -> None:
    with pytest.raises(RouterError, match="run the router with --metrics"):
        read_use(process(status, text))


def test_a_connection_is_seen() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_connected(port)
        client.connect(("127.0.0.1", port))
        with server.accept()[0]:
            assert is_connected(port)


def test_a_kept_model_that_runs_is_not_missing() -> None:
    """No idle neighbour makes room for it."""
    for status in ("loaded", "loading", "sleeping"):
        case = Case(limit=2, keep=["kept"], patience=10)
        case.look(kept=status, idle="loaded")
        for _time in range(3):
            assert not case.look(after=1000)
        assert case.asked == []


def test_a_load_that_is_refused_with_the_key_is_told() -> None:
    """Started again the keeper has the key that the router knows."""
    case = Case(keep=["kept"], patience=10)
    case.look(kept="unloaded")
    case.refusal = Refused("", 401, "Invalid API Key")
    with pytest.raises(Refused):
        case.look(after=100)
    assert case.asked == ["load kept"]
    for status in (400, 500):
        case.refusal = Refused("", status, "")
        assert not case.look(after=100)


def test_patience_ends_at_its_second() -> None:
    """A kept model is brought back as soon as its patience is over, not a look later."""
    case = Case(keep=["kept"], patience=10)
    case.look(kept="unloaded")
    assert case.look(after=5)
    case.look(kept="unloaded")
    assert not case.look(after=9)
    assert case.look(after=1)
    assert case.asked == ["load kept", "load kept"]
