# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role llama_monitoring in a guest beside the real router, scraped by the real Prometheus of Debian.

Wants root; brings the lab up when it is down, and leaves it up. MONITORING_SECONDS is how long the client asks (make
test-monitoring: ten minutes), and then every alert is fired; without it two minutes, and the alerts that are quick.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitored_certificates import BehindTls
from monitored_faults import FAULTS
from monitored_guest import (
    EXPORTER,
    FETCH,
    KEYS,
    LAB,
    LIMIT,
    MODELS,
    NETWORK,
    ROOT,
    VMID,
    Guest,
    changed,
    on_node,
    until,
)
from monitored_theirs import Theirs

LONG = "MONITORING_SECONDS" in os.environ
SECONDS = float(os.environ.get("MONITORING_SECONDS", "120"))
BOUNDS = "/etc/systemd/journald.conf.d/llama-monitoring.conf"
RULES, PROMETHEUS = "/etc/prometheus/llamacpp.rules.yml", "/etc/prometheus/prometheus.yml"
ALERTS = ROOT / "tests/prometheus/alerts.yml"
# Half a minute each, by windows of time or since the machine is looked at every 15 seconds.
SLOW = {
    *("LlamacppModelsDiskFull", "LlamacppRestarts", "LlamacppDriverMismatch", "LlamacppGpuReadingStale"),
    *("LlamacppCertificateExpires", "LlamacppModelFailed", "LlamacppThrashing"),
}
# Also where the last scrape took too long.
BEGAN = "last_over_time(process_start_time_seconds{job='mine'}[10m])"
QUERIES = """import json, urllib.parse, urllib.request
def ask(queries):
    base = "http://127.0.0.1:9090/api/v1/query?query="
    return [len(json.load(urllib.request.urlopen(base + urllib.parse.quote(q)))["data"]["result"]) for q in queries]
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    guest = Guest(tmp_path_factory.mktemp("monitoring"))
    guest.create()
    yield guest
    guest.remove()
    subprocess.run([LAB, "gpu", "none"], check=True)


def test_a_second_run_changes_nothing(guest: Guest) -> None:
    output = guest.role()
    assert changed(output) == 0, output


def test_the_exporter_has_no_rights_and_no_key_of_its_own(guest: Guest) -> None:
    pid = guest.run(f"systemctl show {EXPORTER} --property MainPID --value")
    assert guest.run(f"ps -o user:20= -p {pid}") == "llama-monitoring"
    key = guest.run(f"head -1 {KEYS}")
    told = guest.run(
        f"tr '\\0' '\\n' </proc/{pid}/cmdline; tr '\\0' '\\n' </proc/{pid}/environ; journalctl -u {EXPORTER}"
    )
    assert key not in told + guest.metrics()
    assert "llama-router-exporter" in told
    security = guest.run(f"systemd-analyze security --no-pager {EXPORTER}")
    assert float(security.split("Overall exposure level")[1].split()[2]) <= 1.5


def test_a_group_that_is_added_is_taken_up(guest: Guest) -> None:
    groups = f"grep ^Groups: /proc/$(systemctl show {EXPORTER} --property MainPID --value)/status"
    audio = guest.run("getent group audio | cut -d: -f3")
    assert audio not in guest.run(groups).split()
    assert changed(guest.role(llama_monitoring_groups=["video", "audio"])) == 2  # the unit, and its restart
    assert audio in guest.run(groups).split()
    guest.role()


def test_nvtop_and_the_journals_bounds(guest: Guest) -> None:
    """By what journald itself says of its bounds."""
    assert guest.run("nvtop --version").startswith("nvtop version")
    told = guest.run("journalctl --unit systemd-journald --output cat --no-pager")
    assert re.findall(r"System Journal .* max ([0-9.]+\w)", told)[-1] == "96M"
    with_journal = guest.role(llama_monitoring_journal_mib=64)
    assert changed(with_journal) == 2, with_journal  # and journald was started again
    assert "max 64M" in guest.run("journalctl --unit systemd-journald --output cat --no-pager --lines 20")
    until(lambda: 'watching{source="journal"} 1' in guest.metrics(), "the journal is followed on")

    assert changed(guest.role(llama_monitoring_journal_mib=0)) == 3  # the file, the restart, the record
    assert "No such file" in guest.run(f"ls {BOUNDS}", check=False)
    assert changed(guest.role(llama_monitoring_journal_mib=0)) == 0
    guest.role(llama_monitoring_journal_mib=64)
    guest.run(f"sed -i s/64M/96M/ {BOUNDS}")  # what a run leaves that is broken off before the restart
    assert changed(guest.role()) == 1
    assert "max 96M" in guest.run("journalctl --unit systemd-journald --output cat --no-pager --lines 20")


def test_only_who_is_named_is_let_in(guest: Guest) -> None:
    assert "403" in on_node(f"python3 -c '{FETCH}' http://{NETWORK}.{VMID}:9836/metrics", check=False)
    # The guest itself is always, here by its own address.
    assert "llamacpp_up 1.0" in guest.run(f'python3 -c "{FETCH}" http://{NETWORK}.{VMID}:9836/metrics')
    with pytest.raises(AssertionError, match=r"expected addresses and networks .* found 'lan'"):
        guest.role(llama_monitoring_allow=["lan"])
    assert changed(guest.role()) == 0


def test_a_hundred_scrapes_load_and_wake_nothing(guest: Guest) -> None:
    """Beside those of Prometheus, one a second since the guest was made."""
    for model in MODELS:
        guest.ask("/models/unload", model=model)
    guest.until_told(*(f'llamacpp_model_status{{model="{model}",status="unloaded"}} 1.0' for model in MODELS))
    journal = "journalctl --sync; journalctl --unit llama-router --output cat --no-pager"
    spawned = f"{journal} | grep -c 'spawning server instance' || true"
    before = guest.run(spawned)
    scrapes = "for i in range(100): text = u.urlopen('http://127.0.0.1:9836/metrics').read().decode()"
    told = guest.run("python3 -", f"import urllib.request as u\n{scrapes}\nprint(text)".encode())
    for model in MODELS:
        assert f'llamacpp_model_status{{model="{model}",status="unloaded"}} 1.0' in told
    assert {entry["status"]["value"] for entry in guest.ask("/models")["data"]} == {"unloaded"}
    assert guest.run(spawned) == before


def test_prometheus_counts_what_a_client_did(guest: Guest) -> None:
    """Each load, eviction, answer and token, though models come and go between two scrapes."""
    assert changed(guest.play("prometheus.yml")) == 0
    client = Path(__file__).with_name("monitored_client.py").read_bytes()
    did = json.loads(guest.run(f"python3 - {SECONDS} {LIMIT} {' '.join(MODELS)}", client))
    assert sum(did["evictions"].values()) > SECONDS / 10
    tokens = did.pop("predicted_tokens")
    for what, counts in {"predicted_tokens": tokens, **did}.items():
        guest.until_is(f"llamacpp_model_{what}_total", counts)
    print(f"\n  in {SECONDS:.0f} s: " + ", ".join(f"{sum(counts.values())} {what}" for what, counts in did.items()))
    assert sum(guest.query("llamacpp_model_failures_total").values()) == 0
    guest.until_is("sum by (model) (llamacpp_model_status == 1)", dict.fromkeys(MODELS, 1.0))
    loaded = {model["id"] for model in guest.ask("/models")["data"] if model["status"]["value"] == "loaded"}
    assert len(loaded) == LIMIT
    guest.until_is("count by (model) (llamacpp:tokens_predicted_total)", dict.fromkeys(loaded, 1.0))


def test_command_playbook_and_exporter_say_the_same(guest: Guest) -> None:
    """At one moment, in which one model runs and another one has failed."""
    guest.complete("beta")
    guest.complete("alpha")
    guest.run("pkill -KILL -f -- '[-]-alias alpha'")
    guest.until_told(
        'llamacpp_model_failed{model="alpha"} 1.0', 'llamacpp_model_status{model="beta",status="loaded"} 1.0'
    )
    told = guest.play("status.yml", llama_router_status_json=True)
    command = json.loads(guest.run("llama-router-status --json || test $? = 1"))
    playbook = json.JSONDecoder().raw_decode(told[told.index("{", told.index("The state]")) :])[0]["msg"]
    assert command["verdict"] == "degraded"
    assert steady(command) == steady(playbook) == steady(guest.report())
    table = guest.play("status.yml")
    for line in guest.run("llama-router-status || test $? = 1").splitlines()[1:]:  # the first one has its memory in it
        if line and not line.startswith(("memory", "disk")):  # which change from one call to the next
            assert json.dumps(line)[1:-1] in table
    assert "run it with sudo" in guest.run("setpriv --reuid 65534 llama-router-status || test $? = 2", check=False)
    guest.complete("alpha")
    assert json.loads(guest.run("llama-router-status --json"))["verdict"] == "healthy"


def steady(report: dict[str, Any]) -> dict[str, Any]:
    """Without what changes by itself, and what only one of them knows."""
    found = copy.deepcopy(report)
    for name in ("at", "host", "events", "watch", "connections"):
        found.pop(name, None)
    for part, name in (("unit", "memory_mib"), ("unit", "since"), ("memory", "available_mib"), ("disk", "free_mib")):
        found[part].pop(name)
    found["unit"].pop("delays", None)
    for model in found["models"]:
        model.pop("history", None)
    return found


def test_every_alert_is_tested_and_says_what_to_do(guest: Guest) -> None:
    rules = yaml.safe_load(guest.run(f"cat {RULES}"))["groups"][0]["rules"]
    alerts = {rule["alert"] for rule in rules}
    assert set(FAULTS) == alerts
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
    program = (QUERIES + f"print(json.dumps(ask({queries!r})))").encode()

    def all_have_series() -> bool:
        found = json.loads(guest.run("python3 - ", program))
        empty = [ask for ask, series in zip(asked, found, strict=True) if not series]
        return all("gpu" in ask or "failures" in ask or "on_cpu" in ask for ask in empty)

    until(all_have_series, f"series for {asked}")


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


@pytest.fixture(scope="module")
def hasty(guest: Guest) -> Iterator[None]:
    """Prometheus with the same rules, whose minutes are seconds, and a lower bound of loads an hour."""
    guest.play("prometheus.yml", llama_monitoring_loads_per_hour=5)
    shorter = "s/age_seconds > 120/age_seconds > 40/; s/for: [0-9]+m/for: 1s/; "
    shorter += "s/\\[1m\\]/[5s]/; s/\\[15m\\]/[40s]/; s/\\[1h\\]/[15s]/"
    guest.run(
        f"sed -E -i '{shorter}' {RULES}; sed -i 's/evaluation_interval: .*/evaluation_interval: 1s/' {PROMETHEUS}"
    )
    guest.run("systemctl reload prometheus")
    yield
    assert changed(guest.play("prometheus.yml")) == 3  # rules, configuration, the reload
    assert changed(guest.play("prometheus.yml")) == 0


@pytest.mark.parametrize(
    "alert",
    [
        pytest.param(name, marks=pytest.mark.skipif(name in SLOW and not LONG, reason="make test-monitoring does it"))
        for name in FAULTS
    ],
)
def test_an_alert_fires_when_it_is_done_and_clears_when_it_is_undone(guest: Guest, hasty: None, alert: str) -> None:
    if alert in ("LlamacppDriverMismatch", "LlamacppGpuReadingStale"):
        give_gpus(guest)
    until(lambda: not guest.query("ALERTS{alertstate='firing'}"), "quiet before")
    with FAULTS[alert](guest):
        until(lambda: guest.fires(alert), f"{alert} fires")
    until(lambda: not guest.query("ALERTS{alertstate='firing'}"), "quiet after")


# --- the router asked under a name, through the proxy -----------------------------------------------------------


@pytest.fixture
def behind_tls(guest: Guest, hasty: None) -> Iterator[BehindTls]:
    behind = BehindTls(guest)
    yield behind
    behind.remove()


@pytest.mark.skipif(not LONG, reason="make test-monitoring does it")
@pytest.mark.parametrize("way", ["untrusted", "expired", "for another name"])
def test_a_wrong_certificate_is_told_of(guest: Guest, behind_tls: BehindTls, way: str) -> None:
    until(lambda: not guest.query("ALERTS{alertstate='firing'}"), "quiet before")
    with behind_tls.wrong(way):
        until(lambda: guest.fires("LlamacppKeyOrCertificateWrong"), "it fires")
        assert 'llamacpp_problem{problem="certificate"} 1.0' in guest.metrics()
        if way == "expired":  # its date is told of, too, although nobody trusts it
            until(lambda: guest.fires("LlamacppCertificateExpires"), "that it has ended")
    until(lambda: not guest.query("ALERTS{alertstate='firing'}"), "quiet after")
    guest.until_told("llamacpp_up 1.0")


# --- a Prometheus that was there before -------------------------------------------------------------------------


@pytest.fixture
def theirs(guest: Guest) -> Iterator[Theirs]:
    theirs = Theirs(guest)
    yield theirs
    theirs.remove()


def test_a_prometheus_that_somebody_has_already_goes_on_with_its_own_and_ours(guest: Guest, theirs: Theirs) -> None:
    own = theirs.files()
    with pytest.raises(AssertionError, match="Nothing was changed") as refused:
        theirs.role()
    for line in ("rule_files: /etc/theirs/llamacpp.rules.yml", "scrape_config_files: /etc/theirs/llamacpp.scrape.yml"):
        assert line in " ".join(str(refused.value).split())
    theirs.reads_ours()
    assert changed(theirs.role("--check")) == 4
    assert theirs.files() == own
    began = theirs.query(BEGAN)
    assert began

    # A bound below any number of loads, so that an alert fires as soon as it is evaluated.
    assert changed(theirs.role(llama_monitoring_loads_per_hour=-1)) == 4  # three files and the reload
    until(lambda: theirs.up("llamacpp"), "the exporter is scraped")
    until(lambda: theirs.fires("LlamacppThrashing"), "an alert fires")
    until(lambda: theirs.alerts() == {"llamacpp.rules.yml": set(FAULTS), "mine.yml": {"Mine"}}, "every rule")
    assert changed(theirs.role()) == 2  # the rules and the reload
    until(lambda: not theirs.fires("LlamacppThrashing"), "it clears")
    until(lambda: theirs.up("mine") and theirs.fires("Mine"), "their own goes on")
    assert changed(theirs.role()) == 0

    assert changed(theirs.role(llama_monitoring_prometheus_state="absent")) == 3  # the files, the reload, the record
    assert theirs.files() == own
    until(lambda: theirs.jobs() == {"mine"}, "their job alone")
    until(lambda: theirs.alerts() == {"mine.yml": {"Mine"}}, "their rules alone")
    assert changed(theirs.role(llama_monitoring_prometheus_state="absent")) == 0
    until(lambda: theirs.fires("Mine"), "their own goes on")
    assert theirs.query(BEGAN) == began


# --- GPUs, which are the lab's stand-ins ------------------------------------------------------------------------


NVIDIA = """set -e
cat >/etc/apt/sources.list.d/test.sources <<EOF
Types: deb
URIs: http://deb.debian.org/debian
Suites: $(. /etc/os-release; echo $VERSION_CODENAME)
Components: contrib non-free
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nvidia-smi
"""


def give_gpus(guest: Guest) -> None:
    """Two made-up cards with Debian's real libraries, and nvidia-smi's stand-in."""
    if guest.run("ls /dev/nvidia1", check=False) == "/dev/nvidia1":
        return
    guest.run("sh -s", NVIDIA.encode())
    version = guest.run("readlink -f /usr/lib/*/libnvidia-ml.so.1").rpartition(".so.")[2]
    subprocess.run([LAB, "gpu", "two-3090s", version], check=True)
    devices = " ".join(
        f"--dev{at} /dev/{name},mode=0666" for at, name in enumerate(("nvidiactl", "nvidia0", "nvidia1"))
    )
    on_node(f"pct stop {VMID}; pct set {VMID} {devices} && pct start {VMID}")
    until(lambda: guest.run("systemctl is-system-running --wait", check=False) in ("running", "degraded"), "it is up")
    guest.until_told("llamacpp_up 1.0", "llamacpp_driver_agrees 1.0")


@pytest.mark.skipif(not LONG, reason="make test-monitoring does it")
def test_the_gpus_are_told_of(guest: Guest) -> None:
    """One of them is busy and hot; the kernel module's answers are in a file of the lab."""
    give_gpus(guest)
    busy = {"utilization": 97, "temperature": 83, "draw": "341.25", "reasons": "0x0000000000000044"}
    change = (
        f"import json; f = '/proc/driver/nvidia/lab-stand-in.json'; d = json.load(open(f)); d['gpus'][1].update({busy})"
    )
    on_node("python3 -", f"{change}; json.dump(d, open(f, 'w'))".encode())
    labels = 'gpu="{0}",product="NVIDIA GeForce RTX 3090",uuid="GPU-00000000-0000-4000-8000-00002204000{0}"'
    guest.until_told(
        *(
            f"llamacpp_gpu_{name}{{{labels.format(gpu)}}} {value}"
            for name, values in {
                "utilization_ratio": ("0.0", "0.97"),
                "temperature_celsius": ("41.0", "83.0"),
                "power_watts": ("21.5", "341.25"),
                "power_limit_watts": ("350.0", "350.0"),
                "throttled": ("0.0", "1.0"),
                "memory_total_bytes": ("2.5769803776e+010", "2.5769803776e+010"),
            }.items()
            for gpu, value in enumerate(values)
        ),
        "llamacpp_driver_agrees 1.0",
    )
    gpu = guest.report()["gpus"][1]
    assert gpu["throttling"] == ["power limit", "heat (hardware)"]
    line = (
        "GPU 1 NVIDIA GeForce RTX 3090: 1 of 24576 MiB used, 97 %, 83 degrees, 341 W, held down by power limit and heat"
    )
    assert line in guest.run("llama-router-status")


