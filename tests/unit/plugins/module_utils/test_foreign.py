# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._foreign import data, number, text
from hypothesis import given, settings
from hypothesis import strategies as st

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=30,
)


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("plain", "plain"),
        ("Größe 模型", "Größe 模型"),
        ("a\x1b]0;owned\x07", "a\\x1b]0;owned\\x07"),
        ("a\nb\rc\x00", "a\\x0ab\\x0dc\\x00"),
        ("\ud800", "\\ud800"),
        ("\x9b2J", "\\x9b2J"),  # C1: a control sequence of one character
        ("a\u202egnp.exe", "a\\u202egnp.exe"),  # turns round what follows
        ("a\u2028b", "a\\u2028b"),
        (7, "7"),
        ("\u00ad\uffff\U000e0001", "\\xad\\uffff\\U000e0001"),
        ("\u00ff\u0100\ue000", "\u00ff\u0100\\ue000"),
        ("\U00010000\x00", "\U00010000\\x00"),
        ("\U0001fffe", "\\U0001fffe"),
        ("a\u3000b\x1f", "a\u3000b\\x1f"),
    ],
)
def test_texts(given_: object, shown: str) -> None:
    assert text(given_) == shown


def test_depth() -> None:
    """Lists and dictionaries in one another up to so many, what is in the last one included."""

    def deep(levels: int) -> Any:
        return "end" if not levels else [deep(levels - 1)] if levels % 2 else {"a": deep(levels - 1)}

    assert data(deep(12)) == deep(12)
    assert "end" not in json.dumps(data(deep(13)))
    assert data([[1], {"a": 2}, 3], 1) == ["…", "…", 3]
    assert data([[1], {"a": 2}, (3,)], 2) == [[1], {"a": 2}, [3]]


def test_numbers_at_the_ends_of_64_bits() -> None:
    assert data([2**63 - 1, 2**63, -(2**63), -(2**63) - 1]) == [2**63 - 1, None, -(2**63), None]


def test_what_is_no_plain_data_is_text() -> None:
    assert data({1: b"x", "\x1b": Exception("e\x07")}) == {"1": "b'x'", "\\x1b": "e\\x07"}


def test_a_long_text_is_cut() -> None:
    assert text("x" * 1000) == "x" * 1000
    assert text("x" * 5000) == "x" * 1000 + "…"


@given(anything)
@settings(max_examples=300)
def test_any_data_becomes_json_that_every_reader_takes(value: Any) -> None:
    found = json.dumps(data(value), allow_nan=False, ensure_ascii=False)
    shown = found.encode().decode()
    assert all(sign.isprintable() or unicodedata.category(sign) == "Zs" for sign in shown)


def test_what_json_does_not_have_and_what_is_too_deep() -> None:
    deep: Any = []
    for _level in range(5000):
        deep = [deep]
    assert "…" in json.dumps(data(deep), ensure_ascii=False)
    assert data({"a": float("nan"), "b": float("inf"), "c": 10**400, "d": True, "e": (1, 2.5)}) == {
        "a": None,
        "b": None,
        "c": None,
        "d": True,
        "e": [1, 2.5],
    }


@pytest.mark.parametrize("value", [None, "1", [], {}, float("nan"), float("-inf"), 10**400])
def test_no_number(value: object) -> None:
    assert number(value) is None


def test_numbers() -> None:
    assert (number(3), number(0.5), number(True)) == (3.0, 0.5, 1.0)
