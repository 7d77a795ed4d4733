# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs after the test. That it finds a build which kills busy models is in tests/functional/router."""

from __future__ import annotations

import threading
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_swap
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Refused, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_swap import Swap, SwapTest


class Client:
    """A router without a limit, whose models load at once; a client of its own asks for one of them meanwhile."""

    url = "http://router"
    request_timeout = 1.0

    def __init__(self, running: set[str], broken: str = "", breaks_off: bool = False) -> None:
        self.up, self.broken, self.breaks_off = running, broken, breaks_off

    def props(self) -> dict[str, Any]:
        return {"max_instances": 0}

    def models(self) -> list[SimpleNamespace]:
        names = ["before", "busy", "other", "of-a-client"]
        return [SimpleNamespace(id=n, aliases=(), status=self._status(n), running=n in self.up, port=1) for n in names]

    def _status(self, name: str) -> str:
        return "loaded" if name in self.up else "unloaded"

    def answers(self, name: str) -> bool:
        return True

    def load(self, name: str, timeout: float) -> None:
        if name == self.broken:
            raise Refused(f"{name} is broken", 503, "broken")
        self.up.add(name)

    def unload(self, name: str) -> None:
        self.up.discard(name)

    def ask_for(self, name: str, timeout: float) -> None:
        self.up -= {"before"}
        self.up |= {name, "of-a-client"}

    def complete(self, name: str, tokens: int, timeout: float) -> Generator[Any, None, None]:
        if self.breaks_off:
            raise RouterError("it broke off")
        self.up.add(name)
        yield {}


def swapped(client: Client) -> SwapTest:
    test = SwapTest(client, 1, 5)  # type: ignore[arg-type]
    test.swap = Swap("busy", ["other"])
    test.run()
    return test


def test_what_a_client_asked_for_meanwhile_stays() -> None:
    client = Client({"before"})
    assert swapped(client).warnings == []
    assert client.up == {"before", "of-a-client"}


def test_what_cannot_be_loaded_again_is_told() -> None:
    (warning,) = swapped(Client({"before"}, broken="before")).warnings
    assert warning == "what ran before the test does not run as it did: before is broken"


def test_the_first_error_is_the_one_to_tell() -> None:
    with pytest.raises(RouterError, match="it broke off"):
        swapped(Client({"before"}, broken="before", breaks_off=True))


def test_a_model_that_answers_nothing_was_not_stopped_by_another_one() -> None:
    with pytest.raises(RouterError) as told:
        swapped(Client(set(), breaks_off=True))
    assert str(told.value) == "busy was wanted answering, before any other was asked for: it broke off"


def test_an_answer_that_does_not_end_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def complete(_client: Client, name: str, tokens: int, timeout: float) -> Generator[Any, None, None]:
        yield {}
        over.wait(60)

    monkeypatch.setattr(Client, "complete", complete)
    test = SwapTest(Client(set()), 1, 0.2)  # type: ignore[arg-type]
    test.swap = Swap("busy", ["other"])
    try:
        with pytest.raises(RouterError, match=r"still at it 0\.2 s after it was told to end"):
            test.run()
    finally:
        over.set()


class Long(Client):
    """Its answer goes on until it is closed, or breaks off when another model is asked for (`kills`)."""

    def __init__(self, running: set[str], kills: bool = False, refuses: str = "", limit: int = 0) -> None:
        super().__init__(running)
        self.kills, self.refuses, self.limit = kills, refuses, limit
        self.asked: list[str] = []
        self.other = threading.Event()

    def props(self) -> dict[str, Any]:
        return {"max_instances": self.limit}

    def ask_for(self, name: str, timeout: float) -> None:
        self.asked.append(name)
        self.other.set()
        if name == self.refuses:
            raise RouterError(f"{name} has no room")
        super().ask_for(name, timeout)

    def complete(self, name: str, tokens: int, timeout: float) -> Generator[Any, None, None]:
        self.up.add(name)
        yield {}
        self.other.wait(60)
        if self.kills:
            raise RouterError("broke off before its end")
        while True:
            yield {}


def test_a_build_that_keeps_busy_models() -> None:
    client = Long({"before"})
    test = swapped(client)
    assert client.asked == ["other"]
    assert test.swap.tokens >= 2
    assert client.up == {"before", "of-a-client"}, "what the test has loaded is unloaded"


def test_a_build_that_stops_busy_models_is_found_out() -> None:
    client = Long({"before"}, kills=True)
    test = SwapTest(client, 1, 5)  # type: ignore[arg-type]
    test.swap = Swap("busy", ["other", "before"])
    with pytest.raises(RouterError) as told:
        test.run()
    assert str(told.value) == (
        "busy was wanted to finish its answer while other, before were loaded; after 1 tokens broke off before its end."
        " This build stops models that are busy: stay with the one that served before"
    )
    assert test.swap.tokens == 1
    assert {"before"} <= client.up
    assert not {"busy", "other"} & client.up, "also after an error"


def test_a_model_that_cannot_be_loaded_beside_it() -> None:
    client = Long(set(), refuses="other")
    with pytest.raises(RouterError, match=r"^other has no room"):
        swapped(client)
    assert "busy" not in client.up


def test_a_model_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def complete(_client: Client, name: str, tokens: int, timeout: float) -> Generator[Any, None, None]:
        over.wait(60)
        yield {}

    monkeypatch.setattr(Client, "complete", complete)
    test = SwapTest(Client(set()), 1, 0.2)  # type: ignore[arg-type]
    test.swap = Swap("busy", ["other"])
    try:
        with pytest.raises(RouterError, match=r"busy was wanted answering, it said nothing in 0\.2 s"):
            test.run()
    finally:
        over.set()


def sized(name: str, size: int, writes: bool = True) -> Any:
    return SimpleNamespace(model=SimpleNamespace(id=name), size=size, writes=writes)


@pytest.mark.parametrize(
    ("limit", "busy", "others"),
    [(0, "a", ["b", "c", "d"]), (1, "a", ["b"]), (2, "a", ["b", "c"]), (9, "a", ["b", "c", "d"])],
)
def test_as_many_others_as_make_the_router_choose(
    limit: int, busy: str, others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the busy one that is one more than its limit."""
    found = [sized(name, size) for size, name in enumerate("abcd")]
    monkeypatch.setattr(_router_swap._router_files, "by_size", lambda models: found)
    test = SwapTest(Long(set(), limit=limit), 7, 5)  # type: ignore[arg-type]
    assert test.choose()
    assert test.swap == Swap(busy, others)


@pytest.mark.parametrize("found", [[], [sized("a", 1)], [sized("a", 1, writes=False), sized("b", 2, writes=False)]])
def test_nothing_to_swap(found: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_router_swap._router_files, "by_size", lambda models: found)
    assert not SwapTest(Long(set()), 7, 5).choose()  # type: ignore[arg-type]


def test_a_client_of_the_test_gets_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, float]] = []

    def complete(_client: Client, name: str, tokens: int, timeout: float) -> Generator[Any, None, None]:
        asked.append((name, tokens, timeout))
        yield {}

    monkeypatch.setattr(Client, "complete", complete)
    test = SwapTest(Client(set()), 2000, 5)  # type: ignore[arg-type]
    assert test.swap == Swap()
    test.swap = Swap("busy", ["other"])
    test.run()
    assert asked == [("busy", 2000, 5)]
    assert test.swap.tokens == 1