# --- Grafana, of which there is no package: a unit that does nothing stands in ----------------------------------


def test_grafana_gets_its_dashboard_and_gives_it_back(guest: Guest) -> None:
    folder, unit = "/etc/grafana/provisioning/dashboards", "/etc/systemd/system/grafana-server.service"
    guest.run(
        f"mkdir -p {folder} && printf '[Service]\nExecStart=sleep infinity\n' >{unit} && systemctl start grafana-server"
    )
    assert changed(guest.role("grafana")) == 4  # a folder, two files, the restart
    files = f"{folder}/llamacpp.yaml /var/lib/homelab-llamacpp/dashboards/llamacpp.json"
    assert guest.run(f"stat --format '%U %G %a' {files}").splitlines() == ["root root 644"] * 2
    (provider,) = yaml.safe_load(guest.run(f"cat {folder}/llamacpp.yaml"))["providers"]
    assert provider["options"] == {"path": "/var/lib/homelab-llamacpp/dashboards"}
    assert changed(guest.role("grafana")) == 0
    assert changed(guest.role("grafana", llama_monitoring_grafana_state="absent")) == 3  # files, restart, record
    assert guest.run(f"ls {files}", check=False).count("No such file") == 2
    assert changed(guest.role("grafana", llama_monitoring_grafana_state="absent")) == 0


