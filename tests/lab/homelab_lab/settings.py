# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where one lab lives, what it is called, and the addresses it uses. Everything comes from the environment."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

LAB_DIR = Path(__file__).resolve().parent.parent


class LabError(Exception):
    """What was wanted, what was found, and what mends it: the one line a person gets to see."""


@dataclass(frozen=True)
class Settings:
    """One lab. Two labs with different names, bridges, networks and state folders run side by side."""

    name: str
    node: str
    bridge: str
    network: ipaddress.IPv4Network
    state: Path
    cache: Path
    mirror: str
    gpu_mib: int
    disk_gib: int
    # Seconds that a call of pvesh takes, and that a rollback waits for each volume, as on a real node.
    pvesh_seconds: float
    mmp_seconds: float

    @classmethod
    def from_environment(cls) -> Settings:
        """The lab that the HOMELAB_LAB_* variables describe.

        Raises LabError for a value that cannot work.
        """
        env = os.environ.get
        name = env("HOMELAB_LAB_NAME", "homelab-llamacpp")
        bridge = env("HOMELAB_LAB_BRIDGE", "hlab0")
        if len(bridge) > 12:
            raise LabError(
                "HOMELAB_LAB_BRIDGE can have 12 characters at most (the node's cable is named after it), "
                f"found {bridge!r}"
            )
        try:
            network = ipaddress.IPv4Network(env("HOMELAB_LAB_NETWORK", "198.18.77.0/24"))
            gpu_mib = int(env("HOMELAB_LAB_GPU_MIB", "160"))
            disk_gib = int(env("HOMELAB_LAB_DISK_GIB", "40"))
            pvesh_seconds = float(env("HOMELAB_LAB_PVESH_SECONDS", "0"))
            mmp_seconds = float(env("HOMELAB_LAB_MMP_SECONDS", "0"))
        except ValueError as error:
            raise LabError(f"a HOMELAB_LAB_* variable is not what it should be: {error}") from None
        if network.prefixlen > 24:
            raise LabError(f"HOMELAB_LAB_NETWORK needs room for guests from .100 on (a /24 or larger), found {network}")
        return cls(
            name=name,
            node=env("HOMELAB_LAB_NODE", "pve"),
            bridge=bridge,
            network=network,
            state=Path(env("HOMELAB_LAB_STATE", f"/var/lib/{name}-lab")),
            cache=Path(env("HOMELAB_LAB_CACHE", "/var/cache/homelab-llamacpp-lab")),
            mirror=env("HOMELAB_LAB_MIRROR", "http://deb.debian.org/debian"),
            gpu_mib=gpu_mib,
            disk_gib=disk_gib,
            pvesh_seconds=pvesh_seconds,
            mmp_seconds=mmp_seconds,
        )

    @property
    def gateway(self) -> str:
        """This machine's address on the bridge."""
        return str(self.network.network_address + 1)

    @property
    def address(self) -> str:
        """The node's address."""
        return str(self.network.network_address + 2)

    @property
    def uplink(self) -> str:
        """The bridge's end of the node's network cable."""
        return f"{self.bridge}-n0"

    @property
    def cgroup(self) -> str:
        """The one control group, below the cgroup2 root, that every process of this lab lives in."""
        return f"{self.name}-lab"

    @property
    def nft_table(self) -> str:
        """The lab's own nftables table (family ip)."""
        return f"{self.name}-lab".replace("-", "_")

    @property
    def key(self) -> Path:
        """The private key that opens the node."""
        return self.state / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The node's host key, as ssh wants it."""
        return self.state / "known_hosts"

    @property
    def disk(self) -> Path:
        """The btrfs image with the node and its guests."""
        return self.state / "disk.btrfs"

    @property
    def mountpoint(self) -> Path:
        """Where the disk is mounted, inside the lab's private mount namespace only."""
        return self.state / "disk"

    def ssh(self, *arguments: str) -> list[str]:
        """The command line that runs something as root on the node."""
        return [
            "ssh",
            "-F",
            "/dev/null",
            "-i",
            str(self.key),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            f"UserKnownHostsFile={self.known_hosts}",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "ConnectTimeout=30",
            "-o",
            "LogLevel=ERROR",
            f"root@{self.address}",
            *arguments,
        ]
