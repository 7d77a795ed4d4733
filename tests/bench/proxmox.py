# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure what the Proxmox modules cost on a node whose pvesh takes a second a call, as the real one does, on the lab.

`python tests/bench/proxmox.py [REVISION]` measures this checkout, and a revision of it before that. Prints the calls of
pvesh and the seconds of a play of one task, ssh and Ansible included. Uses the container 130.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(CHECKOUT / "tests/functional/lab"))

from lab_node import WANTED, destroy, on_node, runner, until_booted

PVESH_SECONDS = float(os.environ.get("HOMELAB_LAB_PVESH_SECONDS", "1"))
SETTING = "/etc/pve-double/pvesh-seconds"
Row = tuple[str, int, float]


def volume(gib: int) -> dict[str, Any]:
    return {"mounts": {"mp0": {"volume": f"local-lvm:{gib}", "mp": "/models"}}}


def measure(run: Callable[..., dict[str, Any]]) -> Iterator[Row]:
    """The steps of a container's life, each with its calls and seconds."""
    wanted = {**WANTED, **volume(1)}
    waiting = {**wanted, "cores": 2, "features": {"nesting": True, "keyctl": True}, **volume(2), "restart": True}
    steps: list[tuple[str, dict[str, Any], bool]] = [
        ("create and start", wanted, True),
        ("unchanged", wanted, False),
        ("check mode, unchanged", {**wanted, "check": True}, False),
        ("change, hot", {**wanted, "cores": 2}, True),
        ("grow, change, restart", waiting, True),
        ("snapshot", {"module": "lxc_snapshot", "name": "before"}, True),
        ("snapshot, unchanged", {"module": "lxc_snapshot", "name": "before"}, False),
        ("rollback", {"module": "lxc_snapshot", "name": "before", "state": "rolled_back"}, True),
        ("delete", {"state": "absent", "force": True}, True),
    ]
    for name, options, changes in steps:
        begun = time.monotonic()
        result = run(**options)
        seconds = time.monotonic() - begun
        if result["failed"] or result["changed"] != changes:
            sys.exit(f"{name}: {result}")
        yield name, len(result["calls"]), seconds
        if name in ("create and start", "rollback"):
            until_booted()


@contextmanager
def revision(name: str) -> Iterator[Path]:
    """The collections' path with a revision of this one."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "ansible_collections/homelab/llamacpp"
        git = ["git", "-C", str(CHECKOUT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), name], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=True)


def rows() -> list[Row]:
    destroy()
    with tempfile.TemporaryDirectory() as folder:
        on_node(f"echo {PVESH_SECONDS:g} >{SETTING}")
        try:
            return list(measure(runner(Path(folder))))
        finally:
            on_node("rm", "-f", SETTING)
            destroy()


def main() -> None:
    before: list[Row] = []
    if len(sys.argv) > 1:
        with revision(sys.argv[1]) as path:
            here, os.environ["ANSIBLE_COLLECTIONS_PATH"] = os.environ["ANSIBLE_COLLECTIONS_PATH"], str(path)
            before = rows()
            os.environ["ANSIBLE_COLLECTIONS_PATH"] = here
    print(f"pvesh takes {PVESH_SECONDS:g} s a call; calls, and seconds of a play of one task")
    for number, (name, calls, seconds) in enumerate(rows()):
        was = f"   {sys.argv[1]}: {before[number][1]:3} calls {before[number][2]:6.1f} s" if before else ""
        print(f"{name:24}{calls:3} calls {seconds:6.1f} s{was}")


if __name__ == "__main__":
    main()
