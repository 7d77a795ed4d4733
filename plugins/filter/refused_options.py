# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils import _names, _options


def refused_options(options: Any, allow: Collection[str] = (), where: str = "options") -> list[str]:
    """Options of llama-server that no server is given; see refused_options.yml."""
    if not isinstance(options, Mapping):
        raise AnsibleFilterError(f"{where}: expected a mapping of options, found {type(options).__name__}")
    wrong = []
    for key, value in options.items():
        try:
            _names.plain(key, "a name of an option")
            why = _options.refusal(key, value, allow)
        except _names.BadName as error:
            why = str(error)
        if why:
            wrong.append(f"{where}: {why}")
    return wrong


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"refused_options": refused_options}
