# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Double of pct: the commands that roles, the connection and people use."""

from __future__ import annotations

import os
import socket
import sys

from . import client

USAGE = """ERROR: {}
USAGE: pct <COMMAND> [ARGS] [OPTIONS]
       pct list | status ID | config ID | pending ID | listsnapshot ID
       pct create ID TEMPLATE [OPTIONS] | set ID [OPTIONS] | destroy ID [OPTIONS]
       pct start ID | stop ID | shutdown ID [OPTIONS] | reboot ID [OPTIONS]
       pct snapshot ID NAME [OPTIONS] | rollback ID NAME [OPTIONS] | delsnapshot ID NAME
       pct exec ID -- CMD... | enter ID
The lab's double has no other command."""
ENTER = ["-v", "HOME=/root", "-v", "TERM=linux"]


def main() -> int:
    """One command. Returns the exit status."""
    words = sys.argv[1:]
    try:
        return command(words[0], words[1:])
    except client.ApiError as error:
        return complain(error)
    except IndexError:
        client.fail(USAGE.format("missing arguments"), 255)


def complain(error: client.ApiError) -> int:
    """Print an error. Returns the exit status."""
    print(error.text(), file=sys.stderr)
    return 2 if error.status == 500 else 255


def command(name: str, words: list[str]) -> int:
    """Run one command. Raises client.ApiError, or IndexError for a missing argument."""
    node = f"/nodes/{socket.gethostname()}/lxc"
    if name == "list":
        guests = client.call("GET", node)
        if guests:
            print(f"{'VMID':<10} {'Status':<10} {'Lock':<12} {'Name':<20}")
        for guest in sorted(guests, key=lambda guest: int(guest["vmid"])):
            print(f"{guest['vmid']:<10} {guest['status']:<10} {guest.get('lock', ''):<12} {guest['name']:<20}")
        return 0
    vmid, rest = words[0], words[1:]
    guest = f"{node}/{vmid}"
    if name == "status":
        print(f"status: {client.call('GET', f'{guest}/status/current')['status']}")
    elif name in ("config", "pending"):
        config = client.call("GET", f"{guest}/config", {"current": 1} if name == "config" else {})
        config.pop("digest")
        for key in sorted(config):
            print(f"{key}: {config[key]}")
    elif name == "listsnapshot":
        for entry in client.call("GET", f"{guest}/snapshot"):
            print(f"`-> {entry['name']:<25} {entry.get('snaptime', ''):<22} {entry['description']}")
    elif name == "create":
        return task("POST", node, {"vmid": vmid, "ostemplate": rest[0], **client.options(rest[1:])})
    elif name == "set":
        client.call("PUT", f"{guest}/config", client.options(rest))
    elif name == "destroy":
        return task("DELETE", guest, client.options(rest))
    elif name in ("start", "stop", "shutdown", "reboot"):
        return task("POST", f"{guest}/status/{name}", client.options(rest))
    elif name == "snapshot":
        return task("POST", f"{guest}/snapshot", {"snapname": rest[0], **client.options(rest[1:])})
    elif name == "rollback":
        return task("POST", f"{guest}/snapshot/{rest[0]}/rollback", client.options(rest[1:]))
    elif name == "delsnapshot":
        return task("DELETE", f"{guest}/snapshot/{rest[0]}", client.options(rest[1:]))
    elif name in ("exec", "enter"):
        return attach(guest, vmid, rest if name == "exec" else [])
    else:
        client.fail(USAGE.format(f"unknown command 'pct {name}'"), 255)
    return 0


def task(method: str, path: str, parameters: dict[str, object]) -> int:
    """Start a task and wait for it; pct, unlike pvesh, fails when it fails."""
    status = client.follow(client.call(method, path, parameters))
    if status == "OK":
        return 0
    print(status, file=sys.stderr)
    return 2


def attach(guest: str, vmid: str, words: list[str]) -> int:
    """Become a program in the guest. As with the real one, a command keeps the node's environment."""
    if client.call("GET", f"{guest}/status/current")["status"] != "running":
        print(f"container '{vmid}' not running!", file=sys.stderr)
        return 255
    if words and words[0] == "--":
        words = words[1:]
    if words:
        os.execvp("lxc-attach", ["lxc-attach", "-n", vmid, "--keep-env", *ENTER, "--", *words])
    os.execvp("lxc-attach", ["lxc-attach", "-n", vmid, "--clear-env", *ENTER])
