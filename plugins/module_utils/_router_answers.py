# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read what a router answers into typed data. Its text is data of a stranger: every field is checked, once, here.

AnswerError says what was expected where, and what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ansible_collections.homelab.llamacpp.plugins.module_utils import _json
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable

LARGEST = 16 << 20  # bytes of an answer
LONGEST_LINE = 1 << 20  # bytes of an event, or of a part of an answer
_LONGEST_NAME = 1000  # characters
_LONGEST_NUMBER = 18  # digits
# What holds one of the router's slots: a sleeping model keeps its process, a loading one has it already.
RUNNING = frozenset({"loading", "loaded", "sleeping"})

_T = TypeVar("_T")
_NAMES = {str: "a text", int: "a whole number", bool: "true or false", dict: "an object", list: "a list"}


class AnswerError(ValueError):
    """An answer of another form than a router's."""


@dataclass(frozen=True)
class Model:
    """One entry of the router's list. `args` is the command line that the router gives its process.

    `port` is the one of its latest process, 0 before the first.
    """

    id: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    status: str
    failed: bool
    exit_code: int | None
    source: str
    options: Mapping[str, str]
    args: tuple[str, ...]
    port: int
    modalities: tuple[str, ...]
    meta: Mapping[str, Any]

    @property
    def running(self) -> bool:
        return self.status in RUNNING

    @property
    def ctx_size(self) -> int | None:
        """The context in tokens: a running model's own, else what its options ask for."""
        asked = self.options.get("ctx-size", "")
        return self.meta.get("n_ctx") or (_tokens(asked) or None)

    @property
    def loads_on_startup(self) -> bool:
        return self.options.get("load-on-startup") in ("on", "enabled", "true", "1")


def decode(data: bytes) -> Any:
    """The JSON of an answer. ValueError for what is none, AnswerError for what no router writes."""
    try:
        return _json.parse(data.decode("utf-8", "replace"))
    except _json.Unusual as error:
        raise AnswerError(f"expected JSON as a router writes it, found: {error}") from None


def models(answer: Any) -> list[Model]:
    """The router's list."""
    return _each(_field(_is(answer, dict, "the answer"), "data", list, "the answer"), "data", _model)


def props(answer: Any) -> dict[str, Any]:
    """What a router says of itself: max_instances, models_autoload and build_info have their types."""
    found = _is(answer, dict, "the answer")
    limit = _field(found, "max_instances", int, "the answer")
    if limit < 0:
        raise AnswerError(f"expected a number from 0 as max_instances, found {limit}")
    autoload = _field(found, "models_autoload", bool, "the answer")
    build = _word(_optional(found, "build_info", str, "the answer", ""), "build_info")
    return {**found, "max_instances": limit, "models_autoload": autoload, "build_info": build}


def event(line: bytes) -> dict[str, Any] | None:
    """One of the router's events: model, event, and data with status, exit_code, progress. None for another line."""
    if not line.startswith(b"data: "):
        return None
    try:
        found = _is(decode(line[len(b"data: ") :]), dict, "an event")
    except AnswerError:
        raise
    except ValueError:
        raise AnswerError("expected an event in JSON, found something else") from None
    told = _optional(found, "data", dict, "an event", {})
    data: dict[str, Any] = {}
    if told.get("status") is not None:
        data["status"] = _word(_field(told, "status", str, "an event's data"), "status")
    if told.get("exit_code") is not None:
        data["exit_code"] = _field(told, "exit_code", int, "an event's data")
    progress = told.get("progress")  # of a load it has another form
    if isinstance(progress, dict):
        files = {str(name): file for name, file in progress.items() if isinstance(file, dict)}
        data["progress"] = {
            name: {"done": file["done"], "total": file["total"]}
            for name, file in files.items()
            if all(_is_whole(file.get(key)) for key in ("done", "total"))
        }
    named = {key: _word(_optional(found, key, str, "an event", ""), key) for key in ("model", "event")}
    return {**named, "data": data}


def _is_whole(value: Any) -> bool:
    """True and False are numbers for isinstance."""
    return isinstance(value, int) and not isinstance(value, bool)


