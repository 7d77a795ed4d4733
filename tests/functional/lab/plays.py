# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection's playbooks and roles, run on an inventory of the lab's guests."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from build_guest import lab

CHECKOUT = Path(__file__).resolve().parents[3]
PLAYBOOKS = CHECKOUT / "playbooks"
LOGIN = {
    "ansible_user": "root",
    "ansible_ssh_private_key_file": str(lab.key),
    "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts} -o IdentitiesOnly=yes",
    "ansible_python_interpreter": "/usr/bin/python3",
}
NODES = {"hosts": {"pve": {"ansible_host": lab.address}}}


def in_guest(vmid: int) -> dict[str, Any]:
    """How Ansible gets into a guest."""
    return {
        "ansible_connection": "homelab.llamacpp.pct",
        "ansible_host": lab.address,
        "proxmox_lxc_node": "pve",
        "proxmox_lxc_vmid": vmid,
    }


class Plays:
    """Whoever is one has its inventory and its plays in `folder`."""

    folder: Path

    def write_inventory(self, **groups: Any) -> None:
        inventory = {"all": {"vars": LOGIN}, "proxmox_nodes": NODES, **groups}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (self.folder / "ansible.cfg").write_text(
            "[defaults]\ncallback_result_format = yaml\n[ssh_connection]\npipelining = true\n"
        )

    def playbook(self, playbook: str | Path, *options: str, ok: bool = True) -> str:
        """What a playbook of the collection's, or another one, prints."""
        running = self.start_playbook(playbook, *options)
        output = running.communicate()[0]
        assert (running.returncode == 0) == ok, output
        return output

    def start_playbook(self, playbook: str | Path, *options: str) -> subprocess.Popen[str]:
        """It runs in a process group of its own."""
        return subprocess.Popen(
            ["ansible-playbook", "-i", "hosts.yml", str(PLAYBOOKS / playbook), *options],
            cwd=self.folder,
            env={**os.environ, "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def role_on(self, hosts: str, role: str, *options: str, entry: str = "main", ok: bool = True, **given: Any) -> str:
        """What a play with one role prints."""
        return self.playbook(self.play_of(hosts, role, entry, **given), *options, ok=ok)

    def play_of(self, hosts: str, role: str, entry: str = "main", **given: Any) -> Path:
        """A play with one role."""
        play = self.folder / "role.yml"
        task = {
            "ansible.builtin.import_role": {"name": f"homelab.llamacpp.{role}", "tasks_from": entry},
            "vars": given,
        }
        play.write_text(yaml.safe_dump([{"hosts": hosts, "gather_facts": False, "tasks": [task]}]))
        return play


def changed(output: str) -> dict[str, int]:
    """How many tasks of a run have changed something, by host."""
    found = {host: int(count) for host, count in re.findall(r"(?m)^(\S+) +: ok=.*changed=(\d+)", output)}
    assert found, output
    return found


def words(output: str) -> str:
    """Without the line breaks that Ansible puts in."""
    return " ".join(output.split())
