# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real containers: the LXC configuration that Proxmox would write, and lxc-start and its family."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import guest, volumes
from .process import ProgramError, run

LXC = Path("/var/lib/lxc")
REBOOT_MARKS = Path("/run/pve-double")
SHIFT = 100000
HALT = signal.SIGRTMIN + 3  # what LXC sends to a systemd that is to end
LIBC, MNT_DETACH = ctypes.CDLL(None), 2
HOOK = "/usr/lib/pve-double/post-stop"
KERNEL_VIEWS = ("/proc/driver", "/sys/bus/pci/devices")
NVIDIA_SMI = {"/usr/local/bin/nvidia-smi": "file", "/usr/lib/lab-gpu": "dir"}


class Refused(Exception):
    """Proxmox would refuse this, in these words."""


def device(value: str) -> dict[str, str]:
    """A devN value: its path and its options.

    Raises Refused, in Proxmox's words, for one that the node does not have or that is no device.
    """
    properties = guest.properties(value)
    path = properties.setdefault("path", properties.pop("", ""))
    if not os.path.exists(path):
        raise Refused(f"Device {path} does not exist")
    mode = os.stat(path).st_mode
    if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        raise Refused(f"{path} is not a device")
    return properties


def devices(config: dict[str, Any]) -> list[dict[str, str]]:
    """The guest's passed-through devices. Raises Refused as device does."""
    return [device(config[key]) for key in sorted(config) if re.fullmatch(r"dev\d+", key)]


def mounts(config: dict[str, Any]) -> list[dict[str, str]]:
    """The guest's mount points: each with source, mp, ro and whether it is a volume.

    Raises Refused for a bind mount whose source is missing.
    """
    found = []
    for key in sorted(config):
        if re.fullmatch(r"mp\d+", key):
            found.append(mount(config[key]))
    return found


def mount(value: str) -> dict[str, str]:
    """One mpN value. Raises Refused as mounts does."""
    properties = guest.properties(value)
    volume = properties.pop("", "") or properties.pop("volume", "")
    properties["volume"] = volume
    if volume.startswith("/"):
        properties["source"] = volume
        if not os.path.isdir(volume) and not volume.startswith("/dev/"):
            raise Refused(f"directory '{volume}' does not exist")
    else:
        properties["source"] = str(volumes.path(volume))
    return properties


def write_config(vmid: int, config: dict[str, Any]) -> None:
    """Write the LXC configuration of a guest. Raises Refused for what Proxmox would refuse to start."""
    folder = LXC / str(vmid)
    folder.mkdir(parents=True, exist_ok=True)
    unprivileged = bool(config.get("unprivileged"))
    rootfs = volumes.path(volume_of(config["rootfs"]))
    lines = [
        "lxc.include = /usr/share/lxc/config/common.conf",
        *(["lxc.include = /usr/share/lxc/config/userns.conf", "lxc.mount.auto = sys:mixed"] if unprivileged else []),
        "lxc.apparmor.profile = unconfined",
        f"lxc.uts.name = {config['hostname']}",
        f"lxc.rootfs.path = dir:{rootfs}",
        "lxc.cgroup.relative = 0",
        "lxc.environment = TERM=linux",
        "lxc.tty.max = 2",
        "lxc.hook.version = 1",
        f"lxc.hook.post-stop = {HOOK}",
    ]
    if unprivileged:
        lines += [f"lxc.idmap = {kind} 0 {SHIFT} 65536" for kind in "ug"]
        lines.append("lxc.rootfs.options = idmap=container")
    if guest.properties(config.get("features", "")).get("nesting") == "1":
        lines += [
            "lxc.mount.entry = proc dev/.lxc/proc proc create=dir,optional 0 0",
            "lxc.mount.entry = sys dev/.lxc/sys sysfs create=dir,optional 0 0",
        ]
    for number, net in guest.networks(config).items():
        bridge = need_bridge(net)
        lines += [
            f"lxc.net.{number}.type = veth",
            f"lxc.net.{number}.link = {bridge}",
            f"lxc.net.{number}.flags = up",
            f"lxc.net.{number}.veth.pair = veth{vmid}i{number}",
            f"lxc.net.{number}.name = {net['name']}",
            f"lxc.net.{number}.hwaddr = {net['hwaddr']}",
        ]
    for entry in mounts(config):
        options = "bind,create=dir" + (",ro" if entry.get("ro") == "1" else "")
        if unprivileged and not entry["volume"].startswith("/"):
            options += ",idmap=container"
        lines.append(
            f"lxc.mount.entry = {_escape(entry['source'])} {_escape(entry['mp'].lstrip('/'))} none {options} 0 0"
        )
    for entry in devices(config):
        info = os.stat(entry["path"])
        kind = "b" if stat.S_ISBLK(info.st_mode) else "c"
        rights = "r" if entry.get("deny-write") == "1" else "rw"
        lines.append(f"lxc.cgroup2.devices.allow = {kind} {os.major(info.st_rdev)}:{os.minor(info.st_rdev)} {rights}")
        lines.append(
            f"lxc.mount.entry = {node_path(vmid, entry)} {entry['path'].lstrip('/')} none bind,create=file 0 0"
        )
    # A container shares its node's kernel: what that shows of the lab's stand-ins for GPUs, and their nvidia-smi.
    lines += [f"lxc.mount.entry = {path} {path.lstrip('/')} none bind 0 0" for path in KERNEL_VIEWS]
    for path, kind in NVIDIA_SMI.items():
        lines.append(f"lxc.mount.entry = {path} {path.lstrip('/')} none bind,ro,create={kind} 0 0")
    (folder / "config").write_text("\n".join(lines) + "\n")