def refusal(data: bytes) -> str | None:
    """The message of a refusal, on one line; None for an answer of another form."""
    try:
        message = decode(data)["error"]["message"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return printable(message, _LONGEST_NAME)


def _model(entry: Any, where: str) -> Model:
    found = _is(entry, dict, where)
    name = _word(_field(found, "id", str, where), f"{where}.id")
    if not name:
        raise AnswerError(f"expected a name as {where}.id, found an empty one")
    status = _field(found, "status", dict, where)
    args = _each(_optional(status, "args", list, f"{where}.status", []), f"{where}.status.args", _argument)
    architecture = _optional(found, "architecture", dict, where, {})
    meta = _optional(found, "meta", dict, where, {})
    if meta.get("n_ctx") is not None and _field(meta, "n_ctx", int, f"{where}.meta") < 0:
        raise AnswerError(f"expected a number from 0 as {where}.meta.n_ctx, found {meta['n_ctx']}")
    return Model(
        id=name,
        aliases=_words(found, "aliases", where),
        tags=_words(found, "tags", where),
        status=_word(_field(status, "value", str, f"{where}.status"), f"{where}.status.value"),
        failed=_optional(status, "failed", bool, f"{where}.status", False),
        exit_code=_optional(status, "exit_code", int, f"{where}.status", None),
        source=_word(_optional(found, "source", str, where, ""), f"{where}.source"),
        options=_options(_optional(status, "preset", str, f"{where}.status", "")),
        args=tuple(args),
        port=_port(args),
        modalities=_words(architecture, "input_modalities", f"{where}.architecture"),
        meta=meta,
    )


def _options(preset: str) -> dict[str, str]:
    """The options of the section that the router prints for a model, as `key = value` lines below its `[name]`."""
    lines = (line.partition(" = ") for line in preset.split("\n") if not line.startswith("["))
    return {key: _argument(value, key) for key, equals, value in lines if equals}


def _port(args: list[str]) -> int:
    text = args[args.index("--port") + 1] if "--port" in args[:-1] else "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 1 << 16):
        raise AnswerError(f"expected a port behind --port in a model's args, found {printable(text)!r}")
    return int(text)


def _tokens(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else 0


def _words(found: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    return tuple(_each(_optional(found, key, list, where, []), f"{where}.{key}", _word))


def _word(text: Any, where: str) -> str:
    """A text of one line that can be printed, and be a key."""
    if not isinstance(text, str):
        raise AnswerError(f"expected a text as {where}, found {_kind(text)}")
    if printable(text, _LONGEST_NAME) != text:
        raise AnswerError(f"expected printable text of one line as {where}, found {printable(text)!r}")
    return text


def _argument(text: Any, where: str) -> str:
    """A word of a command line: it may hold line ends, and neither NUL nor what UTF-8 has no bytes for."""
    if not isinstance(text, str):
        raise AnswerError(f"expected a text as {where}, found {_kind(text)}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise AnswerError(f"expected a word of a command line as {where}, found {printable(text)!r}")
    return text


def _each(entries: list[Any], where: str, read: Callable[[Any, str], _T]) -> list[_T]:
    return [read(entry, f"{where}[{number}]") for number, entry in enumerate(entries)]


def _is(found: Any, kind: type[_T], where: str) -> _T:
    # True is an int for Python, and not for JSON.
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise AnswerError(f"expected {_NAMES[kind]} as {where}, found {_kind(found)}")
    return found


def _field(found: Mapping[str, Any], key: str, kind: type[_T], where: str) -> _T:
    if key not in found:
        raise AnswerError(f"expected {_NAMES[kind]} as {key} of {where}, found none")
    return _is(found[key], kind, f"{where}.{key}")


def _optional(found: Mapping[str, Any], key: str, kind: type[Any], where: str, default: Any) -> Any:
    """Its default where it is missing, or null."""
    return default if found.get(key) is None else _is(found[key], kind, f"{where}.{key}")


def _kind(found: Any) -> str:
    return "null" if found is None else _NAMES.get(type(found), "a number")
