# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest whose llama-server is updated, and the playbooks that do it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from load import Load

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

import lab_guest

INVENTORY = CHECKOUT / "tests/lab/inventory"
RELEASES = CHECKOUT / ".cache/releases"
NETWORK = os.environ.get("HOMELAB_LAB_NETWORK", "198.18.77.0/24").rpartition(".")[0]
KEYS = "/etc/llama-router/api-keys"
ROOT = "/opt/llama.cpp"
ADDRESS = (f"{NETWORK}.120", 8012)
DEDICATED = (ADDRESS[0], 8020)
INSTANCES = ["--extra-vars", f"@{Path(__file__).parent}/instances.yml"]
BUSY = ["SmolLM2-135M-Instruct", "tiny-single"]
# Playbooks run as an operator runs them, not with molecule's settings, and say each thing in one line without colours.
PLAIN = {
    **os.environ,
    "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
    "ANSIBLE_FORCE_COLOR": "0",
    "ANSIBLE_NOCOLOR": "1",
    "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
}


def on_node(command: str) -> None:
    subprocess.run([CHECKOUT / "tests/lab/lab", "ssh", command], check=True)


class Guest:
    """The guest, looked at from inside and asked from outside."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.key = host.check_output(f"head -n 1 {KEYS}")

    def link(self, name: str) -> str:
        """Which release a link leads to; nothing without the link."""
        return self.host.run(f"basename $(readlink {ROOT}/{name})").stdout.strip()

    def clients(self) -> Load:
        return Load(*ADDRESS, self.key, BUSY[1], tokens=20)

    def load(self, *models: str) -> None:
        for model in models:
            assert Load(*ADDRESS, self.key, model, tokens=1).stream() == ""

    def loaded(self) -> list[str]:
        status, text = Load(*ADDRESS, self.key, "").call("GET", "/models", None)
        assert status == 200
        return sorted(model["id"] for model in json.loads(text)["data"] if model["status"]["value"] == "loaded")

    def build(self) -> str:
        """The build that the router says it is."""
        return str(json.loads(Load(*ADDRESS, self.key, "").call("GET", "/props", None)[1])["build_info"])

    def dedicated(self) -> str:
        """The process id of the dedicated server, which is ready."""
        assert Load(*DEDICATED, "", "").call("GET", "/health", None)[0] == 200
        return str(self.host.check_output("systemctl show llama-instance@coder -P MainPID"))

    def state(self) -> str:
        """Everything that an update may change: links, releases, the running process, the records."""
        paths = (
            f"{ROOT} {ROOT}/releases /etc/llama-router /etc/systemd/system/llama-router.service /var/lib/llama-router"
        )
        return str(
            self.host.check_output(f"ls -lA --time-style=full-iso {paths}; systemctl show llama-router -P MainPID")
        )

    def take_models_in(self) -> None:
        """The models are in a bind mount, and a container with one can have no snapshot: copy them inside."""
        self.host.check_output("cp -a /srv/models /root/models")
        on_node("pct stop 120 && pct set 120 --delete mp1 && pct start 120")
        deadline = time.monotonic() + 300
        while self.host.run("systemctl is-system-running --wait").stdout.strip() not in ("running", "degraded"):
            assert time.monotonic() < deadline, "the guest did not come up"
            time.sleep(1)
        self.host.check_output("rmdir /srv/models && mv /root/models /srv/models && systemctl restart llama-router")

    def playbook(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        argv = ["ansible-playbook", "--inventory", str(INVENTORY), f"playbooks/{name}.yml", *INSTANCES, *more]
        return subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT, env=PLAIN, check=False)

    def update(self, release: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self.playbook("update", "--extra-vars", f"@{RELEASES}/{release}.yml", *more)

    def kill_update_at(self, task: str, release: str) -> None:
        """Begin it, and kill it without warning as soon as it comes to a task."""
        argv = ["ansible-playbook", "--inventory", str(INVENTORY), "playbooks/update.yml", *INSTANCES]
        argv += ["--extra-vars", f"@{RELEASES}/{release}.yml"]
        play = subprocess.Popen(
            argv, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env=PLAIN, start_new_session=True
        )
        assert play.stdout
        came = any(line.startswith("TASK") and task in line for line in play.stdout)
        os.killpg(play.pid, signal.SIGKILL)
        play.wait()
        assert came, f"the play never came to {task!r}"


@pytest.fixture(scope="session")
def host() -> Any:
    return lab_guest.guest(120)


@pytest.fixture(scope="module")
def guest(host: Any) -> Guest:
    return Guest(host)
