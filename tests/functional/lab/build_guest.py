# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A trixie guest of the lab in which llama.cpp is built, with a compiler cache that outlives it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TESTS / "lab"))

from homelab_lab.settings import Settings

TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
CHECKSUM = "sha256:b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
ROOT = "/opt/llama.cpp"
CCACHE = f"{ROOT}/build/ccache"

lab = Settings.from_environment()


def on_node(command: str) -> str:
    done = subprocess.run(lab.ssh(command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def source() -> dict[str, str]:
    """llama_cpp_source for the real sources."""
    path = subprocess.run([TESTS / "llama_cpp_source"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return {"path": path, "checksum": CHECKSUM}


class BuildGuest:
    def __init__(self, vmid: int, folder: Path, memory_mib: int = 4096, disk_gib: int = 24) -> None:
        self.vmid = vmid
        self.folder = folder
        self.cache = Path(lab.cache) / "llama.cpp" / f"ccache-{vmid}.tar"
        self._make = f"--memory {memory_mib} --rootfs local-lvm:{disk_gib}"

    def create(self) -> None:
        self.remove()
        network = lab.address.rpartition(".")[0]
        on_node(
            f"pvesh create /nodes/{lab.node}/lxc --vmid {self.vmid} --hostname build{self.vmid} "
            f"--ostemplate {TEMPLATE} --unprivileged 1 --features nesting=1 {self._make} "
            f"--net0 name=eth0,bridge=vmbr0,ip={network}.{self.vmid}/24,gw={network}.1 && pct start {self.vmid}"
        )
        self.wait()
        if self.cache.exists():
            with self.cache.open("rb") as file:
                subprocess.run(self._attached(f"mkdir -p {ROOT}/build; tar -x -C {ROOT}/build"), stdin=file, check=True)

    def keep_ccache(self) -> None:
        """For the next guest of this number."""
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.cache.with_suffix(".new")
        with fresh.open("wb") as file:
            subprocess.run(self._attached(f"tar -c -C {ROOT}/build ccache"), stdout=file, check=True)
        fresh.replace(self.cache)

    def remove(self) -> None:
        if f"{self.vmid}.conf" in on_node("ls /etc/pve/lxc"):
            on_node(
                f"pct status {self.vmid} | grep -q stopped || pct stop {self.vmid}; "
                f"pvesh delete /nodes/{lab.node}/lxc/{self.vmid}"
            )

    def reboot(self) -> None:
        on_node(f"pct stop {self.vmid} && pct start {self.vmid}")
        self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + 300
        while self.run("systemctl is-system-running --wait", check=False) not in ("running", "degraded"):
            assert time.monotonic() < deadline, f"guest {self.vmid} did not come up"
            time.sleep(0.2)

    def run(self, command: str, check: bool = True) -> str:
        done = subprocess.run(self._attached(command), capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return (done.stdout + done.stderr).strip()

    def stamp(self, release: str) -> dict[str, Any]:
        stamp: dict[str, Any] = json.loads(self.run(f"cat {ROOT}/releases/{release}/stamp.json"))
        return stamp

    def start(self, tasks: list[dict[str, Any]], *options: str) -> subprocess.Popen[str]:
        """ansible-playbook with these tasks, in a process group of its own."""
        variables = {
            "ansible_connection": "homelab.llamacpp.pct",
            "ansible_host": lab.address,
            "ansible_user": "root",
            "ansible_private_key_file": str(lab.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts}",
            "ansible_python_interpreter": "/usr/bin/python3",
            "proxmox_lxc_vmid": self.vmid,
        }
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"guest": variables}}}))
        (self.folder / "play.yml").write_text(json.dumps([{"hosts": "guest", "gather_facts": False, "tasks": tasks}]))
        (self.folder / "ansible.cfg").write_text("[ssh_connection]\npipelining = true\n")
        return subprocess.Popen(
            ["ansible-playbook", "-i", "hosts.json", "play.yml", *options],
            cwd=self.folder,
            env={**os.environ, "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def play(self, tasks: list[dict[str, Any]], *options: str, ok: bool = True) -> str:
        process = self.start(tasks, *options)
        output = process.communicate()[0]
        assert (process.returncode == 0) == ok, output
        return output

    def _attached(self, command: str) -> list[str]:
        attach = f"lxc-attach -n {self.vmid} --clear-env -v PATH=/usr/sbin:/usr/bin:/sbin:/bin -- sh -c"
        return lab.ssh(f"{attach} {shlex.quote(command)}")


def role(entry: str = "main", **variables: Any) -> dict[str, Any]:
    """A task that runs the role."""
    return {
        "name": f"llama_cpp, {entry}",
        "ansible.builtin.include_role": {"name": "homelab.llamacpp.llama_cpp", "tasks_from": entry},
        "vars": {f"llama_cpp_{name}": value for name, value in variables.items()},
    }
