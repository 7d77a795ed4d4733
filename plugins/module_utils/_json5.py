# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON5 that people write by hand: read, and changed at one place with every other character kept.

The text is parsed into nodes that know where they stand in it; a change replaces, inserts or cuts out a stretch of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

_BLANK = re.compile(r"(?:[\s\ufeff]|//[^\n\r\u2028\u2029]*|/\*.*?\*/)*", re.DOTALL)
_NAME = re.compile(r"(?:[\w$]|\\u[0-9a-fA-F]{4})(?:[\w$\u200c\u200d]|\\u[0-9a-fA-F]{4})*")
_STRING = re.compile(
    r'"((?:[^"\\\n\r]|\\(?:\r\n|[^\r]|\r))*)"' + r"|'((?:[^'\\\n\r]|\\(?:\r\n|[^\r]|\r))*)'", re.DOTALL
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r\n|[\n\r\u2028\u2029])|(.))", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"}
_NUMBER = re.compile(
    r"[+-]?(?:Infinity|NaN|0[xX][0-9a-fA-F]+|(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)(?![\w$.])",
    re.ASCII,
)
_LINE_COMMENTS = re.compile(r"(?:[ \t]*(?:/\*(?:(?!\*/)[^\n\r])*\*/|//[^\n\r\u2028\u2029]*))*")
_LINE_END = re.compile(r"[ \t]*(?:\r?\n|\Z)")
_WORDS = {"true": True, "false": False, "null": None}
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
DEPTH = 200  # of nesting; deeper is no configuration
_DIGITS = 4000  # of an integer; Python takes few more
_HEX_DIGITS = 256  # beyond them JavaScript has Infinity

Step = Union[str, int]  # a member of an object by its name, an item of a list by its place


class Json5Error(ValueError):
    """What was wanted and what was found, with the line."""


@dataclass
class Entry:
    """A member of an object or an item of a list. It begins at `start`; all but the first have a `comma` before it."""

    step: Step
    start: int
    node: Node
    comma: int | None


@dataclass
class Node:
    """A value with its place in the text, from `start` to before `end`; objects and lists have `entries`."""

    start: int
    end: int
    value: Any
    entries: Sequence[Entry] = ()

    def entry(self, step: Step) -> Entry | None:
        """Of a name that is there twice the last one counts, as in JavaScript."""
        return next((entry for entry in reversed(self.entries) if entry.step == step), None)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def document(self) -> Node:
        self.blank()
        node = self.value(0)
        self.blank()
        if self.at < len(self.text):
            raise self.error("nothing after the value")
        return node

    def blank(self) -> None:
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def error(self, wanted: str) -> Json5Error:
        line = self.text.count("\n", 0, self.at) + 1
        found = self.text[self.at : self.at + 1]
        return Json5Error(f"line {line}: {wanted} was wanted, {f'{found!r} was found' if found else 'the text ends'}")

    def value(self, depth: int) -> Node:
        if depth > DEPTH:
            raise self.error(f"a nesting of at most {DEPTH}")
        start, sign = self.at, self.text[self.at : self.at + 1]
        if sign == "{":
            return self.object(depth)
        if sign == "[":
            return self.array(depth)
        if sign and sign in "\"'":
            return self.leaf(start, self.string())
        number = _NUMBER.match(self.text, self.at)
        if number:
            self.at = number.end()
            return self.leaf(start, _number(number[0]))
        word = _NAME.match(self.text, self.at)
        if word and word[0] in _WORDS:
            self.at = word.end()
            return self.leaf(start, _WORDS[word[0]])
        raise self.error("a value")

    def leaf(self, start: int, value: Any) -> Node:
        return Node(start, self.at, value)

    def string(self) -> str:
        found = _STRING.match(self.text, self.at)
        if not found:
            raise self.error("a string that ends on its line")
        raw = found[1] if found[1] is not None else found[2]
        try:
            text = _ESCAPE.sub(_unescaped, raw)
        except ValueError:
            raise self.error(r"an escape such as \n, \x41 or \u0041") from None
        self.at = found.end()
        return _SURROGATES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)

    def name(self) -> str:
        if self.text[self.at : self.at + 1] in ('"', "'"):
            return self.string()
        found = _NAME.match(self.text, self.at)
        if not found or found[0][0].isdigit():
            raise self.error("a name, or }")
        self.at = found.end()
        return _ESCAPE.sub(_unescaped, found[0])

    def object(self, depth: int) -> Node:
        start, comma = self.opened(), None
        entries: list[Entry] = []
        while self.text[self.at : self.at + 1] != "}":
            place, name = self.at, self.name()
            self.blank()
            if self.text[self.at : self.at + 1] != ":":
                raise self.error("a colon")
            self.at += 1
            self.blank()
            entries.append(Entry(name, place, self.value(depth + 1), comma))
            comma = self.separator("}")
        self.at += 1
        return Node(start, self.at, {entry.step: entry.node.value for entry in entries}, entries)

    def array(self, depth: int) -> Node:
        start, comma = self.opened(), None
        entries: list[Entry] = []
        while self.text[self.at : self.at + 1] != "]":
            entries.append(Entry(len(entries), self.at, self.value(depth + 1), comma))
            comma = self.separator("]")
        self.at += 1
        return Node(start, self.at, [entry.node.value for entry in entries], entries)

    def opened(self) -> int:
        start = self.at
        self.at += 1
        self.blank()
        return start

    def separator(self, closing: str) -> int | None:
        """Where the comma is, if there is one."""
        self.blank()
        comma = self.at
        if self.text[comma : comma + 1] == ",":
            self.at += 1
            self.blank()
            return comma
        if self.text[comma : comma + 1] != closing:
            raise self.error(f"a comma or {closing}")
        return None


