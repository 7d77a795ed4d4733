# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_state
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model, Refused, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import (
    LoadError,
    Reloaded,
    Router,
    resolve,
    telling,
)


def model(name: str, status: str = "unloaded", **changes: Any) -> Model:
    values: dict[str, Any] = {
        "id": name,
        "aliases": (),
        "tags": (),
        "status": status,
        "failed": False,
        "exit_code": None,
        "source": "preset",
        "options": {},
        "args": (),
        "port": 0,
        "modalities": ("text",),
        "meta": {},
    }
    return Model(**{**values, **changes})


class Script:
    """A client whose lists come one after the other, the last one for ever; `refusals` meet the next posts."""

    def __init__(self, *lists: list[Model], limit: int = 2, refusals: list[tuple[int, str]] | None = None) -> None:
        self.url = "http://router"
        self.request_timeout = 1.0
        self.lists = list(lists)
        self.limit = limit
        self.refusals = refusals or []
        self.asked: list[tuple[str, str]] = []
        self.answering = True

    def props(self) -> dict[str, Any]:
        return {"role": "router", "max_instances": self.limit}

    def models(self) -> list[Model]:
        return self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]

    def answers(self, _name: str) -> bool:
        return self.answering

    def _post(self, what: str, name: str) -> None:
        self.asked.append((what, name))
        if self.refusals:
            status, reason = self.refusals.pop(0)
            raise Refused(reason, status, reason)

    def load(self, name: str, _timeout: float) -> None:
        self._post("load", name)

    def unload(self, name: str) -> None:
        self._post("unload", name)

    def reload(self, _timeout: float) -> list[Model]:
        self._post("reload", "")
        return self.models()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes by only where somebody sleeps."""
    clock = [1000.0]

    class Time:
        time = staticmethod(time.time)

        @staticmethod
        def monotonic() -> float:
            return clock[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            clock[0] += seconds

    monkeypatch.setattr(_router_state, "time", Time)


def router(client: Script, why: Callable[[Model, float], list[str]] | None = None) -> Router:
    return Router(client, why)  # type: ignore[arg-type]


def test_a_load_is_polled_until_it_is_true() -> None:
    client = Script([model("a")], [model("a", "loading")], [model("a", "loading")], [model("a", "loaded")])
    done = router(client)
    done.load(["a"], 10)
    assert client.asked == [("load", "a")]
    assert done.acted


@pytest.mark.parametrize("status", ["loaded", "sleeping"])
def test_what_runs_is_not_loaded(status: str) -> None:
    client = Script([model("a", status)])
    done = router(client)
    done.load(["a"], 10)
    assert client.asked == []
    assert not done.acted


def test_unloaded_after_the_own_post_is_a_failure_with_its_reason() -> None:
    failed = model("a", failed=True, exit_code=1, port=7)
    seen: list[int] = []
    begun = time.time()

    def why(which: Model, since: float) -> list[str]:
        seen.append(which.port)
        assert begun <= since <= time.time()
        return ["first", "second"]

    client = Script([model("a")], [model("a", "loading")], [failed])
    with pytest.raises(LoadError, match=r"exit code 1; it said: first \| second"):
        router(client, why).load(["a"], 10)
    assert seen == [7]


def test_an_older_failure_is_not_the_own() -> None:
    client = Script([model("a", failed=True, exit_code=1)], [model("a", "loaded")])
    router(client).load(["a"], 10)
    assert client.asked == [("load", "a")]


def test_a_process_that_ends_without_an_error() -> None:
    client = Script([model("a")], [model("a", "loading")], [model("a")])
    with pytest.raises(LoadError, match="unloaded again: its process ended by itself, or another client"):
        router(client).load(["a"], 10)


def test_a_load_waits_for_the_end_of_an_unload() -> None:
    on_its_way_out = [model("a", "loaded")]
    client = Script(on_its_way_out, on_its_way_out, [model("a")], [model("a", "loading")], [model("a", "loaded")])
    client.answering = False
    router(client).load(["a"], 10)
    assert client.asked == [("load", "a")]


def test_an_unload_that_never_ends() -> None:
    client = Script([model("a", "loaded")])
    client.answering = False
    with pytest.raises(LoadError, match="within 10 s, it is being unloaded, and its process has not ended"):
        router(client).load(["a"], 10)


def test_already_running_right_after_an_unload() -> None:
    """The router refuses although its list says unloaded: wait, and post again."""
    client = Script([model("a")], [model("a")], [model("a", "loaded")], refusals=[(400, "model is already running")])
    router(client).load(["a"], 10)
    assert client.asked == [("load", "a"), ("load", "a")]


def test_no_slot_for_a_while() -> None:
    busy = [model("a"), model("b", "loaded"), model("c", "sleeping")]
    client = Script(
        busy, busy, busy, [model("a", "loaded")], refusals=[(500, "model limit reached, try again later")] * 2
    )
    router(client).load(["a"], 10)
    assert client.asked == [("load", "a")] * 3


def test_no_slot_in_time_names_the_holders() -> None:
    client = Script([model("a"), model("b", "loaded"), model("c", "sleeping")], refusals=[(500, "model limit")] * 99)
    done = router(client)
    with pytest.raises(LoadError, match=r"limit of 2 is reached .* held by b \(loaded\), c \(sleeping\)"):
        done.load(["a"], 10)
    assert not done.acted


def test_still_loading_when_the_time_is_up() -> None:
    client = Script([model("a")], [model("a", "loading")])
    with pytest.raises(LoadError, match="a was wanted loaded within 10 s, it is still loading; raise timeout"):
        router(client).load(["a"], 10)


def test_another_refusal_is_passed_on() -> None:
    client = Script([model("a")], refusals=[(500, "failed to spawn server instance")])
    with pytest.raises(Refused, match="failed to spawn"):
        router(client).load(["a"], 10)


def test_a_model_that_vanishes() -> None:
    client = Script([model("a")], [model("b")])
    with pytest.raises(LoadError, match="a was in the router's list, it is not any more"):
        router(client).load(["a"], 10)


def test_models_that_others_keep_evicting() -> None:
    one, other = [model("a", "loaded"), model("b")], [model("a"), model("b", "loaded")]
    client = Script([model("a"), model("b")], *[one, other] * 9)
    with pytest.raises(LoadError, match="others' requests keep evicting b at the limit of 2"):
        router(client).load(["a", "b"], 10)


def test_the_limit_counts_each_model_once() -> None:
    both = [model("a", "loaded", aliases=("x",)), model("b", "loaded")]
    router(Script(both)).load(["a", "x", "b"], 10)
    with pytest.raises(RouterError, match=r"2 models were wanted loaded at once \(a, b\)"):
        router(Script(both, limit=1)).load(["a", "x", "b"], 10)
    router(Script(both, limit=0)).load(["a", "b"], 10)


def test_unload() -> None:
    client = Script([model("a", "loaded", port=1)], [model("a", "loaded", port=1)], [model("a", port=1)])
    done = router(client)
    done.unload(["a", "a"], 10)
    assert client.asked == [("unload", "a")]
    assert done.acted


def test_an_unload_that_somebody_else_was_quicker_with() -> None:
    client = Script([model("a", "loaded")], [model("a")], refusals=[(400, "model is not running")])
    router(client).unload(["a"], 10)
    assert client.asked == [("unload", "a")]
    assert client.models()[0].status == "unloaded"


def test_an_unload_that_a_request_undoes() -> None:
    client = Script([model("a", "loaded", port=1)], [model("a", "loading", port=2)])
    with pytest.raises(LoadError, match="a request loaded it again at once"):
        router(client).unload(["a"], 10)


def test_an_unload_that_takes_too_long() -> None:
    client = Script([model("a", "loaded", port=1)])
    with pytest.raises(LoadError, match="still loaded after 10 s"):
        router(client).unload(["a"], 10)


def test_what_a_reload_did() -> None:
    before = [
        model("gone", "loaded"),
        model("same", "loaded"),
        model("other", "sleeping", options={"c": "1"}),
        model("alias", aliases=("x",)),
    ]
    after = [model("same", "loaded"), model("other", options={"c": "2"}), model("alias", aliases=("y",)), model("new")]
    done = Reloaded(before, after)
    assert (done.stopped, done.added, done.removed) == (["gone", "other"], ["new"], ["gone"])
    assert done.modified == ["other", "alias"]
    assert done.changed
    assert not Reloaded(after, after).changed


def test_a_reload_that_is_refused() -> None:
    client = Script([model("a")], refusals=[(500, "failed to parse server config file: x")])
    done = router(client)
    with pytest.raises(RouterError, match="goes on with those it has: failed to parse server config file: x"):
        done.reload(10)
    assert not done.acted


def test_the_telling_lines_of_a_log() -> None:
    log = [
        "Started x.",
        "0.00.010.532 I srv  init: fine",
        "0.00.107.388 E srv  bad: one",
        "1.02.107.388 E srv  two",
        "x E y",
    ]
    assert telling(log) == ["E srv  bad: one", "E srv  two"]
    assert telling(log, 1) == ["E srv  two"]
    assert telling(["Started x.", "0.00.010.532 I srv  init: fine"]) == ["I srv  init: fine"]
    gate = [
        "Starting llama-router.service - llama.cpp router...",
        "gate: CUDA0 is missing",
        "llama-router.service: Control process exited, code=exited, status=1/FAILURE",
        "Failed to start llama-router.service - llama.cpp router.",
    ]
    assert telling(gate) == ["gate: CUDA0 is missing"]
    assert telling(gate[2:]) == gate[2:], "better than nothing"
    assert telling([]) == []


def test_names() -> None:
    models = [model("Qwen3-8B", aliases=("chat",)), model("chat-2")]
    assert resolve(models, "chat").id == "Qwen3-8B"
    with pytest.raises(RouterError, match=r"the router knows Qwen3-8B, chat-2; did you mean 'Qwen3-8B'\?"):
        resolve(models, "qwen3-8b")
    with pytest.raises(RouterError, match=r"the router knows Qwen3-8B, chat-2$"):
        resolve(models, "zzz")
    with pytest.raises(RouterError, match="the router knows none"):
        resolve([], "zzz")


@pytest.mark.parametrize("status", [401, 404, 500])
def test_an_unload_that_is_refused_is_told(status: int) -> None:
    """But for 400: then it has gone meanwhile."""
    with pytest.raises(Refused):
        router(Script([model("a", "loaded")], refusals=[(status, "no")])).unload(["a"], 10)
    gone = Script([model("a", "loaded")], [model("a", "unloaded")], refusals=[(400, "not running")])
    router(gone).unload(["a"], 10)
    assert gone.asked == [("unload", "a")]


def test_a_long_line_of_a_log_is_told_in_short() -> None:
    (line,) = telling(["0.00.107.388 E " + "x" * 5000])
    assert len(line) <= 501
    assert telling(["0.00.107.388 E " + "x" * 400]) == ["E " + "x" * 400]


def test_pauses_get_longer_and_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short at first, so that a quick load is seen at once, and never beyond the time."""
    slept: list[float] = []
    clock = [1000.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            slept.append(seconds)
            clock[0] += seconds

    monkeypatch.setattr(_router_state, "time", Time)
    pauses = _router_state._pauses(1002.0)
    while next(pauses):
        pass
    assert slept[0] < 0.1
    assert slept[:5] == sorted(slept[:5])
    assert max(slept) <= 0.5
    assert clock[0] == pytest.approx(1002.0)


def test_a_model_that_loads_for_ever_is_said_to() -> None:
    client = Script([model("a", "loading")])
    with pytest.raises(LoadError, match="a section that names no model file stays like this for ever: unload it"):
        router(client).load(["a"], 10)
    client = Script([model("a", "downloading")])
    with pytest.raises(LoadError, match=r"it is still downloading; raise timeout$"):
        router(client).load(["a"], 10)
