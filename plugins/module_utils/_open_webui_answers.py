# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read what Open WebUI answers: each value has the type that is expected, or the error names the place and both types.

Whoever answers may be another program, another version, or one that was broken into: nothing is taken for granted.
"""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable

LARGEST = 16 << 20  # bytes of an answer
LONGEST_ID = 512  # characters
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


class OpenWebUIError(Exception):
    """What was expected, what was found and how to fix it, in one message for the operator."""


def parsed(content: bytes) -> Any:
    """The JSON of an answer. ValueError for everything else, also for what is nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _other("an object", value, place)
    return value


def mappings(value: Any, place: str) -> list[dict[str, Any]]:
    return [mapping(one, f"{place}[{index}]") for index, one in enumerate(_listed(value, place))]


def text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _other("a text", value, place)
    return value


def texts(value: Any, place: str) -> list[str]:
    return [text(one, f"{place}[{index}]") for index, one in enumerate(_listed(value, place))]


def model_id(value: Any, place: str) -> str:
    """An id that can be shown, compared and written down."""
    found = text(value, place)
    if found != printable(found, LONGEST_ID):
        raise OpenWebUIError(
            f"expected an id of at most {LONGEST_ID} printable characters as {place}, found"
            f" {printable(found, 100)!r}; rename the model where it comes from"
        )
    return found


def _listed(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise _other("a list", value, place)
    return value


def _other(expected: str, value: Any, place: str) -> OpenWebUIError:
    """The value itself may be a secret, so its type alone is told."""
    found = _KINDS.get(type(value), "a number")
    return OpenWebUIError(
        f"expected {expected} as {printable(place)} in Open WebUI's answer, found {found}; either another program"
        " answers there, or this version of Open WebUI keeps it in another form: correct webui_url, or update this"
        " collection"
    )
