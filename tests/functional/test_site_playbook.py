# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What site.yml refuses before anything is changed in a guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[2] / "playbooks" / "site.yml"


def site(folder: Path, *args: str, **wanted: object) -> str:
    """What it says on this machine in place of a guest, of which only what follows from the inventory is looked at."""
    guest = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "llamacpp_models": [],
        **wanted,
    }
    (folder / "hosts.json").write_text(json.dumps({"llama_routers": {"hosts": {"guest": guest}}}))
    environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "PYTHONPATH": ""}
    argv = ["ansible-playbook", "--inventory", "hosts.json", str(SITE), *args]
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


@pytest.mark.parametrize(
    ("server", "named"),
    [({}, "llama_cpp_method 'package'"), ({"llama_cpp_method": "build"}, "llama_cpp_backend 'cpu'")],
)
def test_a_llama_server_for_the_cpu_where_gpus_are_wanted(tmp_path: Path, server: dict[str, str], named: str) -> None:
    said = site(tmp_path, **server)
    assert named in said
    assert "Set llama_cpp_method to build and llama_cpp_backend to cuda" in said
    assert "ok=0    changed=0 " in said


@pytest.mark.parametrize(
    "wanted",
    [
        {"llama_cpp_method": "build", "llama_cpp_backend": "cuda"},
        {"llama_cpp_method": "archive"},
        {"llama_router_devices": [{"name": "Vulkan0", "total_mib": 8192}]},
        {"llama_router_cpu_only": True, "llama_router_models_max": 2},
    ],
)
def test_what_fits_together_and_a_guest_without_a_proxmox_node(tmp_path: Path, wanted: dict[str, object]) -> None:
    said = site(tmp_path, "--tags", "proxmox_lxc", **wanted)
    assert "changed=0    unreachable=0    failed=0 " in said, said
