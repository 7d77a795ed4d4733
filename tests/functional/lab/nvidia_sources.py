# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for what NVIDIA publishes, which the tests cannot reach: a signed apt repository and an installer.

They are packages with the names and dependencies of NVIDIA's and with empty libraries, and a script that takes the
installer's arguments. Nothing of the driver is in them.
"""

from __future__ import annotations

import hashlib
import subprocess
import textwrap
from pathlib import Path

VERSIONS = ("580.65.06", "580.95.05", "580.105.08")
LIBRARIES = "/usr/lib/x86_64-linux-gnu"


def repository(folder: Path) -> str:
    """A signed repository with every version of VERSIONS; its key is key.asc. Returns the key's fingerprint."""
    for version in VERSIONS:
        same = f"libcuda1 (= {version}-1), libnvidia-ml1 (= {version}-1)"
        package(folder, "libnvidia-ml1", version, library="libnvidia-ml")
        package(folder, "libcuda1", version, library="libcuda")
        # The real one conflicts with Debian's nvidia-smi, and recommends a kernel module.
        fields = f"Depends: {same}\nConflicts: nvidia-smi\nRecommends: nvidia-kernel-open-dkms\n"
        package(folder, "nvidia-driver-cuda", version, fields, program="nvidia-smi")
        package(folder, "nvidia-kernel-open-dkms", version)
    listing = subprocess.run(["dpkg-scanpackages", "--multiversion", "."], cwd=folder, check=True, capture_output=True)
    (folder / "Packages").write_bytes(listing.stdout)
    digest = hashlib.sha256(listing.stdout).hexdigest()
    (folder / "Release").write_text(
        f"Origin: stand-in\nDate: Sun, 22 Nov 2026 00:00:00 UTC\nSHA256:\n {digest} {len(listing.stdout)} Packages\n"
    )
    return sign(folder)


def package(folder: Path, name: str, version: str, fields: str = "", library: str = "", program: str = "") -> None:
    """One package, with an empty library of that version or an empty program."""
    root = folder / "build" / name
    (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}-1\nArchitecture: all\nMaintainer: the lab <lab@example.org>\n{fields}"
        f"Description: stand-in of the lab for NVIDIA's package {name}\n"
    )
    (root / "DEBIAN/triggers").write_text("activate-noawait ldconfig\n")
    if library:
        place = root / LIBRARIES.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for old in place.iterdir():
            old.unlink()
        shared_object(place / f"{library}.so.{version}", f"{library}.so.1")
        (place / f"{library}.so.1").symlink_to(f"{library}.so.{version}")
    if program:
        (root / "usr/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/bin" / program).write_text("#!/bin/sh\nexit 1\n")
        (root / "usr/bin" / program).chmod(0o755)
    target = folder / f"{name}_{version}-1_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(target)]
    subprocess.run(build, check=True, capture_output=True)


def shared_object(path: Path, soname: str) -> None:
    """A library without a function, so that ldconfig lists it."""
    command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{soname}", "-x", "c", "/dev/null", "-o", str(path)]
    subprocess.run(command, check=True)


def sign(folder: Path) -> str:
    """Sign the repository with a key that is made for it. Returns the key's fingerprint."""
    home = folder / "build" / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    try:
        make = [*gpg, "--passphrase", "", "--quick-generate-key", "lab@example.org", "rsa3072", "sign", "never"]
        subprocess.run(make, check=True, capture_output=True)
        exported = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
        (folder / "key.asc").write_bytes(exported)
        clear = [*gpg, "--clearsign", "--output", str(folder / "InRelease"), str(folder / "Release")]
        subprocess.run(clear, check=True, capture_output=True)
        shown = subprocess.run([*gpg, "--with-colons", "--fingerprint"], check=True, capture_output=True, text=True)
        return next(line.split(":")[9] for line in shown.stdout.splitlines() if line.startswith("fpr:"))
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def installer(folder: Path, version: str) -> tuple[Path, str]:
    """An installer for guests: its file, and its checksum as Ansible takes it.

    It installs what the repository's packages have, and refuses arguments that the real one does not know.
    """
    build = folder / f"installer-{version}"
    build.mkdir(parents=True)
    for name in ("libcuda", "libnvidia-ml"):
        shared_object(build / f"{name}.so.{version}", f"{name}.so.1")
    payload = subprocess.run(["tar", "-cz", "-C", str(build), "."], check=True, capture_output=True).stdout
    script = textwrap.dedent(
        f"""\
        #!/bin/sh
        set -e
        modules=yes
        for argument; do
          case $argument in
            --silent|--no-x-check|--no-questions) ;;
            --no-kernel-modules) modules=no ;;
            *) echo "ERROR: Unrecognized option: $argument" >&2; exit 1 ;;
          esac
        done
        [ "$modules" = no ] || {{ echo "ERROR: Unable to find the kernel source tree" >&2; exit 1; }}
        # Where it was run from, and unpacks itself; the test reads it.
        echo "$TMPDIR $(stat -c '%U %a' "$TMPDIR") $(stat -c '%U %a' "$0")" >/tmp/installer-ran-in
        rm -f {LIBRARIES}/libcuda.so.* {LIBRARIES}/libnvidia-ml.so.*
        sed '1,/^PAYLOAD$/d' "$0" | tar -xz --no-same-owner -C {LIBRARIES}
        printf '#!/bin/sh\\nexit 1\\n' >/usr/bin/nvidia-smi
        chmod 755 /usr/bin/nvidia-smi
        ldconfig
        exit 0
        PAYLOAD
        """
    ).encode()
    file = folder / f"NVIDIA-Linux-x86_64-{version}.run"
    file.write_bytes(script + payload)
    return file, "sha256:" + hashlib.sha256(script + payload).hexdigest()
