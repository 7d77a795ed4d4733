# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import word


def unit_word(text: Any, variables: bool = True) -> str:
    """One word of a line in a unit; see unit_word.yml."""
    try:
        return word(str(text), variables)
    except BadName as error:
        raise AnsibleFilterError(f"unit_word: {error}") from error


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"unit_word": unit_word}
