# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._json5 import Json5Error, drop, loads, parse, put
from hypothesis import given
from hypothesis import strategies as st

WRITTEN = """\
// The whole thing is mine.
{
  // where it lives
  gateway: { port: 18789, bind: 'loopback', }, // not 0.0.0.0
  "agents": {
    defaults: {
      model: { primary: "anthropic/some" } /* the good one */
    }
  },
  /* models: {} was here */
  tools: [1, 0x1F, .5, +1e3, -Infinity, 'it\\'s', "two \\
lines", '\\u00e4\\x41',],
}
"""


def test_what_people_write_is_read() -> None:
    assert loads(WRITTEN) == {
        "gateway": {"port": 18789, "bind": "loopback"},
        "agents": {"defaults": {"model": {"primary": "anthropic/some"}}},
        "tools": [1, 31, 0.5, 1000.0, -math.inf, "it's", "two lines", "äA"],
    }
    assert loads('\ufeff{"a": "\\ud83d\\ude00", \\u0062: null, $c_: true}//') == {"a": "😀", "b": None, "$c_": True}
    assert math.isnan(loads("NaN"))
    assert loads("{a: 1, a: 2}") == {"a": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: a value was wanted, the text ends"),
        ("{\n  a: 1\n  b: 2\n}", "line 3: a comma or } was wanted, 'b' was found"),
        ("{a 1}", "a colon was wanted, '1' was found"),
        ("{a: }", "a value was wanted, '}' was found"),
        ("{a: 1", "a comma or } was wanted, the text ends"),
        ("{,}", "a name, or } was wanted"),
        ("{1a: 1}", "a name, or } was wanted"),
        ("['a\nb']", "a string that ends on its line was wanted"),
        (r"'\u12'", "an escape such as"),
        ("01", "a value was wanted"),
        ("{} {}", "nothing after the value was wanted"),
        ("/* open", "a value was wanted, '/' was found"),
        ("[" * 300, "a nesting of at most 200 was wanted"),
        ("undefined", "a value was wanted, 'u' was found"),
    ],
)
def test_what_is_none_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(Json5Error, match=re.escape(said)):
        loads(text)


def test_everything_else_stays_as_it_was() -> None:
    entry = {"baseUrl": "http://192.0.2.1:8012/v1", "models": []}
    with_it = put(WRITTEN, ["models", "providers", "llama-server"], entry)
    added = with_it.replace(
        """  "models": {
    "providers": {
      "llama-server": {
        "baseUrl": "http://192.0.2.1:8012/v1",
        "models": []
      }
    }
  },
""",
        "",
    )
    assert added == WRITTEN
    assert put(with_it, ["models", "providers", "llama-server"], entry) == with_it
    assert drop(with_it, ["models"]) == WRITTEN
    other = put(WRITTEN, ["agents", "defaults", "model", "primary"], "llama-server/qwen")
    assert other == WRITTEN.replace('"anthropic/some"', '"llama-server/qwen"')
    assert put(WRITTEN, ["gateway", "port"], 18789) == WRITTEN


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", '{\n  "b": 2\n}'),
        ("{ }\n", '{\n  "b": 2\n}\n'),
        ("{ // none\n}", '{ // none\n  "b": 2\n}'),
        ("{ /* none */ }", '{ /* none */\n  "b": 2\n}'),
        ("{a: 1}", '{a: 1,\n  "b": 2\n}'),
        ("{a: 1,}", '{a: 1,\n  "b": 2,\n}'),
        ("{\n\ta: 1 // one\n}", '{\n\ta: 1, // one\n\t"b": 2\n}'),
        ("{\n\ta: 1, // one\n\t// end\n}", '{\n\ta: 1, // one\n\t"b": 2,\n\t// end\n}'),
        ("{\r\n    a: 1\r\n}", '{\r\n    a: 1,\r\n    "b": 2\r\n}'),
        ("{a: 1 /* one\n more */ }", '{a: 1,\n  "b": 2 /* one\n more */ }'),
        ("{b: 1, a: 1}", "{b: 2, a: 1}"),
    ],
)
def test_where_a_member_goes(before: str, after: str) -> None:
    assert put(before, ["b"], 2) == after
    assert loads(after) == {**loads(before), "b": 2}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{a: 1, b: 2}", "{a: 1 }"),
        ("{b: 2, a: 1}", "{ a: 1}"),
        ('{\n  "a": 1, // one\n  "b": 2\n}', '{\n  "a": 1 // one\n}'),
        ("{\n  b: {\n    c: 1,\n  },\n  a: 1,\n}", "{\n  a: 1,\n}"),
        ("{b: 1, b: 2}", "{ }"),
        ("{a: 1, b: 2, b: 3}", "{a: 1  }"),
        ("{a: 1, a: 2, b: 3}", "{a: 1, a: 2 }"),
        ("{\r\n  a: 1,\r\n  b: 2\r\n}", "{\r\n  a: 1\r\n}"),
        ("{a: 1}", "{a: 1}"),
    ],
)
def test_a_member_goes_with_its_comma(before: str, after: str) -> None:
    assert drop(before, ["b"]) == after


