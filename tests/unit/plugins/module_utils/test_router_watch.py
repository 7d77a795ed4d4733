# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_watch import Watch

LOAD = (
    "llama_server: initializing ...",
    "0.01.0 I cmn  common_param:   - CUDA0   : NVIDIA GeForce RTX 3090 (24124 MiB, 23863 MiB free)",
    "0.01.0 I load_tensors: offloaded 29/29 layers to GPU",
    "0.01.0 I load_tensors:   CPU_Mapped model buffer size =   243.40 MiB",
    "0.01.0 I load_tensors:        CUDA0 model buffer size =  1000.50 MiB",
    "0.01.1 I llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB",
    "llama_server: model loaded",
)
TIMING = (
    "2.25.0 I slot print_timing: id  1 | task 21 | prompt eval time =       1.94 ms /    23 tokens (    0.08 ms)",
    "2.25.0 I slot print_timing: id  1 | task 21 |        eval time =      87.33 ms /     5 tokens (   21.83 ms)",
    "2.25.0 I slot print_timing: id  1 | task 21 |       total time =      89.27 ms /    28 tokens",
    "2.25.0 I slot print_timing: id  1 | task 21 |    graphs reused =         22",
)


def model(name: str, status: str, port: int = 0, failed: bool = False, exit_code: int | None = None) -> Model:
    return Model(name, (), (), status, failed, exit_code, "preset", {}, (), port, (), {})


class Told(Watch):
    """A watch with a clock of its own, which stands still."""

    def __init__(self, *models: Model) -> None:
        self.now = 1000.0
        super().__init__(clock=lambda: self.now)
        self.sync(models)

    def say(self, name: str, status: str, **data: Any) -> None:
        self.event({"model": name, "event": "status_change", "data": {"status": status, **data}})

    def load(self, name: str, seconds: float = 2.0) -> None:
        self.event({"model": name, "event": "model_status", "data": {"status": "loading"}})
        self.say(name, "loading", progress={"value": 0.5})
        self.now += seconds
        self.say(name, "loaded", info={})

    def log(self, *lines: str, at: float | None = None) -> None:
        for line in lines:
            self.line(line, self.now if at is None else at)

    def history(self, name: str = "a", status: str = "unloaded") -> dict[str, Any]:
        report = {"models": [{"id": name, "status": status}], "unit": {}}
        history: dict[str, Any] = self.tell(report)["models"][0]["history"]
        return history

    def happened(self) -> list[str]:
        report: dict[str, Any] = {"models": [], "unit": {}}
        return [f"{event['model']} {event['what']}" for event in reversed(self.tell(report)["events"])]


def test_what_was_before_the_watch_is_not_counted() -> None:
    watch = Told(model("a", "loaded", 4001), model("b", "unloaded", failed=True, exit_code=1))
    assert watch.history()["loads"] == 0
    assert watch.history("b")["failures"] == {}
    assert watch.happened() == []


def test_a_load_takes_its_time() -> None:
    watch = Told(model("a", "unloaded"))
    watch.load("a", 2.5)
    watch.now += 10
    history = watch.history(status="loaded")
    assert (history["loads"], history["load_seconds"], history["load_seconds_total"]) == (1, 2.5, 2.5)
    assert history["seconds"] == 10
    assert watch.history(status="sleeping")["seconds"] == 0  # the router has another one than the events, for a moment
    assert watch.happened() == ["a loading", "a loaded"]


