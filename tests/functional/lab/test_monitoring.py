# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role llama_monitoring in a guest beside the real router, scraped by the real Prometheus of Debian.

Wants root; brings the lab up when it is down, and leaves it up. MONITORING_SECONDS is how long the client asks (make
test-monitoring: ten minutes).
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
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
SECONDS = float(os.environ.get("MONITORING_SECONDS", "30"))
MODELS = ["alpha", "beta", "gamma"]
LIMIT = 2
ALERTS = ROOT / "tests/prometheus/alerts.yml"


def on_node(command: str, data: bytes = b"", check: bool = True) -> str:
    done = subprocess.run(SETTINGS.ssh(command), input=data, check=False, capture_output=True)
    assert not check or done.returncode == 0, f"{command}: {done.stdout.decode()} {done.stderr.decode()}"
    return (done.stdout + (b"" if check else done.stderr)).decode().strip()


class Guest:
    """A guest of the lab with a router, and the role in it."""

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
            "llama_monitoring_allow": [f"{NETWORK}.{VMID}/32"],
            "llama_monitoring_prometheus_install": True,
            "llama_monitoring_prometheus_interval": "1s",
        }
        groups = {"llama_routers": {"hosts": {"watched": host}}, "prometheus_servers": {"hosts": {"watched": {}}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(groups))

    def play(self, playbook: Path, *args: str) -> str:
        argv: list[str | Path] = [
            "ansible-playbook",
            "-i",
            ROOT / "tests/lab/inventory",
            "-i",
            self.folder / "hosts.yml",
        ]
        argv += ["--limit", "pve,watched", playbook, *args]
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, env={**os.environ, "ANSIBLE_PIPELINING": "1"}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def role(self, **variables: Any) -> str:
        role = {"name": "homelab.llamacpp.llama_monitoring"}
        play = {"hosts": "watched", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}
        (self.folder / "role.yml").write_text(yaml.safe_dump([play]))
        return self.play(self.folder / "role.yml", "-e", json.dumps(variables))

    def run(self, command: str, data: bytes = b"", check: bool = True) -> str:
        attach = f"lxc-attach -n {VMID} --clear-env -v PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin -- sh -c"
        quoted = command.replace("'", "'\\''")
        return on_node(f"{attach} '{quoted}'", data, check)

    def metrics(self) -> str:
        return self.run(f'python3 -c "{FETCH}" http://127.0.0.1:9836/metrics')

    def query(self, text: str) -> dict[str, float]:
        """What Prometheus has now, by model."""
        url = f"http://127.0.0.1:9090/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        answer = json.loads(self.run(f"python3 -c \"{FETCH}\" '{url}'"))
        return {entry["metric"].get("model", ""): float(entry["value"][1]) for entry in answer["data"]["result"]}


QUERIES = """import json, urllib.parse, urllib.request
def ask(queries):
    base = "http://127.0.0.1:9090/api/v1/query?query="
    return [len(json.load(urllib.request.urlopen(base + urllib.parse.quote(q)))["data"]["result"]) for q in queries]
"""
FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"


def changed(output: str) -> int:
    return sum(int(count) for count in re.findall(r"changed=(\d+)", output.split("PLAY RECAP")[1]))


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "models").mkdir()
    for seed, name in enumerate(MODELS, 1):
        importlib.import_module("make_tiny_models").make(folder / "models" / f"{name}.gguf", seed)
    subprocess.run([ROOT / "tests/lab/lab", "up"], check=True)
    guest = Guest(folder)
    remove()
    models = subprocess.run(["tar", "-c", "-C", folder / "models", "."], check=True, capture_output=True).stdout
    on_node("mkdir -p /srv/watched && tar -x --no-same-owner -C /srv/watched && chmod -R a+rX /srv/watched", models)
    guest.play(ROOT / "playbooks/site.yml")
    yield guest
    remove()


def remove() -> None:
    on_node(f"test ! -e /etc/pve/lxc/{VMID}.conf || {{ pct stop {VMID} 2>/dev/null; pct destroy {VMID} --force 1; }}")


def test_a_second_run_changes_nothing(guest: Guest) -> None:
    output = guest.role()
    assert changed(output) == 0, output


def test_the_exporter_has_no_rights_and_no_key_of_its_own(guest: Guest) -> None:
    unit = "llama-router-exporter.service"
    pid = guest.run(f"systemctl show {unit} --property MainPID --value")
    assert guest.run(f"ps -o user:20= -p {pid}") == "llama-monitoring"
    key = guest.run("head -1 /etc/llama-router/api-keys")
    told = guest.run(f"tr '\\0' '\\n' </proc/{pid}/cmdline; tr '\\0' '\\n' </proc/{pid}/environ; journalctl -u {unit}")
    assert key not in told + guest.metrics()
    assert "llama-router-exporter" in told


def test_only_who_is_named_is_let_in(guest: Guest) -> None:
    assert "403" in on_node(f"python3 -c '{FETCH}' http://{NETWORK}.{VMID}:9836/metrics", check=False)
    assert "llamacpp_up 1.0" in guest.run(f'python3 -c "{FETCH}" http://{NETWORK}.{VMID}:9836/metrics')


def test_the_command_and_the_playbook_say_the_same(guest: Guest) -> None:
    lines = guest.run("llama-router-status").splitlines()
    told = guest.play(ROOT / "playbooks/status.yml")
    for line in lines[1:]:  # the first one has its memory in it
        if line and not line.startswith(("memory", "disk")):
            assert line.strip() in told
    assert json.loads(guest.run("llama-router-status --json"))["verdict"] == "healthy"
    assert "run it with sudo" in guest.run("setpriv --reuid 65534 llama-router-status || test $? = 2", check=False)


