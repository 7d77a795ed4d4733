# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for the servers of the tests, which nobody else gets until this process ends.

Port 0 would be the kernel's choice, and who closes that socket again, so that a server can have the port, has lost it:
any connection that anybody opens may get it, even the one with which the test asks whether the server listens yet.

By hand: python tests/ports.py prints one; it is nobody's again at once, so that is for one test at a time.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

# Above those that services are known by, below those that the kernel gives to connections.
FIRST, LAST = 20000, 32767
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_claims: list[socket.socket] = []


def free_port() -> int:
    """A TCP port on which nobody listens, and which no other process of the tests gets."""
    last = min(LAST, int(RANGE.read_text().split()[0]) - 1)
    for _try in range(1000):
        port = random.randint(FIRST, last)
        # A name that the kernel takes back when this process ends, however it ends.
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0homelab.llamacpp test port {port}")
            with socket.socket() as probe:
                probe.bind(("", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise AssertionError(f"no port between {FIRST} and {last} was found free")


if __name__ == "__main__":
    print(free_port())