def test_an_item_of_a_list_changes_and_the_others_stay() -> None:
    text = "{list: [\n  1, // one\n  {a: 1 /* mine */}, // two\n], 'x': 1}"
    assert put(text, ["list", 1, "a"], 2) == text.replace("a: 1", "a: 2")
    assert put(text, ["list", 2], 3) == text.replace("// two\n", "// two\n  3,\n")
    assert drop(text, ["list", 0]) == text.replace("1, // one", " // one")
    assert drop(text, ["list", 1]) == text.replace("{a: 1 /* mine */},", "")
    assert drop(text, ["list", 7]) == text
    assert put("[]", [0], 1) == "[\n  1\n]"


def test_lines_end_as_the_others_do() -> None:
    assert put("{\r\n  a: 1,\r\n}\r\n", ["b", "c"], 1) == '{\r\n  a: 1,\r\n  "b": {\r\n    "c": 1\r\n  },\r\n}\r\n'


def test_a_number_with_more_digits_than_an_integer_may_have() -> None:
    assert loads(f"[{'9' * 5000}]") == [math.inf]  # which it is in JavaScript


def test_what_is_in_the_way_is_named_and_not_shown() -> None:
    with pytest.raises(Json5Error, match=r"a\.b: an object was wanted, a text was found"):
        put("{a: {b: 'secret'}}", ["a", "b", "c"], 1)
    with pytest.raises(Json5Error, match=r"the document: an object was wanted, a list was found"):
        drop("[1]", ["a", "b"])
    with pytest.raises(Json5Error, match=r"a: a list was wanted, an object was found"):
        put("{a: {}}", ["a", 0], 1)


NAMES = st.text(max_size=4) | st.sampled_from(["a", "b", "c"])
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
COMMENT = st.sampled_from(["", " ", "\n", "// x }\n", "/* , */", " \t", "/*\n*/ "])


@st.composite
def written(draw: st.DrawFn, data: Any) -> str:
    """Data as somebody may have written them."""
    if isinstance(data, dict):
        members = [
            f"{json.dumps(name)}{draw(COMMENT)}:{draw(COMMENT)}{draw(written(item))}" for name, item in data.items()
        ]
    elif isinstance(data, list):
        members = [draw(written(item)) for item in data]
    else:
        return json.dumps(data, ensure_ascii=draw(st.booleans()))
    spaced = [f"{draw(COMMENT)}{member}{draw(COMMENT)}" for member in members]
    end = "," + draw(COMMENT) if members and draw(st.booleans()) else draw(COMMENT)
    opening, closing = "{}" if isinstance(data, dict) else "[]"
    return f"{opening}{','.join(spaced)}{end}{closing}"


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    data = draw(st.dictionaries(NAMES, DATA, max_size=4))
    return data, draw(COMMENT) + draw(written(data)) + draw(COMMENT)


@given(documents(), NAMES, DATA)
def test_any_text_says_what_it_said_and_the_new(document: tuple[dict[str, Any], str], name: str, value: Any) -> None:
    data, text = document
    assert loads(text) == data
    changed = put(text, [name], value)
    assert loads(changed) == {**data, name: value}
    assert put(changed, [name], value) == changed
    assert loads(drop(changed, [name])) == {other: item for other, item in data.items() if other != name}


def without_blanks(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(documents(), NAMES, DATA)
def test_every_other_character_stays(document: tuple[dict[str, Any], str], name: str, value: Any) -> None:
    _data, text = document
    changed = put(text, [name], value)
    place = parse(text).entry(name)
    if place:
        before, after = text[: place.node.start], text[place.node.end :]
        assert changed.startswith(before)
        assert changed[len(before) :].endswith(after)
        return
    # One place has the new member, another one may have a comma; what is taken out again leaves the text.
    old, new = without_blanks(text), without_blanks(changed)
    added = without_blanks(f"{json.dumps(name, ensure_ascii=False)}:{json.dumps(value, ensure_ascii=False)}")
    assert len(new) - len(old) - len(added) in (0, 1)
    assert any(new.replace(added, "", 1) == candidate for candidate in (old, *with_a_comma(old)))
    assert without_blanks(drop(changed, [name])) in (old, *without_a_comma(old))


def with_a_comma(text: str) -> list[str]:
    return [f"{text[:at]},{text[at:]}" for at in range(len(text) + 1)]


def without_a_comma(text: str) -> list[str]:
    return [text[:at] + text[at + 1 :] for at, sign in enumerate(text) if sign == ","]


@given(documents(), DATA)
def test_a_list_in_any_text(document: tuple[dict[str, Any], str], value: Any) -> None:
    _data, text = document
    text = put(text, ["list"], [1, 2])
    added = put(text, ["list", 2], value)
    assert loads(added)["list"] == [1, 2, value]
    assert loads(drop(added, ["list", 0]))["list"] == [2, value]
    assert loads(drop(added, ["list", 2])) == loads(text)


@given(st.text(max_size=30))
def test_nothing_but_our_error(text: str) -> None:
    with contextlib.suppress(Json5Error):
        loads(text)
