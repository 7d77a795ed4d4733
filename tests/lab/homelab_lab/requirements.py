# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab needs of this machine, and the few Debian packages that it installs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .run import ENVIRONMENT, run
from .settings import LabError

# The program that shows a package is there, and the package. None of them starts a service or opens anything.
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.btrfs": "btrfs-progs",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "zstd": "zstd",
    "unshare": "util-linux",
}
# Ubuntu's mmdebstrap does not bring Debian's archive keys.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def root() -> None:
    """Raises LabError unless this is root."""
    if os.geteuid():
        raise LabError(
            "the lab needs root (namespaces, a bridge, a loop device), found user id "
            f"{os.geteuid()}; run it with sudo -E, or in a virtual machine"
        )


def ensure() -> None:
    """Check the machine and install what is missing. Raises LabError with what is wanted and missing."""
    root()
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    family = f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".replace('"', "").split()
    path = ENVIRONMENT["PATH"]
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)]
    if not KEYRING.exists():
        missing.append("debian-archive-keyring")
    if missing and "debian" not in family:
        raise LabError(
            f"the lab installs its tools on Debian and Ubuntu, found {release.get('PRETTY_NAME', 'another system')}"
            f"; missing: {' '.join(missing)}"
        )
    if missing:
        print(f"lab: installing the Debian packages {' '.join(missing)}", flush=True)
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", env=environment)
        # A machine that has only just booted may be at its daily updates.
        install = ("install", "-y", "-qq", "--no-install-recommends", *missing)
        run("apt-get", "-o", "DPkg::Lock::Timeout=600", *install, env=environment)
    for feature, file in (("loop devices", "/dev/loop-control"), ("user namespaces", "/proc/self/ns/user")):
        if not Path(file).exists():
            raise LabError(f"the lab needs {feature} of the kernel: {file} is not there")
