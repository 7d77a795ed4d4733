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
    """The rules for these networks, and a file with their mark beside them."""
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
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "rules"


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
