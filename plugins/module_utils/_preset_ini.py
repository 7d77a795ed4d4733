# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""llama-server's preset INI: a document that reads as llama-server does and changes nothing that it was not asked to.

The grammar is llama.cpp's own (common/preset.cpp), not configparser's: `;` and `#` begin a comment anywhere and nothing
escapes them, no blank comes before a key or a `[`, quotes are part of a value, one wrong line stops the whole server.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from ansible_collections.homelab.llamacpp.plugins.module_utils import _names, _options

Value = Union[bool, int, float, str]
Data = dict[str, dict[str, Value]]

STATES = ("merged", "replaced", "overridden", "deleted")
NEW_FILE = "version = 1\n"

# Keys before the first header are llama-server's preset of this name.
DEFAULT = "default"
# llama-server passes over this key, whatever it says.
VERSION = "version"

_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]*")
_EOL = r"(?P<end>[ \t]*(?:[;#][^\r\n]*)?(?:\r\n|\n|\r|\Z))"
# A name may hold anything but "]", line ends too. The look-ahead keeps "[ ]" from having a blank for its name.
_HEADER = re.compile(r"\[[ \t]*(?![ \t])(?P<name>[^\]]+)\]" + _EOL)
_OPTION = re.compile(r"(?P<key>[a-zA-Z_][a-zA-Z0-9_.-]*)(?P<equals>[ \t]*=[ \t]*)(?P<value>[^\r\n;#]*)" + _EOL)
_OTHER = re.compile(_EOL)
_NEWLINE = re.compile(r"\r\n|\n|\r")


class PresetError(ValueError):
    """A text that llama-server would refuse, or data that its grammar cannot carry; the message says what mends it."""


@dataclass
class _Line:
    """An option; or a header, comment or empty line, which is all in `end`."""

    end: str
    key: str = ""
    equals: str = ""
    value: str = ""
    is_header: bool = False

    @property
    def text(self) -> str:
        return self.key + self.equals + self.value + self.end

    @property
    def shown(self) -> str:
        return self.key + self.equals + str(_options.masked(self.key, self.value)) + self.end if self.key else self.text

    @property
    def is_blank(self) -> bool:
        return not self.text.strip()


@dataclass
class _Section:
    """The lines from the comment right above a header to the comment right above the next one."""

    name: str
    lines: list[_Line] = field(default_factory=list)

    @property
    def has_header(self) -> bool:
        return any(line.is_header for line in self.lines)

    def options(self) -> dict[str, _Line]:
        """Canonical option → the line that decides it: of one key the last, of several names the last in byte order."""
        last = {line.key: line for line in self.lines if line.key and line.key != VERSION}
        deciding = {_options.canonical(key)[0]: key for key in sorted(last, key=_bytes)}
        names = ((_options.canonical(key)[0], key) for key in last)
        return {name: last[key] for name, key in names if deciding[name] == key}

    def own_end(self) -> int:
        """Where its header, options and the comments right below them end, and what stands on its own begins."""
        end = max((n + 1 for n, line in enumerate(self.lines) if line.key or line.is_header), default=0)
        while end < len(self.lines) and not self.lines[end].is_blank:
            end += 1
        return end


