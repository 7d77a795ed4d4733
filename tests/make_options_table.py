# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the table of plugins/module_utils/_options.py from what llama-server says of itself.

usage: llama-server --help | python tests/make_options_table.py

Prints one line an option, as _options.py keeps them; tests/functional/test_preset_grammar.py compares the two.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

HELP_COLUMN = 40
HEAD = re.compile(r"(?P<names>--?[^\s,]+(?:, +--?[^\s,]+)*)(?: (?P<hint>\S.*))?")
NUMBER_HINTS = {"N", "SECONDS", "PORT", "INDEX", "SEED", "<0|1>", "<0...100>", "L", "P", "SIMILARITY"}
# What the help does not say: numbers with a fraction whose default is not shown as one, and options that may come
# several times on a command line, each with a whole value of its own.
FLOATS = {"rope-scale", "rope-freq-base", "rope-freq-scale", "spec-synth-len", "defrag-thold"}
REPEATED = {"reverse-prompt", "dry-sequence-breaker", "logit-bias"}


def entries(help_text: str) -> Iterator[tuple[list[str], str, str]]:
    """Each option's names, value hint ("" for a flag) and description."""
    names: list[str] = []
    hint = text = ""
    for line in help_text.splitlines():
        if line.startswith("-") and not line.startswith("-----"):
            if names:
                yield names, hint, text
            # A head that is too long for its column has the description on the next line.
            cut = HELP_COLUMN if line[HELP_COLUMN - 1 : HELP_COLUMN] == " " else len(line)
            head = HEAD.fullmatch(line[:cut].strip())
            if not head:
                raise SystemExit(f"not understood: {line}")
            names, hint, text = head["names"].replace(",", " ").split(), head["hint"] or "", line[cut:]
        elif line.startswith(" "):
            text += "\n" + line.strip()
    if names:
        yield names, hint, text


def split_negations(names: list[str], hint: str) -> tuple[list[str], list[str]]:
    """The names that turn a flag on, and those that turn it off; an option with a value has none of the latter."""
    for at in range(1, len(names)):
        if not hint and all(re.match(r"--no-|-n", name) for name in names[at:]):
            return names[:at], names[at:]
    return names, []


def kind_of(name: str, hint: str, text: str) -> str:
    """One of the kinds of _options.py, with the words that an option takes besides a number or instead of a boolean."""
    prose = " ".join(text.split())
    if "the argument has been removed" in prose:
        return "removed"
    if not hint:
        return "exits" if re.search(r"^(print|show) .*(exit|info|cache)|^print source", prose) else "flag"
    if re.fullmatch(r"[A-Z]+ [A-Z]+", hint):
        return "pair"
    if name in REPEATED:
        return "repeatable"
    if hint in NUMBER_HINTS:
        is_float = name in FLOATS or re.search(r"default: -?\d+\.\d", prose)
        words = re.search(r"exact number, '(\w+)', or '(\w+)'", prose)
        return ":".join(["float" if is_float else "int", *(words.groups() if words else ())])
    if "JSON" in hint or "json object" in prose or name == "json-schema":
        return "json"
    if "comma-separated" in prose or ("," in hint and not hint.startswith("{")):
        return "list"
    switch = re.fullmatch(r"\[(on\|off(?:\|\w+)*)\]", hint)
    words_below = re.findall(r"^- ([\w+]+):", text, re.MULTILINE)
    if switch:
        return "string:" + switch[1].replace("|", ":")
    return "string:" + ":".join(words_below) if {"on", "off"} <= set(words_below) else "string"


def table(help_text: str) -> str:
    """The lines of the table: kind, names (the last one is canonical), negations with a dash before, $ENVIRONMENT."""
    lines = []
    for spelled, hint, text in entries(help_text):
        names, negations = split_negations(spelled, hint)
        bare = list(dict.fromkeys(name.lstrip("-") for name in names))
        env = re.findall(r"\(env: (\w+)\)", text)
        kind = kind_of(bare[-1], hint, text)
        lines.append(" ".join([kind, *bare, *("-" + name.lstrip("-") for name in negations), *("$" + e for e in env)]))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.stdin.read()))
