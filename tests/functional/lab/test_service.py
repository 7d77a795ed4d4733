# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service as operators want it, in real guests: hardened and serving, firewall, proxy, dedicated instances.

Three guests: an unprivileged one without nesting, a privileged one, and one whose node refuses new namespaces. That one
stands in for AppArmor, which this machine has not: a seccomp rule makes unshare() fail there. HOMELAB_LONG_TESTS=1
streams for 120 seconds instead of 15.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab_node import BIN, NETWORK, NODE, SSH, STATE, destroy, on_node, until_booted

HERE = Path(__file__).parent
TEMPLATE = "local:vztmpl/debian-14-forky-llama_14.0-1_amd64.tar.zst"
UNPRIVILEGED, PRIVILEGED, REFUSED = GUESTS = (160, 161, 162)
SECONDS = 120 if os.environ.get("HOMELAB_LONG_TESTS") else 15
AT_ONE = ("--limit", f"guest{UNPRIVILEGED}")
KEY = "a-key-of-the-tests-0123456789"
OTHER_KEY = "another-key-of-the-tests-0123456789"
NGINX = "/etc/nginx/conf.d/llama-proxy.conf"
CERTIFY = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=llama.lan -days 30"
REFUSE = "2\ndenylist\n[all]\nunshare errno 1\n"

# The exposure that systemd may find in each unit at most; the last two run as root.
BOUNDS = {
    "llama-router.service": 1.4,
    "llama-router-keeper.service": 1.4,
    "llama-instance@coder.service": 1.4,
    "llama-instance@other.service": 1.4,
    "llama-router-firewall.service": 1.6,
    "llama-proxy-certificate.service": 2.4,
}
WAIT_ONLINE = "systemd-networkd-wait-online.service"
ONLINE = "/etc/systemd/system/llama-router.service.d/online.conf"
SHORT = f"/etc/systemd/system/{WAIT_ONLINE}.d/short.conf"

VARIABLES: dict[str, Any] = {
    "ansible_connection": "homelab.llamacpp.pct",
    "ansible_host": NODE,
    "ansible_user": "root",
    "ansible_ssh_private_key_file": f"{STATE}/id_ed25519",
    "ansible_ssh_common_args": " ".join(SSH),
    "ansible_python_interpreter": "/usr/bin/python3",
    "llama_router_cpu_only": True,
    "llama_router_models_max": 1,
    "llama_router_api_keys": [KEY],
    "llama_router_unload_idle_seconds": 3600,
    "llama_router_firewall_allow": [f"{NETWORK}.1", f"{NETWORK}.{PRIVILEGED}/32", "2001:db8::/64"],
    "llama_proxy_certificate": "/etc/ssl/proxy.pem",
    "llama_proxy_certificate_key": "/etc/ssl/proxy.key",
    "llamacpp_models": [
        {"name": name, "source": {"path": "/srv/m/tiny.gguf"}, "options": {"ctx-size": 512, "context-shift": True}}
        for name in ("one", "two")
    ],
    "llamacpp_instances": [
        {"name": "coder", "model": "one", "port": 8101, "options": {"ctx-size": 512}},
        {
            "name": "other",
            "path": "/srv/m/tiny.gguf",
            "port": 8102,
            "api_keys": [OTHER_KEY, KEY],
            "options": {"ctx-size": 256},
        },
    ],
}


def on(vmid: int, command: str) -> list[str]:
    """The command that runs a shell command in a guest; on the node itself for 0."""
    there = f"lxc-attach -n {vmid} --clear-env -- /bin/sh -c {shlex.quote(command)}" if vmid else command
    return ["ssh", *SSH, "-i", str(STATE / "id_ed25519"), f"root@{NODE}", there]


