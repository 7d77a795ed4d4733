# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pattern that checks a text ends in \\Z: $ also matches before a line end, and `192.0.2.0/24\\n` was a network."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Jinja's tests and filters that take a pattern, with the pattern in quotes.
JINJA = re.compile(r"\b(?:match|search|regex|regex_search|regex_findall)'?(?:\s*,\s*|\()\s*'((?:[^'\\]|\\.|'')*)'")
# They look for a part of a line, or at the end of a file's name, and check nothing.
NO_CHECKS = {
    "plugins/module_utils/_cmake_options.py",  # comments of CMake's files
    "plugins/module_utils/_proxmox_errors.py",  # lines of Proxmox's errors
    "plugins/module_utils/_router_watch.py",  # lines of the router's log
}


def ends_in_dollar(pattern: str) -> bool:
    """Whether it ends in a $, or an alternative of it does. With (?m) a line is what is looked for."""
    return "(?m)" not in pattern and re.search(r"(?<!\\)\$(?=$|\)|\|)", pattern) is not None


def in_yaml() -> Iterator[tuple[Path, str]]:
    for folder in ("roles", "playbooks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".yml", ".j2"):
                for found in JINJA.finditer(path.read_text()):
                    yield path, found[1]


def in_python() -> Iterator[tuple[Path, str]]:
    """The patterns of re's functions but fullmatch, and of re.compile unless the pattern is only used by fullmatch."""
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr in ("match", "search", "compile", "findall", "finditer")
                and node.args
            ):
                pattern = node.args[0].values[-1] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
                if isinstance(pattern, ast.Constant) and isinstance(pattern.value, str):
                    yield path, pattern.value


@pytest.mark.parametrize("patterns", [in_yaml, in_python])
def test_no_pattern_that_checks_lets_a_line_end_through(patterns: object) -> None:
    assert callable(patterns)
    found = [(str(path.relative_to(ROOT)), pattern) for path, pattern in patterns()]
    assert len(found) > 20
    assert [one for one in found if ends_in_dollar(one[1]) and one[0] not in NO_CHECKS] == []


@pytest.mark.parametrize("text", ["x is match('^a$')", "y | reject('match', 'a$')", "select('search','(a$|b)')"])
def test_the_patterns_of_jinja_are_found(text: str) -> None:
    assert [ends_in_dollar(found[1]) for found in JINJA.finditer(text)] == [True]
