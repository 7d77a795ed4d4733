# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real llama-server, started and stopped, asked and hurt."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router

TESTS = Path(__file__).resolve().parents[2]
LLAMA_SERVER = TESTS / "llama-server"
KEYS = ("test-key-1", "test-key-2")
KEY = KEYS[0]

Call = Callable[..., dict[str, Any]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def section(name: str, model: Path, **options: str) -> str:
    lines = [f"[{name}]", f"model = {model}", *(f"{key.replace('_', '-')} = {text}" for key, text in options.items())]
    return "\n".join(lines) + "\n"


class Server:
    """One llama-server. `args` come after the address and the key file."""

    def __init__(self, folder: Path, *args: str, scheme: str = "http") -> None:
        self.keys = folder / "api-keys"
        if not self.keys.exists():
            self.keys.write_text("\n".join([*KEYS, ""]))
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self._argv = [str(LLAMA_SERVER), "--host", "127.0.0.1", "--port", str(self.port)]
        self._argv += ["--api-key-file", str(self.keys), *args]
        self.client = Client(self.url, KEY, validate_certs=False)

    def __enter__(self) -> Server:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=subprocess.STDOUT, cwd=self.log.parent)
        wait_until(self.client.healthy, self.log)
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def status(self) -> dict[str, str]:
        return {model.id: model.status for model in self.client.models()}

    def load(self, *names: str) -> None:
        Router(self.client).load(names, 30)

    def child(self, name: str) -> int:
        """The process id of a model."""
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path("/proc", entry, "cmdline").read_text().split("\0")
                parent = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == self.process.pid and name in words:
                return int(entry)
        raise AssertionError(f"{name} has no process")

    def complete(self, name: str, tokens: int) -> int:
        """Ask for so many tokens; the HTTP status."""
        body = {"model": name, "prompt": "once", "max_tokens": tokens, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


def wait_until(true: Callable[[], bool], log: Path | None = None, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except RouterError:
            pass
        assert time.monotonic() < deadline, log.read_text() if log else "it does not become true"
        time.sleep(0.01)
