# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest of the lab with the real router, its exporter, and Debian's Prometheus, all by the playbooks."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/lab")]

from homelab_lab.settings import Settings

VMID = 185
SETTINGS = Settings.from_environment()
NETWORK = SETTINGS.address.rpartition(".")[0]
LAB = ROOT / "tests/lab/lab"
MODELS = ["alpha", "beta", "gamma"]
LIMIT = 2
KEYS = "/etc/llama-router/api-keys"
EXPORTER = "llama-router-exporter.service"
FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
# ask PATH [BODY]: the router, as a client.
ASK = f"""import json, sys, urllib.request as u
body = sys.argv[2].encode() if sys.argv[2:] else None
headers = {{"Authorization": "Bearer " + open("{KEYS}").readline().strip(), "Content-Type": "application/json"}}
try:
    print(u.urlopen(u.Request("http://127.0.0.1:8012" + sys.argv[1], body, headers), timeout=300).read().decode())
except u.HTTPError as error:
    print(error.read().decode())
"""


def on_node(command: str, data: bytes = b"", check: bool = True) -> str:
    done = subprocess.run(SETTINGS.ssh(command), input=data, check=False, capture_output=True)
    assert not check or done.returncode == 0, f"{command}: {done.stdout.decode()} {done.stderr.decode()}"
    return (done.stdout + (b"" if check else done.stderr)).decode().strip()


def until(true: Callable[[], Any], what: str = "", seconds: float = 300) -> None:
    """Wait for it, on a machine that may be busy; Prometheus misses what takes longer than a scrape may."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.3)


def changed(output: str) -> int:
    return sum(int(count) for count in re.findall(r"changed=(\d+)", output.split("PLAY RECAP")[1]))


class Guest:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        host: dict[str, Any] = {
            "ansible_connection": "homelab.llamacpp.pct",
            "ansible_host": SETTINGS.address,
            "proxmox_lxc_node": "pve",
            "proxmox_lxc_vmid": VMID,
            "proxmox_lxc_hostname": "watched",
            "proxmox_lxc_net": {
                "net0": {"name": "eth0", "bridge": "vmbr0", "ip": f"{NETWORK}.{VMID}/24", "gw": f"{NETWORK}.1"}
            },
            "proxmox_lxc_mounts": [{"volume": "/srv/watched", "mp": "/srv/models", "ro": True}],
            "llamacpp_models": [
                {"name": name, "source": {"path": f"/srv/models/{name}.gguf"}, "options": {"ctx-size": 512}}
                for name in MODELS
            ],
            "llama_router_models_max": LIMIT,
            "llamacpp_monitoring": True,
            "llama_monitoring_host": "0.0.0.0",
            "llama_monitoring_allow": [f"{NETWORK}.1/32"],
            "llama_monitoring_nvtop": True,
            "llama_monitoring_journal_mib": 96,
            "llama_monitoring_prometheus_install": True,
            "llama_monitoring_prometheus_interval": "1s",
        }
        groups = {"llama_routers": {"hosts": {"watched": host}}, "prometheus_servers": {"hosts": {"watched": {}}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(groups))

    def create(self) -> None:
        (self.folder / "models").mkdir()
        for seed, name in enumerate(MODELS, 1):
            importlib.import_module("make_tiny_models").make(self.folder / "models" / f"{name}.gguf", seed)
        subprocess.run([LAB, "up"], check=True)
        self.remove()
        tar = ["tar", "-c", "-C", self.folder / "models", "."]
        models = subprocess.run(tar, check=True, capture_output=True).stdout
        on_node("mkdir -p /srv/watched && tar -x --no-same-owner -C /srv/watched && chmod -R a+rX /srv/watched", models)
        self.play("site.yml")
        self.play("prometheus.yml")

    def remove(self) -> None:
        on_node(
            f"test ! -e /etc/pve/lxc/{VMID}.conf || {{ pct stop {VMID} 2>/dev/null; pct destroy {VMID} --force 1; }}"
        )

    def play(self, playbook: str | Path, *args: str, **variables: Any) -> str:
        argv: list[str | Path] = ["ansible-playbook", "--limit", "pve,watched"]
        argv += ["-i", ROOT / "tests/lab/inventory", "-i", self.folder / "hosts.yml", ROOT / "playbooks" / playbook]
        argv += [*args, "-e", json.dumps(variables)]
        environment = {**os.environ, "ANSIBLE_PIPELINING": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def role(self, entry: str = "main", **variables: Any) -> str:
        role = {"name": "homelab.llamacpp.llama_monitoring", "tasks_from": entry}
        play = {"hosts": "watched", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}
        (self.folder / "role.yml").write_text(yaml.safe_dump([play]))
        return self.play(self.folder / "role.yml", **variables)

    def run(self, command: str, data: bytes = b"", check: bool = True) -> str:
        attach = f"lxc-attach -n {VMID} --clear-env -v PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin -- sh -c"
        quoted = command.replace("'", "'\\''")
        return on_node(f"{attach} '{quoted}'", data, check)

    # --- the router ---

    def ask(self, path: str, **body: Any) -> Any:
        """What the router answers to a client."""
        words = f"'{path}'" + (f" '{json.dumps(body)}'" if body else "")
        return json.loads(self.run(f"python3 - {words}", ASK.encode()))

    def complete(self, model: str) -> None:
        """An answer of this model, however it ends."""
        self.ask("/v1/completions", model=model, prompt="once", max_tokens=2)

    # --- the exporter ---

    def metrics(self, check: bool = True) -> str:
        return self.run(f'python3 -c "{FETCH}" http://127.0.0.1:9836/metrics', check=check)

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.run(f'python3 -c "{FETCH}" http://127.0.0.1:9836/report.json'))
        return report

    def until_told(self, *samples: str) -> None:
        """Until /metrics has these samples, as they are written there; the exporter may be only just starting."""

        def told() -> bool:
            text = self.metrics(check=False)
            return all(sample in text for sample in samples)

        until(told, " ".join(samples))

    # --- Prometheus ---

    def query(self, text: str) -> dict[str, float]:
        """What Prometheus has now, by model."""
        url = f"http://127.0.0.1:9090/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        answer = json.loads(self.run(f"python3 -c \"{FETCH}\" '{url}'"))
        return {entry["metric"].get("model", ""): float(entry["value"][1]) for entry in answer["data"]["result"]}

    def until_is(self, text: str, wanted: dict[str, float]) -> None:
        """Until Prometheus has this."""
        until(lambda: self.query(text) == wanted, f"{text} is {wanted}")

    def fires(self, alert: str) -> bool:
        return bool(self.query(f"ALERTS{{alertname='{alert}', alertstate='firing'}}"))
