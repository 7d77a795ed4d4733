# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest of the lab that somebody has set up by hand, and the collection's playbooks run on it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from build_guest import BuildGuest, lab, on_node

CHECKOUT = Path(__file__).resolve().parents[3]
TEMPLATE = "local:vztmpl/debian-14-forky-llama_14.0-1_amd64.tar.zst"
PLAYBOOKS = CHECKOUT / "playbooks"


class HandMade(BuildGuest):
    """Its first state, with llama-server and models in /srv/tiny, is kept as a snapshot; the suites go back to it."""

    def __init__(self, vmid: int, folder: Path) -> None:
        super().__init__(vmid, folder, memory_mib=2048, disk_gib=8)
        self.host_vars = folder / "host_vars" / "old"

    def create(self) -> None:
        self.remove()
        network = lab.address.rpartition(".")[0]
        on_node(
            f"pvesh create /nodes/{lab.node}/lxc --vmid {self.vmid} --hostname old --ostemplate {TEMPLATE}"
            f" --unprivileged 1 --features nesting=1 --cores 2 {self._make}"
            f" --net0 name=eth0,bridge=vmbr0,ip={network}.{self.vmid}/24,gw={network}.1 && pct start {self.vmid}"
        )
        self.wait()
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(self.inventory()))
        (self.folder / "ansible.cfg").write_text(
            "[defaults]\ncallback_result_format = yaml\n[ssh_connection]\npipelining = true\n"
        )
        self.run("apt-get update -qq && apt-get install -y -qq --no-install-recommends llama.cpp-tools")
        models = self.folder / "models"
        subprocess.run([sys.executable, CHECKOUT / "tests/make_tiny_models.py", models], check=True)
        self.unpack(models, "/srv/tiny")
        on_node(f"pct snapshot {self.vmid} first")

    def again(self) -> None:
        """As it was first, with an inventory that says nothing of it."""
        on_node(f"pct rollback {self.vmid} first && pct start {self.vmid}")
        for file in self.host_vars.glob("*"):
            file.unlink()
        self.wait()

    def stop(self) -> None:
        on_node(f"pct stop {self.vmid}")

    def start_again(self) -> None:
        on_node(f"pct start {self.vmid}")
        self.wait()

    def status(self) -> str:
        return on_node(f"pct status {self.vmid}")

    def inventory(self) -> dict[str, Any]:
        variables = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(lab.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts} -o IdentitiesOnly=yes",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        old = {
            "ansible_connection": "homelab.llamacpp.pct",
            "ansible_host": lab.address,
            "proxmox_lxc_node": "pve",
            "proxmox_lxc_vmid": self.vmid,
        }
        return {
            "all": {"vars": variables},
            "proxmox_nodes": {"hosts": {"pve": {"ansible_host": lab.address}}},
            "llama_routers": {"hosts": {"old": old}},
            "ollama_hosts": {"hosts": {"old": None}},
        }

    def put(self, path: str, content: str | bytes, mode: str = "644") -> None:
        file, folder = shlex.quote(path), shlex.quote(str(Path(path).parent))
        command = f"mkdir -p {folder} && cat >{file} && chmod {mode} {file}"
        data = content.encode() if isinstance(content, str) else content
        subprocess.run(self._attached(command), input=data, check=True, capture_output=True)

    def unpack(self, folder: Path, path: str) -> None:
        """A folder of this machine's, with all that is in it."""
        tar = subprocess.run(["tar", "-c", "-C", folder, "."], stdout=subprocess.PIPE, check=True)
        subprocess.run(
            self._attached(f"mkdir -p {path}; tar -x --no-same-owner -C {path}"), input=tar.stdout, check=True
        )

    def playbook(self, playbook: str | Path, *options: str, ok: bool = True) -> str:
        """What a playbook of the collection's, or another one, prints."""
        done = subprocess.run(
            ["ansible-playbook", "-i", "hosts.yml", str(PLAYBOOKS / playbook), *options],
            cwd=self.folder,
            env={**os.environ, "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    def role(self, name: str, *options: str, ok: bool = True, **variables: Any) -> str:
        """What a play with one role prints."""
        play = self.folder / "role.yml"
        task = {"ansible.builtin.import_role": {"name": f"homelab.llamacpp.{name}"}, "vars": variables}
        play.write_text(yaml.safe_dump([{"hosts": "old", "gather_facts": False, "tasks": [task]}]))
        return self.playbook(play, *options, ok=ok)

    def is_active(self, unit: str) -> bool:
        return self.run(f"systemctl is-active {unit}", check=False) == "active"

    def until(self, command: str, seconds: int = 20) -> str:
        """What a command prints, once it succeeds."""
        for _try in range(seconds * 4):
            done = subprocess.run(self._attached(command), capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
            time.sleep(0.25)
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")


def changed(output: str, host: str = "old") -> int:
    found = re.search(rf"^{host} +: .*changed=(\d+)", output, re.MULTILINE)
    assert found, output
    return int(found[1])


def words(output: str) -> str:
    """Without the line breaks that Ansible puts in."""
    return " ".join(output.split())
