# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module lxc on the lab's node: pvesh there, real containers behind it, real Ansible over ssh.

Uses the containers 130 to 139.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def in_guest(command: str, vmid: int = 130) -> str:
    """What a shell command in the guest prints."""
    return on_node(f"lxc-attach -n {vmid} --clear-env -- /bin/sh -c '{command}'")


def until_booted() -> None:
    """Wait until systemd in the guest says that it is through; attaching works long before."""
    for _try in range(60):
        if in_guest("systemctl is-system-running || true").strip() in ("running", "degraded"):
            return
        time.sleep(0.5)
    pytest.fail("the guest did not come up")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the module on the node by a play of one task; a failure is a result with `failed`."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "hosts").write_text(
        f"pve ansible_host={NODE} ansible_user=root ansible_ssh_private_key_file={STATE}/id_ed25519 "
        f"ansible_python_interpreter=/usr/bin/python3 ansible_ssh_common_args='{' '.join(SSH)}'\n"
        f"here ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    )
    tell = {"ansible.builtin.debug": {"msg": "{{ answer | to_json }}"}}

    def run_once(check: bool = False, host: str = "pve", **options: Any) -> dict[str, Any]:
        options = {"vmid": 130, "timeout": 60, **options}
        task = {"homelab.llamacpp.lxc": options, "register": "answer", "failed_when": False, "check_mode": check}
        play = folder / "play.json"
        play.write_text(json.dumps([{"hosts": host, "gather_facts": False, "tasks": [task, tell]}]))
        done = subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", str(folder / "hosts"), str(play)],
            check=False,
            capture_output=True,
            text=True,
            timeout=180,
            env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        )
        told = re.search(r'^ +"msg": (".*")$', done.stdout, re.MULTILINE)
        assert told, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(json.loads(told.group(1)))
        # failed_when hides it; an answer without a status is a failure.
        return {**result, "failed": "status" not in result}

    return run_once


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """No container 130 before and after."""
    destroy = ("pvesh", "delete", "/nodes/pve/lxc/130", "-force", "1")
    on_node(*destroy, check=False)
    yield
    on_node(*destroy, check=False)


def test_from_nothing_to_a_running_guest_and_back(run: Run) -> None:
    foretold = run(check=True, **WANTED)
    assert foretold["actions"] == ["create", "start"]
    assert "130" not in on_node("lxc-ls", "-1").split()

    made = run(**WANTED)
    assert not made["failed"], made
    assert (made["actions"], made["status"]) == (foretold["actions"], "running")
    assert made["diff"] == foretold["diff"]
    assert "hwaddr=" in made["config"]["net0"]

    until_booted()
    assert in_guest("cat /etc/hostname").strip() == "lxc-test"
    # Unprivileged: root in the guest is not root on the node.
    assert in_guest("cat /proc/self/uid_map").split()[:2] == ["0", "100000"]
    assert f"{NETWORK}.130/24" in in_guest("ip -4 -o address show eth0")
    on_node("ping", "-c1", "-w20", f"{NETWORK}.130")

    again = run(**WANTED)
    assert not again["changed"], again["diff"]
    assert len(again["calls"]) <= 2
    assert again["restart_required"] is False

    assert "is running" in run(state="absent")["msg"]
    stopped = run(state="stopped")
    assert (stopped["actions"], stopped["status"]) == (["shutdown"], "stopped")
    assert "STOPPED" in on_node("lxc-info", "-n", "130", "-s")
    deleted = run(state="absent", hostname="lxc-test")
    assert deleted["actions"] == ["delete"]
    assert "130" not in on_node("lxc-ls", "-1").split()
    assert run(state="absent")["changed"] is False


def test_drift_by_hand_is_put_right(run: Run) -> None:
    made = run(**WANTED)
    on_node("pvesh", "set", "/nodes/pve/lxc/130/config", "-cores", "2", "-tags", "by-hand", "-delete", "nameserver")
    foretold = run(check=True, **WANTED)
    assert json.loads(on_node("pvesh", "get", "/nodes/pve/lxc/130/config", "--output-format", "json"))["cores"] == 2
    mended = run(**WANTED)
    assert mended["actions"] == ["configure"]
    assert (mended["diff"], mended["restart_required"]) == (foretold["diff"], foretold["restart_required"])
    before, after = mended["diff"]["before"]["config"], mended["diff"]["after"]["config"]
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == {"cores", "tags", "nameserver"}
    assert mended["config"]["net0"] == made["config"]["net0"]
    assert not run(**WANTED)["changed"]


def test_change_that_waits_for_a_restart(run: Run) -> None:
    run(**WANTED)
    wanted = {**WANTED, "features": {"nesting": True, "keyctl": True}}
    foretold, changed = run(check=True, **wanted), run(**wanted)
    assert foretold["pending"] == changed["pending"] == ["features"]
    again = run(**wanted)
    assert (again["changed"], again["restart_required"]) == (False, True)
    assert run(**{**wanted, "state": "stopped"})["restart_required"] is False
    assert run(**wanted)["pending"] == []


def test_device_reaches_the_guest_with_owner_and_mode(run: Run) -> None:
    made = run(**WANTED, devices=[{"path": "/dev/full", "gid": 44, "mode": "0640"}])
    assert not made["failed"], made
    assert in_guest("stat -c %u:%g:%a /dev/full").strip() == "0:44:640"
    assert not run(**WANTED, devices=[{"path": "/dev/full", "gid": 44, "mode": "0640"}])["changed"]


def test_start_that_fails_tells_why_and_the_next_run_goes_on(run: Run) -> None:
    failed = run(**WANTED, devices=[{"path": "/dev/no-such-gpu"}])
    assert failed["failed"]
    assert "/dev/no-such-gpu does not exist" in failed["msg"]
    if "create" in failed["actions"]:
        assert "task vzstart of 130 on pve failed" in failed["msg"]
    mended = run(**WANTED, devices=[])
    assert (mended["failed"], mended.get("status")) == (False, "running"), mended


def test_refusals_before_any_change(run: Run) -> None:
    assert TEMPLATE in run(**{**WANTED, "ostemplate": "local:vztmpl/none.tar.zst"})["msg"]
    assert "storage 'nas' does not exist" in run(**{**WANTED, "ostemplate": "nas:vztmpl/none.tar.zst"})["msg"]
    assert "no such node" in run(**WANTED, node="nowhere")["msg"]
    assert "Proxmox refuses cores" in run(**{**WANTED, "cores": 100000})["msg"]
    assert "130" not in on_node("lxc-ls", "-1").split()


def test_the_same_container_over_the_api(run: Run) -> None:
    run(**{**WANTED, "state": "present"})
    login = {
        "host": "here",
        "api_host": NODE,
        "api_user": "root@pam",
        "api_password": (STATE / "root-password").read_text().strip(),
        "validate_certs": False,
        "node": "pve",
    }
    assert not run(**{**WANTED, "state": "present"}, **login)["changed"]
    started = run(state="started", **login)
    assert (started["actions"], started["status"]) == (["start"], "running")
    assert not run(**WANTED)["changed"]
    assert login["api_password"] not in json.dumps(started)
