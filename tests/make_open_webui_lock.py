# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print what the role open_webui installs: Open WebUI of one version, each package that it needs pinned, with hashes.

usage: make_open_webui_lock.py VERSION [UV]

uv finds the versions. The hashes are those of the wheels for Linux (x86_64, aarch64) and Python 3.11 and 3.12. Without
a wheel a package is an error: the role installs as root, and a source would run its code. torch and what it brings for
a GPU are left out: the role takes its CPU build from elsewhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tomllib
from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

TORCH = "torch==2.13.0"
LEFT_OUT = re.compile(r"torch|triton|nvidia-.*|cuda-(bindings|pathfinder|toolkit)")
# Where the role installs it: Linux, with these Pythons and machines.
PYTHONS = ("3.11.2", "3.11.15", "3.12.13")  # the first is Debian 12's
MACHINES = ("x86_64", "aarch64")
PLATFORMS = [
    f"{kind}_{machine}"
    for machine in MACHINES
    for kind in (*(f"manylinux_2_{minor}" for minor in range(5, 37)), "manylinux2014", "manylinux2010", "manylinux1")
]
TAGS = {
    tag
    for version in ((3, 11), (3, 12))
    for tag in (*cpython_tags(version, platforms=PLATFORMS), *compatible_tags(version, platforms=PLATFORMS))
}
HEAD = """\
# Open WebUI {version} with all that it needs, for Python 3.11 and 3.12 on Linux; without torch.
# Made by tests/make_open_webui_lock.py.
"""


def resolve(version: str, uv: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        wanted, lock = Path(folder, "wanted.in"), Path(folder, "pylock.toml")
        wanted.write_text(f"open-webui=={version}\n{TORCH}\n")
        compile_ = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", PYTHONS[0]]
        subprocess.run([*compile_, "--output-file", lock, wanted], check=True, stdout=subprocess.DEVNULL)
        packages: list[dict[str, Any]] = tomllib.loads(lock.read_text())["packages"]
    return packages


def where(package: dict[str, Any]) -> list[bool]:
    """For each Python and machine, whether it takes the package."""
    marker = Marker(package["marker"]) if "marker" in package else None
    return [
        marker is None
        or marker.evaluate(
            {
                "python_version": python.rpartition(".")[0],
                "python_full_version": python,
                "platform_machine": machine,
                "platform_system": "Linux",
                "sys_platform": "linux",
                "os_name": "posix",
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
            }
        )
        for python in PYTHONS
        for machine in MACHINES
    ]


def entry(package: dict[str, Any]) -> str:
    wheels = [wheel for wheel in package.get("wheels", []) if not TAGS.isdisjoint(tags_of(wheel["url"]))]
    if not wheels:
        sys.exit(f"expected a wheel of {package['name']} {package['version']} for Linux, found none")
    # A marker that is true of all of them is not worth a word.
    marker = "" if all(where(package)) else f" ; {package['marker']}"
    line = f"{package['name']}=={package['version']}{marker}"
    return " \\\n".join([line, *sorted(f"    --hash=sha256:{file['hashes']['sha256']}" for file in wheels)]) + "\n"


def tags_of(url: str) -> frozenset[Tag]:
    return parse_wheel_filename(unquote(url.rpartition("/")[2]))[3]


def main(version: str, uv: str = "uv") -> None:
    packages = [
        package for package in resolve(version, uv) if any(where(package)) and not LEFT_OUT.fullmatch(package["name"])
    ]
    sys.stdout.write(HEAD.format(version=version) + "".join(map(entry, packages)))


if __name__ == "__main__":
    main(*sys.argv[1:])
