# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.filter.vram_plan import vram_plan


def models_max(models: Any, devices: Any, **limits: Any) -> int:
    """How many of the models the router may hold at once, 1 or more; see models_max.yml."""
    limit: int = vram_plan(models, devices, **limits)["models_max"]
    return limit


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"models_max": models_max}
