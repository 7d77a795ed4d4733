# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils import _preset_ini


def from_preset_ini(text: str) -> _preset_ini.Data:
    """The sections and options of a preset file's text, as llama-server understands it."""
    if not isinstance(text, str):
        raise AnsibleFilterError(f"from_preset_ini: wants the text of a preset file, found {type(text).__name__}")
    try:
        return _preset_ini.Preset(text).data()
    except _preset_ini.PresetError as error:
        raise AnsibleFilterError(f"from_preset_ini: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"from_preset_ini": from_preset_ini}
