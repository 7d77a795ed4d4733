# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount into a running container: clone it here, step into the container's mount namespace, put it down there.

A program of its own, because a process with threads cannot change its mount namespace:
hotplug PID SOURCE TARGET [idmap]. The target must be there. With idmap the owners shift as in the container.
"""

from __future__ import annotations

import ctypes
import os
import sys

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, MOUNT_ATTR_IDMAP = 1, 4, 0x00100000
CLONE_NEWNS = 0x00020000
LIBC = ctypes.CDLL(None, use_errno=True)


class MountAttr(ctypes.Structure):
    """struct mount_attr of the kernel."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def call(number: int, *arguments: object) -> int:
    """A system call. Raises OSError."""
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)


def main(pid: str, source: str, target: str, idmap: str = "") -> None:
    """Mount source at the container's target. Raises OSError."""
    tree = call(OPEN_TREE, ctypes.c_int(AT_FDCWD), source.encode(), ctypes.c_uint(OPEN_TREE_CLONE | os.O_CLOEXEC))
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    if idmap:
        users = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        attributes = MountAttr(attr_set=MOUNT_ATTR_IDMAP, userns_fd=users)
        call(
            MOUNT_SETATTR,
            ctypes.c_int(tree),
            b"",
            ctypes.c_uint(AT_EMPTY_PATH),
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        )
    if LIBC.setns(namespace, CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "setns")
    call(
        MOVE_MOUNT,
        ctypes.c_int(tree),
        b"",
        ctypes.c_int(AT_FDCWD),
        target.encode(),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"hotplug: {error}")
