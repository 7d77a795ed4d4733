# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Double of pveam: the templates."""

from __future__ import annotations

import socket
import sys

from . import client

NODE = f"/nodes/{socket.gethostname()}"


def main() -> int:
    """pveam update | available | list STORAGE | download STORAGE TEMPLATE. Returns the exit status."""
    match sys.argv[1:]:
        case ["update"]:
            print("update successful")
        case ["available", *words] if set(client.options(words)) <= {"section"}:
            section = client.options(words).get("section")
            for entry in client.call("GET", f"{NODE}/aplinfo"):
                if section in (None, entry["section"]):
                    print(f"{entry['section']:<15} {entry['template']}")
        case ["list", storage]:
            print(f"{'NAME':<60} SIZE")
            for entry in client.call("GET", f"{NODE}/storage/{storage}/content", {"content": "vztmpl"}):
                print(f"{entry['volid']:<60} {entry['size'] / 2**20:.2f}MB")
        case ["download", storage, template]:
            status = client.follow(client.call("POST", f"{NODE}/aplinfo", {"storage": storage, "template": template}))
            if status != "OK":
                client.fail(status, 2)
        case _:
            client.fail(
                "ERROR: unknown command\n"
                "USAGE: pveam update | available [--section S] | list STORAGE | download STORAGE TEMPLATE",
                255,
            )
    return 0
