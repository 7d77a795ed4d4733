# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils import _instance_plan


def instance_plan(instances: Any, **given: Any) -> dict[str, Any]:
    """Dedicated servers and what they hold of the devices; see instance_plan.yml."""
    if not isinstance(instances, (list, tuple)) or not all(isinstance(entry, dict) for entry in instances):
        raise AnsibleFilterError("instance_plan: a list of instances, each a dictionary, was wanted")
    try:
        return _instance_plan.plan(instances, **given)
    except _instance_plan.InstanceError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"instance_plan": instance_plan}
