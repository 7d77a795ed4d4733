# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""File systems that did not grow with their volumes."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import Found
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_growth import (
    a_little_more,
    not_grown,
    ungrown_volume,
)

RESIZED = "  Logical volume pve/vm-130-disk-1 successfully resized."
FAILED = "Failed to update the container's filesystem: command 'resize2fs /dev/pve/vm-130-disk-1' failed: exit code 1"


def found(**config: str) -> Found:
    return Found.parse([{"key": key, "value": text} for key, text in config.items()])


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ([RESIZED, "TASK OK"], None),
        ([RESIZED, FAILED, "TASK OK"], FAILED),
        (["resize2fs: Bad magic number in super-block", "TASK OK"], "resize2fs: Bad magic number in super-block"),
        # What resize2fs prints when it works.
        (["resize2fs 1.47.2 (1-Jan-2025)", "Filesystem at /dev/pve/vm-130-disk-1 is mounted on /tmp", "TASK OK"], None),
    ],
)
def test_line_that_says_so(log: list[str], line: str | None) -> None:
    assert not_grown(log) == line


@pytest.mark.parametrize(
    ("volume", "key"),
    [
        ("local-lvm:vm-130-disk-1", "mp0"),
        ("local:130/vm-130-disk-1.raw", None),
        ("local-lvm:vm-130-disk-10", None),
        ("/srv/vm-130-disk-1", None),
    ],
)
def test_volume_is_the_one_that_the_log_names(volume: str, key: str | None) -> None:
    config = found(rootfs="local-lvm:vm-130-disk-0,size=4G", mp0=f"{volume},mp=/m,size=8G", net0="name=eth0")
    assert ungrown_volume([RESIZED, FAILED, "TASK OK"], config) == (key if not volume.startswith("/srv") else "mp0")
    assert ungrown_volume([RESIZED, "TASK OK"], config) is None


@pytest.mark.parametrize(("size", "more"), [("8G", "8193M"), ("8193M", "8194M"), ("512M", "513M"), ("1T", "1048577M")])
def test_a_little_more(size: str, more: str) -> None:
    assert a_little_more(f"local-lvm:vm-130-disk-1,mp=/m,size={size}") == more
