# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's node as the tests of the Proxmox modules use it: containers 130 to 139, real Ansible over ssh."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATE = Path(os.environ.get("HOMELAB_LAB_STATE", "/var/lib/homelab-llamacpp-lab"))
NETWORK = os.environ.get("HOMELAB_LAB_NETWORK", "198.18.77.0/24").rpartition(".")[0]
NODE = f"{NETWORK}.2"
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
BIN = Path(sys.executable).parent
SSH = [
    "-F",
    "/dev/null",
    "-o",
    "IdentitiesOnly=yes",
    "-o",
    "BatchMode=yes",
    "-o",
    f"UserKnownHostsFile={STATE}/known_hosts",
]
WANTED: dict[str, Any] = {
    "hostname": "lxc-test",
    "ostemplate": TEMPLATE,
    "storage": "local-lvm",
    "disk_gib": 4,
    "cores": 1,
    "memory_mib": 512,
    "features": {"nesting": True},
    "net": {"net0": {"name": "eth0", "bridge": "vmbr0", "ip": f"{NETWORK}.130/24", "gw": f"{NETWORK}.1"}},
    "nameserver": [f"{NETWORK}.1"],
    "tags": ["test"],
    "description": "größer, $HOME and ~\nsecond line",
    "state": "started",
}
Run = Callable[..., dict[str, Any]]


def on_node(*argv: str, check: bool = True) -> str:
    """What a command on the node prints."""
    done = subprocess.run(
        ["ssh", *SSH, "-i", str(STATE / "id_ed25519"), f"root@{NODE}", *argv],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def in_guest(command: str, vmid: int = 130) -> str:
    """What a shell command in the guest prints."""
    return on_node(f"lxc-attach -n {vmid} --clear-env -- /bin/sh -c '{command}'")


def until_booted(vmid: int = 130) -> None:
    """Wait until systemd in the guest says that it is through; attaching works long before, also before it answers."""
    deadline = time.monotonic() + 300
    while in_guest("systemctl is-system-running --wait 2>&1 || true", vmid).strip() not in ("running", "degraded"):
        assert time.monotonic() < deadline, f"guest {vmid} did not come up"
        time.sleep(0.2)


def login() -> dict[str, Any]:
    """The options that reach the node's API as root with its password, from this machine."""
    return {
        "api_host": NODE,
        "api_user": "root@pam",
        "api_password": (STATE / "root-password").read_text().strip(),
        "validate_certs": False,
        "node": "pve",
    }


def destroy(vmid: int = 130) -> None:
    """Take the container away, whatever it is doing."""
    on_node("pvesh", "delete", f"/nodes/pve/lxc/{vmid}", "-force", "1", check=False)


def runner(folder: Path) -> Run:
    """How a module is run by a play of one task, on the node or `here`; a failure is a result with `failed`."""
    (folder / "hosts").write_text(
        f"pve ansible_host={NODE} ansible_user=root ansible_ssh_private_key_file={STATE}/id_ed25519 "
        f"ansible_python_interpreter=/usr/bin/python3 ansible_ssh_common_args='{' '.join(SSH)}'\n"
        f"here ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    )
    tell = {"ansible.builtin.debug": {"msg": "{{ answer | to_json }}"}}

    def run_once(check: bool = False, host: str = "pve", module: str = "lxc", **options: Any) -> dict[str, Any]:
        options = {"vmid": 130, "timeout": 300, **options}
        task = {f"homelab.llamacpp.{module}": options, "register": "answer", "failed_when": False, "check_mode": check}
        play = folder / "play.json"
        play.write_text(json.dumps([{"hosts": host, "gather_facts": False, "tasks": [task, tell]}]))
        done = subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", str(folder / "hosts"), str(play)],
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        )
        told = re.search(r'^ +"msg": (".*")$', done.stdout, re.MULTILINE)
        assert told, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(json.loads(told.group(1)))
        # failed_when hides it; an answer without a diff is a failure.
        return {**result, "failed": "diff" not in result}

    return run_once
