# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_file's progress through the pct connection into a real container, as root and by become; the hub is in it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(CHECKOUT / "tests" / "lab"))

from homelab_lab.settings import Settings

VMID = 118
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
HUB = "http://127.0.0.1:8100"
RATE = 8 << 20  # bytes a second
SIZE = 80 << 20  # bytes

lab = Settings.from_environment()


def on_node(command: str, data: bytes | None = None) -> str:
    done = subprocess.run(lab.ssh(command), input=data, capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def in_guest(command: str, data: bytes | None = None) -> str:
    return on_node(
        f"lxc-attach -n {VMID} --clear-env -v PATH=/usr/sbin:/usr/bin:/sbin:/bin -- sh -c {shlex.quote(command)}", data
    )


def remove_guest() -> None:
    if f"{VMID}.conf" in on_node("ls /etc/pve/lxc"):
        on_node(f"pct status {VMID} | grep -q stopped || pct stop {VMID}; pvesh delete /nodes/{lab.node}/lxc/{VMID}")


@pytest.fixture(scope="module")
def guest() -> Iterator[None]:
    """A container with a hub that serves one model slowly, and the user admin, who may become root."""
    remove_guest()
    on_node(
        f"pvesh create /nodes/{lab.node}/lxc --vmid {VMID} --hostname models --ostemplate {TEMPLATE} --unprivileged 1"
        " --features nesting=1 --memory 512 --rootfs local-lvm:4"
    )
    on_node(f"pct start {VMID}")
    in_guest("until systemctl is-system-running --wait | grep -qE 'running|degraded'; do sleep 0.2; done")
    for name in ("hub.py", "gguf_files.py"):
        in_guest(f"cat > /srv/{name}", (CHECKOUT / "tests" / "doubles" / name).read_bytes())
    write = f"gguf_files.write(pathlib.Path('/srv/hub/own/long/Long-Q4_K_M.gguf'), {SIZE})"
    in_guest(f'cd /srv && python3 -c "import gguf_files, pathlib; {write}"')
    in_guest("useradd -m admin; echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin; mkdir /srv/models")
    in_guest(f"systemd-run --unit=hub python3 /srv/hub.py /srv/hub --port 8100 --rate {RATE}")
    connect = "import socket; socket.create_connection(('127.0.0.1', 8100))"
    in_guest(f'until python3 -c "{connect}" 2>/dev/null || ! systemctl --quiet is-active hub; do sleep 0.2; done')
    yield
    remove_guest()


@pytest.mark.parametrize("become", [False, True])
def test_progress(guest: None, tmp_path: Path, become: bool) -> None:
    in_guest("rm -rf /srv/models/* /srv/models/.model*")
    host: dict[str, Any] = {
        "ansible_connection": "homelab.llamacpp.pct",
        "ansible_host": "{{ lab_network }}.2",
        "ansible_pct_vmid": VMID,
        "ansible_pct_guest_user": "admin" if become else "root",
    }
    (tmp_path / "guest.json").write_text(json.dumps({"all": {"hosts": {"guest": host}}}))
    wanted = {"name": "long", "source": {"repo": "own/long", "quant": "Q4_K_M"}}
    module = {"models_dir": "/srv/models", "endpoint": HUB, "models": [wanted]}
    tasks = [{"name": "Models", "homelab.llamacpp.model_file": module, "become": become}]
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "guest", "gather_facts": False, "tasks": tasks}]))
    argv = ["ansible-playbook", "-i", str(CHECKOUT / "tests/lab/inventory"), "-i", str(tmp_path / "guest.json")]
    done = subprocess.run([*argv, str(tmp_path / "play.yml")], capture_output=True, text=True, check=False)
    assert re.search(r"ok=1 +changed=1", done.stdout), done.stdout + done.stderr
    lines = re.findall(r"\[guest\] long: \d+ % of 80.0 MiB, [0-9.]+ [KM]iB/s, \d+ s left", done.stdout)
    assert lines, done.stdout
    assert in_guest("stat -c %U /srv/models/long.gguf").strip() == "root"
    assert (
        in_guest("ls -A /root/.ansible_async /home/admin/.ansible_async 2>/dev/null | grep -c progress || true")
        == "0\n"
    )
    again = subprocess.run([*argv, str(tmp_path / "play.yml")], capture_output=True, text=True, check=False)
    assert re.search(r"ok=1 +changed=0", again.stdout), again.stdout + again.stderr
