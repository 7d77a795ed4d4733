# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the router's cache is told to do, and when; with the real router in tests/functional/router."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_cache
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model, Refused, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_cache import (
    Cache,
    cached,
    check_names,
    under_way,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import LoadError

NAME = "own/model-GGUF:Q4_K_M"
Event = Mapping[str, Any]


def model(name: str, status: str = "unloaded", source: str = "cache", port: int = 0) -> Model:
    return Model(name, (), (), status, False, None, source, {}, (), port, (), {})


def progress(name: str = NAME, done: int = 0, total: int = 4 << 20) -> Event:
    return {"model": name, "event": "download_progress", "data": {"progress": {"f": {"done": done, "total": total}}}}


class Script:
    """A client with these models and events; a download begins to be listed, and `ends` is what then is there."""

    def __init__(self, *models: Model, events: tuple[Event, ...] = (), ends: tuple[Model, ...] = ()) -> None:
        self.request_timeout = 10.0
        self.listed = list(models)
        self.coming = events
        self.ends = ends
        self.asked: list[tuple[Any, ...]] = []
        self.refusal: Refused | None = None

    def models(self) -> list[Model]:
        return list(self.listed)

    def events(self, silence: float) -> Iterator[Event]:
        self.asked.append(("events", silence))

        def arrive() -> Iterator[Event]:
            yield from self.coming
            self.listed = list(self.ends)

        return arrive()

    def download(self, name: str) -> None:
        self.asked.append(("download", name))
        if self.refusal:
            raise self.refusal
        self.listed.append(model(name, "downloading", port=7))

    def remove(self, name: str, timeout: float) -> None:
        self.asked.append(("remove", name, timeout))


def cache(client: Script, why: Callable[[Model | None, float], list[str]] | None = None) -> Cache:
    return Cache(client, why)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["one", "a/b/c", "a/b:", "a b/c", "a/b:c:d", "b\u00fcro/x", "a/b\n", ""])
def test_names_that_no_hub_has(name: str) -> None:
    check_names([NAME, "own/model"])
    for act in (lambda: check_names([name]), lambda: cache(Script()).remove([name], 1)):
        with pytest.raises(RouterError, match="user/repository or user/repository:quant was wanted"):
            act()
    client = Script()
    with pytest.raises(RouterError):
        cache(client).fetch([NAME, name], 1)
    assert client.asked == []


def test_a_name_stands_for_its_quant_or_for_all_of_them() -> None:
    models = [
        model(NAME),
        model("own/model-GGUF:Q8_0", "loaded"),
        model("own/model-GGUF:Q2_K", "downloaded"),
        model("own/model:Q8_0"),
        model("own/model-GGUF:F16", source="preset"),
    ]
    assert cached(models, NAME) == [NAME]
    assert cached(models, "own/model-GGUF:UD-Q4_K_M") == [NAME]
    assert cached(models, "own/model-GGUF") == [NAME, "own/model-GGUF:Q8_0"]
    assert cached(models, "own/model-GGUF:Q2_K") == []
    assert cached(models, "own/model-GGUF:F16") == []


@pytest.mark.parametrize(("status", "runs"), [("downloading", True), ("downloaded", True), ("loaded", False)])
def test_a_download_is_listed_by_the_name_it_was_asked_for(status: str, runs: bool) -> None:
    one = model(NAME, status)
    assert under_way([model("other", "downloading"), one], NAME) is (one if runs else None)


def test_what_is_there_is_not_fetched_again() -> None:
    client = Script(model(NAME))
    one = cache(client)
    one.fetch([NAME], 60)
    assert (client.asked, one.acted) == ([], False)


def test_a_download_is_followed_to_its_end() -> None:
    client = Script(events=(progress("other"), progress(done=1)), ends=(model(NAME),))
    one = cache(client)
    one.fetch([NAME], 60)
    # It listens before the download begins.
    assert client.asked == [("events", 60), ("download", NAME)]
    assert one.acted


def test_a_download_that_runs_already_is_only_followed() -> None:
    client = Script(model(NAME, "downloading"), ends=(model(NAME),))
    one = cache(client)
    one.fetch([NAME], 60)
    assert client.asked == [("events", 60)]
    assert not one.acted


def test_each_one_that_is_missing_is_fetched() -> None:
    client = Script(model("own/there:Q8_0"))
    cache(client).fetch(["own/there:Q8_0", "own/a", "own/b"], 60, wait=False)
    assert client.asked == [("download", "own/a"), ("download", "own/b")]


def test_without_waiting_the_end_is_not_followed() -> None:
    client = Script()
    one = cache(client)
    one.fetch([NAME], 60, wait=False)
    assert client.asked == [("download", NAME)]
    assert one.acted


