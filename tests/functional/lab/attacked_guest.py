# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest with the whole service, an attacker's programs in it as another user, and the operator's plays against it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab_node import BIN, NETWORK, NODE, SSH, STATE, destroy, on_node, until_booted

HERE = Path(__file__).parent
VMID = 190
TEMPLATE = "local:vztmpl/debian-14-forky-llama_14.0-1_amd64.tar.zst"
KEY = "the-routers-key-of-the-attack-tests"
INSTANCE_KEY = "an-instances-key-of-the-attack-tests"
KEYS = (KEY, INSTANCE_KEY)
SERVICE = "llama-router"
PLAY_LIMIT = 420  # seconds; the longest wait of the collection that these plays can reach is well below
TRACED = "/root/traced-python"
TRACES = "/root/traces"

VARIABLES: dict[str, Any] = {
    "ansible_connection": "homelab.llamacpp.pct",
    "ansible_host": NODE,
    "ansible_user": "root",
    "ansible_ssh_private_key_file": f"{STATE}/id_ed25519",
    "ansible_ssh_common_args": " ".join(SSH),
    "ansible_python_interpreter": "/usr/bin/python3",
    "proxmox_lxc_node": "pve",
    "proxmox_lxc_vmid": VMID,
    "llama_router_cpu_only": True,
    "llama_router_models_max": 1,
    "llama_router_api_keys": [KEY],
    "llama_router_unload_idle_seconds": 3600,
    "llama_router_load_timeout": 60,
    "llama_router_quiet_timeout": 20,
    "llama_router_stop_timeout": 20,
    "llama_router_trial_timeout": 60,
    "llama_models_prune": "models",
    "llama_router_firewall_allow": [f"{NETWORK}.1"],
    "llamacpp_models": [
        {"name": "copied", "source": {"path": "/srv/m/tiny.gguf", "method": "copy"}, "options": {"ctx-size": 512}},
        {"name": "linked", "source": {"path": "/srv/m/tiny.gguf"}, "options": {"ctx-size": 512}},
    ],
    "llamacpp_instances": [
        {"name": "own", "path": "/srv/m/tiny.gguf", "port": 8101, "api_keys": [INSTANCE_KEY]},
    ],
}


@dataclass(frozen=True)
class Ended:
    """How a play ended. `output` has the results and diffs that `-vvv --diff` prints."""

    failed: bool
    output: str

    @property
    def reason(self) -> str:
        """What it said from the first failure on."""
        return self.output[max(0, self.output.find("[ERROR]")) :][:4000]


class AttackedGuest:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outputs: list[str] = []  # of all plays

    # --- the guest ----------------------------------------------------------------------------------------------------

    def create(self) -> None:
        maker = [str(BIN / "python"), str(HERE.parent.parent / "make_tiny_models.py"), str(self.folder / "m"), "demo"]
        subprocess.run(maker, check=True, capture_output=True)
        self.remove()
        net = f"name=eth0,bridge=vmbr0,ip={NETWORK}.{VMID}/24,gw={NETWORK}.1"
        disks = "--storage local-lvm --rootfs local-lvm:4 --cores 2 --memory 2048"
        kind = "--unprivileged 1 --features nesting=0"
        on_node(f"pct create {VMID} {TEMPLATE} --hostname guest{VMID} {disks} {kind} --net0 {net} && pct start {VMID}")
        until_booted(VMID)
        model = (self.folder / "m" / "tiny-single.gguf").read_bytes()
        self._run("mkdir -p /srv/m && cat >/srv/m/tiny.gguf", model)
        self.root("apt-get -qq update && apt-get -qq install -y --no-install-recommends strace >/dev/null 2>&1")
        trace = f"strace -f -qq -y -s 4096 -e trace=%file,%process,%creds --seccomp-bpf -o {TRACES}/$$ /usr/bin/python3"
        script = f'#!/bin/sh\nmkdir -p {TRACES}\nexec {trace} "$@"\n'
        self._run(f"cat >{TRACED} && chmod 0755 {TRACED}", script.encode())

    def remove(self) -> None:
        destroy(VMID)

    def root(self, command: str, check: bool = True) -> str:
        """What a shell command prints, run by root."""
        done = self._run(command)
        assert not check or done.returncode == 0, f"{command}: {done.stdout.decode()}{done.stderr.decode()}"
        return done.stdout.decode(errors="replace")

    def attack(self, user: str, program: str, *words: str, beside: str | None = None) -> Any:
        """Run a program of attacker.py as this user. It gets no rights beyond the user's own.

        `beside`: in the user namespace of this process, as its own code runs.
        """
        attacker = (HERE / "attacker.py").read_bytes()
        become = f"setpriv --reuid $(id -u {user}) --regid $(id -g {user}) --init-groups --inh-caps=-all --no-new-privs"
        if beside:
            become = f"nsenter --user --target {beside} -- {become.replace('--init-groups', '--keep-groups')}"
        done = self._run(f"cd / && exec {become} python3 - {shlex.join([program, *words])}", attacker)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return json.loads(done.stdout or b"{}")

    def service_process(self, unit: str = "llama-router.service") -> str:
        return self.root(f"systemctl show {unit} --property MainPID --value").strip()

    @staticmethod
    def _run(command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        there = f"lxc-attach -n {VMID} --clear-env -- /bin/sh -c {shlex.quote(command)}"
        argv = ["ssh", *SSH, "-i", str(STATE / "id_ed25519"), f"root@{NODE}", there]
        return subprocess.run(argv, check=False, input=given, capture_output=True, timeout=300)

    # --- the operator -------------------------------------------------------------------------------------------------

    def play(self, *more: str, seconds: float = PLAY_LIMIT, **variables: Any) -> Ended:
        """Run the play as an operator does who wants to see everything. AssertionError when it does not end."""
        inventory = {"guests": {"hosts": {f"guest{VMID}": {}}, "vars": {**VARIABLES, **variables}}}
        hosts = self.folder / "hosts.yml"
        hosts.write_text(json.dumps(inventory))
        argv = [str(BIN / "ansible-playbook"), "-i", str(hosts), str(HERE / "attacks.yml"), "-vvv", "--diff", *more]
        begin = time.monotonic()
        running = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
        )
        try:
            output = running.communicate(timeout=seconds)[0]
        except BaseException as error:
            os.killpg(running.pid, signal.SIGKILL)
            said = running.communicate()[0]
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise AssertionError(f"the play did not end within {seconds:g} s; it said last: {said[-3000:]}") from None
        self.outputs.append(output)
        print(f"play {' '.join(more)}: {running.returncode} after {time.monotonic() - begin:.0f} s")
        return Ended(running.returncode != 0, output)

    def again(self, *more: str, **variables: Any) -> Ended:
        """A second run: without the installation of llama-server."""
        return self.play("--skip-tags", "install", *more, **variables)

    def converge(self, *more: str, **variables: Any) -> Ended:
        ended = self.again(*more, **variables)
        assert not ended.failed, ended.reason
        return ended