def need_bridge(net: dict[str, str], refuse: Callable[..., Exception] | None = None) -> str:
    """The bridge of a network. Raises Refused, or what else it is to be, for one that does not exist."""
    bridge = net.get("bridge", "")
    if not Path("/sys/class/net", bridge, "bridge").exists():
        words = f"bridge '{bridge}' does not exist"
        raise refuse(500, words) if refuse else Refused(words)
    return bridge


def _escape(path: str) -> str:
    """A path in fstab's form, which lxc.mount.entry has."""
    return path.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")


def node_path(vmid: int, entry: dict[str, str]) -> Path:
    """Where the guest's own node of a device lies on the Proxmox node."""
    return LXC / str(vmid) / "passthrough" / entry["path"].lstrip("/")


async def make_nodes(vmid: int, config: dict[str, Any]) -> None:
    """Make the guest's device nodes, with the owner (shifted) and the mode that the configuration gives them."""
    folder = LXC / str(vmid) / "passthrough"
    unmount_nodes(vmid)
    folder.mkdir(parents=True, exist_ok=True)
    # A tmpfs of its own: the usual places are mounted nodev.
    await run("mount", "-t", "tmpfs", "-o", "mode=755,size=256k", "passthrough", str(folder))
    for entry in devices(config):
        make_node(vmid, config, entry)


