# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role nvidia_driver in a guest, from NVIDIA's repository and from its installer (both are stand-ins).

Debian's packages are the molecule scenario nvidia. Wants root; brings the lab up when it is down, and leaves it up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/lab"), str(Path(__file__).parent)]

import nvidia_sources
from homelab_lab.settings import Settings

VMID = 145
LAB = ROOT / "tests/lab/lab"
SETTINGS = Settings.from_environment()
GUEST = f"lxc-attach -n {VMID} --clear-env -v PATH=/usr/sbin:/usr/bin:/sbin:/bin --"


def on_node(command: str, data: bytes = b"") -> str:
    """Run a shell command on the node that must work; its stdout."""
    done = subprocess.run(SETTINGS.ssh(command), input=data, check=False, capture_output=True)
    assert done.returncode == 0, f"{command}: {done.stdout.decode()} {done.stderr.decode()}"
    return done.stdout.decode().strip()


def remove() -> None:
    """Take the test's guest away."""
    on_node(f"test ! -e /etc/pve/lxc/{VMID}.conf || {{ pct stop {VMID} 2>/dev/null; pct destroy {VMID} --force 1; }}")


class Guest:
    """A guest of the lab, and the role in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        host = {
            "ansible_connection": "homelab.llamacpp.pct",
            "ansible_host": SETTINGS.address,
            "proxmox_lxc_node": "pve",
            "proxmox_lxc_vmid": VMID,
        }
        inventory = {"all": {"children": {"guests": {"hosts": {"nvidia": host}}}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        role = {"name": "homelab.llamacpp.nvidia_driver", "tasks_from": "guest"}
        play = {"hosts": "nvidia", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}
        (folder / "play.yml").write_text(yaml.safe_dump([play]))

    def put(self, folder: Path) -> None:
        """Copy a folder's files into /srv/nvidia of the guest."""
        data = subprocess.run(
            ["tar", "-c", "--mode=a+rX", "--exclude=build", "."], cwd=folder, check=True, capture_output=True
        ).stdout
        on_node(f"{GUEST} sh -c 'mkdir -p /srv/nvidia; tar -x --no-same-owner -C /srv/nvidia'", data)

    def run(self, **variables: Any) -> tuple[int, str]:
        """Run the role. Returns the exit status and what it said, in one line."""
        done = subprocess.run(
            [
                *("ansible-playbook", "-i", ROOT / "tests/lab/inventory", "-i", self.folder / "hosts.yml"),
                *("-e", yaml.safe_dump(variables, default_flow_style=True, width=10000), self.folder / "play.yml"),
            ],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "ANSIBLE_PIPELINING": "1"},
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def installed(self) -> dict[str, str]:
        """The packages of the driver with their versions, and what is wanted of them."""
        form = "'${Package} ${db:Status-Want} ${Version}\\n'"
        shown = on_node(f"{GUEST} dpkg-query -W -f {form} | grep -e nvidia -e cuda || true")
        return {name: f"{want} {version}" for name, want, version in (line.split() for line in shown.splitlines())}


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A running guest that has the stand-ins of NVIDIA's repository and installer in /srv/nvidia."""
    subprocess.run([LAB, "up"], check=True, timeout=600)
    subprocess.run([LAB, "gpu", "open-module", "580.95.05"], check=True)
    remove()
    on_node(
        f"pvesh create /nodes/pve/lxc -vmid {VMID} -ostemplate local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
        f" -hostname nvidia -rootfs local-lvm:4 -memory 512 -unprivileged 1 -features nesting=1 && pct start {VMID}"
        f" && until {GUEST} systemctl is-system-running --wait 2>&1 | grep -qE 'running|degraded'; do sleep 0.2; done"
    )
    # Nothing of Debian's is wanted in these tests, and there is no network.
    on_node(f"{GUEST} sh -c 'rm -f /etc/apt/sources.list'")
    made = Guest(tmp_path_factory.mktemp("role"))
    folder = tmp_path_factory.mktemp("nvidia")
    REPOSITORY["nvidia_driver_repository_key_fingerprints"] = [nvidia_sources.repository(folder)]
    made.put(folder)
    yield made
    remove()
    subprocess.run([LAB, "gpu", "none"], check=True)


REPOSITORY: dict[str, Any] = {"nvidia_driver_source": "nvidia", "nvidia_driver_repository": "file:///srv/nvidia/"}
REPOSITORY["nvidia_driver_repository_key"] = "file:///srv/nvidia/key.asc"


def held(version: str) -> dict[str, str]:
    """What a guest has at this version."""
    return {
        "libcuda1": f"hold {version}-1",
        "nvidia-driver-cuda": f"hold {version}-1",
        "libnvidia-ml1": f"install {version}-1",
    }


