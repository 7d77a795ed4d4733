# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui import OpenWebUIError, Refused
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_connections import (
    Connection,
    Wanted,
    absent,
    configured,
    connections,
    offered,
    places,
    present,
    same,
)
from hypothesis import given
from hypothesis import strategies as st

URL = "http://192.0.2.20:8012/v1"
WANTED = Wanted(URL, "key", "llama.cpp", True)

urls = st.sampled_from([URL, "http://192.0.2.20:8012", "http://other:1/v1", "https://api.example.com/v1", "junk", ""])
settings = st.fixed_dictionaries(
    {},
    optional={
        "enable": st.sampled_from([True, False, None]),
        "provider": st.sampled_from(["", None, "llama.cpp", "azure"]),
        "tags": st.sampled_from([None, [], ["a"], [{"name": "a", "later": 1}]]),
        "auth_type": st.sampled_from([None, "bearer", "none"]),
        "later": st.integers(0, 2),
    },
)
listed = st.lists(st.builds(Connection, urls, st.sampled_from(["", "key", "k2"]), settings), max_size=6)


def test_the_same_address_in_other_words_and_what_is_none() -> None:
    assert same("HTTP://192.0.2.20:8012/", URL)
    assert same("http://[::1", "http://[::1")
    assert not same("http://me@192.0.2.20:8012", URL)


def test_settings_are_found_by_place_and_by_address() -> None:
    config = {
        "OPENAI_API_BASE_URLS": ["https://a/v1", "https://b/v1", "https://c/v1"],
        "OPENAI_API_KEYS": ["a"],
        "OPENAI_API_CONFIGS": {"1": {"enable": False}, "https://c/v1": {"tags": []}, "https://b/v1": {"enable": True}},
    }
    assert connections(config) == [
        Connection("https://a/v1", "a"),
        Connection("https://b/v1", "", {"enable": False}),
        Connection("https://c/v1", "", {"tags": []}),
    ]
    # What was named by an address would be dropped by an update: it gets its place.
    assert configured(config, connections(config), True)["OPENAI_API_CONFIGS"] == {
        "1": {"enable": False},
        "2": {"tags": []},
    }


def test_a_new_one_comes_last_and_is_whole() -> None:
    other = Connection("https://other/v1", "k", {"enable": True})
    kept, new = present([other], WANTED)
    assert kept == other
    assert (new.url, new.key) == (URL, "key")
    assert new.settings == {
        "enable": True,
        "provider": "llama.cpp",
        "auth_type": "bearer",
        "connection_type": "external",
        "prefix_id": "",
        "tags": [],
        "model_ids": [],
    }


def test_of_one_that_is_there_only_what_is_wanted_changes() -> None:
    old = Connection("http://192.0.2.20:8012/", "old", {"tags": [{"name": "x"}], "later": 1, "auth_type": "none"})
    (new,) = present([old], Wanted(URL, "key", "llama.cpp", True, prefix_id="r"))
    assert (new.url, new.key) == (URL, "key")
    assert new.settings == {
        "tags": [{"name": "x"}],
        "later": 1,
        "auth_type": "bearer",
        "provider": "llama.cpp",
        "prefix_id": "r",
    }


def test_without_a_key_the_one_that_is_there_stays() -> None:
    old = Connection(URL, "old", {"auth_type": "session"})
    (new,) = present([old], Wanted(URL, None, "llama.cpp", True))
    assert (new.key, new.settings["auth_type"]) == ("old", "session")


def test_the_one_with_the_very_address_counts() -> None:
    twins = [Connection("http://192.0.2.20:8012", ""), Connection(URL, "")]
    assert places(twins, URL) == [1, 0]
    assert present(twins, WANTED)[0] == twins[0]


@given(listed)
def test_a_second_time_nothing_changes(before: list[Connection]) -> None:
    tagged = replace(WANTED, tags=["a"], model_ids=[], prefix_id="")
    assert present(present(before, tagged), tagged) == present(before, tagged)
    once = present(before, WANTED)
    assert present(once, WANTED) == once
    assert absent(absent(before, URL), URL) == absent(before, URL)


@given(listed)
def test_others_stay_in_their_order(before: list[Connection]) -> None:
    others = [one for one in before if not same(one.url, URL)]
    assert absent(before, URL) == others
    assert [one for one in present(before, WANTED) if not same(one.url, URL)] == others


@given(listed, st.booleans())
def test_what_is_written_is_read_again(before: list[Connection], on: bool) -> None:
    config = configured({"later": 1}, before, on)
    assert config["later"] == 1
    assert connections(config) == before


@given(listed, st.dictionaries(st.sampled_from(["0", "1", "5", URL]), settings))
def test_lists_that_do_not_fit_together_are_read(before: list[Connection], odd: dict[str, Any]) -> None:
    config = {"OPENAI_API_BASE_URLS": [one.url for one in before], "OPENAI_API_CONFIGS": odd}
    found = connections(config)
    assert [one.url for one in found] == [one.url for one in before]
    again = connections(configured(config, found, True))
    assert again == found


