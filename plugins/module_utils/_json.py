# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parse JSON from outside (a hub, a record, a manifest): whatever it is, a value or ValueError."""

from __future__ import annotations

import json
from typing import Any

_DIGITS = 20  # of a whole number: more than a file's size or a time in nanoseconds has


class Unusual(ValueError):
    """JSON that no program of ours writes: nested deeply, a number of very many digits, NaN or Infinity."""


def parse(data: bytes | str) -> Any:
    """Return what JSON text holds. Raises ValueError, and Unusual of it."""
    try:
        return json.loads(data, parse_int=_whole, parse_constant=_refuse)
    except RecursionError:
        raise Unusual("it is nested too deeply") from None


def _whole(text: str) -> int:
    if len(text) > _DIGITS:  # Python before 3.11 takes hours for millions of digits
        raise Unusual(f"it has a number of {len(text)} digits")
    return int(text)


def _refuse(text: str) -> float:
    raise Unusual(f"{text} is not JSON")