def inside(vmid: int, command: str) -> str:
    """What it prints."""
    done = subprocess.run(on(vmid, command), check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Play:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *more: str, **variables: Any) -> str:
        """Run the play to its end, and return what it prints."""
        hosts = {f"guest{vmid}": {"proxmox_lxc_vmid": vmid, "proxmox_lxc_node": "pve"} for vmid in GUESTS}
        inventory = {"guests": {"hosts": hosts, "vars": {**VARIABLES, **variables}}}
        (self.folder / "hosts.yml").write_text(json.dumps(inventory))
        done = subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", str(self.folder / "hosts.yml"), str(HERE / "service.yml"), *more],
            check=False,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """The three guests with everything in them."""
    folder = tmp_path_factory.mktemp("service")
    maker = [str(BIN / "python"), str(HERE.parent.parent / "make_tiny_models.py"), str(folder / "models"), "demo"]
    subprocess.run(maker, check=True, capture_output=True)
    on_node(f"lxc-stop -k -n {REFUSED}", check=False)  # of a run that was killed: the API does not know that it runs
    for vmid in GUESTS:
        destroy(vmid)
        net = f"name=eth0,bridge=vmbr0,ip={NETWORK}.{vmid}/24,gw={NETWORK}.1"
        disks = "--storage local-lvm --rootfs local-lvm:4 --cores 2 --memory 2048"
        kind = f"--unprivileged {int(vmid != PRIVILEGED)} --features nesting=0"
        on_node(f"pct create {vmid} {TEMPLATE} --hostname guest{vmid} {disks} {kind} --net0 {net} && pct start {vmid}")
    refused = f"sed /^lxc.hook/d /var/lib/lxc/{REFUSED}/config; echo lxc.seccomp.profile = /root/refuse.seccomp"
    on_node(f"echo {shlex.quote(REFUSE)} >/root/refuse.seccomp; ({refused}) >/root/refused.conf; pct stop {REFUSED}")
    on_node(f"lxc-start -n {REFUSED} -f /root/refused.conf")
    model = (folder / "models" / "tiny-single.gguf").read_bytes()
    for vmid in GUESTS:
        until_booted(vmid)
        subprocess.run(on(vmid, "mkdir -p /srv/m && cat >/srv/m/tiny.gguf"), input=model, check=True)
        inside(vmid, f"{CERTIFY} -keyout /etc/ssl/proxy.key -out /etc/ssl/proxy.pem 2>/dev/null")
        inside(vmid, f"systemctl disable --now {WAIT_ONLINE}")  # as the role proxmox_lxc does
    run = Play(folder)
    run()
    yield run
    on_node(f"lxc-stop -k -n {REFUSED}", check=False)
    for vmid in GUESTS:
        destroy(vmid)


def ask(
    vmid: int, body: dict[str, Any], port: int = 8012, key: str = KEY, seconds: float = 300
) -> http.client.HTTPResponse:
    """One completion, from this machine; over TLS on 443."""
    host = f"{NETWORK}.{vmid}"
    context = ssl._create_unverified_context()
    line = (
        http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
        if port == 443
        else http.client.HTTPConnection(host, port, timeout=seconds)
    )
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    line.request("POST", "/v1/completions", json.dumps({"model": "one", "prompt": "a", **body}), headers)
    return line.getresponse()


