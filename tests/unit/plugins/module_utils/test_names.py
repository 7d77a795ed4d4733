# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _names
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, below, component, component_of_url
from hypothesis import given
from hypothesis import strategies as st

BAD = [
    "",
    ".",
    "..",
    "a/b",
    "/",
    "\0",
    "a\0b",
    "a\nb",
    "a\rb",
    "\x7f",
    "\x85",
    "\u2028",
    "\udc80",
    "ä" * 128,
    None,
    3,
    [],
]


@pytest.mark.parametrize("name", BAD)
def test_component_refuses(name: object) -> None:
    with pytest.raises(BadName, match="expected a file name"):
        component(name)


@pytest.mark.parametrize("name", ["a", "...", "Qwen3-8B.gguf", "with blank", "ä" * 127, "{{ x }}", "-rf", "~"])
def test_component_accepts(name: str) -> None:
    assert component(name) == name


@pytest.mark.parametrize(
    "path", ["../victim", "/etc/passwd", "a//b", "a/", "/a", "a/../b", "a/./b", "", "a/b/c/d/e", "a\n/b"]
)
def test_below_refuses(path: str) -> None:
    with pytest.raises(BadName, match="expected a path below"):
        below(path)


def test_below_accepts() -> None:
    assert below("model/draft/file.gguf") == "model/draft/file.gguf"


@pytest.mark.parametrize(
    "url",
    [
        "http://host/r/%2Froot%2F.bashrc",
        "http://host/%2e%2e",
        "http://host/",
        "http://host",
        "http://host/a%00.gguf",
        "http://host/a%0a.gguf",
        "http://host/a%ff.gguf",
    ],
)
def test_url_refused(url: str) -> None:
    with pytest.raises(BadName):
        component_of_url(url)


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(BadName, match="expected a URL"):
        component_of_url("http://[::1/x.gguf")


def test_url_accepted() -> None:
    assert component_of_url("http://host/x/a%20b.gguf?download=true#f") == "a b.gguf"
    assert component_of_url("http://host/x/a%252Fb.gguf") == "a%2Fb.gguf"


@given(st.text(alphabet=st.characters(), max_size=300))
def test_a_component_stays_in_its_folder(text: str) -> None:
    for make in (
        component,
        lambda name: component_of_url("http://host/x/" + quote(name, safe="", errors="surrogatepass")),
    ):
        try:
            name = make(text)
        except BadName as error:
            message = str(error)
        else:
            message = ""
        assert all(unicodedata.category(sign) not in ("Cc", "Cs") for sign in message)
        if message:
            continue
        assert os.path.dirname(os.path.normpath(os.path.join("/models", name))) == "/models"
        assert os.path.basename(os.path.join("/models", name)) == name


@given(st.text(max_size=300))
def test_a_path_below_stays_below(text: str) -> None:
    try:
        path = below(text)
    except BadName:
        return
    assert os.path.normpath(os.path.join("/models", path)) == f"/models/{path}"


def test_a_component_can_be_created(tmp_path: Path) -> None:
    (tmp_path / component("ä" * 127)).touch()


@pytest.mark.parametrize("text", ["a\r", "\n", "a\0b", "\x1b[0m", "\x85", "\u2028", "\u2029", "\ud800", 3, None])
def test_a_line_has_no_second_one(text: object) -> None:
    with pytest.raises(BadName, match="expected a title"):
        _names.line(text, "a title")


def test_a_line_of_other_signs_stays_as_it_is() -> None:
    assert _names.line("a \t\"'%$;{{ é \N{ROBOT FACE}") == "a \t\"'%$;{{ é \N{ROBOT FACE}"


@pytest.mark.parametrize(
    "text", ["", "-x", "a b", "a;b", "a\n", "a\tb", '"', "'", "$x", "%n", "{{", "a\\b", "~", "*", "é", "\0"]
)
def test_a_plain_word_needs_no_quotes(text: str) -> None:
    with pytest.raises(BadName, match="expected a path"):
        _names.plain(text, "a path")


def test_a_plain_word_may_have_signs_that_are_asked_for() -> None:
    assert _names.plain("[::1]:80", also="[]") == "[::1]:80"
    assert _names.plain(8012) == "8012"
    with pytest.raises(BadName):
        _names.plain("", also="*")
    assert _names.plain("*", also="*") == "*"


def test_users_and_passwords_of_urls() -> None:
    assert _names.has_credentials("at http://me:pw@example.org/x")
    assert _names.has_credentials("https://token@example.org")
    assert _names.has_credentials("ssh://git:pw@example.org/x")
    assert not _names.has_credentials("ssh://git@example.org/x and https://example.org/a@b and git@example.org:x")
    assert _names.without_credentials("a http://me:pw@b/ c") == "a http://********@b/ c"


def test_printable() -> None:
    assert _names.printable("a\nb\x1b[0m\udc80") == "a\ufffdb\ufffd[0m\ufffd"
    assert _names.printable("x" * 1000) == "x" * 200 + "…"
    assert _names.printable(None) == "None"


def test_foreign_text_in_a_message_is_printable() -> None:
    """Also what Python says itself of a bad URL, and marks that reverse the text after them."""
    assert _names.printable("a\u202eb\uffffc d") == "a\ufffdb\ufffdc d"
    with pytest.raises(BadName) as refused:
        component_of_url("//\uff20\u202e\uffff/a")
    assert str(refused.value).isprintable()