@pytest.mark.parametrize(
    "line",
    [
        "0.04.562 I srv    unload_lru: models_max limit reached, removing LRU name=a",
        "0.02.097 I srv          tick: evicting idle LRU name=a for a queued request",
    ],
)
@pytest.mark.parametrize("journal_first", [True, False])
def test_an_eviction_is_none_of_the_other_ends(line: str, journal_first: bool) -> None:
    watch = Told(model("a", "unloaded"), model("b", "unloaded"))
    watch.load("a")
    watch.load("b")
    if journal_first:
        watch.log(line)
    watch.say("a", "unloaded", exit_code=0)
    if not journal_first:
        watch.log(line)
    watch.say("b", "unloaded", exit_code=0)
    assert watch.history()["evictions"] == 1
    assert watch.history("b")["evictions"] == 0
    assert watch.happened()[-2:] == ["a evicted", "b unloaded"]
    watch.load("a")
    watch.say("a", "unloaded", exit_code=0)
    assert watch.happened()[-1] == "a unloaded"


def test_failures_by_their_codes() -> None:
    watch = Told(model("a", "unloaded"))
    for code in (1, 1, 137):
        watch.event({"model": "a", "event": "model_status", "data": {"status": "loading"}})
        watch.say("a", "unloaded", exit_code=code)
    assert watch.history()["failures"] == {"1": 2, "137": 1}
    assert watch.history()["loads"] == 0
    assert watch.happened()[-1] == "a failed"


def test_waking_is_no_load() -> None:
    watch = Told(model("a", "unloaded"))
    watch.load("a")
    watch.say("a", "sleeping")
    watch.say("a", "loading")
    watch.say("a", "loaded")
    assert (watch.history()["loads"], watch.history()["wakes"]) == (1, 1)
    assert watch.happened() == ["a loading", "a loaded", "a sleeping", "a woken"]


def test_a_load_that_is_under_way_when_the_events_are_heard_again_is_one() -> None:
    watch = Told(model("a", "unloaded"), model("b", "unloaded"), model("c", "loading", 4003))
    watch.load("a")
    watch.lost()
    watch.sync([model("a", "loading", 4002), model("b", "loading", 4004), model("c", "loading", 4003)])
    for name, loads in (("a", 2), ("b", 1), ("c", 1)):
        watch.say(name, "loading", progress={"value": 0.9})
        watch.say(name, "loaded", info={})
        assert watch.history(name)["loads"] == loads


def test_a_waking_that_is_under_way_is_no_load() -> None:
    watch = Told(model("a", "unloaded"))
    watch.load("a")
    watch.ports([model("a", "loaded", 4001)])
    watch.say("a", "sleeping")
    watch.lost()
    watch.sync([model("a", "loading", 4001)])
    watch.say("a", "loaded", info={})
    assert watch.history()["loads"] == 1


def test_what_was_missed_while_the_events_were_lost() -> None:
    names = ("stayed", "anew", "came", "went", "failed")
    watch = Told(*(model(name, "unloaded") for name in names))
    for name in ("stayed", "anew", "went", "failed"):
        watch.load(name)
    watch.ports([model(name, "loaded", port) for port, name in enumerate(("stayed", "anew", "went", "failed"), 1)])
    watch.lost()
    assert watch.tell({"models": [], "unit": {}})["watch"]["events"] is False
    watch.sync(
        [
            model("stayed", "loaded", 1),
            model("anew", "loaded", 12),
            model("came", "sleeping", 13),
            model("went", "unloaded", 3),
            model("failed", "unloaded", 4, failed=True, exit_code=9),
        ]
    )
    assert [watch.history(name)["loads"] for name in names] == [1, 2, 1, 1, 1]
    assert watch.history("failed")["failures"] == {"9": 1}
    assert watch.tell({"models": [], "unit": {}})["watch"]["events"] is True


def test_what_the_list_has_told_is_not_counted_again() -> None:
    """The events are heard before the list is asked for, so both may tell of one thing."""
    watch = Told(model("a", "unloaded"), model("b", "unloaded"))
    watch.load("a")
    watch.event({"model": "b", "event": "model_status", "data": {"status": "loading"}})
    watch.lost()  # before anybody asked for the port of a
    watch.sync([model("a", "loaded", 4001), model("b", "unloaded", 4002, failed=True, exit_code=1)])
    watch.say("b", "unloaded", exit_code=1)
    assert watch.history("a")["loads"] == 1
    assert watch.history("b")["failures"] == {"1": 1}


