# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times one play of 20 tasks through each way into the same guest of the lab, and prints the ratios.

The incumbent is community.proxmox's connection, as the package `ansible` bundles it; it and paramiko are fetched from
PyPI once, into a cache of their own. Every connection runs the play once to converge and to warm up, then all of them
in turn, so that a busy moment of this machine hits all alike; what counts is the median. The guest is made and removed
here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from homelab_lab.settings import Settings

INCUMBENT = "ansible==14.5.0"
PARAMIKO = "paramiko==5.1.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homelab-llamacpp-bench"
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
SECOND_RUN = re.compile(r"ok=20 +changed=0 +unreachable=0 +failed=0")

lab = Settings.from_environment()


def on_node(command: str, data: str | None = None) -> str:
    done = subprocess.run(lab.ssh(command), input=data, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"On the node failed with {done.returncode}: {command}\n{done.stdout}{done.stderr}")
    return done.stdout


def fetch_incumbent() -> None:
    """community.proxmox out of the wheel, and paramiko, into the cache."""
    if (CACHE / "ready").exists():
        return
    print(f"Fetching the incumbent ({INCUMBENT}, {PARAMIKO}) into {CACHE}", flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([*pip, "download", "--no-deps", "-d", scratch, INCUMBENT], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.startswith("ansible_collections/community/proxmox/")]
            archive.extractall(CACHE / "collections", wanted)
    subprocess.run([*pip, "install", "--target", str(CACHE / "site"), PARAMIKO], check=True)
    (CACHE / "ready").touch()


def make_guest(vmid: int, address: str) -> None:
    """A guest of the lab with its own sshd that takes the lab's key."""
    subnet = lab.network.prefixlen
    on_node(
        f"pvesh create /nodes/{lab.node}/lxc --vmid {vmid} --hostname bench{vmid} --ostemplate {TEMPLATE} "
        "--unprivileged 1 --features nesting=1 --memory 1024 --rootfs local-lvm:4 --start 1 "
        f"--net0 name=eth0,bridge=vmbr0,ip={address}/{subnet},gw={lab.gateway} >/dev/null"
    )
    enter = f"lxc-attach -n {vmid} --clear-env -v PATH=/usr/sbin:/usr/bin:/sbin:/bin -- /bin/sh -c "
    on_node(f"until {enter} true; do sleep 0.2; done 2>/dev/null")
    on_node(enter + shlex.quote("systemctl is-system-running --wait"))
    script = "umask 077; mkdir -p /root/.ssh; cat > /root/.ssh/authorized_keys; systemctl start ssh"
    on_node(enter + shlex.quote(script), Path(f"{lab.key}.pub").read_text())
    for _attempt in range(30):  # this machine may still know the address by the last guest's Ethernet address
        with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=1):
            return
        time.sleep(1)
    sys.exit(f"The sshd of guest {vmid} does not answer at {address}")


def inventory(vmid: int, address: str) -> dict[str, Any]:
    ours = {"ansible_connection": "homelab.llamacpp.pct", "ansible_pct_vmid": vmid}
    each = {**ours, "ansible_pct_session": False}
    hosts: dict[str, dict[str, Any]] = {
        "proxmox_pct_remote": {
            "ansible_connection": "community.proxmox.proxmox_pct_remote",
            "proxmox_vmid": vmid,
        },
        "pct": ours,
        "pct-lxc-attach-each-call": each,
        "pct-pct-exec-each-call": {**each, "ansible_pct_command": "pct"},
        "plain-ssh": {"ansible_host": address},
    }
    common = {
        "ansible_host": lab.address,
        "ansible_user": "root",
        "ansible_private_key_file": str(lab.key),
        "ansible_host_key_checking": False,
        "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        "ansible_pipelining": True,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    return {"all": {"vars": common, "hosts": hosts}}


def run(host: str, inventory_file: Path, second: bool) -> float:
    """Seconds that one run of the play took. A second run that does not end as it should ends the benchmark."""
    started = time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory_file), "-l", host, str(HERE / "connection.yml")],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(inventory_file.with_name("ansible.cfg")),
            "ANSIBLE_COLLECTIONS_PATH": f"{os.environ['ANSIBLE_COLLECTIONS_PATH']}:{CACHE / 'collections'}",
            "PYTHONPATH": str(CACHE / "site"),
            "PYTHONDONTWRITEBYTECODE": "",  # an operator's Python keeps what it compiled
        },
    )
    took = time.monotonic() - started
    if done.returncode or (second and not SECOND_RUN.search(done.stdout)):
        sys.exit(f"The play through {host} did not end as it should:\n{done.stdout}{done.stderr}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each connection (default 3)")
    parser.add_argument("--vmid", type=int, default=119, help="id of the guest to make (default 119)")
    parser.add_argument("--keep", action="store_true", help="use a guest that is there already, and leave it there")
    arguments = parser.parse_args()
    vmid = arguments.vmid
    address = str(lab.network.network_address + vmid)

    fetch_incumbent()
    if not arguments.keep:
        make_guest(vmid, address)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            inventory_file = Path(scratch, "inventory.json")
            data = inventory(vmid, address)
            inventory_file.write_text(json.dumps(data))
            inventory_file.with_name("ansible.cfg").write_text("[defaults]\n")  # no one's own settings
            times: dict[str, list[float]] = {host: [] for host in data["all"]["hosts"]}
            for host in times:
                run(host, inventory_file, second=False)
            for _round in range(arguments.runs):
                for host, taken in times.items():
                    taken.append(run(host, inventory_file, second=True))
    finally:
        if not arguments.keep:
            on_node(f"pvesh delete /nodes/{lab.node}/lxc/{vmid} --force 1 --purge 1 >/dev/null")

    medians = {host: statistics.median(taken) for host, taken in times.items()}
    incumbent, plain = medians["proxmox_pct_remote"], medians["plain-ssh"]
    print(f"{'20 tasks, nothing to change':28}{'median':>8}  {'of the incumbent':>17}{'of plain ssh':>14}   runs (s)")
    for host, median in medians.items():
        runs = " ".join(f"{taken:.2f}" for taken in times[host])
        print(f"{host:28}{median:7.2f} s{incumbent / median:11.2f} x faster{median / plain:12.2f} x   {runs}")


if __name__ == "__main__":
    main()
