# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_info on each of the lab's made-up machines: real libraries, stand-ins for cards, module and nvidia-smi.

Wants root; brings the lab up when it is down, and leaves it up without a card.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/lab"))

from homelab_lab.settings import Settings

SETTINGS = Settings.from_environment()
LAB = ROOT / "tests/lab/lab"
INSTALL = """set -e
. /etc/os-release
cat >/etc/apt/sources.list.d/test-gpu-info.sources <<EOF
Types: deb
URIs: http://deb.debian.org/debian
Suites: $VERSION_CODENAME
Components: contrib non-free
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nvidia-smi libcuda1 nvidia-modprobe
"""
# Also what the driver's role has left there in another test.
REMOVE = """cd /etc
rm -f apt/sources.list.d/test-gpu-info.sources apt/preferences.d/homelab-nvidia modprobe.d/homelab-nvidia.conf
dpkg-query --show --showformat '${Package}\\n' '*nvidia*' 'libcuda*' 2>/dev/null |
  xargs --no-run-if-empty apt-get purge -y -qq --allow-change-held-packages
apt-get autoremove -y -qq --purge
"""
LIBRARIES = {"libcuda.so.1": "550.163.01", "libnvidia-ml.so.1": "550.163.01"}


def on_node(script: str) -> None:
    """Run a script on the node that must work."""
    done = subprocess.run(SETTINGS.ssh("sh -s"), input=script, text=True, check=False, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def place(machine: str, *version: str) -> None:
    """Put a made-up machine's cards into the node."""
    subprocess.run([LAB, "gpu", machine, *version], check=True)


def look() -> dict[str, Any]:
    """What gpu_info says of the node."""
    done = subprocess.run(
        [
            *("ansible", "pve", "-i", ROOT / "tests/lab/inventory", "-m", "homelab.llamacpp.gpu_info"),
            *("-e", "ansible_python_interpreter=/usr/bin/python3"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    assert found.pop("changed") is False
    return found


def environment() -> dict[str, str]:
    """Ansible's output as data, whatever the configuration of the checkout says."""
    return {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}


@pytest.fixture(scope="module", autouse=True)
def lab() -> Iterator[None]:
    """A lab that is up; without a card in the end."""
    subprocess.run([LAB, "up"], check=True, timeout=600)
    on_node(REMOVE)
    yield
    place("none")


@pytest.fixture(scope="module")
def libraries() -> Iterator[None]:
    """Debian's real packages on the node."""
    on_node(INSTALL)
    yield
    on_node(REMOVE)


def test_nouveau_has_the_card() -> None:
    """Before anything is installed."""
    place("nouveau")
    found = look()
    assert found["driver"]["reason"].endswith("the card 0000:01:00.0 is there, but nouveau drives it")
    assert (found["gpus"], found["driver"]["libraries"]) == ([], {})


def test_two_cards(libraries: None) -> None:
    place("two-3090s")
    found = look()
    assert [(gpu["index"], gpu["memory_total_mib"], gpu["compute_capability"]) for gpu in found["gpus"]] == [
        (0, 24576, "8.6"),
        (1, 24576, "8.6"),
    ]
    assert [gpu["device_node"] for gpu in found["gpus"]] == ["/dev/nvidia0", "/dev/nvidia1"]
    assert found["gpus"][0]["power"] == {"limit": 350, "default_limit": 350, "min_limit": 100, "max_limit": 366}
    assert found["driver"] == {
        "kernel_version": "550.163.01",
        "kernel_module": "proprietary",
        "library_version": "550.163.01",
        "libraries": LIBRARIES,
        "secure_boot": None,
        "agree": True,
        "reason": None,
    }
    assert found["device_nodes"]["missing"] == []
    assert "/dev/nvidia-caps/nvidia-cap1" in found["device_nodes"]["present"]


def test_one_card(libraries: None) -> None:
    place("one-4060ti")
    (gpu,) = look()["gpus"]
    assert (gpu["product"], gpu["memory_total_mib"]) == ("NVIDIA GeForce RTX 4060 Ti", 16380)
    assert gpu["compute_capability"] == "8.9"


def test_the_open_module(libraries: None) -> None:
    place("open-module")
    driver = look()["driver"]
    assert (driver["kernel_module"], driver["kernel_version"], driver["agree"]) == ("open", "550.163.01", True)


def test_two_versions(libraries: None) -> None:
    """570.148.06 against 570.148.08 is a mismatch as well: all three numbers count."""
    for version in ("550.144.03", "550.163.02"):
        place("mismatch", version)
        found = look()
        assert (found["gpus"], found["driver"]["agree"]) == ([], False)
        assert found["driver"]["reason"].startswith(f"the kernel module is {version}, libcuda.so.1 here is 550.163.01")


def test_uvm_is_missing(libraries: None) -> None:
    place("uvm-missing")
    found = look()
    assert found["device_nodes"]["missing"] == ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]
    assert found["driver"]["reason"] == "device nodes are missing: /dev/nvidia-uvm, /dev/nvidia-uvm-tools"
    assert len(found["gpus"]) == 2


def test_the_module_is_not_loaded(libraries: None) -> None:
    place("not-loaded")
    found = look()
    assert found["gpus"] == []
    assert found["driver"]["agree"] is None
    assert found["driver"]["reason"] == "the NVIDIA kernel module is not loaded: the card 0000:01:00.0 is there"
    assert found["device_nodes"]["missing"][:2] == ["/dev/nvidia0", "/dev/nvidia1"]


@pytest.mark.parametrize(("machine", "fit"), [("pascal", "unsupported"), ("blackwell", "required")])
def test_what_the_open_module_is_to_the_card(machine: str, fit: str, libraries: None) -> None:
    place(machine)
    assert [card["open_module"] for card in look()["cards"]] == [fit]


def test_no_card(libraries: None) -> None:
    place("none")
    found = look()
    assert (found["gpus"], found["cards"], found["device_nodes"]) == ([], [], {"present": [], "missing": []})
    assert found["driver"]["reason"] == "there is no NVIDIA graphics card on this machine's PCI bus"
