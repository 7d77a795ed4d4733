# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's power supply: the one process that stays, in a mount namespace of its own, as long as the node runs.

It mounts the disk (where only the lab sees it), starts the node, starts it again when it reboots, and ends when it
powers off. With it the mounts and the loop device go away by themselves, however it ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import cgroups, disk, network
from .run import run
from .settings import LAB_DIR, LabError, Settings

# What the kernel does to the first process of a pid namespace when it calls reboot(2).
REBOOTED = -signal.SIGHUP
POWERED_OFF = -signal.SIGINT
# systemd's "power off now, cleanly".
POWER_OFF = signal.SIGRTMIN + 4


def supply(settings: Settings) -> int:
    """Run the node until it powers off. Returns 0 then, and 1 when its first process died in another way."""
    disk.mount(settings)
    disk.furnish(settings)
    while (status := boot(settings)) == REBOOTED:
        print("power: the node reboots", flush=True)
    print(f"power: the node ended with {status}", flush=True)
    return 0 if status == POWERED_OFF else 1


def boot(settings: Settings) -> int:
    """Start the node once and wait for its end. SIGTERM to this process shuts the node down."""
    group = cgroups.path(settings) / "node"
    cgroups.end(group)
    group.mkdir()
    where = settings.mountpoint
    node = subprocess.Popen(
        [
            "unshare",
            "--pid",
            "--net",
            "--uts",
            "--ipc",
            "--mount",
            "--propagation",
            "private",
            "--fork",
            "--kill-child=SIGKILL",
            str(LAB_DIR / "host" / "enter-node.sh"),
            str(where / "node"),
            str(where / "vz"),
            str(where / "pve"),
            str(group),
        ],
        stdin=subprocess.PIPE,
        text=True,
    )
    assert node.stdin is not None

    def shut_down(*_: object) -> None:
        for child in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split():
            os.kill(int(child), POWER_OFF)

    signal.signal(signal.SIGTERM, shut_down)
    plug_in(settings, node.pid)
    node.stdin.write("go\n")
    node.stdin.close()
    return node.wait()


def plug_in(settings: Settings, pid: int) -> None:
    """Give the node's network namespace its eth0, the other end on the lab's bridge."""
    own = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{pid}/ns/net").readlink() == own:
        time.sleep(0.005)
    if network.exists(settings.uplink):
        run("ip", "link", "delete", settings.uplink)
    run("ip", "link", "add", settings.uplink, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    run("ip", "link", "set", settings.uplink, "master", settings.bridge, "up")


if __name__ == "__main__":
    try:
        sys.exit(supply(Settings.from_environment()))
    except LabError as error:
        sys.exit(f"power: {error}")
