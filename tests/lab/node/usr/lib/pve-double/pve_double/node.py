# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API says about the node itself: version, load, storages and templates, as they really are."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
from functools import cache
from pathlib import Path
from typing import Any

from . import volumes

# The Proxmox VE that the lab stands in for (fakepve's schema is of this series).
RELEASE, VERSION = "9.2", "9.2.1"


def address() -> str:
    """The node's own address."""
    return socket.gethostbyname(socket.gethostname())


def storages() -> dict[str, dict[str, Any]]:
    """The two storages of a usual installation. local-lvm is a thin pool in name only (see volumes)."""
    return {
        "local": {"type": "dir", "active": 1, "content": "iso,vztmpl,backup", "files": set(), "path": "/var/lib/vz"},
        "local-lvm": {
            "type": "lvmthin",
            "active": 1,
            "content": "images,rootdir",
            "files": set(),
            "vgname": "pve",
            "thinpool": "data",
        },
    }


def _memory() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    pairs = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}


def status() -> dict[str, Any]:
    """GET /nodes/NODE/status."""
    memory, (size, free) = _memory(), volumes.free()
    system = platform.uname()
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    cpus = os.cpu_count() or 1
    return {
        "uptime": int(float(Path("/proc/uptime").read_text().split()[0])),
        "loadavg": [f"{load:.2f}" for load in os.getloadavg()],
        "cpu": 0,
        "wait": 0,
        "idle": 0,
        "cpuinfo": {
            "cpus": cpus,
            "cores": cpus,
            "sockets": 1,
            "model": model.group(1) if model else "unknown",
            "mhz": "0",
            "hvm": "0",
            "flags": "",
            "user_hz": 100,
        },
        "memory": {
            "total": memory["MemTotal"],
            "free": memory["MemFree"],
            "available": memory["MemAvailable"],
            "used": memory["MemTotal"] - memory["MemAvailable"],
        },
        "swap": {
            "total": memory["SwapTotal"],
            "free": memory["SwapFree"],
            "used": memory["SwapTotal"] - memory["SwapFree"],
        },
        "rootfs": {"total": size, "free": free, "avail": free, "used": size - free},
        "pveversion": f"pve-manager/{VERSION}/lab-double",
        "kversion": f"{system.system} {system.release} {system.version}",
        "current-kernel": {
            "sysname": system.system,
            "release": system.release,
            "version": system.version,
            "machine": system.machine,
        },
        "boot-info": {"mode": "efi", "secureboot": 0},
    }


def templates() -> list[dict[str, Any]]:
    """The templates that the lab has and those put up for download, as Proxmox lists what it could download."""
    found = []
    here = {file.name: file for folder in (volumes.OFFERED, volumes.TEMPLATES) for file in folder.glob("*.tar.*")}
    for _name, file in sorted(here.items()):
        package, version, architecture = file.name.split(".tar.")[0].rsplit("_", 2)
        found.append(
            {
                "template": file.name,
                "package": package,
                "version": version,
                "architecture": architecture,
                "type": "lxc",
                "section": "system",
                "os": "-".join(package.split("-")[:2]),
                "source": "lab",
                "location": file.as_uri(),
                "infopage": "",
                "maintainer": "lab",
                "headline": f"The lab's {package}",
                "description": "Built by the lab from Debian.",
                "sha512sum": _sha512(file, file.stat().st_mtime_ns),
            }
        )
    return found


@cache
def _sha512(file: Path, mtime: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha512").hexdigest()


def template_volumes() -> dict[str, dict[str, Any]]:
    """The templates as volumes of the storage local."""
    return {
        f"vztmpl/{file.name}": {
            "content": "vztmpl",
            "format": "t" + file.name.rsplit(".", 1)[1],
            "size": file.stat().st_size,
            "ctime": int(file.stat().st_mtime),
        }
        for file in sorted(volumes.TEMPLATES.glob("*.tar.*"))
    }
