# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils import _gpu_choice


def choose_gpus(gpus: Any, wanted: Any = _gpu_choice.ALL, reserved_mib: Any = None) -> list[dict[str, Any]]:
    """Some of gpu_info's GPUs, in the order that is wanted; see choose_gpus.yml."""
    try:
        return _gpu_choice.choose(gpus, wanted, reserved_mib)
    except _gpu_choice.ChoiceError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"choose_gpus": choose_gpus}
