# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preset document; tests/functional/test_preset_grammar.py asks the real llama-server the same questions."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _options
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import (
    DEFAULT,
    STATES,
    Preset,
    PresetError,
    apply,
    served_name,
)
from hypothesis import given, settings
from hypothesis import strategies as st

FILE = """\
; all models of this machine
version = 1

[*]
flash-attn = on   ; everywhere

# the clever one
[qwen]
# its context
ctx-size = 8192
ngl = 99

; --- small ones ---

; for search
[embedder]
embeddings = true
"""


@pytest.mark.parametrize(
    ("config", "state", "old", "new"),
    [
        ({"qwen": {"ctx-size": 4096}}, "merged", "ctx-size = 8192", "ctx-size = 4096"),
        ({"qwen": {"c": 4096}}, "merged", "ctx-size = 8192", "c = 4096"),
        ({"qwen": {"n-gpu-layers": 99}}, "merged", "", ""),
        ({"qwen": {"temp": 0.5}}, "merged", "ngl = 99\n", "ngl = 99\ntemp = 0.5\n"),
        ({"qwen": {"ngl": None, "temp": None}}, "merged", "ngl = 99\n", ""),
        ({"*": {"flash-attn": False}}, "merged", "= on   ;", "= off   ;"),
        ({"embedder": {"jinja": False}}, "merged", "gs = true\n", "gs = true\njinja = false\n"),
        ({"new": {}}, "merged", "gs = true\n", "gs = true\n\n[new]\n"),
        ({"qwen": {"ngl": 99}}, "replaced", "ctx-size = 8192\n", ""),
        ({"qwen": {}}, "replaced", "ctx-size = 8192\nngl = 99\n", ""),
        (
            {"qwen": None},
            "deleted",
            "\n# the clever one\n[qwen]\n# its context\nctx-size = 8192\nngl = 99\n",
            "",
        ),
        ({"embedder": {}}, "deleted", "\n; for search\n[embedder]\nembeddings = true\n", ""),
        ({"nobody": None}, "deleted", "", ""),
        (
            {"*": {"flash-attn": "on"}, "embedder": {"embeddings": True}},
            "overridden",
            "\n# the clever one\n[qwen]\n# its context\nctx-size = 8192\nngl = 99\n",
            "",
        ),
    ],
)
def test_an_edit_changes_nothing_else(config: dict[str, Any], state: str, old: str, new: str) -> None:
    expected = FILE.replace(old, new, 1) if old else FILE
    edited = apply(FILE, config, state)
    assert edited == expected
    assert apply(edited, config, state) == edited


def test_a_new_file_begins_with_the_version() -> None:
    assert apply(None, {"m": {"jinja": True}}, "merged") == "version = 1\n\n[m]\njinja = true\n"
    assert apply("", {"m": {"jinja": True}}, "merged") == "[m]\njinja = true\n"
    assert Preset("version = 1\n").data() == {}


def test_line_ends_stay_and_are_followed() -> None:
    text = "[m]\r\nthreads = 1\r\n[n]\r\njinja = on"
    assert apply(text, {"m": {"threads": 2}, "n": {"ngl": 1}, "o": {"ngl": 1}}, "merged") == (
        "[m]\r\nthreads = 2\r\n[n]\r\njinja = on\r\nngl = 1\r\n\r\n[o]\r\nngl = 1\r\n"
    )
    assert apply(text, {"m": {"threads": 2}}, "merged").endswith("jinja = on")


def test_one_name_of_an_option_replaces_the_others() -> None:
    text = "[m]\nLLAMA_ARG_CTX_SIZE = 1\nc = 2 ; short\nctx-size = 3 ; long\nc = 4\n"
    assert Preset(text).data() == {"m": {"ctx-size": 3}}
    assert apply(text, {"m": {"c": 3}}, "merged") == text
    assert apply(text, {"m": {"c": 5}}, "merged") == "[m]\nc = 5 ; long\n"
    assert apply(text, {"m": {"LLAMA_ARG_CTX_SIZE": None}}, "merged") == "[m]\n"
    text = "[m]\njinja = true\nno-kv-offload = yes\n"
    assert apply(text, {"m": {"no-jinja": True, "kv-offload": True}}, "merged") == (
        "[m]\nno-jinja = true\nno-kv-offload = yes\n"
    )


def test_a_key_and_a_section_that_come_twice() -> None:
    text = "[m]\nthreads = 1\nngl = 1\n[n]\n[m]\nthreads = 2\nthreads = 3\n"
    assert Preset(text).data() == {"n": {}, "m": {"threads": 3}}
    assert apply(text, {"m": {"threads": 4}}, "merged") == "[m]\nthreads = 1\nngl = 1\n[n]\n[m]\nthreads = 4\n"
    assert apply(text, {"m": None}, "deleted") == "[n]\n"


