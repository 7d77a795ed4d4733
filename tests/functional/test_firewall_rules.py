# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports the rules close. That they keep others out is tested in guests (lab/test_service.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROLE = Path(__file__).resolve().parents[2] / "roles" / "llama_router"


def test_instances_are_behind_the_rules_whichever_playbook_runs(tmp_path: Path) -> None:
    """site.yml, models.yml and a play of one's own all hand the instances to the role, and nothing else about them."""
    variables = {
        "ansible_python_interpreter": sys.executable,
        "ansible_managed": "by a test",
        "llama_router_port": 8012,
        "llama_router_firewall_allow": ["192.0.2.0/24"],
        "llama_router_firewall_ports": [9836],
        "llama_router_instances": [
            {"name": "coder", "model": "one", "port": "8101"},
            {"name": "twin", "model": "two", "port": 8102},
            {"name": "gone", "state": "absent"},
        ],
    }
    rules = tmp_path / "rules"
    argv = ["ansible", "localhost", "--extra-vars", json.dumps(variables), "--module-name", "ansible.builtin.template"]
    argv += ["--args", f"src={ROLE}/templates/firewall.nft.j2 dest={rules}"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tcp dport != { 8012, 8101, 8102, 9836 } accept" in rules.read_text()
