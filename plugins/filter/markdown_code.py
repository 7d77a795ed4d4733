# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable


def markdown_code(text: Any) -> str:
    """Foreign text as code in a line of Markdown, also in a table; see markdown_code.yml."""
    line = printable(text, 500).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line[:1] in ("`", " ") or line[-1:] in ("`", " ") else ""
    return f"{fence}{space}{line}{space}{fence}" if line else ""


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"markdown_code": markdown_code}