def test_prometheus_counts_what_a_client_did(guest: Guest) -> None:
    """Each load, eviction, answer and token, though models come and go between two scrapes."""
    guest.play(ROOT / "playbooks/prometheus.yml")
    assert changed(guest.play(ROOT / "playbooks/prometheus.yml")) == 0
    client = Path(__file__).with_name("monitored_client.py").read_bytes()
    did = json.loads(guest.run(f"python3 - {SECONDS} {LIMIT} {' '.join(MODELS)}", client))
    assert sum(did["evictions"].values()) > SECONDS / 10
    time.sleep(3)  # two scrapes
    for what, counts in did.items():
        assert guest.query(f"llamacpp_model_{what}_total") == counts, what
    assert sum(guest.query("llamacpp_model_failures_total").values()) == 0
    sums = guest.query("sum by (model) (llamacpp_model_status == 1)")
    assert sums == dict.fromkeys(MODELS, 1.0)
    assert set(guest.query("llamacpp:tokens_predicted_total")) == set(
        guest.query("llamacpp_model_status{status='loaded'} == 1")
    )


def test_every_alert_fires_and_clears_and_says_what_to_do(guest: Guest) -> None:
    rules = yaml.safe_load(guest.run("cat /etc/prometheus/llamacpp.rules.yml"))["groups"][0]["rules"]
    alerts = {rule["alert"] for rule in rules}
    tests = yaml.safe_load(ALERTS.read_text())["tests"]
    cases = [(case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]]
    assert set(cases) == {(alert, fires) for alert in alerts for fires in (True, False)}
    guest.run(
        "cat >/etc/prometheus/alerts.yml && cd /etc/prometheus && promtool test rules alerts.yml", ALERTS.read_bytes()
    )
    assert alerts == set(re.findall(r"^\| (Llamacpp\w+) \|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE))


def test_prometheus_understands_the_dashboard(guest: Guest) -> None:
    dashboard = json.loads((ROOT / "roles/llama_monitoring/files/llamacpp.dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries = [ask.replace("$instance", ".+").replace("$__rate_interval", "1m") for ask in asked]
    found = json.loads(guest.run("python3 - ", (QUERIES + f"print(json.dumps(ask({queries!r})))").encode()))
    empty = [ask for ask, series in zip(asked, found, strict=True) if not series]
    assert all("gpu" in ask or "failures" in ask or "on_cpu" in ask for ask in empty), empty


def test_what_a_model_takes_is_what_was_planned(guest: Guest) -> None:
    report = json.loads(guest.run("llama-router-status --json"))
    running = [model for model in report["models"] if model["status"] == "loaded"]
    assert running
    for model in running:
        memory = {entry["device"]: entry for entry in model["memory"]}
        assert set(memory) == {"RPC0", "RPC1", "host"}
        assert memory["RPC0"]["used_mib"] == pytest.approx(memory["RPC0"]["planned_mib"], rel=0.05)
        # The plan bounds the scratch of a second device from above, for a toy by far.
        assert 0 < memory["RPC1"]["used_mib"] < memory["RPC1"]["planned_mib"]
        assert model["on_cpu"] is False


def test_a_killed_model_is_a_failure_with_its_code(guest: Guest) -> None:
    # One of them runs. In brackets, so that the pattern does not find the shell that it stands in.
    guest.run("pkill -KILL -f -- '[-]-alias alpha' || pkill -KILL -f -- '[-]-alias beta'")
    time.sleep(2)
    failures = re.findall(r'llamacpp_model_failures_total\{exit_code="(-?\d+)",model="(\w+)"\} 1', guest.metrics())
    assert len(failures) == 1, guest.metrics()
    assert int(failures[0][0]) != 0
    assert "degraded" in guest.run("llama-router-status || test $? = 1")
    for _try in range(20):
        if failures[0][1] in guest.query("ALERTS{alertname='LlamacppModelFailed', alertstate='firing'}"):
            return
        time.sleep(1)
    pytest.fail("no alert")


def test_a_router_that_is_down_is_told_of(guest: Guest) -> None:
    guest.run("systemctl stop llama-router")
    assert "llamacpp_up 0.0" in guest.metrics()
    assert "is inactive (dead)" in guest.run("llama-router-status || test $? = 2")
    guest.run("systemctl start llama-router")
    for _try in range(20):
        told = guest.metrics()
        if "llamacpp_up 1.0" in told and 'llamacpp_exporter_watching{source="events"} 1.0' in told:
            return
        time.sleep(0.5)
    pytest.fail(told)


def test_a_new_key_is_taken_up(guest: Guest) -> None:
    """The role sees that the exporter was started with another file."""
    guest.run("sed -i 's/^./X/' /etc/llama-router/api-keys && systemctl restart llama-router")
    output = guest.role()
    assert changed(output) == 1, output
    assert "llamacpp_up 1.0" in guest.metrics()


def test_it_goes_as_it_came(guest: Guest) -> None:
    guest.role(llama_monitoring_state="absent")
    assert guest.run("systemctl is-active llama-router-exporter || true") == "inactive"
    left = guest.run(
        "ls /usr/local/bin/llama-router-exporter /etc/systemd/system/llama-router-exporter.service", check=False
    )
    assert left.count("No such file") == 2
    assert changed(guest.role(llama_monitoring_state="absent")) == 0