@pytest.mark.parametrize("vmid", GUESTS)
def test_every_hardened_unit_really_serves_and_scores(
    play: Play, vmid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for port, key in ((8012, KEY), (443, KEY), (8102, OTHER_KEY), (8102, KEY)):
        assert ask(vmid, {"max_tokens": 3}, port, key).status == 200
    for unit, bound in BOUNDS.items():
        said = inside(vmid, f"systemd-analyze security --no-pager {unit}")
        score = float(said.split("Overall exposure level")[1].split()[2])
        with capsys.disabled():
            print(f"\n  guest {vmid}: {unit}: {score}", end="")
        # Where the node refuses namespaces, what is left are the filters of system calls and the rights.
        assert score <= (4.2 if vmid == REFUSED else bound)
        assert inside(vmid, f"systemctl show {unit} --property LimitCORE --value").strip() == "0"


def test_after_a_reboot_the_router_waits_for_no_network(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    """Debian's wait-online is enabled, as in a new guest of Proxmox's, and waits for two minutes: nginx wants that."""
    inside(UNPRIVILEGED, f"systemctl enable {WAIT_ONLINE}")
    for unit in BOUNDS:
        assert "network-online" not in inside(UNPRIVILEGED, f"systemctl show {unit} --property Wants,After,Requires")
    begin = time.monotonic()
    _reboot(UNPRIVILEGED)
    _until(lambda: _answers(UNPRIVILEGED), "the router answers")
    with capsys.disabled():
        print(f"\n  pct reboot: the router answers after {time.monotonic() - begin:.1f} s", end="")
    assert inside(UNPRIVILEGED, f"systemctl show {WAIT_ONLINE} --property ActiveState --value").strip() == "activating"


def test_status_names_what_delays_the_start(play: Play) -> None:
    """The unit as an earlier version wrote it: the router is down for as long as wait-online waits, here 40 s."""
    wait = "[Unit]\\nWants=network-online.target\\nAfter=network-online.target\\n"
    short = (
        f"[Service]\\nExecStart=\\nExecStart=/usr/lib/systemd/{WAIT_ONLINE.removesuffix('.service')} --timeout=40\\n"
    )
    for file, text in ((ONLINE, wait), (SHORT, short)):
        inside(UNPRIVILEGED, f"mkdir -p {file.rpartition('/')[0]} && printf '{text}' >{file}")
    status = "llama-router-status --json || true"
    try:
        _reboot(UNPRIVILEGED)
        _until(lambda: f"{WAIT_ONLINE} delayed the guest's start" in inside(UNPRIVILEGED, status), "it is named")
        report = json.loads(inside(UNPRIVILEGED, status))
        waiting = report["unit"]["delays"][0]["for"]
        assert (report["verdict"], waiting) == ("down", ["llama-router.service", "nginx.service"])
    finally:
        inside(UNPRIVILEGED, f"rm -r {ONLINE.rpartition('/')[0]} {SHORT.rpartition('/')[0]}")
        inside(UNPRIVILEGED, f"systemctl disable --now {WAIT_ONLINE}")
        _reboot(UNPRIVILEGED)
    _until(lambda: _answers(UNPRIVILEGED), "the router answers")
    assert json.loads(inside(UNPRIVILEGED, status))["unit"]["delays"] == []
    # That is what the role proxmox_lxc does: nginx is up at once, too.
    _until(lambda: ":443 " in inside(UNPRIVILEGED, "ss --no-header --listening --tcp --numeric"), "nginx listens")


def _reboot(vmid: int) -> None:
    boot = "cut -d ' ' -f 22 /proc/1/stat"  # when its first process started
    before = inside(vmid, boot)
    on_node(f"pct reboot {vmid}")
    up = on(vmid, boot)
    _until(
        lambda: subprocess.run(up, check=False, capture_output=True, text=True).stdout not in ("", before), "it is up"
    )


def _answers(vmid: int) -> bool:
    try:
        return ask(vmid, {"max_tokens": 1}, seconds=5).status == 200
    except OSError:
        return False


def test_what_the_guest_does_not_carry_out_is_said_in_the_unit(play: Play) -> None:
    unit = inside(REFUSED, "cat /etc/systemd/system/llama-router.service")
    assert "\nPrivateUsers=true" not in unit
    assert "#   PrivateUsers: this machine: 217/USER" in unit
    assert "#   ProtectSystem: this machine: without effect, the service shares PID 1" in unit
    for vmid in (UNPRIVILEGED, PRIVILEGED):
        assert "this machine" not in inside(vmid, "cat /etc/systemd/system/llama-router.service")


def test_a_second_run_changes_nothing_and_a_changed_instance_restarts_alone(play: Play) -> None:
    started = {
        unit: _since(UNPRIVILEGED, unit) for unit in ("llama-router", "llama-instance@coder", "llama-instance@other")
    }
    first, second = VARIABLES["llamacpp_instances"]
    out = play(*AT_ONE, llamacpp_instances=[{**first, "options": {"ctx-size": 768}}, second])
    assert "changed=1 " in out
    now = {unit: _since(UNPRIVILEGED, unit) for unit in started}
    assert {unit for unit in started if now[unit] != started[unit]} == {"llama-instance@coder"}
    assert "--ctx-size 768" in inside(UNPRIVILEGED, "cat /etc/llama-instance/coder.env")


def test_a_port_of_another_is_refused_before_anything_is_changed(play: Play) -> None:
    first, second = VARIABLES["llamacpp_instances"]
    with pytest.raises(AssertionError, match="instance coder: port 8012 is the one of the router"):
        play(*AT_ONE, "--tags", "instances", llamacpp_instances=[{**first, "port": 8012}, second])
    assert 'PORT="8101"' in inside(UNPRIVILEGED, "cat /etc/llama-instance/coder.env")


def _since(vmid: int, unit: str) -> str:
    return inside(vmid, f"systemctl show {unit} --property ExecMainStartTimestampMonotonic --value").strip()


def test_only_the_named_networks_get_in(play: Play) -> None:
    def reaches(vmid: int, port: int) -> bool:
        connect = f"socket.create_connection(('{NETWORK}.{UNPRIVILEGED}', {port}), 3)"
        command = on(vmid, f'python3 -c "import socket; {connect}"')
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    assert ask(UNPRIVILEGED, {"max_tokens": 1}).status == 200  # from this machine, .1
    for port in (8012, 8101, 8102):
        assert reaches(PRIVILEGED, port)
        assert not reaches(REFUSED, port)
    # The node is not named either. It still reaches nginx: that port is none of the router's.
    assert not reaches(0, 8012)
    assert reaches(0, 443)


def test_no_server_runs_without_the_rules(play: Play) -> None:
    """They stop with the rules' unit, and do not start while the rules cannot be loaded."""
    servers = "llama-router llama-instance@coder llama-instance@other"
    rules = "/etc/llama-router/firewall.nft"

    def states() -> list[str]:
        return inside(UNPRIVILEGED, f"systemctl is-active {servers} || true").split()

    assert states() == ["active"] * 3
    inside(UNPRIVILEGED, f"systemctl stop llama-router-firewall; cp {rules} /tmp/kept; echo broken >{rules}")
    assert states() == ["inactive"] * 3
    for server in servers.split():
        inside(UNPRIVILEGED, f"! systemctl start {server}")
    assert states() == ["inactive"] * 3
    inside(UNPRIVILEGED, f"cp /tmp/kept {rules}; systemctl start {servers}")
    assert states() == ["active"] * 3
    assert "8012" in inside(UNPRIVILEGED, "nft list chain inet llama_router input")
    assert "changed=0 " in play(*AT_ONE, "--tags", "router")


def test_a_flushed_firewall_comes_back_by_the_next_run(play: Play) -> None:
    inside(UNPRIVILEGED, "nft delete table inet llama_router")
    out = play(*AT_ONE, "--tags", "router")
    assert "changed=0 " not in out
    assert "counter" in inside(UNPRIVILEGED, "nft list chain inet llama_router input")


def test_rules_of_a_run_that_was_cut_off_come_into_force_by_the_next(play: Play) -> None:
    """It has written them; in force are still those of before."""
    rules = "/etc/llama-router/firewall.nft"
    inside(UNPRIVILEGED, f"sed 's/8012, //; s/comment \"./comment \"x/' {rules} >/tmp/older && nft --file /tmp/older")
    assert "8012" not in inside(UNPRIVILEGED, "nft list chain inet llama_router input")
    play(*AT_ONE, "--tags", "router")
    assert "8012" in inside(UNPRIVILEGED, "nft list chain inet llama_router input")
    assert "changed=0 " in play(*AT_ONE, "--tags", "router")


def test_a_stream_begins_at_once_and_is_not_cut(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(UNPRIVILEGED, {"max_tokens": 1}).status == 200  # loaded
    begin = time.monotonic()
    answer = ask(UNPRIVILEGED, {"max_tokens": 100_000_000, "ignore_eos": True, "stream": True}, 443)
    assert (answer.status, answer.getheader("Content-Type")) == (200, "text/event-stream")
    line = answer.readline()
    first = time.monotonic() - begin
    parts, longest, last = 1, 0.0, time.monotonic()
    while time.monotonic() - begin < SECONDS:
        line = answer.readline()
        assert line, f"cut after {time.monotonic() - begin:.1f} s"
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        parts += line.startswith(b"data: ")
    answer.close()
    with capsys.disabled():
        print(f"\n  through the proxy: first byte after {first * 1000:.0f} ms, {parts} parts in {SECONDS} s,", end="")
        print(f" longest pause {longest * 1000:.0f} ms", end="")
    assert parts > SECONDS


def test_a_silent_router_is_waited_for_and_with_a_short_limit_it_would_not_be(play: Play) -> None:
    """At the limit of one model a request for another is silent until the first is done."""

    def silent_for(seconds: float) -> tuple[bool, int]:
        """A request for the other model, while this one answers: was it answered within so many seconds, and what."""
        busy = ask(UNPRIVILEGED, {"ignore_eos": True, "max_tokens": 100_000_000, "stream": True})
        busy.readline()
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(ask, UNPRIVILEGED, {"model": "two", "max_tokens": 1}, 443)
            wait([other], timeout=seconds)
            answered = other.done()
            busy.close()
            return answered, other.result().status

    assert silent_for(5) == (False, 200)
    with _edited(NGINX, "s/proxy_read_timeout.*/proxy_read_timeout 2s;/"):
        assert silent_for(300) == (True, 504)


@contextmanager
def _edited(site: str, change: str) -> Iterator[None]:
    """A site of nginx with this change by sed, which it has read, and without it again."""
    # A reload returns before the workers of before have stopped to take connections; their title then changes.
    workers = "pgrep --full --exact 'nginx: worker process'"
    reload = f'old=$({workers}); systemctl reload nginx; while {workers} | grep -qxF "$old"; do sleep 0.1; done'
    inside(UNPRIVILEGED, f"cp {site} /root/site; sed -i '{change}' {site}; {reload}")
    try:
        yield
    finally:
        inside(UNPRIVILEGED, f"cp /root/site {site}; {reload}")


def test_http_leads_to_https_and_a_renewed_certificate_is_taken_up(play: Play) -> None:
    line = http.client.HTTPConnection(f"{NETWORK}.{UNPRIVILEGED}", 80, timeout=10)
    line.request("GET", "/v1/models")
    answer = line.getresponse()
    assert (answer.status, answer.getheader("Location")) == (308, f"https://{NETWORK}.{UNPRIVILEGED}/v1/models")

    address = (f"{NETWORK}.{UNPRIVILEGED}", 443)
    before = ssl.get_server_certificate(address)
    renew = f"{CERTIFY} -keyout /etc/ssl/new.key -out /etc/ssl/new.pem 2>/dev/null"
    inside(UNPRIVILEGED, f"{renew} && cd /etc/ssl && mv new.key proxy.key && sleep 1 && mv new.pem proxy.pem")
    _until(lambda: ssl.get_server_certificate(address) != before, "nginx shows the new certificate")


def test_what_a_run_that_broke_off_has_written_is_taken_up_by_the_next(play: Play) -> None:
    """The keeper's unit, then nginx's site: a run fails between the file and the restart."""
    router, keeper = (*AT_ONE, "--tags", "router"), {"llama_router_unload_idle_seconds": 700}
    with _broken_off("llama-router-keeper.service"):
        play(*router, **keeper)
    assert "--unload-idle 700" in inside(UNPRIVILEGED, "cat /etc/systemd/system/llama-router-keeper.service")
    words = "tr '\\0' ' ' </proc/$(systemctl show llama-router-keeper --property MainPID --value)/cmdline"
    assert "--unload-idle 3600" in inside(UNPRIVILEGED, words)
    assert "changed=1 " in play(*router, **keeper)
    assert "--unload-idle 700" in inside(UNPRIVILEGED, words)

    proxy, small = (*AT_ONE, "--tags", "proxy"), {"llama_proxy_max_body": "1k"}
    with _broken_off("nginx.service"):
        play(*proxy, **small)
    assert "client_max_body_size 1k" in inside(UNPRIVILEGED, f"cat {NGINX}")
    long = {"max_tokens": 1, "user": "x" * 2000}
    assert ask(UNPRIVILEGED, long, 443).status == 200
    assert "changed=1 " in play(*proxy, **small)
    # nginx reads it after the reload has returned.
    _until(lambda: ask(UNPRIVILEGED, long, 443).status == 413, "nginx serves the new site")


def _until(so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not so():
        assert time.monotonic() < deadline, f"not within two minutes: {what}"
        time.sleep(0.25)


@contextmanager
def _broken_off(unit: str) -> Iterator[None]:
    """A run that fails when it comes to this unit: systemctl does, in the guest."""
    fails = f'case "$*" in *{unit}*) echo broken off >&2; exit 1;; esac; exec /usr/bin/systemctl "$@"'
    there = "/usr/local/sbin/systemctl"
    inside(UNPRIVILEGED, f"printf '%s\\n' '#!/bin/sh' {shlex.quote(fails)} >{there}; chmod +x {there}")
    try:
        with pytest.raises(AssertionError, match="broken off"):
            yield
    finally:
        inside(UNPRIVILEGED, f"rm {there}")


def test_instances_and_proxy_go_by_state(play: Play) -> None:
    first = VARIABLES["llamacpp_instances"][0]
    at_one = (*AT_ONE, "--tags", "instances,proxy")
    play(*at_one, llamacpp_instances=[{**first, "state": "stopped"}, {"name": "other", "state": "absent"}])
    assert inside(UNPRIVILEGED, "ls /etc/llama-instance").split() == ["coder.env", "coder.keys"]
    assert inside(UNPRIVILEGED, "systemctl is-active llama-instance@coder || true").strip() == "inactive"
    assert inside(UNPRIVILEGED, "systemctl is-enabled llama-instance@coder || true").strip() == "disabled"
    inside(UNPRIVILEGED, f"rm {NGINX}")  # as a run leaves it that was broken off
    listening = "ss --no-header --listening --tcp --numeric"
    assert ":443 " in inside(UNPRIVILEGED, listening)
    play(*at_one, llama_instance_state="absent", llama_proxy_state="absent")
    _until(lambda: ":443 " not in inside(UNPRIVILEGED, listening), "nginx has closed the port")  # after the reload
    left = inside(
        UNPRIVILEGED,
        "ls -d /etc/llama-instance /etc/systemd/system/llama-instance* /etc/nginx/conf.d/llama* 2>/dev/null || true",
    )
    assert left == ""
    assert ask(UNPRIVILEGED, {"max_tokens": 1}).status == 200  # the router is as it was
