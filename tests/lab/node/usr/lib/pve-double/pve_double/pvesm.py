# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Double of pvesm: the storages."""

from __future__ import annotations

import socket
import sys

from . import client

NODE = f"/nodes/{socket.gethostname()}"


def main() -> int:
    """pvesm status | list STORAGE. Returns the exit status."""
    match sys.argv[1:]:
        case ["status", *words]:
            print(
                f"{'Name':<15} {'Type':>10} {'Status':>10} "
                f"{'Total (KiB)':>15} {'Used (KiB)':>15} {'Available (KiB)':>15} {'%':>8}"
            )
            for entry in client.call("GET", f"{NODE}/storage", client.options(words)):
                state = "active" if entry["active"] else "inactive"
                print(
                    f"{entry['storage']:<15} {entry['type']:>10} {state:>10} {entry['total'] // 1024:>15} "
                    f"{entry['used'] // 1024:>15} {entry['avail'] // 1024:>15} "
                    f"{100 * entry.get('used_fraction', 0):>7.2f}%"
                )
        case ["list", storage, *words]:
            print(f"{'Volid':<60} {'Format':<8} {'Type':<10} {'Size':>15} VMID")
            for entry in client.call("GET", f"{NODE}/storage/{storage}/content", client.options(words)):
                print(
                    f"{entry['volid']:<60} {entry['format']:<8} {entry['content']:<10} "
                    f"{entry['size']:>15} {entry.get('vmid', '')}"
                )
        case _:
            client.fail("ERROR: unknown command\nUSAGE: pvesm status [OPTIONS] | list STORAGE [OPTIONS]", 255)
    return 0
