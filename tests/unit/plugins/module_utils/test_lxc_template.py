# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which template is meant."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_template import newest

FILES = [
    "alpine.tar.xz",
    "debian-13-standard_13.10-1_amd64.tar.zst",
    "debian-13-standard_13.9-2_amd64.tar.zst",
    "debian-13-turnkey-lxc_19.0-1_amd64.tar.gz",
    "ubuntu-25.04-standard_25.04-1.1_amd64.tar.zst",
]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("debian-13-standard", FILES[1]),
        (FILES[2], FILES[2]),
        ("alpine.tar.xz", "alpine.tar.xz"),
        ("ubuntu-25.04-standard", FILES[4]),
        ("debian-13", None),
        ("debian-12-standard", None),
        ("debian-13-standard_13.11-1_amd64.tar.zst", None),
    ],
)
def test_newest(name: str, file: str | None) -> None:
    assert newest(name, FILES) == file