def make_node(vmid: int, config: dict[str, Any], entry: dict[str, str]) -> Path:
    """Make one device node for the guest."""
    info = os.stat(entry["path"])
    path = node_path(vmid, entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mknod(path, stat.S_IFMT(info.st_mode), info.st_rdev)
    shift = SHIFT if config.get("unprivileged") else 0
    os.chown(path, shift + int(entry.get("uid", 0)), shift + int(entry.get("gid", 0)))
    os.chmod(path, int(entry.get("mode", "0660"), 8))
    return path


def unmount_nodes(vmid: int) -> None:
    """Take the guest's device nodes away.

    In one go, without giving way to another task: a later one could be starting the guest again.
    """
    folder = str(LXC / str(vmid) / "passthrough").encode()
    while LIBC.umount2(folder, MNT_DETACH) == 0:
        pass


async def start(vmid: int, config: dict[str, Any]) -> None:
    """Start the guest. Raises Refused in Proxmox's words, or with LXC's."""
    write_config(vmid, config)
    guest.configure(volumes.path(volume_of(config["rootfs"])), config)
    await make_nodes(vmid, config)
    mark(vmid).unlink(missing_ok=True)
    log = LXC / str(vmid) / "start.log"
    log.unlink(missing_ok=True)
    try:
        await run("lxc-start", "-n", str(vmid), "-l", "ERROR", "-o", str(log))
    except ProgramError as error:
        unmount_nodes(vmid)
        words = [line.split(" - ", 1)[-1] for line in log.read_text().splitlines()] if log.exists() else []
        raise Refused(f"startup for container '{vmid}' failed" + (f": {words[0]}" if words else f": {error}")) from None


def mark(vmid: int) -> Path:
    """The file by which the post-stop hook says that the guest wants to reboot, not to end."""
    REBOOT_MARKS.mkdir(exist_ok=True)
    return REBOOT_MARKS / f"{vmid}.reboot"


async def kill(vmid: int) -> None:
    """End the guest at once."""
    await run("lxc-stop", "-n", str(vmid), "--kill")


async def shutdown(vmid: int, timeout: int) -> bool:
    """Ask the guest to power off and wait, seconds. Returns whether it did."""
    await _listening(vmid, timeout)
    try:
        await run("lxc-stop", "-n", str(vmid), "--nokill", "--timeout", str(timeout))
    except ProgramError:
        return False
    return True


async def _listening(vmid: int, timeout: int) -> None:
    """Wait until the guest's systemd takes signals: one that comes before, in its first moments, is lost for good."""
    pid, deadline = await init_pid(vmid), asyncio.get_running_loop().time() + timeout
    while pid and asyncio.get_running_loop().time() < deadline:
        try:
            blocked = re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        except OSError:
            return  # it has ended
        if blocked and int(blocked[1], 16) >> (HALT - 1) & 1:
            return
        await asyncio.sleep(0.02)


async def info(vmid: int, what: str) -> str:
    """What lxc-info says: -p for the first process, -s for the state.

    Asked while a guest's monitor ends or starts anew, it may be left without an answer and fail: it is asked again.
    Raises ProgramError when it fails for ten seconds, and at once for a guest that was never started.
    """
    left = 200
    while True:
        try:
            return (await run("lxc-info", "-n", str(vmid), what, "-H")).strip()
        except ProgramError:
            left -= 1
            if not left or not (LXC / str(vmid) / "config").exists():
                raise
        await asyncio.sleep(0.05)


async def init_pid(vmid: int) -> int | None:
    """The guest's first process as the node sees it; None when it does not run."""
    try:
        text = await info(vmid, "-p")
    except ProgramError:
        return None
    return int(text) if text.lstrip("-").isdigit() and int(text) > 0 else None


async def destroy(vmid: int, config: dict[str, Any], snapshots: dict[str, dict[str, Any]]) -> None:
    """Remove the guest's volumes, those of its snapshots too, and its LXC folder."""
    unmount_nodes(vmid)
    for section in (config, *snapshots.values()):
        for volume in own_volumes(section):
            await volumes.delete(volume)
    await run("rm", "-rf", "--one-file-system", str(LXC / str(vmid)))


def volume_of(value: str) -> str:
    """The volume (or path) of a rootfs or mpN value."""
    return str(value).partition(",")[0].removeprefix("volume=")


def own_volumes(config: dict[str, Any]) -> list[str]:
    """The volumes that a configuration names: the root, mount points and unused ones, no bind mounts."""
    found = []
    for key in sorted(config):
        if re.fullmatch(r"rootfs|mp\d+|unused\d+", key):
            volume = volume_of(config[key])
            if not volume.startswith("/"):
                found.append(volume)
    return found


async def plug_device(vmid: int, config: dict[str, Any], value: str) -> None:
    """Put a device into the running guest. Raises Refused as device does."""
    entry = device(value)
    if not os.path.ismount(LXC / str(vmid) / "passthrough"):
        await make_nodes(vmid, config)
    node = make_node(vmid, config, entry)
    target = entry["path"]
    await attach(vmid, "/bin/sh", "-c", 'mkdir -p "${1%/*}" && touch "$1"', "sh", target)
    await _hotplug(vmid, str(node), target)


async def plug_mount(vmid: int, config: dict[str, Any], value: str) -> None:
    """Put a mount point into the running guest. Raises Refused as mount does."""
    entry = mount(value)
    await attach(vmid, "mkdir", "-p", entry["mp"])
    shifted = config.get("unprivileged") and not entry["volume"].startswith("/")
    await _hotplug(vmid, entry["source"], entry["mp"], *(["idmap"] if shifted else []))


async def _hotplug(vmid: int, *arguments: str) -> None:
    pid = await init_pid(vmid)
    await run(sys.executable, "-m", "pve_double.hotplug", str(pid), *arguments)


async def plug_network(vmid: int, number: int, old: dict[str, str] | None, new: dict[str, str]) -> None:
    """Give the running guest an interface, or change one. Raises Refused for a bridge that is not there."""
    bridge, name, veth = need_bridge(new), new["name"], f"veth{vmid}i{number}"
    if old is None or (old["name"], old["hwaddr"]) != (name, new["hwaddr"]):
        await unplug_network(vmid, number)
        await run("ip", "link", "add", veth, "type", "veth", "peer", "name", f"{veth}p", "address", new["hwaddr"])
        await run("lxc-device", "-n", str(vmid), "add", f"{veth}p", name)
    await run("ip", "link", "set", veth, "master", bridge, "up")
    await attach(vmid, "ip", "address", "flush", "dev", name)
    await attach(vmid, "ip", "link", "set", name, "up")
    if "/" in new.get("ip", ""):
        await attach(vmid, "ip", "address", "add", new["ip"], "dev", name)
        if "gw" in new:
            await attach(vmid, "ip", "route", "replace", "default", "via", new["gw"])


async def unplug_network(vmid: int, number: int) -> None:
    """Take an interface from the guest."""
    veth = f"veth{vmid}i{number}"
    if Path("/sys/class/net", veth).exists():
        await run("ip", "link", "delete", veth)


async def attach(vmid: int, *command: str) -> str:
    """Run a program in the guest as its root."""
    return await run(
        "lxc-attach", "-n", str(vmid), "--clear-env", "-v", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "--", *command
    )
