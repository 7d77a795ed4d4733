# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_hardening import HardeningError, hardening, kind_of


def unit_hardening(
    kind: Any,
    refused: Any = None,
    writable: Any = (),
    readable: Any = (),
    devices: Any = (),
    left_out: Any = None,
    values: Any = None,
) -> str:
    """The hardening lines of a unit's [Service] section; see unit_hardening.yml."""
    for name, value in {"writable": writable, "readable": readable, "devices": devices}.items():
        if isinstance(value, str) or not all(isinstance(item, str) for item in value):
            raise AnsibleFilterError(f"unit_hardening: {name}: a list of texts was wanted, {value!r} was found")
    for name, value in {"refused": refused, "left_out": left_out, "values": values}.items():
        if value is not None and not isinstance(value, dict):
            raise AnsibleFilterError(
                f"unit_hardening: {name}: directives with reasons were wanted, {value!r} was found"
            )
    try:
        if isinstance(kind, (list, tuple)):
            kind = kind_of(str(name) for name in kind)
        return hardening(kind, refused, writable, readable, devices, left_out, values)
    except HardeningError as error:
        raise AnsibleFilterError(f"unit_hardening: {error}") from error


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"unit_hardening": unit_hardening}
