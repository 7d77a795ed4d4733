# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where playbooks/prometheus.yml has Prometheus look for the exporters of an inventory."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

PLAYBOOK = Path(__file__).parents[2] / "playbooks/prometheus.yml"


def container(**variables: Any) -> dict[str, Any]:
    """As in an inventory: ansible_host is the node's address."""
    pct = {"ansible_connection": "homelab.llamacpp.pct", "ansible_host": "192.0.2.1", "proxmox_lxc_vmid": 101}
    return {**pct, "llamacpp_monitoring": True, **variables}


def test_each_exporter_has_its_address(tmp_path: Path) -> None:
    hosts = {
        "leased": container(proxmox_lxc_net={"net0": {"bridge": "vmbr0", "ip": "dhcp"}}),
        "machine": {"ansible_host": "192.0.2.30", "llamacpp_monitoring": True, "llama_monitoring_port": 9900},
        "said": container(proxmox_lxc_net={"net0": {"ip": "dhcp"}}, llama_monitoring_address="2001:db8::7"),
        "static": container(proxmox_lxc_net={"net0": {"ip": "dhcp"}, "net1": {"ip": "192.0.2.20/24"}, "net2": None}),
        "unwatched": container(llamacpp_monitoring=False),
        "written": container(proxmox_lxc_net={"net0": "name=eth0,bridge=vmbr0,ip=dhcp"}, proxmox_lxc_hostname="llama"),
    }
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"llama_routers": {"hosts": hosts}}))
    variables = yaml.safe_load(PLAYBOOK.read_text())[0]["tasks"][0]["vars"]
    show = {"ansible.builtin.debug": {"var": "llama_monitoring_prometheus_targets"}, "vars": variables}
    play = tmp_path / "play.yml"
    play.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [show]}]))
    environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    argv = ["ansible-playbook", "-i", inventory, play]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment).stdout
    assert json.loads(shown[shown.index("{") : shown.rindex("}") + 1])["llama_monitoring_prometheus_targets"] == [
        "leased:9836",
        "192.0.2.30:9900",
        "[2001:db8::7]:9836",
        "192.0.2.20:9836",
        "llama:9836",
    ]