def test_keys_before_the_first_section_are_the_default_preset() -> None:
    text = "version = 1\nthreads = 1\n[m]\n"
    assert Preset(text).data() == {DEFAULT: {"threads": 1}, "m": {}}
    assert apply(text, {DEFAULT: {"ngl": 1}}, "merged") == "version = 1\nthreads = 1\nngl = 1\n[m]\n"
    assert apply(text, {DEFAULT: None}, "deleted") == "version = 1\n[m]\n"
    assert apply(text, {DEFAULT: {}}, "replaced") == "version = 1\n[m]\n"
    assert apply("version = 1\n[m]\n", {DEFAULT: {"ngl": 1}}, "merged").endswith("[m]\n\n[default]\nngl = 1\n")
    assert Preset("threads = 1\n[default]\nngl = 1\n").data() == {DEFAULT: {"ngl": 1}}


def test_sections_go_by_the_name_that_is_served() -> None:
    text = "[m:q4]\nthreads = 1\n[m:Q4]\nthreads = 2\n"
    assert Preset(text).data() == {"m:Q4": {"threads": 1}}  # of two that become one the last in byte order counts
    assert apply(text, {"m:Q4": {"threads": 3}}, "merged") == "[m:q4]\nthreads = 3\n[m:Q4]\nthreads = 2\n"
    assert apply(text, {"m:Q4": None}, "deleted") == ""


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("qwen3:8b", "qwen3:8B"),
        ("x/y:UD-Q4_K_XL", "x/y:Q4_K_XL"),
        ("a:b:c.d-e", "a:b:E"),
        ("m:q4-", "m:Q4-"),
        ("m:", "m:"),
        ("plain-q4", "plain-q4"),
        ("o:ß-ü", "o:ß-ü"),
        ("*", "*"),
    ],
)
def test_served_names(name: str, served: str) -> None:
    assert served_name(name) == served == served_name(served)


def test_an_option_gets_a_value_before_its_comment() -> None:
    assert apply("[m]\nngl =\n", {"m": {"ngl": 1}}, "merged") == "[m]\nngl = 1\n"
    assert apply("[m]\nngl=  ; c\n", {"m": {"ngl": 1}}, "merged") == "[m]\nngl = 1 ; c\n"
    assert apply("[m]\nngl=9;c", {"m": {"ngl": 1}}, "merged") == "[m]\nngl=1;c"
    assert apply("[m]\nngl = 9 \n", {"m": {"ngl": 1}}, "merged") == "[m]\nngl = 1 \n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("\ufeff[m]\n", 1, "byte order mark"),
        ("[m]\n threads = 1\n", 2, "blanks before it"),
        ("[m]\r\n\r\n\t[n]\r\n", 3, "blanks before it"),
        ("[m]\n\n--threads = 1", 3, "no dashes first"),
        ("a = 1\rthreads: 1", 2, "has no ="),
        ("[m]\nmodel\n", 2, "has no ="),
        ("[m]\nmodel ; = 1\n", 2, "has no ="),
        ("[m] x\n", 1, "more than a comment"),
        ("[]\n", 1, "is no [name]"),
        ("[ ]\n", 1, "is no [name]"),
        ("; ok\n[m\nthreads = 1\n", 2, "is no [name]"),
        ("[a\nb]\n3d = 1\n", 3, "begins with no name"),
    ],
)
def test_a_text_that_llama_server_refuses(text: str, line: int, words: str) -> None:
    with pytest.raises(PresetError, match=rf"^line {line}: .*{re.escape(words)}"):
        Preset(text)


