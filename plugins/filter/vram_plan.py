# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils import _vram_plan
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import VramError


def vram_plan(models: Any, devices: Any, **limits: Any) -> dict[str, Any]:
    """The plan of the models on the devices; see vram_plan.yml."""
    try:
        return _vram_plan.vram_plan(models, devices, **limits)
    except VramError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"vram_plan": vram_plan}
