# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable


def networks(texts: Any, what: str = "networks") -> list[str]:
    """Addresses and networks, each written in the one way that its standard has; see networks.yml."""
    if not isinstance(texts, (list, tuple)):
        raise AnsibleFilterError(f"{what}: expected a list of networks, found {type(texts).__name__}")
    found = set()
    for text in texts:
        try:
            if not isinstance(text, str) or "%" in text:
                raise ValueError
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise AnsibleFilterError(
                f"{what}: expected addresses and networks (192.0.2.0/24, 2001:db8::/64), found {printable(text)!r}"
            ) from None
        whole = network.prefixlen == network.max_prefixlen
        found.add(str(network.network_address) if whole else str(network))
    return sorted(found)


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"networks": networks}
