# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui import OpenWebUIError
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_models import (
    MAY_READ,
    changes,
    form,
    grants,
    in_order,
    joined,
    shown,
    view,
    wait_for,
    with_public,
)
from hypothesis import given
from hypothesis import strategies as st

GROUP = {"id": "1", "principal_type": "group", "principal_id": "g", "permission": "read"}
ENTRY = {
    "id": "a",
    "base_model_id": None,
    "name": "By hand",
    "meta": {"description": "d", "profile_image_url": "/x.png", "later": 1},
    "params": {"temperature": 0.5, "system": "s"},
    "access_grants": [GROUP],
    "is_active": True,
}
NOTHING = {"id": "a", "name": None, "description": None, "visibility": None, "hidden": None, "params": None}

wanted_model = st.fixed_dictionaries(
    {
        "id": st.just("a"),
        "name": st.sampled_from([None, "By hand", "Other"]),
        "description": st.sampled_from([None, "", "d", "e"]),
        "visibility": st.sampled_from([None, "public", "private"]),
        "hidden": st.sampled_from([None, True, False]),
        "params": st.sampled_from([None, {}, {"temperature": 0.5}, {"temperature": None}, {"top_p": 1}]),
    }
)


def test_what_is_not_said_stays() -> None:
    assert changes(ENTRY, NOTHING) == ({}, {})
    assert changes(ENTRY, {**NOTHING, "name": "By hand", "visibility": "private", "hidden": False}) == ({}, {})


def test_public_is_what_nothing_else_is_said_of() -> None:
    kept = {**NOTHING, "id": "kept", "visibility": "private"}
    models = [{**NOTHING, "name": "First"}, kept, {**NOTHING, "id": "other"}]
    told = with_public(models, ["a", "kept", "by-hand", "new", "new"], {"by-hand": ENTRY, "a": ENTRY})
    assert told == [
        {**NOTHING, "name": "First", "visibility": "public"},
        kept,
        {**NOTHING, "id": "other"},
        {"id": "new", "visibility": "public"},
    ]
    assert models[0]["visibility"] is None
    assert with_public(told, ["new"], {"new": ENTRY}) == told


def test_a_model_without_an_entry_is_called_by_its_id() -> None:
    before, after = changes(None, {**NOTHING, "visibility": "public"})
    assert after == {"name": "a", "visibility": "public"}
    assert before == {"name": None, "visibility": "private"}
    assert form(None, "a", after) == {"id": "a", "name": "a", "meta": {}, "params": {}}
    assert grants(None, "public") == [MAY_READ]


def test_other_fields_of_an_entry_stay() -> None:
    _before, after = changes(
        ENTRY,
        {**NOTHING, "name": "New", "hidden": True, "visibility": "public", "params": {"system": None, "top_p": 1}},
    )
    assert form(ENTRY, "a", after) == {
        "id": "a",
        "name": "New",
        "meta": {"description": "d", "profile_image_url": "/x.png", "later": 1, "hidden": True},
        "params": {"temperature": 0.5, "top_p": 1},
    }
    assert grants(ENTRY, "public") == [GROUP, MAY_READ]


def test_a_diff_has_the_parameters_that_change() -> None:
    _now, wanted = changes(ENTRY, {**NOTHING, "name": "New", "params": {"temperature": 1, "top_p": None}})
    before, after = shown({"name": "By hand", "params": ENTRY["params"]}, wanted)
    assert before == {"name": "By hand", "params": {"temperature": 0.5}}
    assert after == {"name": "New", "params": {"temperature": 1}}
    assert shown({"params": {"a": None}}, {"params": {}}) == ({"params": {"a": None}}, {"params": {}})
    assert shown({"name": "a"}, {"name": "b"}) == ({"name": "a"}, {"name": "b"})


def test_controls_go_when_they_are_taken_away() -> None:
    entry = {**ENTRY, "params": {"model_controls": {"x": 1}, "system": "s"}}
    _before, after = changes(entry, {**NOTHING, "params": {"model_controls": None}})
    assert after == {"params": {"system": "s"}}
    assert form(entry, "a", after)["params"] == {"system": "s", "model_controls": {}}
    assert form(entry, "a", {"name": "New"})["params"] == entry["params"]


def test_private_again_is_private_for_everybody_but_those_to_whom_it_was_given() -> None:
    entry = {**ENTRY, "access_grants": [{**MAY_READ, "id": "2"}, GROUP, {**MAY_READ, "principal_type": "anyone"}]}
    assert view(entry)["visibility"] == "public"
    _before, after = changes(entry, {**NOTHING, "visibility": "private"})
    assert after == {"visibility": "private"}
    assert grants(entry, "private") == [GROUP]


@given(st.sampled_from([None, ENTRY]), wanted_model)
def test_a_second_time_nothing_changes(entry: dict[str, object] | None, wanted: dict[str, Any]) -> None:
    _before, after = changes(entry, wanted)
    once = {**(entry or {}), **form(entry, "a", after)}
    if "visibility" in after:
        once["access_grants"] = grants(entry, after["visibility"])
    assert changes(once, wanted) == ({}, {})


@given(st.lists(st.sampled_from("abcd"), unique=True), st.lists(st.sampled_from("abef"), unique=True))
def test_order(now: list[str], first: list[str]) -> None:
    found = in_order(now, first, [])
    assert found[: len(first)] == first
    assert [one for one in now if one not in first] == found[len(first) :]
    assert in_order(found, first, []) == found


def test_those_that_are_gone_are_in_no_list() -> None:
    assert in_order(["a", "b"], None, ["a"]) == ["b"]
    assert in_order(None, None, ["a"]) == []
    assert in_order(["c"], ["a", "b", "a"], []) == ["a", "b", "c"]
    assert joined("a,b", None, ["a"]) == "b"
    assert joined(None, None, ["a"]) is None
    assert joined("a,b", ["b"], []) == "b"
    assert joined("a", [], []) == ""
    assert joined(None, ["a", "b", "a"], []) == "a,b"
    assert joined(None, [], []) is None


class Listing:
    """An Open WebUI that has these models, a list a request, the last one for good."""

    url = "http://here"

    def __init__(self, *lists: list[str]) -> None:
        self.lists = list(lists)

    def get(self, path: str) -> Any:
        if path == "/api/v1/models/all":
            return [{"id": "mine", "name": "M", "base_model_id": "a"}, {"id": "x", "name": "X", "base_model_id": None}]
        assert path == "/api/models/base"
        now = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        return {"data": [{"id": one} for one in now]}


def test_models_are_waited_for() -> None:
    slept: list[float] = []
    wait_for(Listing([], [], ["a", "b"]), ["a"], 60, slept.append)  # type: ignore[arg-type]
    assert slept == [1, 1]
    wait_for(Listing([]), ["mine"], 0)  # type: ignore[arg-type]


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(OpenWebUIError, match=r"were wanted in Open WebUI at http://here: x, y; it has a, b, mine"):
        wait_for(Listing(["b", "a"]), ["y", "x", "a"], 0)  # type: ignore[arg-type]
