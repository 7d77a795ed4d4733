# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bridge, its NAT, and IPv4 forwarding: the part of the lab that this machine itself can see."""

from __future__ import annotations

import os
from pathlib import Path

from .run import output, run
from .settings import LabError, Settings

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# What ip_forward was before the first lab came up. Shared by all labs of this machine: the last one restores it.
FORWARD_WAS = Path("/run/homelab-lab.ip_forward")
# Hosts on a path with a smaller MTU (tunnels, cloud networks) need the clamp, or large downloads stall.
RULES = """
add table ip {table}
flush table ip {table}
table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network} ip daddr != {network} masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
    oifname "{bridge}" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
  }}
}}
"""


def up(settings: Settings) -> None:
    """Make the bridge with its address, the NAT table and forwarding. Running it again changes nothing.

    Raises LabError when another interface has the lab's network already.
    """
    bridge = settings.bridge
    for line in output("ip", "-4", "-o", "route", "show", "scope", "link").splitlines():
        network, device = line.split()[:3:2]
        if network == str(settings.network) and device != bridge:
            raise LabError(f"the lab wants the network {network}, found it on {device}; set HOMELAB_LAB_NETWORK")
    if not exists(bridge):
        run("ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0")
    # No IPv6 here: guests would learn addresses that lead nowhere.
    no_ipv6 = Path(f"/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6")
    if no_ipv6.exists():
        no_ipv6.write_text("1")
    run("ip", "address", "replace", f"{settings.gateway}/{settings.network.prefixlen}", "dev", bridge)
    run("ip", "link", "set", bridge, "up")
    run("nft", "-f", "-", input=RULES.format(table=settings.nft_table, network=settings.network, bridge=bridge))
    if FORWARD.read_text().strip() == "0":
        FORWARD_WAS.write_text("0")
        FORWARD.write_text("1")


def down(settings: Settings) -> None:
    """Take all of it away again. What is not there is no error."""
    if settings.nft_table in tables():
        run("nft", "delete", "table", "ip", settings.nft_table)
    # The node's interface dies with its network namespace, a moment after the node: do not leave it to that.
    for interface in (settings.uplink, settings.bridge):
        if exists(interface):
            run("ip", "link", "delete", interface)
    if FORWARD_WAS.exists() and not any(name.endswith("_lab") for name in tables()):
        FORWARD.write_text(FORWARD_WAS.read_text())
        FORWARD_WAS.unlink()


def tables() -> list[str]:
    """Names of the nftables tables of family ip."""
    if not any(os.access(f"{folder}/nft", os.X_OK) for folder in ("/usr/sbin", "/sbin", "/usr/bin")):
        return []
    return [line.split()[2] for line in output("nft", "list", "tables", "ip").splitlines()]


def exists(interface: str) -> bool:
    """Whether this machine has that network interface."""
    return Path("/sys/class/net", interface).exists()
