# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.plugin_utils import _inventory_yaml


def to_inventory(
    variables: Any,
    allowed: Collection[str],
    references: Mapping[str, str] | None = None,
    comments: Sequence[Any] = (),
) -> str:
    """Variables of an inventory out of data from a guest; see to_inventory.yml."""
    try:
        return _inventory_yaml.to_inventory(variables, list(allowed), references, comments)
    except _inventory_yaml.InventoryError as error:
        raise AnsibleFilterError(f"to_inventory: {error}") from error


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"to_inventory": to_inventory}