@pytest.mark.parametrize(
    ("config", "state", "words"),
    [
        ([], "merged", "mapping of sections"),
        ({"m": []}, "merged", "must be a mapping of options, found list"),
        ({"m": None}, "merged", "must be a mapping of options, found NoneType"),
        ({"m": {"ngl": None}}, "deleted", "takes whole sections away"),
        ({7: {}}, "merged", "section name 7 is not text"),
        ({"": {}}, "merged", "is empty"),
        ({" m": {}}, "merged", "blanks around it"),
        ({"m\t": {}}, "merged", "blanks around it"),
        ({"a]b": {}}, "merged", "holds ']'"),
        ({"a\nb": {}}, "merged", "holds '\\n'"),
        ({"\udc80": {}}, "merged", "UTF-8"),
        ({"qwen3:8b": {}}, "merged", "would be served as 'qwen3:8B'; write it so"),
        ({"qwen3:8b": None}, "deleted", "would be served as 'qwen3:8B'; write it so"),
        ({"m": {"--ctx-size": 1}}, "merged", "'--ctx-size' is no name of an option in a preset: write ctx-size"),
        ({"m": {"ctx size": 1}}, "merged", "begins with a letter"),
        ({"m": {"": 1}}, "merged", "begins with a letter"),
        ({"m": {1: 1}}, "merged", "begins with a letter"),
        ({"m": {"version": 1}}, "merged", "passes over version"),
        ({"m": {"c": 1, "ctx-size": 1}}, "merged", "c and ctx-size are one option (ctx-size)"),
        ({"m": {"jinja": None, "no-jinja": True}}, "merged", "are one option (jinja)"),
        ({"m": {"tags": "a;b"}}, "merged", "holds ';', which no preset can carry"),
        ({"m": {"chat-template": "{# x #}"}}, "merged", "put it in a file and give chat-template-file"),
        ({"m": {"chat-template-kwargs": '{"a": "#"}'}}, "merged", "give a mapping instead of text, or write \\u0023"),
        ({"m": {"model": "a\nb"}}, "merged", "holds '\\n'"),
        ({"m": {"model": "a\rb"}}, "merged", "holds '\\r'"),
        ({"m": {"model": " a"}}, "merged", "would be lost"),
        ({"m": {"model": "a\t"}}, "merged", "would be lost"),
        ({"m": {"model": "\ud800"}}, "merged", "UTF-8"),
        ({"m": {"jinja": "no"}}, "merged", "Write jinja: false"),
    ],
)
def test_data_that_no_preset_can_carry(config: Any, state: str, words: str) -> None:
    with pytest.raises(PresetError, match=re.escape(words)):
        apply(FILE, config, state)


# --- properties ---------------------------------------------------------------------------------------------------

