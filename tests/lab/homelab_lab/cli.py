# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line."""

from __future__ import annotations

import argparse
import os
import sys

from . import cgroups, images, lab, requirements
from .settings import LAB_DIR, LabError, Settings


def main() -> int:
    """Run one command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="lab", description="A Proxmox VE node's stand-in on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring the node up (builds the images when the cache has none)")
    down = commands.add_parser("down", help="stop the node, take bridge, NAT and everything else off this machine")
    down.add_argument(
        "--purge", action="store_true", help="drop the state too: the node's disk with its containers, and the keys"
    )
    commands.add_parser("status", help="is it up, and with which containers")
    build = commands.add_parser("build", help="build images into the cache, nothing else")
    build.add_argument("image", nargs="*", help="default: all")
    ssh = commands.add_parser("ssh", help="run a command on the node as root, or log in")
    ssh.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    shell = commands.add_parser("shell", help="a shell on the node, or in a container")
    shell.add_argument("vmid", nargs="?", type=int)
    gpu = commands.add_parser(
        "gpu", help="put the stand-ins of another machine's GPUs into the node; without one, list"
    )
    gpu.add_argument("machine", nargs="?")
    gpu.add_argument("version", nargs="?", help="of the kernel module that is loaded")
    arguments = parser.parse_args()
    try:
        settings = Settings.from_environment()
        if arguments.command == "up":
            requirements.ensure()
            lab.up(settings)
        elif arguments.command == "down":
            requirements.root()
            lab.down(settings, purge=arguments.purge)
        elif arguments.command == "build":
            requirements.ensure()
            unknown = [name for name in arguments.image if name not in images.IMAGES]
            if unknown:
                raise LabError(f"there is no image {unknown[0]!r}; there are: {' '.join(images.IMAGES)}")
            with cgroups.working(settings):
                ordinary = [name for name, image in images.IMAGES.items() if not image.on_demand]
                images.build(settings, *(arguments.image or ordinary))
        elif arguments.command == "status":
            requirements.root()
            return lab.status(settings)
        else:
            requirements.root()
            if not lab.is_up(settings):
                raise LabError(f"the lab is down; bring it up: {LAB_DIR / 'lab'} up")
            if arguments.command == "gpu":
                return lab.gpu(settings, *filter(None, (arguments.machine, arguments.version)))
            words = arguments.words if arguments.command == "ssh" else shell_of(arguments.vmid)
            command = settings.ssh(*words)
            os.execvp(command[0], command)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def shell_of(vmid: int | None) -> list[str]:
    """What ssh runs for a shell: nothing for the node's own, or one in a container."""
    return [] if vmid is None else ["-t", f"pct enter {vmid}"]


if __name__ == "__main__":
    sys.exit(main())
