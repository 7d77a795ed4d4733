# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the containers with onboot when the node boots, in their order; shut all down, in the reverse, when it ends."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

from . import client, guest

NODE = f"/nodes/{socket.gethostname()}/lxc"


def main() -> int:
    """start or stop. Returns the exit status: 1 when a container did not do as it was told."""
    order = sorted((startup(entry["vmid"]) for entry in client.call("GET", NODE)), key=lambda entry: entry["order"])
    failed = [start(entry) for entry in order] if sys.argv[1] == "start" else [stop(entry) for entry in reversed(order)]
    return int(any(failed))


def startup(vmid: int) -> dict[str, Any]:
    """A container's place in the order. Without one it comes after those that have one, by its id."""
    config = client.call("GET", f"{NODE}/{vmid}/config")
    settings = guest.properties(config.get("startup", ""))
    return {
        "vmid": vmid,
        "onboot": config.get("onboot"),
        "order": (int(settings.get("order", sys.maxsize)), vmid),
        "up": int(settings.get("up", 0)),
        "down": int(settings.get("down", 60)),
    }


def running(vmid: int) -> bool:
    """Whether the container runs."""
    return bool(client.call("GET", f"{NODE}/{vmid}/status/current")["status"] == "running")


def start(entry: dict[str, Any]) -> bool:
    """Start one, as far as it is to start; then wait its up time (seconds). Returns whether that failed."""
    if not entry["onboot"] or running(entry["vmid"]):
        return False
    status = client.follow(client.call("POST", f"{NODE}/{entry['vmid']}/status/start"))
    print(f"CT {entry['vmid']}: {status}")
    time.sleep(entry["up"])
    return status != "OK"


def stop(entry: dict[str, Any]) -> bool:
    """Shut one down, within its down time (seconds), then by force. Returns whether that failed."""
    if not running(entry["vmid"]):
        return False
    status = client.follow(
        client.call("POST", f"{NODE}/{entry['vmid']}/status/shutdown", {"timeout": entry["down"], "forceStop": 1})
    )
    print(f"CT {entry['vmid']}: {status}")
    return status != "OK"