def _unescaped(found: re.Match[str]) -> str:
    four, two, line, sign = found.groups()
    if four or two:
        return chr(int(four or two, 16))
    if line is not None:
        return ""
    if sign in "ux123456789":
        raise ValueError(sign)
    return _ESCAPES.get(sign, sign)


def _number(text: str) -> int | float:
    sign, digits = (-1 if text[0] == "-" else 1), text.lstrip("+-")
    if digits[:2] in ("0x", "0X"):
        return sign * (int(digits, 16) if len(digits) <= _HEX_DIGITS + 2 else math.inf)
    if digits.isdigit() and len(digits) <= _DIGITS:
        return sign * int(digits)
    return sign * float(digits.replace("Infinity", "inf").replace("NaN", "nan"))


def parse(text: str) -> Node:
    """The document as nodes; raises Json5Error."""
    return _Parser(text).document()


def loads(text: str) -> Any:
    """The document as data; raises Json5Error."""
    return parse(text).value


def get(text: str, path: Sequence[Step]) -> Any:
    """What is at `path`, None where it leads nowhere. Raises Json5Error where something else is on the way."""
    node, rest = _walk(text, path)
    return None if rest else node.value


def put(text: str, path: Sequence[Step], value: Any) -> str:
    """The text with `value` at `path`, whose objects are made as far as they are not there.

    A value that is there already leaves the text as it is; the place after a list's last item adds one. Raises
    Json5Error where something else is on the way.
    """
    node, rest = _walk(text, path)
    if rest:
        for name in reversed(rest[1:]):
            value = {name: value}
        return _with_entry(text, node, rest[0], value)
    if json.dumps(node.value) == json.dumps(value):
        return text
    return text[: node.start] + _written(value, _indent(text, node.start), _newline(text)) + text[node.end :]


def drop(text: str, path: Sequence[Step]) -> str:
    """The text without what is at `path`, without its comma, and without its lines where nothing else is on them."""
    while True:
        shorter = _dropped(text, path)
        # A name may be there several times.
        if shorter == text or not isinstance(path[-1], str):
            return shorter
        text = shorter


def _dropped(text: str, path: Sequence[Step]) -> str:
    node, rest = _walk(text, path[:-1])
    entry = node.entry(path[-1])
    if rest or entry is None:
        return text
    start, end = entry.start, entry.node.end
    comma = _comma_after(text, end)
    if comma is not None:
        end = comma + 1
    elif entry.comma is not None:
        # The last one takes the comma before it along.
        text, start, end = text[: entry.comma] + text[entry.comma + 1 :], start - 1, end - 1
    line = text.rfind("\n", 0, start) + 1
    tail = _LINE_END.match(text, end)
    if not text[line:start].strip() and tail:
        start, end = line, tail.end()
    return text[:start] + text[end:]


def _walk(text: str, path: Sequence[Step]) -> tuple[Node, list[Step]]:
    """The innermost node on the path that is there, and the steps that are not."""
    node = parse(text)
    for depth, step in enumerate(path):
        wanted = dict if isinstance(step, str) else list
        if not isinstance(node.value, wanted):
            where = ".".join(map(str, path[:depth])) or "the document"
            raise Json5Error(f"{where}: {_kind(wanted())} was wanted, {_kind(node.value)} was found")
        entry = node.entry(step)
        if entry is None:
            return node, list(path[depth:])
        node = entry.node
    return node, []


def _kind(value: Any) -> str:
    """What a value is, and not what it says: it may be a secret."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _with_entry(text: str, node: Node, step: Step, value: Any) -> str:
    """The text with an entry more in an object or a list, after its last one and a comment on the same line."""
    outer, newline = _indent(text, node.start), _newline(text)
    inner, at, comma = outer + "  ", node.start + 1, None
    if node.entries:
        last = node.entries[-1]
        if _begins_line(text, last.start):
            inner = _indent(text, last.start)
        comma = _comma_after(text, last.node.end)
        if comma is None:
            text = f"{text[: last.node.end]},{text[last.node.end :]}"
        at = (last.node.end if comma is None else comma) + 1
    comment = _LINE_COMMENTS.match(text, at)
    at = comment.end() if comment else at
    name = f"{json.dumps(step, ensure_ascii=False)}: " if isinstance(step, str) else ""
    line = f"{newline}{inner}{name}{_written(value, inner, newline)}{'' if comma is None else ','}"
    rest = text[at:]
    if rest.lstrip(" \t").startswith(("}", "]")):
        rest = f"{newline}{outer}{rest.lstrip()}"
    return text[:at] + line + rest


def _comma_after(text: str, at: int) -> int | None:
    """Where the comma stands that follows a value."""
    blank = _BLANK.match(text, at)
    at = blank.end() if blank else at
    return at if text[at : at + 1] == "," else None


def _begins_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip()


def _indent(text: str, at: int) -> str:
    """The blanks that the line of a place begins with."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _newline(text: str) -> str:
    """How its lines end."""
    return "\r\n" if "\r\n" in text else "\n"


def _written(value: Any, indent: str, newline: str) -> str:
    """A value as plain JSON, which is JSON5 too; its first line without the indent."""
    return json.dumps(value, ensure_ascii=False, indent=2).replace("\n", newline + indent)
