# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make data from a router, a model or a log safe to show: on a terminal, in a metric's label, as JSON, in a page.

What is not printable (control characters, surrogates, line separators, marks that reverse the text after them) becomes
an escape that can be read, so two names stay two names.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any

LONGEST = 1000  # characters of a text
DEEPEST = 12  # lists and dictionaries in one another; a report needs six
_HUGE = 1 << 63


def text(value: object, most: int = LONGEST) -> str:
    """One line that any encoder and any terminal takes."""
    shown = str(value)
    if len(shown) > most:
        shown = shown[:most] + "…"
    if shown.isprintable():
        return shown
    return "".join(
        sign if sign.isprintable() or unicodedata.category(sign) == "Zs" else _escaped(sign) for sign in shown
    )


def _escaped(sign: str) -> str:
    number = ord(sign)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def data(value: Any, depth: int = DEEPEST) -> Any:
    """A copy of plain data: its texts as `text`, no numbers that JSON does not have, and not too deep."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return value if -_HUGE <= value < _HUGE else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == 0:
        return "…"
    if isinstance(value, dict):
        return {text(key): data(one, depth - 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [data(one, depth - 1) for one in value]
    return text(value)


def number(value: object) -> float | None:
    """A finite number of a foreign answer; None for anything else."""
    if isinstance(value, (int, float)):
        try:
            found = float(value)
        except OverflowError:
            return None
        return found if math.isfinite(found) else None
    return None
