# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Let a llama-server read its command line and presets: it stops at an address that it cannot listen on.

That takes a tenth of a second, opens no port and loads no model. It always ends with 1; what it says tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

HOST = "/nonexistent-folder/x.sock"
TIMEOUT = 60  # seconds

_REFUSED = re.compile(r"failed to initialize router models: (.*)")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what says of a model, which would make it a server of that one, and not a router."""
    return {name: value for name, value in environ.items() if not name.startswith("LLAMA_")}


def refusal(words: str) -> str | None:
    """Why the presets are refused; empty when they are not; None when it did not come to read them."""
    refused = _REFUSED.search(words)
    if refused:
        return refused.group(1)
    return "" if "couldn't bind" in words else None


def last_words(words: str) -> str:
    return " / ".join(words.strip().splitlines()[-3:]) or "nothing"
