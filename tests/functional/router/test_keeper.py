# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper with the real router: what it asks is no use and wakes nothing; what it does, and what it leaves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._keeper import Keeper, Wanted, is_connected, read_use
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from router_server import Server, section, wait_until

Serve = Callable[..., Server]


class Clock:
    """Seconds that a test lets go by."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def serve(tmp_path: Path, models: Path) -> Iterator[Serve]:
    """A router with alpha, beta and gamma, two of them at once; options are those of each model."""
    servers: list[Server] = []

    def start(*args: str, **options: str) -> Server:
        presets = tmp_path / "models.ini"
        presets.write_text("".join(section(n, models / f"{n}.gguf", **options) for n in ("alpha", "beta", "gamma")))
        servers.append(Server(tmp_path, "--models-preset", str(presets), "--models-max", "2", *args).__enter__())
        return servers[0]

    yield start
    for server in servers:
        server.__exit__()


class Kept:
    """A keeper of a server, its clock and what it said."""

    def __init__(self, server: Server, unload_idle: float = -1, keep: tuple[str, ...] = (), patience: float = 300):
        self.server = server
        self.clock = Clock()
        self.said: list[str] = []
        self.keeper = Keeper(Wanted(unload_idle, keep, patience), self.said.append, clock=self.clock)

    def look(self, after: float = 0) -> bool:
        self.clock.now += after
        return self.keeper.look(self.server.client)

    def settle(self, **statuses: str) -> None:
        wait_until(lambda: {n: s for n, s in self.server.status().items() if s != "unloaded"} == statuses)


def port(server: Server, name: str) -> int:
    return next(model.port for model in server.client.models() if model.id == name)


def test_it_unloads_what_is_idle_and_leaves_what_is_used(serve: Serve) -> None:
    server = serve("--metrics")
    server.load("alpha", "beta")
    kept = Kept(server, unload_idle=900)
    assert not kept.look()
    assert not kept.look(after=600)
    assert server.complete("beta", 1) == 200
    assert kept.look(after=301)
    assert kept.said == ["alpha is unloaded: it was idle for 901 s"]
    kept.settle(beta="loaded")
    assert not kept.look(after=899)
    assert kept.look(after=2)
    kept.settle()


def test_embeddings_are_a_use(serve: Serve) -> None:
    server = serve("--metrics", embeddings="on", pooling="mean")
    server.load("alpha")
    before = read_use(port(server, "alpha"))
    server.client._call("POST", "/v1/embeddings", {"model": "alpha", "input": "once"})
    after = read_use(port(server, "alpha"))
    assert before
    assert after
    assert before.done != after.done


def test_a_busy_model_is_never_unloaded(serve: Serve) -> None:
    server = serve("--metrics", context_shift="on", threads="1")
    server.load("alpha")
    kept = Kept(server, unload_idle=900)
    kept.look()
    with server.answering("alpha"):
        assert not kept.look(after=10000)
    assert not kept.look()
    assert server.status()["alpha"] == "loaded"


def test_a_request_that_comes_between_look_and_unload_is_seen(serve: Serve) -> None:
    server = serve("--metrics", context_shift="on", threads="1")
    server.load("alpha")
    kept = Kept(server, unload_idle=900)
    kept.look()
    tell = kept.keeper._use
    with contextlib.ExitStack() as stack:

        def late(process: int) -> object:
            told = tell(process)
            stack.enter_context(server.answering("alpha"))
            assert is_connected(process)
            return told

        kept.keeper._use = late  # type: ignore[assignment]
        assert not kept.look(after=1000)
    assert server.status()["alpha"] == "loaded"


def test_a_sleeper_is_unloaded_without_being_woken(serve: Serve) -> None:
    server = serve("--metrics", sleep_idle_seconds="1")
    server.load("alpha")
    kept = Kept(server, unload_idle=900)

    def sleeps() -> bool:
        kept.look()  # which keeps it from no sleep
        time.sleep(0.2)
        return server.status()["alpha"] == "sleeping"

    wait_until(sleeps)
    kept.look(after=800)
    kept.settle(alpha="sleeping")
    assert kept.look(after=200)
    kept.settle()


def test_its_looks_do_not_change_who_is_evicted(serve: Serve) -> None:
    server = serve("--metrics")
    assert server.complete("alpha", 1) == 200
    assert server.complete("beta", 1) == 200
    models = server.client.models
    server.client.models = lambda: sorted(models(), key=lambda m: m.id, reverse=True)  # type: ignore[method-assign]
    Kept(server, unload_idle=900).look()
    assert server.complete("gamma", 1) == 200
    assert {name for name, status in server.status().items() if status == "loaded"} == {"beta", "gamma"}


def test_what_is_to_stay_comes_back_when_there_is_room(serve: Serve) -> None:
    server = serve("--metrics")
    server.load("alpha")
    kept = Kept(server, unload_idle=900, keep=("alpha",))
    kept.look()
    assert not kept.look(after=5000)
    assert server.complete("beta", 1) == 200
    assert server.complete("gamma", 1) == 200
    kept.settle(beta="loaded", gamma="loaded")
    assert not kept.look(), "nobody has been idle for long enough"
    assert not kept.look(after=299)
    assert server.complete("gamma", 1) == 200
    assert kept.look(after=1)
    assert kept.said == ["beta is unloaded: it was idle for 300 s, and alpha, which is to stay, needs its place"]
    kept.settle(gamma="loaded")
    assert kept.look(after=1)
    kept.settle(alpha="loaded", gamma="loaded")
    assert kept.said[1:] == ["alpha is loaded again: it is to stay, and did not run"]


def test_who_keeps_evicting_it_wins_for_a_while(serve: Serve) -> None:
    """It is brought back once in so long, whatever happens to it."""
    server = serve("--metrics")
    kept = Kept(server, keep=("alpha",))
    kept.look()
    assert kept.look(after=15)
    kept.settle(alpha="loaded")
    for _time in range(2):
        server.client.unload("alpha")
        kept.settle()
        assert not kept.look(after=10)
        assert not kept.look(after=10)
        assert kept.look(after=290)
        kept.settle(alpha="loaded")


def test_a_router_that_brings_it_back_itself_is_not_met_half_way(serve: Serve) -> None:
    server = serve("--metrics")
    kept = Kept(server, keep=("alpha",))
    assert not kept.look()
    assert not kept.look(after=4)
    assert kept.look(after=1)


def test_without_metrics_it_says_what_it_needs(serve: Serve) -> None:
    server = serve()
    server.load("alpha")
    with pytest.raises(RouterError, match="run the router with --metrics"):
        Kept(server, unload_idle=900).look()
