# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports the rules close. That they keep others out is tested in guests (lab/test_service.py)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROLE = Path(__file__).resolve().parents[2] / "roles" / "llama_router"


PORTS = "tcp dport != { 8012, 8101, 8102, 9836 } accept"


def rules(folder: Path, *allowed: str) -> Path:
    """The rules for these networks."""
    done = written(folder, *allowed)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "rules"


def written(folder: Path, *allowed: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "ansible_python_interpreter": sys.executable,
        "ansible_managed": "by a test",
        "llama_router_port": 8012,
        "llama_router_firewall_allow": allowed,
        "llama_router_firewall_ports": [9836],
        "llama_router_instances": [
            {"name": "coder", "model": "one", "port": "8101"},
            {"name": "twin", "model": "two", "port": 8102},
            {"name": "gone", "state": "absent"},
        ],
    }
    argv = ["ansible", "localhost", "--extra-vars", f"@{ROLE}/vars/main.yml", "--extra-vars", json.dumps(variables)]
    argv += ["--module-name", "ansible.builtin.template"]
    argv += ["--args", f"src={ROLE}/templates/firewall.nft.j2 dest={folder}/rules"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "network", ["192.0.2.0/24\n", "0.0.0.0/0 accept; ip saddr 1.1.1.1", "2001:db8::/64\r", "192.0.2"]
)
def test_what_is_no_network_opens_nothing(tmp_path: Path, network: str) -> None:
    done = written(tmp_path, "198.51.100.1", network)
    assert done.returncode != 0
    assert "llama_router_firewall_allow: expected addresses and networks" in done.stdout + done.stderr
    assert not (tmp_path / "rules").exists()


def test_networks_are_written_as_they_were_read(tmp_path: Path) -> None:
    text = rules(tmp_path, "2001:DB8:0::1", "192.0.2.7/24", "192.0.2.0/24").read_text()
    assert re.findall(r"saddr (.*) accept", text) == ["192.0.2.0/24", "2001:db8::1"]


def in_force(path: Path) -> str:
    """What the role sees of the rules, in a network of their own."""
    command = f"nft --file {path} && nft --file {path} && nft list chain inet llama_router input"
    done = subprocess.run(["unshare", "-n", "/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_instances_are_behind_the_rules_whichever_playbook_runs(tmp_path: Path) -> None:
    """site.yml, models.yml and a play of one's own all hand the instances to the role, and nothing else about them."""
    assert PORTS in rules(tmp_path, "192.0.2.0/24").read_text()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nftables")
def test_the_role_sees_which_rules_are_in_force(tmp_path: Path) -> None:
    """A run that was cut off has written its rules, and the earlier ones, of other networks, are still in force."""
    marks = []
    for allowed in (["192.0.2.0/24", "2001:db8::/64"], ["192.0.2.0/24"]):
        path = rules(tmp_path, *allowed)
        (mark,) = re.findall(r'comment "([0-9a-f]{40})"', path.read_text())
        said = in_force(path)
        assert PORTS in said
        assert [mark in said, *(one in said for one in marks)] == [True] + [False] * len(marks)
        marks.append(mark)
