# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read on the node itself what its files say about guests and tasks. A call of pvesh for the same takes a second."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple
from urllib.parse import unquote

from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, component

PVE = "/etc/pve"
TASKS = "/var/log/pve/tasks"
SOCKETS = "/proc/net/unix"
INTERFACES = "/sys/class/net"
PENDING = "pve:pending"
# As pve-container reads its files.
SECTION = re.compile(r"\[([\w:-]+)\]\s*")
OPTION = re.compile(r"([a-z][a-z_]*\d*):\s*(.+?)\s*")
TASK_END = re.compile(r"TASK (?:(OK|WARNINGS: \d+)|ERROR: (.*))")
KINDS = {"lxc": "lxc", "qemu-server": "qemu"}

RunCommand = Callable[..., tuple[int, str, str]]
Section = dict[str, str]


class Task(NamedTuple):
    """A task that has ended: OK, WARNINGS: N or an error, and the lines of its log."""

    ended: str
    log: list[str]


class Here:
    """The files of the node that this is. None stands for a node that has none to read."""

    def __init__(self, node: str, run_command: RunCommand) -> None:
        self._node = node
        self._run_command = run_command

    @classmethod
    def of(cls, node: str, run_command: RunCommand) -> Here | None:
        """The files of this node, None where the cluster's file system is not mounted or not readable."""
        return cls(node, run_command) if os.access(f"{PVE}/nodes/{node}/lxc", os.R_OK | os.X_OK) else None

    def guest(self, vmid: int) -> list[dict[str, Any]] | None:
        """What the API answers to `lxc/ID/pending`, None for a container that is not on this node."""
        raw = self._read(vmid)
        if raw is None:
            return None
        sections = _sections(raw)
        now, pending = sections[""], sections.get(PENDING, {})
        going = {key.lstrip("!") for key in re.split(r"[,; ]+", pending.pop("delete", ""))} - {""}
        entries: list[dict[str, Any]] = [{"key": "digest", "value": hashlib.sha1(raw).hexdigest()}]
        for key in sorted({*now, *pending}):
            entry: dict[str, Any] = {"key": key}
            if key in now:
                entry["value"] = now[key]
            if key in pending:
                entry["pending"] = pending[key]
            elif key in going:
                entry["delete"] = 1
            entries.append(entry)
        return entries

    def snapshots(self, vmid: int) -> list[Section] | None:
        """What the API answers to `lxc/ID/snapshot`, None for a container that is not on this node."""
        raw = self._read(vmid)
        if raw is None:
            return None
        return [{**section, "name": name} for name, section in _sections(raw).items() if name not in ("", PENDING)]

    def running(self, vmid: int) -> bool:
        """Whether LXC's monitor of the container listens, which is what Proxmox VE goes by."""
        with open(SOCKETS, encoding="utf-8", errors="replace") as file:
            return any(line.rstrip("\n").endswith(f" @/var/lib/lxc/{vmid}/command") for line in file)

    def hostname(self, vmid: int) -> str | None:
        """The name that a running container has now, None where that cannot be seen."""
        done, out, _err = self._run_command(["lxc-info", "-n", str(vmid), "-p", "-H"])
        pid = out.strip()
        if done != 0 or not pid.isdigit():
            return None
        done, out, _err = self._run_command(["nsenter", "--target", pid, "--uts", "hostname"])
        return out.strip() if done == 0 else None

    def places(self, vmid: int) -> Iterator[tuple[str, str]]:
        """(node, lxc or qemu) of every guest with that number in the cluster."""
        for path in glob.glob(f"{PVE}/nodes/*/*/{vmid}.conf"):
            node, folder = path.split("/")[-3:-1]
            if folder in KINDS:
                yield node, KINDS[folder]

    def task(self, upid: str) -> Task | None:
        """A task of this node by its id; None for one that still runs or whose log is not there."""
        try:
            start = component(upid).split(":")[4]
            with open(f"{TASKS}/{start[-1]}/{upid}", encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except (BadName, IndexError, OSError):
            return None
        end = TASK_END.fullmatch(lines[-1]) if lines else None
        return Task(end.group(1) or end.group(2), lines) if end else None

    def last_task(self, vmid: int, *kinds: str) -> str | None:
        """The id of the newest task of these kinds for the container."""
        # UPID:NODE:PID:PSTART:START:KIND:ID:USER:
        paths = glob.glob(f"{TASKS}/?/UPID:{glob.escape(self._node)}:*:{vmid}:*")
        tasks = [os.path.basename(path).split(":") for path in paths]
        ours = [task for task in tasks if task[5] in kinds and task[6] == str(vmid)]
        newest = sorted(ours, key=lambda task: (task[4], task[3]))[-1:]
        return ":".join(newest[0]) if newest else None

    @staticmethod
    def bridges() -> list[str]:
        """The bridges of this node: Linux's and Open vSwitch's, and vnets, which are Linux bridges too."""
        found = [name for name in os.listdir(INTERFACES) if os.path.isdir(f"{INTERFACES}/{name}/bridge")]
        if os.path.isdir("/sys/module/openvswitch"):
            # An OVS bridge looks like any other virtual interface.
            found += [name for name in os.listdir(INTERFACES) if not os.path.exists(f"{INTERFACES}/{name}/device")]
        return sorted(set(found))

    def _read(self, vmid: int) -> bytes | None:
        try:
            with open(f"{PVE}/nodes/{self._node}/lxc/{vmid}.conf", "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None


def _sections(raw: bytes) -> dict[str, Section]:
    """The sections of a container's file: "" as it is, `pve:pending`, and one a snapshot."""
    sections: dict[str, Section] = {"": {}}
    current = sections[""]
    for line in raw.decode("utf-8", "replace").splitlines():
        head, option = SECTION.fullmatch(line), OPTION.fullmatch(line)
        if head:
            current = sections.setdefault(head.group(1), {})
        elif line.startswith("#"):
            current["description"] = current.get("description", "") + unquote(line[1:]) + "\n"
        elif option:
            current[option.group(1)] = option.group(2)
    return sections