@pytest.mark.parametrize(
    ("wanted", "settings"),
    [
        (Wanted(URL, None, "llama.cpp", True), {"enable": True, "provider": "llama.cpp"}),
        (Wanted(URL, "", "", False), {"enable": False, "provider": "", "auth_type": "bearer"}),
        (
            Wanted(URL, None, "x", True, "pre", ["a", "b"], ["m"]),
            {"enable": True, "provider": "x", "prefix_id": "pre", "model_ids": ["m"]}
            | {"tags": [{"name": "a"}, {"name": "b"}]},
        ),
    ],
)
def test_what_is_wanted_of_a_connection(wanted: Wanted, settings: dict[str, Any]) -> None:
    assert wanted.settings() == settings


@pytest.mark.parametrize(
    ("old", "wanted"),
    [
        ({}, Wanted(URL, "k", "", True, "", [], [])),
        ({"enable": True, "auth_type": "", "provider": None}, Wanted(URL, "k", "", True)),
        ({"prefix_id": None, "model_ids": None, "tags": None}, Wanted(URL, "k", "", True, "", [], [])),
        ({"tags": ["a", {"name": "b", "later": 1}]}, Wanted(URL, "k", "", True, tags=["a", "b"])),
    ],
)
def test_what_is_the_same_in_other_words_stays(old: dict[str, Any], wanted: Wanted) -> None:
    (new,) = present([Connection(URL, "k", old)], wanted)
    assert new.settings == old


@pytest.mark.parametrize(
    ("old", "wanted", "changed"),
    [
        ({"enable": False}, Wanted(URL, "k", "", True), {"enable": True}),
        ({}, Wanted(URL, "k", "", False), {"enable": False}),
        ({"prefix_id": "x"}, Wanted(URL, "k", "", True, ""), {"prefix_id": ""}),
        ({"model_ids": ["a"]}, Wanted(URL, "k", "", True, model_ids=[]), {"model_ids": []}),
        ({"tags": ["a", 7]}, Wanted(URL, "k", "", True, tags=["a"]), {"tags": [{"name": "a"}]}),
        ({"tags": "a"}, Wanted(URL, "k", "", True, tags=["a"]), {"tags": [{"name": "a"}]}),
    ],
)
def test_what_differs_is_changed(old: dict[str, Any], wanted: Wanted, changed: dict[str, Any]) -> None:
    (new,) = present([Connection(URL, "k", old)], wanted)
    assert new.settings == {**old, **changed}


class WebUI:
    """Open WebUI, which asks the router itself."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def post(self, path: str, body: Any) -> Any:
        self.asked.append((path, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ask(answer: Any, url: str = URL, key: str = "key") -> list[str]:
    webui: Any = WebUI(answer)
    found = offered(webui, Connection(url, key, {"provider": "llama.cpp"}))
    assert webui.asked == [("/openai/verify", {"url": url, "key": key, "config": {"provider": "llama.cpp"}})]
    return found


def test_models_behind_a_connection() -> None:
    assert ask({"data": [{"id": "a", "x": 1}, {"id": "b"}]}) == ["a", "b"]
    assert ask({"data": []}) == []
    for odd in ({"data": {}}, {}, [], None, "x"):
        with pytest.raises(OpenWebUIError, match="what answers there has no list of models; correct url"):
            ask(odd)
    for odd in ({"data": ["a"]}, {"data": [{"id": 7}]}, {"data": [{}]}):
        with pytest.raises(OpenWebUIError):
            ask(odd)


@pytest.mark.parametrize(
    ("status", "answer", "key", "told"),
    [
        (500, {"detail": "x"}, "k", "Open WebUI gets no answer there; start the router"),
        (401, {"error": "x"}, "k", "it does not take the key that was sent; take it from"),
        (403, {"error": "x"}, "", "it wants a key, and none was sent; take it from"),
        (401, None, "k", "it does not take the key that was sent"),
        (502, None, "k", "what stands before it answers 502: the router itself does not run"),
        (503, [1], "k", "what stands before it answers 503"),
        (504, {"error": "x"}, "k", "what stands before it answers 504"),
        (500, {"error": "x"}, "k", r"something else answers there \(500\); correct url"),
        (404, None, "k", r"something else answers there \(404\); correct url"),
    ],
)
def test_why_a_router_does_not_tell_its_models(status: int, answer: Any, key: str, told: str) -> None:
    with pytest.raises(OpenWebUIError, match=told):
        ask(Refused("as it is", status, answer), key=key)


@pytest.mark.parametrize("status", [401, 403, 422, 404, 502])
def test_a_refusal_of_open_webui_itself_is_passed_on(status: int) -> None:
    with pytest.raises(Refused, match="as it is"):
        ask(Refused("as it is", status, {"detail": "x"}))


def test_a_certificate_of_an_own_authority_is_named_for_tls_alone() -> None:
    refused = Refused("x", 500, {"detail": "x"})
    for url, named in ((URL, False), ("https://192.0.2.20/v1", True)):
        with pytest.raises(OpenWebUIError) as caught:
            ask(refused, url)
        assert ("AIOHTTP_CLIENT_SSL_CERT_FILE" in str(caught.value)) is named
