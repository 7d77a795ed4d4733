# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The real CUDA build of llama.cpp, for architecture 86, in a trixie guest of the lab with Debian's toolkit.

Long (`make test-cuda`): half an hour on two idle cores with nothing cached, and 8 GB of packages. Prints what it took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "functional/lab"))

from build_guest import ROOT, BuildGuest, role, source


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildGuest]:
    guest = BuildGuest(140, tmp_path_factory.mktemp("cuda"), memory_mib=8192, disk_gib=30)
    guest.create()
    yield guest
    guest.remove()


def test_a_release_for_an_rtx_3090(guest: BuildGuest) -> None:
    build = role(method="build", backend="cuda", cuda_architectures=["86"], source=source())

    # Debian's toolkit brings the driver's libcuda.so.1 along, so that it starts.
    guest.play([build])
    guest.keep_ccache()

    (name,) = guest.run(f"ls {ROOT}/releases").split()
    stamp = guest.stamp(name)
    server = f"{ROOT}/current/bin/llama-server"
    devices = guest.run(f"{server} --list-devices")
    print(f"\n{name}: {stamp['version']}, {stamp['compilers']}, built in {stamp['seconds']} s; {devices}")
    assert name.startswith("b11434-cuda-")
    assert "-DCMAKE_CUDA_ARCHITECTURES=86" in stamp["cmake"]
    assert stamp["compilers"]["CUDA"].startswith("NVIDIA 12.4")
    assert "libcublas.so" in guest.run(f"ldd {server}")
    assert "sm_86" in guest.run(f"cuobjdump --list-elf {server} | head -1")
    assert "Available devices:" in devices

    # Without it there is nothing to build anew, and no release: it would not start.
    guest.run(f"rm -r {ROOT}/current {ROOT}/releases; find /usr -name 'libcuda.so.*' -delete; ldconfig")
    before = time.monotonic()
    output = " ".join(guest.play([build], ok=False).split())
    assert time.monotonic() - before < 120
    assert "needs libcuda.so.1" in output
    assert "the role nvidia_driver puts into the guest" in output
    assert guest.run(f"ls -A {ROOT}/releases") == ""
