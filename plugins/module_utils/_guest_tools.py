# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands that the collection installs on a machine."""

from __future__ import annotations

from types import ModuleType

from ansible_collections.homelab.llamacpp.plugins.module_utils import _tool_exporter, _tool_keeper, _tool_status
from ansible_collections.homelab.llamacpp.plugins.module_utils._zipped import pack

_TOOLS: dict[str, ModuleType] = {
    "exporter": _tool_exporter,
    "keeper": _tool_keeper,
    "status": _tool_status,
}
NAMES = sorted(_TOOLS)


def packed(name: str) -> bytes:
    """The command as one executable file."""
    return pack(_TOOLS[name])
