# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils import _preset_ini


def to_preset_ini(data: Mapping[str, Any]) -> str:
    """The text of a preset file with these sections and options."""
    try:
        return _preset_ini.apply(None, data, "overridden")
    except _preset_ini.PresetError as error:
        raise AnsibleFilterError(f"to_preset_ini: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"to_preset_ini": to_preset_ini}