# --- the router goes, the role goes -----------------------------------------------------------------------------


def test_a_router_that_is_down_is_told_of(guest: Guest) -> None:
    guest.run("systemctl stop llama-router")
    assert "llamacpp_up 0.0" in guest.metrics()
    assert "is inactive (dead)" in guest.run("llama-router-status || test $? = 2")
    guest.run("systemctl start llama-router")
    guest.until_told("llamacpp_up 1.0", 'llamacpp_exporter_watching{source="events"} 1.0')


def test_a_new_key_is_taken_up(guest: Guest) -> None:
    """The role sees that the exporter was started with another file."""
    guest.run(f"sed -i 's/^./X/' {KEYS} && systemctl restart llama-router")
    output = guest.role()
    assert changed(output) == 1, output
    guest.until_told("llamacpp_up 1.0")


def test_it_goes_as_it_came(guest: Guest) -> None:
    guest.role(llama_monitoring_state="absent")
    assert guest.run("systemctl is-active llama-router-exporter || true") == "inactive"
    left = guest.run(f"ls /usr/local/bin/llama-router-exporter /etc/systemd/system/{EXPORTER} {BOUNDS}", check=False)
    assert left.count("No such file") == 3
    assert changed(guest.role(llama_monitoring_state="absent")) == 0