def test_a_name_that_is_served_already_is_not_fetched() -> None:
    client = Script(model(NAME, source="preset"))
    with pytest.raises(RouterError, match="a preset or a file in its models directory is served by that id already"):
        cache(client).fetch([NAME], 60)
    assert client.asked == []


def test_a_router_that_refuses() -> None:
    client = Script()
    client.refusal = Refused("", 400, "offline mode")
    one = cache(client)
    with pytest.raises(LoadError, match="it refused: offline mode"):
        one.fetch([NAME], 60)
    assert not one.acted


def test_a_download_that_ends_without_a_model_says_why() -> None:
    seen: list[tuple[str | None, float]] = []

    def why(download: Model | None, since: float) -> list[str]:
        seen.append((download and download.id, since))
        return ["0.00.107.388 E  curl: 404"]

    client = Script(events=(progress(done=1 << 20), {"model": NAME, "event": "download_failed"}, progress(done=9)))
    client.ends = ()
    # What comes after the end is not listened to, so the list is emptied here.
    client.download = lambda name: client.asked.append(("download", name))  # type: ignore[method-assign]
    with pytest.raises(LoadError) as caught:
        cache(client, why).fetch([NAME], 60)
    assert "its download ended without a model (1.0 of 4.0 MiB arrived); it said: E  curl: 404. See" in str(
        caught.value
    )
    assert seen[0][0] is None
    assert seen[0][1] > 1e9
    with pytest.raises(LoadError, match=r"\(1\.0 of 4\.0 MiB arrived\); its journal says why"):
        cache(client).fetch([NAME], 60)


def test_why_is_asked_of_the_download() -> None:
    ports: list[int] = []

    def why(download: Model | None, _since: float) -> list[str]:
        ports.append(download.port if download else 0)
        return []

    with pytest.raises(LoadError, match=r"\(nothing arrived\); its journal says why"):
        cache(Script(), why).fetch([NAME], 60)
    assert ports == [7]


def test_a_download_that_falls_silent() -> None:
    client = Script(events=(progress(done=3 << 20),), ends=(model(NAME, "downloading"),))
    with pytest.raises(LoadError, match=r"nothing has arrived for 60 s and the router still tries \(3\.0 of 4\.0 MiB"):
        cache(client).fetch([NAME], 60)


@pytest.mark.parametrize("event", ["download_finished", "download_failed"])
def test_its_end_is_not_listened_beyond(event: str) -> None:
    heard: list[str] = []

    def events() -> Iterator[Event]:
        for each in ({"model": "other", "event": event}, progress(), {"model": NAME, "event": event}, progress()):
            heard.append(each["model"])
            yield each

    assert _router_cache._until_it_ends(events(), NAME, 60) == "0.0 of 4.0 MiB arrived"
    assert heard == ["other", NAME, NAME]


def test_several_files_are_summed_and_odd_events_are_nothing() -> None:
    files = {"a": {"done": 1 << 20, "total": 2 << 20}, "b": {"done": 1 << 19, "total": 3 << 20}}
    event = {"model": NAME, "data": {"progress": files}}
    assert _router_cache._until_it_ends(iter([event]), NAME, 60) == "1.5 of 5.0 MiB arrived"
    for odd in ({"model": NAME}, {"model": NAME, "data": None}, {"model": NAME, "data": {}}, {}):
        assert _router_cache._until_it_ends(iter([odd]), NAME, 60) == "nothing arrived"


def test_events_of_others_do_not_keep_it_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(_router_cache.time, "monotonic", lambda: clock[0])

    def events() -> Iterator[Event]:
        for name, seconds in ((NAME, 59), (NAME, 59), ("other", 59), ("other", 59)):
            clock[0] += seconds
            yield progress(name)
        pytest.fail("it listens although nothing of it was heard for 118 s")

    assert _router_cache._until_it_ends(events(), NAME, 60) == "0.0 of 4.0 MiB arrived"


def test_all_of_a_repository_go() -> None:
    other = "own/model-GGUF:Q8_0"
    client = Script(model(NAME), model(other, "loaded"), model("own/more:Q8_0"))
    one = cache(client)
    one.remove(["own/model-GGUF"], 3)
    assert client.asked == [("remove", NAME, 10.0), ("remove", other, 10.0)]
    assert one.acted
    one.remove(["own/more:Q8_0"], 30)
    assert client.asked[-1] == ("remove", "own/more:Q8_0", 30)


def test_a_download_that_runs_is_ended() -> None:
    client = Script(model(NAME, "downloading"))
    cache(client).remove([NAME], 30)
    assert client.asked == [("remove", NAME, 30)]


def test_what_is_not_there_is_not_removed() -> None:
    client = Script(model(NAME, source="preset"))
    one = cache(client)
    one.remove([NAME], 30)
    assert (client.asked, one.acted) == ([], False)