class Preset:
    """A preset file. `str(Preset(text)) == text` for a text that llama-server accepts, PresetError for the others."""

    def __init__(self, text: str) -> None:
        self._sections = [_Section(DEFAULT)]
        self._parse(text)
        newline = _NEWLINE.search(text)
        self._newline = newline.group() if newline else "\n"
        self._index()

    def __str__(self) -> str:
        return "".join(line.text for section in self._sections for line in section.lines)

    def shown(self) -> str:
        """The text for a diff or a message: without the values of secrets, also of those that have no effect."""
        return "".join(line.shown for section in self._sections for line in section.lines)

    def data(self) -> Data:
        """What llama-server understands: section → option as spelled → value, each once, without what is overruled."""
        return {
            name: {line.key: _options.from_text(line.key, line.value) for line in section.options().values()}
            for name, section in self._effective.items()
            if name != DEFAULT or section.options()
        }

    def line_number(self, name: str, key: str) -> int:
        """The line, counted from 1, with this very key in section `name`; 0 when there is none."""
        number = 1
        found = 0
        for section in self._sections:
            for line in section.lines:
                if section is self._effective.get(name) and line.key == key:
                    found = number
                number += len(_NEWLINE.findall(line.text))
        return found

    def set(self, name: str, key: str, text: str) -> None:
        """Give an option of section `name` this text, in place of its other names. The section is made if need be."""
        section = self._effective.get(name) or self._add(name)
        option = _options.canonical(key)[0]
        line = section.options().get(option)
        if line is None:
            at = max((n + 1 for n, other in enumerate(section.lines) if other.key or other.is_header), default=0)
            self._end_line(section, at)
            section.lines.insert(at, _Line(self._newline, key, " = " if text else " =", text))
        elif _options.meaning(line.key, line.value) != _options.meaning(key, text):
            if not line.value:
                line.equals = " = "
                if line.end.startswith((";", "#")):  # the blanks before the comment were behind the =
                    line.end = " " + line.end
            line.key, line.value = key, text
            section.lines = [
                o for o in section.lines if o is line or not o.key or _options.canonical(o.key)[0] != option
            ]

    def unset(self, name: str, key: str) -> None:
        """Take an option away from section `name`, under all of its names."""
        section = self._effective.get(name)
        option = _options.canonical(key)[0]
        if section and option in section.options():
            section.lines = [
                line for line in section.lines if not line.key or _options.canonical(line.key)[0] != option
            ]

    def add(self, name: str) -> None:
        """Make section `name` unless it is there."""
        if name not in self._effective:
            self._add(name)

    def remove(self, names: Collection[str]) -> None:
        """Take sections away, each time that the file has them, with the comments right above and inside them."""
        kept = self._sections[:1]
        if DEFAULT in names:
            kept[0].lines = [line for line in kept[0].lines if not line.key or line.key == VERSION]
        for section in self._sections[1:]:
            if served_name(section.name) not in names:
                kept.append(section)
                continue
            rest = section.lines[section.own_end() :]
            while rest and rest[0].is_blank and (not kept[-1].lines or kept[-1].lines[-1].is_blank):
                del rest[0]
            kept[-1].lines += rest
        if len(kept) < len(self._sections):
            while self._sections[-1] is not kept[-1] and kept[-1].lines and kept[-1].lines[-1].is_blank:
                del kept[-1].lines[-1]
        self._sections = kept
        self._index()

    def _parse(self, text: str) -> None:
        at = 0
        while at < len(text):
            header = _HEADER.match(text, at)
            option = None if header else _OPTION.match(text, at)
            match = header or option or _OTHER.match(text, at)
            if not match:
                number = len(_NEWLINE.findall(text, 0, at)) + 1
                raise PresetError(f"line {number}: {_what_is_wrong(text[at:])}")
            if header:
                section = _Section(header["name"])
                above = self._sections[-1].lines
                while above and not above[-1].is_blank and not above[-1].key and not above[-1].is_header:
                    section.lines.insert(0, above.pop())
                section.lines.append(_Line(header.group(), is_header=True))
                self._sections.append(section)
            else:
                line = _Line(match.group())
                if option:
                    value = option["value"].rstrip(" \t")
                    end = option["value"][len(value) :] + option["end"]
                    line = _Line(end, option["key"], option["equals"], value)
                self._sections[-1].lines.append(line)
            at = match.end()

    def _index(self) -> None:
        # A section that comes again replaces the earlier one whole; of two names that llama-server makes one, the later
        # in byte order does.
        last = {section.name: section for section in self._sections if section.has_header or section.options()}
        self._effective = {served_name(name): last[name] for name in sorted(last, key=_bytes)}
        order = {id(section): n for n, section in enumerate(self._sections)}
        self._effective = dict(sorted(self._effective.items(), key=lambda item: order[id(item[1])]))

    def _add(self, name: str) -> _Section:
        last = self._sections[-1]
        self._end_line(last, len(last.lines))
        if last.lines and not last.lines[-1].is_blank:
            last.lines.append(_Line(self._newline))
        section = _Section(name, [_Line(f"[{name}]{self._newline}", is_header=True)])
        self._sections.append(section)
        self._effective[name] = section
        return section

    def _end_line(self, section: _Section, at: int) -> None:
        """Give the line before `at` a line end, which only the last one of a file may lack."""
        if at and not section.lines[at - 1].text.endswith(("\n", "\r")):
            section.lines[at - 1].end += self._newline


def served_name(name: str) -> str:
    """The name by which llama-server serves section `name`: it rewrites what follows the last colon."""
    head, colon, tag = name.rpartition(":")
    if not colon or name in (DEFAULT, "*"):
        return name
    last_word = re.search(r"[-.]([A-Za-z0-9_]+)\Z", tag)
    upper = last_word.group(1) if last_word else tag
    return head + colon + "".join(c.upper() if c.isascii() else c for c in upper)


def _checked(config: Any, state: str) -> dict[str, dict[str, str | None]]:
    """`config` with values as a preset writes them, None for options to take away. PresetError for what cannot be."""
    if not isinstance(config, Mapping):
        raise PresetError(f"a preset is a mapping of sections to their options, found {type(config).__name__}")
    return {_checked_name(name): _checked_options(name, options, state) for name, options in config.items()}