def test_a_load_that_ended_while_the_events_were_lost_is_one() -> None:
    watch = Told(model("a", "unloaded"))
    watch.event({"model": "a", "event": "model_status", "data": {"status": "loading"}})
    watch.lost()
    for _time in range(2):
        watch.sync([model("a", "loaded", 4001)])
        assert watch.history()["loads"] == 1


def test_a_clock_that_is_set_back_takes_no_load_away() -> None:
    watch = Told(model("a", "unloaded"))
    watch.load("a", -3600)
    assert (watch.history()["loads"], watch.history()["load_seconds_total"]) == (1, 0)


def test_processes_that_have_gone_are_forgotten() -> None:
    """A model that is asked for every few seconds, for weeks, and breaks off in the middle of its load."""
    watch = Told(model("a", "unloaded"), model("b", "loaded", 4001))
    watch.log("spawning server instance with name=b on port 4001", *(f"[4001] {line}" for line in LOAD))
    for port in range(5000, 6000):
        watch.log(f"spawning server instance with name=a on port {port}", *(f"[{port}] {line}" for line in LOAD[:-1]))
    assert [len(known) for known in (watch._names, watch._logs, watch._loads)] == [2, 1, 1]
    watch.log(*(f"[4001] {line}" for line in TIMING))
    assert watch.history("b")["answers"] == 1


def test_answers_are_counted_by_the_models_port() -> None:
    watch = Told(model("a", "loaded", 4001))
    watch.log("0.02 I srv          load: spawning server instance with name=b c on port 4002")
    watch.log(*(f"[4001] {line}" for line in TIMING * 2), *(f"[4002] {line}" for line in TIMING))
    watch.log(*(f"[4003] {line}" for line in TIMING))  # nobody's
    watch.log(*(f"[4001] {line}" for line in TIMING), at=999.0)  # of before
    counts = ("answers", "prompt_tokens", "predicted_tokens")
    assert [watch.history()[key] for key in counts] == [2, 46, 10]
    watch.load("b c")
    watch.log(*(f"[4002] {line}" for line in TIMING))
    assert [watch.history("b c")[key] for key in counts] == [1, 23, 5]


def test_a_load_of_before_the_watch_still_tells_what_it_took() -> None:
    watch = Told(model("a", "loaded", 4001))
    watch.log(*(f"[4001] {line}" for line in LOAD), at=10.0)
    running = [model("a", "loaded", 4001), model("b", "unloaded", 4001)]
    assert watch.loads(running)["a"].memory == {"host": 243.4, "CUDA0": 1512.5}
    assert set(watch.loads(running)) == {"a"}
    watch.log("0.02 I srv          load: spawning server instance with name=b on port 4001")
    assert watch.loads(running) == {}


def test_a_request_that_waits() -> None:
    watch = Told(model("a", "unloaded"))
    watch.log("0.02.097.372 I srv          join: request for name=a queued at position 3")
    assert watch.history()["queued"] == 1


def test_errors_are_kept() -> None:
    watch = Told()
    watch.log("0.01.0 E gguf_init: bad", "0.01.0 I fine", "[4001] 0.07 E srv    load_model: failed", "a E b")
    report: dict[str, Any] = {"models": [], "unit": {}}
    assert watch.tell(report)["unit"]["errors"] == ["gguf_init: bad", "srv    load_model: failed"]


@pytest.mark.parametrize("event", [{}, {"event": "x"}, {"model": "a", "event": "status_change", "data": {}}])
def test_events_that_say_nothing(event: dict[str, Any]) -> None:
    watch = Told(model("a", "unloaded"))
    watch.event(event)
    watch.event({"model": "*", "event": "models_reload"})
    assert watch.happened() == ["* reloaded"]
