# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems that did not grow with their volumes, which Proxmox VE tells only in the log of a task that ended well.

The new size stands in the configuration all the same, and Proxmox VE refuses to resize to the size that is there. A
volume that grows by another MiB has its file system grown to all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import (
    Found,
    is_mount,
    parse_properties,
    size_gib,
    size_text,
)

FAILED = re.compile(r"Failed to update the container's filesystem|resize2fs: |command '.*resize2fs.*' failed")
MIB = 2**-10


def not_grown(log: Iterable[str]) -> str | None:
    """The line of a resize's log that says that the file system did not grow."""
    return next((line for line in log if FAILED.search(line)), None)


def ungrown_volume(log: Iterable[str], found: Found) -> str | None:
    """The key of the volume whose file system did not grow, as far as the log of its resize names it."""
    log = list(log)
    if not not_grown(log):
        return None
    for key, text in sorted(found.running.items()):
        # fast:vm-130-disk-1, local:130/vm-130-disk-1.raw: the last part is in the path of its device or file.
        name = re.split(r"[:/]", parse_properties(key, text).get("volume", "") if is_mount(key) else "")[-1]
        if name and any(re.search(rf"{re.escape(name)}(?![\w.-])", line) for line in log):
            return key
    return None


def a_little_more(text: str) -> str:
    """The size of a volume (the text of its key) and a MiB."""
    return size_text(size_gib(parse_properties("mp0", text).get("size", "")) + MIB)