def apply(text: str | None, config: Mapping[str, Any], state: str) -> str:
    """The preset `text` (None for a new file) with `config` (section → option → value, None takes away) in `state`.

    merged: these options in these sections; replaced: these sections are exactly this; overridden: the file is exactly
    this; deleted: these sections are gone. PresetError when the text does not parse or the data cannot be carried.
    """
    wanted = _checked(config, state)
    preset = Preset(NEW_FILE if text is None else text)
    if state == "deleted":
        preset.remove(wanted)
        return str(preset)
    before = preset.data()
    if state == "overridden":
        preset.remove(before.keys() - wanted.keys())
    for name, options in wanted.items():
        given = {_options.canonical(key)[0] for key, value in options.items() if value is not None}
        if given or name != DEFAULT:  # without options it would be no model
            preset.add(name)
        for key in before.get(name, {}):
            if state != "merged" and _options.canonical(key)[0] not in given:
                preset.unset(name, key)
        for key, value in options.items():
            if value is None:
                preset.unset(name, key)
            else:
                preset.set(name, key, value)
    return str(preset)


def _checked_name(name: Any) -> str:
    what = f"section name {name!r}"
    if not isinstance(name, str):
        raise PresetError(f"{what} is not text; put it in quotes")
    if not name.strip() or name != name.strip(" \t"):
        raise PresetError(f"{what} is empty or has blanks around it; take them away")
    bad = re.search(r"[\]\r\n\0]", name)
    if bad:
        raise PresetError(f"{what} holds {bad.group()!r}, which ends a name in a preset; choose another")
    _check_line(what, name)
    if served_name(name) != name:
        raise PresetError(f"{what} would be served as {served_name(name)!r}; write it so")
    return name


def _checked_options(name: str, options: Any, state: str) -> dict[str, str | None]:
    if state == "deleted":
        if options:
            raise PresetError(
                f"section {name!r} has options, but state deleted takes whole sections away; "
                "give it null, or take options away by null with state merged"
            )
        return {}
    if not isinstance(options, Mapping):
        raise PresetError(
            f"section {name!r} must be a mapping of options, found {type(options).__name__}; "
            "{} is a section without any, state deleted takes a section away"
        )
    texts: dict[str, str | None] = {}
    names: dict[str, str] = {}
    for key, value in options.items():
        _check_key(name, key)
        option = _options.canonical(key)[0]
        if option in names:
            raise PresetError(
                f"section {name!r}: {names[option]} and {key} are one option ({option}); keep one of them"
            )
        names[option] = key
        try:
            texts[key] = None if value is None else _checked_text(key, _options.to_text(key, value))
        except ValueError as error:
            raise PresetError(f"section {name!r}: {error}") from None
    return texts


def _check_key(name: str, key: Any) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        bare = key.lstrip("-") if isinstance(key, str) else ""
        mend = f"write {bare}" if _KEY.fullmatch(bare) else "it begins with a letter; letters, digits and _ . - follow"
        raise PresetError(f"section {name!r}: {key!r} is no name of an option in a preset: {mend}")
    if key == VERSION:
        raise PresetError(f"section {name!r}: llama-server passes over version; take it away")


def _checked_text(key: str, text: str) -> str:
    bad = re.search(r"[;#\r\n\0]", text)
    if bad:
        file_key = _options.canonical(key)[0] + "-file"
        mend = f"put it in a file and give {file_key}" if _options.find(file_key) else "write it without"
        known = _options.find(key)
        if known and known.kind == "json":
            mend = f"give a mapping instead of text, or write \\u{ord(bad.group()):04x}"
        raise PresetError(
            f"{key}: its value holds {bad.group()!r}, which no preset can carry (it ends the value); {mend}"
        )
    if text != text.strip(" \t"):
        raise PresetError(f"{key}: the blanks around its value {text!r} would be lost; take them away")
    _check_line(key, text)
    return text


def _check_line(what: str, text: str) -> None:
    _check_utf8(what, text)
    try:
        _names.line(text, "text")
    except _names.BadName as error:
        raise PresetError(f"{what}: {error}; write it without") from None


def _check_utf8(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PresetError(f"{what}: {text!r} holds what UTF-8 has no bytes for; write it without") from None


def _what_is_wrong(rest: str) -> str:
    line = _NEWLINE.split(rest, maxsplit=1)[0]
    shown = repr(line if len(line) <= 60 else line[:57] + "...")
    if re.search("token|key|secret|pass|mcp", line, re.IGNORECASE):
        shown = "a line that may hold a secret"
    if line.startswith("\ufeff"):
        return f"{shown} begins with a byte order mark, which llama-server refuses; save the file as UTF-8 without it"
    if line[:1] in (" ", "\t"):
        return f"{shown} has blanks before it, which llama-server refuses; begin it in the first column"
    if line.startswith("["):
        closed = re.match(r"\[[ \t]*(?![ \t])[^\]]+\]", line)
        what = "has more than a comment after its ]" if closed else "is no [name] of a section"
        return f"{shown} {what}, which llama-server refuses; write [name]"
    if "=" not in re.split("[;#]", line, maxsplit=1)[0]:
        return f"{shown} has no =, which llama-server refuses; write key = value, or begin a comment with ;"
    return f"{shown} begins with no name of an option (letters, digits, _ . -, no dashes first); write key = value"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
