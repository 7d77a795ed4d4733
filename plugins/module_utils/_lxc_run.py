# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules that look after one container begin with."""

from __future__ import annotations

from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import Found
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import NotFoundError


class LxcRun:
    """One run of such a module: its options, whether it only looks, and where the container is."""

    def __init__(self, params: dict[str, Any], check: bool, api: Proxmox, node: str) -> None:
        self.params = params
        self.check = check
        self.api = api
        self.node = node
        self.vmid: int = params["vmid"]
        self.path = f"nodes/{node}/lxc/{self.vmid}"

    def find(self) -> Found | None:
        """The container, or None where it does not exist on the node."""
        if self.api.files:
            entries = self.api.files.guest(self.vmid)
            return None if entries is None else Found.parse(entries)
        try:
            return Found.parse(self.api.call("GET", f"{self.path}/pending"))
        except NotFoundError:
            return None

    def status(self) -> str:
        """Whether the container is running or stopped."""
        if self.api.files:
            return "running" if self.api.files.running(self.vmid) else "stopped"
        return str(self.api.call("GET", f"{self.path}/status/current")["status"])
