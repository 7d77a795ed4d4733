# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest of the lab that somebody has set up by hand, and the collection's playbooks run on it."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import plays
from build_guest import BuildGuest, lab, on_node
from plays import CHECKOUT, Plays, in_guest

TEMPLATE = "local:vztmpl/debian-14-forky-llama_14.0-1_amd64.tar.zst"


class HandMade(Plays, BuildGuest):
    """Its first state, with llama-server and models in /srv/tiny, is kept as a snapshot; the suites go back to it."""

    def __init__(self, vmid: int, folder: Path) -> None:
        super().__init__(vmid, folder, memory_mib=2048, disk_gib=8)
        self.host_vars = folder / "host_vars" / "old"

    def create(self) -> None:
        self.remove()
        network = lab.address.rpartition(".")[0]
        on_node(
            f"pvesh create /nodes/{lab.node}/lxc --vmid {self.vmid} --hostname old --ostemplate {TEMPLATE}"
            f" --unprivileged 1 --features nesting=1 --cores 2 {self._make}"
            f" --net0 name=eth0,bridge=vmbr0,ip={network}.{self.vmid}/24,gw={network}.1 && pct start {self.vmid}"
        )
        self.wait()
        old = {"hosts": {"old": in_guest(self.vmid)}}
        self.write_inventory(llama_routers=old, ollama_hosts={"hosts": {"old": None}})
        self.run("apt-get update -qq && apt-get install -y -qq --no-install-recommends llama.cpp-tools")
        models = self.folder / "models"
        subprocess.run([sys.executable, CHECKOUT / "tests/make_tiny_models.py", models], check=True)
        self.unpack(models, "/srv/tiny")
        on_node(f"pct snapshot {self.vmid} first")

    def again(self) -> None:
        """As it was first, with an inventory that says nothing of it."""
        on_node(f"pct rollback {self.vmid} first && pct start {self.vmid}")
        for file in self.host_vars.glob("*"):
            file.unlink()
        self.wait()

    def stop(self) -> None:
        on_node(f"pct stop {self.vmid}")

    def start_again(self) -> None:
        on_node(f"pct start {self.vmid}")
        self.wait()

    def status(self) -> str:
        return on_node(f"pct status {self.vmid}")

    def put(self, path: str, content: str | bytes, mode: str = "644") -> None:
        file, folder = shlex.quote(path), shlex.quote(str(Path(path).parent))
        command = f"mkdir -p {folder} && cat >{file} && chmod {mode} {file}"
        data = content.encode() if isinstance(content, str) else content
        subprocess.run(self._attached(command), input=data, check=True, capture_output=True)

    def unpack(self, folder: Path, path: str) -> None:
        """A folder of this machine's, with all that is in it."""
        tar = subprocess.run(["tar", "-c", "-C", folder, "."], stdout=subprocess.PIPE, check=True)
        subprocess.run(
            self._attached(f"mkdir -p {path}; tar -x --no-same-owner -C {path}"), input=tar.stdout, check=True
        )

    def role(self, name: str, *options: str, ok: bool = True, **variables: Any) -> str:
        """What a play with one role prints."""
        return self.role_on("old", name, *options, ok=ok, **variables)

    def is_active(self, unit: str) -> bool:
        return self.run(f"systemctl is-active {unit}", check=False) == "active"

    def until(self, command: str, seconds: float = 180) -> str:
        """What a command prints, once it succeeds."""
        deadline = time.monotonic() + seconds
        while True:
            done = subprocess.run(self._attached(command), capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
            assert time.monotonic() < deadline, f"{command}: {done.stdout}{done.stderr}"
            time.sleep(0.25)


def changed(output: str, host: str = "old") -> int:
    return plays.changed(output)[host]
