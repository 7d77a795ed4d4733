# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control group that holds every process of a lab: what is in it can be found, and ended, whatever crashed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .settings import LabError, Settings

# A command at work has a group of its own below the lab's.
WORK = "work-"


def path(settings: Settings) -> Path:
    """The lab's control group in the cgroup2 tree of this machine.

    Raises LabError when no cgroup2 is mounted.
    """
    for line in Path("/proc/self/mounts").read_text().splitlines():
        where, kind = line.split()[1:3]
        if kind == "cgroup2":
            return Path(where, settings.cgroup)
    raise LabError(
        "the lab needs a mounted cgroup2 file system, found none; mount one: "
        "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    )


def make(settings: Settings, child: str) -> Path:
    """A child of the lab's control group, made if it is not there."""
    group = path(settings) / child
    group.mkdir(parents=True, exist_ok=True)
    return group


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """Do something as a member of the lab's control group, so that what it starts can be found if it is killed."""
    hierarchy = path(settings).parent
    own = Path("/proc/self/cgroup").read_text().splitlines()
    origin = next((line.removeprefix("0::") for line in own if line.startswith("0::")), "/")
    group = make(settings, f"{WORK}{os.getpid()}")
    (group / "cgroup.procs").write_text("0")
    try:
        yield
    finally:
        Path(f"{hierarchy}{origin}", "cgroup.procs").write_text("0")
        end(group)
        if not populated(group.parent):
            end(group.parent)


def populated(group: Path) -> bool:
    """Whether a process lives in the group or below it."""
    events = group / "cgroup.events"
    return events.exists() and "populated 1" in events.read_text()


def end(group: Path) -> None:
    """Kill every process in the group and below it, then remove it. A group that is not there is no error.

    Raises LabError when a process survives.
    """
    if not group.exists():
        return
    (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 120
    while populated(group):
        if time.monotonic() > deadline:
            left = " ".join(" ".join(file.read_text().split()) for file in group.rglob("cgroup.procs")).strip()
            raise LabError(f"processes of the lab do not die: {left}")
        time.sleep(0.02)
    remove(group)


def end_lab(settings: Settings) -> None:
    """Kill every process of the lab, but not those of commands that are still at work, and remove the groups."""
    for child in path(settings).glob("*/"):
        if not (child.name.startswith(WORK) and alive(child.name.removeprefix(WORK))):
            end(child)


def alive(pid: str) -> bool:
    """Whether a process runs: one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def remove(group: Path) -> None:
    """Remove an empty group with all that is below it."""
    for child in sorted((entry for entry in group.rglob("*") if entry.is_dir()), key=lambda entry: -len(entry.parts)):
        child.rmdir()
    group.rmdir()