def test_a_key_with_another_fingerprint_is_not_trusted(guest: Guest) -> None:
    """The default is NVIDIA's, and what this repository is signed with is not."""
    status, said = guest.run(**{**REPOSITORY, "nvidia_driver_repository_key_fingerprints": ["0" * 40]})
    assert status != 0
    assert "expected the key 0000" in said
    status, said = guest.run(**{k: v for k, v in REPOSITORY.items() if not k.endswith("fingerprints")})
    assert status != 0
    assert "expected the key 02182E60104FCDC26EAE1B8597A5D4CB8793F200" in said
    assert on_node(f"{GUEST} sh -c 'ls /etc/apt/keyrings /etc/apt/sources.list.d'").count("nvidia") == 0


def test_the_nodes_version_from_the_repository_and_not_the_newest(guest: Guest) -> None:
    status, said = guest.run(**REPOSITORY)
    assert status == 0, said
    assert guest.installed() == held("580.95.05")
    assert on_node(f"{GUEST} /usr/local/lib/homelab-llamacpp/check-driver") == ""


def test_a_second_run_changes_nothing(guest: Guest) -> None:
    status, said = guest.run(**REPOSITORY)
    assert status == 0, said
    assert "changed=0" in said


def test_it_follows_the_node_downwards(guest: Guest) -> None:
    """The packages are held and the old version is not the newest: the role still brings it."""
    subprocess.run([LAB, "gpu", "open-module", "580.65.06"], check=True)
    status, said = guest.run(**REPOSITORY)
    assert status == 0, said
    assert guest.installed() == held("580.65.06")


def test_a_version_that_the_repository_does_not_have(guest: Guest) -> None:
    subprocess.run([LAB, "gpu", "open-module", "570.148.08"], check=True)
    before = guest.installed()
    status, said = guest.run(**REPOSITORY)
    assert status != 0
    assert "have to be 570.148.08, the version of its node's kernel module; found: 580.65.06" in said
    assert "offers 580.105.08, 580.95.05, 580.65.06 of nvidia-driver-cuda here. Ways out:" in said
    assert guest.installed() == before


def test_the_installer_is_not_mixed_with_packages(guest: Guest) -> None:
    status, said = guest.run(nvidia_driver_source="runfile", nvidia_driver_runfile_checksum="sha256:0")
    assert status != 0
    assert "are in packages (libcuda1, libnvidia-ml1, nvidia-driver-cuda): purge those first" in said


def test_the_installer(guest: Guest, tmp_path: Path) -> None:
    """Its checksum is looked at, it runs without kernel modules, and a second run leaves it alone."""
    subprocess.run([LAB, "gpu", "open-module", "570.148.08"], check=True)
    on_node(f"{GUEST} dpkg --force-hold --purge nvidia-driver-cuda libcuda1 libnvidia-ml1")
    file, checksum = nvidia_sources.installer(tmp_path, "570.148.08")
    data = file.read_bytes()
    on_node(f"{GUEST} sh -c 'cat >/srv/nvidia/{file.name}'", data)
    wanted = {"nvidia_driver_source": "runfile", "nvidia_driver_runfile": f"file:///srv/nvidia/{file.name}"}

    status, said = guest.run(**wanted)
    assert status != 0
    assert "nvidia_driver_runfile_checksum is not set" in said

    status, said = guest.run(**wanted, nvidia_driver_runfile_checksum="sha256:" + "0" * 64)
    assert status != 0
    assert "could not be installed on nvidia" in said
    assert "did not match" in said
    assert on_node(f"{GUEST} sh -c '/sbin/ldconfig -p | grep -c libcuda || true'") == "0"

    # Another user has put a file with the right checksum where an earlier version looked, and keeps it open.
    planted = "/var/tmp/NVIDIA-Linux-570.148.08.run"
    on_node(f"{GUEST} install -o nobody -m 0755 /srv/nvidia/{file.name} {planted}")
    private = "/var/cache/homelab-llamacpp-nvidia"  # as an interrupted run leaves it
    on_node(f"{GUEST} sh -c 'mkdir {private} && echo interrupted >{private}/installer.run'")
    status, said = guest.run(**wanted, nvidia_driver_runfile_checksum=checksum)
    assert status == 0, said
    ran = on_node(f"{GUEST} cat /tmp/installer-ran-in")
    assert ran == f"{private} root 700 root 600"
    on_node(f"{GUEST} rm {planted} /tmp/installer-ran-in")
    assert on_node(f"{GUEST} readlink -f {nvidia_sources.LIBRARIES}/libcuda.so.1").endswith("libcuda.so.570.148.08")
    assert on_node(f"{GUEST} sh -c 'ls -d /var/tmp/*.run {private} 2>/dev/null || true'") == ""

    status, said = guest.run(**wanted, nvidia_driver_runfile_checksum=checksum)
    assert status == 0, said
    assert "changed=0" in said


def test_packages_are_not_mixed_with_the_installer(guest: Guest) -> None:
    status, said = guest.run(**REPOSITORY)
    assert status != 0
    assert "are in none of the driver's packages: take them away (nvidia-uninstall) first" in said
