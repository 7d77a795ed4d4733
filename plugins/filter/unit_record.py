# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_record import record


def unit_record(paths: Any, credential: Any = None) -> str:
    """The line by which a unit records what it is started with; see unit_record.yml."""
    wanted = [*paths, credential] if isinstance(paths, (list, tuple)) and credential else paths
    if not isinstance(wanted, (list, tuple)) or not all(isinstance(path, str) and path[:1] == "/" for path in wanted):
        raise AnsibleFilterError(f"unit_record: expected absolute paths, found {wanted!r}")
    return record(paths, credential or None)


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"unit_record": unit_record}