UNHURRIED = settings(deadline=None)
KEYS = sorted(
    {
        *("of-tomorrow", "a.b_c"),
        *(
            key
            for key, option in _options.OPTIONS.items()
            if option.kind not in ("removed", "exits", "pair") and key != _options.misleading_env(option)
        ),
    }
)
TEXT = st.text(
    st.characters(exclude_characters=";#\r\n\0", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12
).map(lambda text: text.strip(" \t"))
NAMES = (
    st.one_of(
        st.sampled_from(["*", DEFAULT, "m", "n:Q4"]),
        st.text(
            st.characters(exclude_characters="]\r\n\0", exclude_categories=["Cc", "Cs", "Zl", "Zp"]),
            min_size=1,
            max_size=9,
        ),
    )
    .map(lambda name: served_name(name.strip()))
    .filter(lambda name: name.strip() == name != "")
)


def canonical_values(key: str) -> st.SearchStrategy[Any]:
    """What from_preset_ini gives for this key: a bool for a flag, numbers, text where the text would be no number."""
    option = _options.find(key)
    kind = option.kind if option else "string"
    if kind == "flag":
        return st.booleans()
    if kind == "int":
        return st.integers()
    if kind == "float":
        return st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
    return TEXT


SECTIONS = (
    st.lists(st.sampled_from(KEYS), max_size=5)
    .map(lambda keys: list({_options.canonical(key)[0]: key for key in keys}.values()))
    .flatmap(lambda keys: st.fixed_dictionaries({key: canonical_values(key) for key in keys}))
)
DATA = st.dictionaries(NAMES, SECTIONS, max_size=5).map(
    lambda data: {name: options for name, options in data.items() if name != DEFAULT or options}
)
COMMENTS = st.lists(st.sampled_from(["", "; note", "  # note", "\t"]), max_size=3)


@st.composite
def commented_files(draw: st.DrawFn) -> str:
    """A file of DATA with comments and empty lines between all of its lines, each comment unique."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines: list[str] = []
    for line in apply(None, draw(DATA), "overridden").split("\n"):
        lines += (f"{above} {len(lines)}" if above.strip() else above for above in draw(COMMENTS))
        behind = draw(st.sampled_from(["", " ; behind", ";behind"])) if line else ""
        lines.append(f"{line}{behind} {len(lines)}" if behind else line)
    return newline.join(lines)


def comments_by_section(text: str) -> dict[str, list[str]]:
    """Comments that stand on lines with a section's header or between its options, by the section's name."""
    found: dict[str, list[str]] = {}
    name = ""
    waiting: list[str] = []
    for line in re.split("\r\n|\n", text):
        header = re.match(r"\[([^\]]*)\]", line)
        if header:
            name, waiting = header.group(1), []
        waiting += re.findall("[;#].*", line[header.end() :] if header else line)
        if header or re.match(r"[a-zA-Z_]", line):
            found.setdefault(name, []).extend(waiting)
            waiting = []
    return found


@UNHURRIED
@given(DATA)
def test_data_comes_back_from_its_text(data: dict[str, Any]) -> None:
    text = apply(None, data, "overridden")
    again = Preset(text).data()
    assert again == data
    assert [{key: type(value) for key, value in options.items()} for options in again.values()] == [
        {key: type(value) for key, value in options.items()} for options in data.values()
    ]
    assert apply(None, again, "overridden") == text


@UNHURRIED
@given(commented_files())
def test_a_file_comes_back_as_it_was(text: str) -> None:
    assert str(Preset(text)) == text
    assert apply(text, Preset(text).data(), "overridden") == text


@UNHURRIED
@given(commented_files(), DATA, st.sampled_from(["merged", "replaced", "overridden", "deleted"]))
def test_an_edit_does_what_its_state_says_and_once(text: str, data: dict[str, Any], state: str) -> None:
    before = Preset(text).data()
    config = dict.fromkeys(data) if state == "deleted" else data
    edited = apply(text, config, state)
    assert apply(edited, config, state) == edited

    def meant(presets: dict[str, Any]) -> dict[str, Any]:
        written = {
            name: {key: _options.to_text(key, value) for key, value in options.items()}
            for name, options in presets.items()
        }
        return {
            name: dict(_options.meaning(key, value) for key, value in options.items())
            for name, options in written.items()
        }

    after, before, wanted = meant(Preset(edited).data()), meant(before), meant(data)
    if state == "deleted":
        assert after == {name: options for name, options in before.items() if name not in wanted}
    elif state == "overridden":
        assert after == wanted
    elif state == "replaced":
        assert after == {**before, **wanted}
    else:
        assert after == {name: {**before.get(name, {}), **wanted.get(name, {})} for name in {**before, **wanted}}


@UNHURRIED
@given(commented_files(), DATA, st.sampled_from(["merged", "replaced", "deleted"]))
def test_an_edit_loses_no_comment_of_another_section(text: str, data: dict[str, Any], state: str) -> None:
    config = dict.fromkeys(data) if state == "deleted" else data
    edited = apply(text, config, state)
    for name, comments in comments_by_section(text).items():
        if name not in data and not (name == "" and DEFAULT in data):
            for comment in comments:
                assert comment in edited


@UNHURRIED
@given(commented_files(), DATA)
def test_merging_takes_no_line_away_but_of_the_options_it_sets(text: str, data: dict[str, Any]) -> None:
    kept = [line for line in re.split("\r\n|\n", text) if not re.match("[a-zA-Z_]", line)]
    lines = iter(re.split("\r\n|\n", apply(text, data, "merged")))
    assert all(line in lines for line in kept)


@UNHURRIED
@given(st.text(st.sampled_from("[]=;# \t\r\nab:*1-é"), max_size=30))
def test_any_text_is_kept_or_refused_with_its_line(text: str) -> None:
    with contextlib.suppress(PresetError):
        assert str(Preset(text)) == text
        return
    with pytest.raises(PresetError, match=r"^line \d+: "):
        Preset(text)


@pytest.mark.parametrize("sign", ["\r", "\n", "\0", "\x0b", "\x1b", "\x85", "\u2028", "\u2029"])
def test_no_text_of_a_config_has_a_second_line(sign: str) -> None:
    for config in ({f"a{sign}b": {}}, {"m": {"chat-template": f"a{sign}b"}}, {"m": {f"a{sign}b": "x"}}):
        with pytest.raises(PresetError):
            apply(None, config, "merged")
    text = apply(None, {"m": {"chat-template-kwargs": {"a": f"x{sign}y;#\x7f"}}}, "merged")
    line = text.splitlines()[-1]
    assert line.isprintable()
    assert json.loads(line.partition(" = ")[2]) == {"a": f"x{sign}y;#\x7f"}


def test_a_long_line_is_shown_in_short() -> None:
    for length, shown in ((60, repr("x" * 60)), (61, repr("x" * 57 + "..."))):
        with pytest.raises(PresetError) as caught:
            Preset("[a]\n" + "x" * length + "\n")
        assert f"{shown} has no =" in str(caught.value)


def test_a_comment_right_below_an_option_goes_with_its_section() -> None:
    """And one that stands on its own stays."""
    text = "[a]\nctx-size = 1\n; about it\n\n; on its own\n\n[c]\nctx-size = 1\n"
    after = apply(text, {"a": None}, "deleted")
    assert "about it" not in after
    assert "; on its own\n" in after
    assert Preset(after).data() == {"c": {"ctx-size": 1}}


def test_the_states_of_the_module() -> None:
    assert set(STATES) == {"merged", "replaced", "overridden", "deleted"}
