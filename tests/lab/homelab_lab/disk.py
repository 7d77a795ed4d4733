# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's disk, a btrfs image: the node's root, its guests' volumes, and what is written into them before a boot.

  node    the node's root filesystem, from the cached image
  vz      /var/lib/vz of the node: templates and the guests' volumes
  pve     /etc/pve of the node: the guests' configuration files

A new node image replaces `node` and keeps the other two.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from pathlib import Path

from . import images
from .certificates import add_certificates
from .run import run
from .settings import LAB_DIR, LabError, Settings

FILES = LAB_DIR / "node"
INTERFACES = """\
auto lo
iface lo inet loopback

iface eth0 inet manual

auto vmbr0
iface vmbr0 inet static
\taddress {address}/{prefix}
\tgateway {gateway}
\tbridge-ports eth0
\tbridge-stp off
\tbridge-fd 0
"""


def make(settings: Settings) -> None:
    """Make the image file, if it is not there. It takes room only as it fills."""
    if settings.disk.exists():
        return
    beside = settings.disk.with_suffix(".new")
    with beside.open("wb") as file:
        file.truncate(settings.disk_gib << 30)
    run("mkfs.btrfs", "-q", str(beside))
    beside.rename(settings.disk)


def mount(settings: Settings) -> None:
    """Mount it, in the mount namespace of the caller. The loop device frees itself with the last mount."""
    settings.mountpoint.mkdir(exist_ok=True)
    run("mount", "-t", "btrfs", "-o", "loop,noatime", str(settings.disk), str(settings.mountpoint))


def wait_until_free(settings: Settings) -> None:
    """Wait until the kernel has let go of the disk: it does so a moment after the last process that saw it mounted.

    Raises LabError when something holds on to it.
    """
    deadline = time.monotonic() + 120
    while any(_backing(loop) == str(settings.disk) for loop in Path("/sys/block").glob("loop*/loop/backing_file")):
        if time.monotonic() > deadline:
            raise LabError(f"the lab's disk {settings.disk} is still in use; losetup --list shows by which loop device")
        time.sleep(0.02)


def _backing(file: Path) -> str:
    """What a loop device shows; nothing when it has gone meanwhile."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def furnish(settings: Settings) -> None:
    """Bring the mounted disk to what a boot needs: the current node image, its settings, the doubles, the templates."""
    disk = settings.mountpoint
    for name in ("vz", "pve"):
        if not (disk / name).exists():
            run("btrfs", "subvolume", "create", str(disk / name))
    node = disk / "node"
    recipe = images.recipe_id(settings, images.NODE)
    mark = disk / "node.recipe"
    if not (node.exists() and mark.exists() and mark.read_text() == recipe):
        fresh = disk / "node.new"
        for old in (fresh, node):
            if old.exists():
                run("btrfs", "subvolume", "delete", str(old))
        run("btrfs", "subvolume", "create", str(fresh))
        images.unpack(settings.cache / images.NODE.file, fresh)
        fresh.rename(node)
        mark.write_text(recipe)
    configure(settings, node)
    templates(settings, disk / "vz" / "template" / "cache")


def configure(settings: Settings, node: Path) -> None:
    """Write the node's identity, network, keys and doubles."""

    def write(path: str, text: str, mode: int = 0o644) -> None:
        file = node / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.touch(mode)
        file.write_text(text)

    write("etc/hostname", f"{settings.node}\n")
    write("etc/hosts", f"127.0.0.1 localhost\n{settings.address} {settings.node}.lab {settings.node}\n")
    write(
        "etc/network/interfaces",
        INTERFACES.format(address=settings.address, prefix=settings.network.prefixlen, gateway=settings.gateway),
    )
    write("etc/resolv.conf", Path("/etc/resolv.conf").read_text())
    write("root/.ssh/authorized_keys", settings.key.with_suffix(".pub").read_text(), 0o600)
    for kind in ("", ".pub"):
        write(
            f"etc/ssh/ssh_host_ed25519_key{kind}",
            (settings.state / f"host_ed25519{kind}").read_text(),
            0o644 if kind else 0o600,
        )
    write("etc/pve-double/password", (settings.state / "root-password").read_text(), 0o600)
    write("etc/pve-double/token", (settings.state / "root-token").read_text(), 0o600)
    (node / "var/lib/vz").mkdir(exist_ok=True)
    (node / "etc/pve").mkdir(exist_ok=True)
    (node / "var/lib/systemd/linger").mkdir(exist_ok=True)
    add_certificates(node)
    shutil.rmtree(node / "usr/lib/pve-double", ignore_errors=True)
    run("cp", "-R", "--preserve=mode", f"{FILES}/.", str(node))
    write("etc/pve-double/id", doubles_id() + "\n")
    wanted = node / "etc/systemd/system/multi-user.target.wants"
    for unit in ("lab-gpu.service", "pve-double.service", "pve-guests.service"):
        (wanted / unit).unlink(missing_ok=True)
        (wanted / unit).symlink_to(f"../{unit}")


def doubles_id() -> str:
    """A digest of the doubles as this checkout has them."""
    digest = hashlib.sha256()
    for file in sorted(FILES.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(FILES)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def templates(settings: Settings, folder: Path) -> None:
    """Put the guests' templates where Proxmox keeps them, as far as they are not there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images.TEMPLATES:
        source, target = settings.cache / image.file, folder / image.file
        if not target.exists() or target.stat().st_mtime_ns != source.stat().st_mtime_ns:
            beside = target.with_suffix(".new")
            shutil.copy2(source, beside)
            beside.rename(target)
            print(f"disk: template {image.file}", file=sys.stderr, flush=True)
