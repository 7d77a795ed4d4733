# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real llama-server, started and stopped, asked and hurt."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._keeper import is_connected
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router

TESTS = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TESTS))

from ports import free_port

LLAMA_SERVER = TESTS / "llama-server"
KEYS = ("test-key-1", "test-key-2")
KEY = KEYS[0]
ENDLESS = 10_000_000  # tokens, of a model with `context-shift`

Call = Callable[..., dict[str, Any]]


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
        wait_until(self._ready, self.log)
        return self

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"llama-server has ended: {self.log.read_text()}"
        return self.client.healthy()

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def status(self) -> dict[str, str]:
        return {model.id: model.status for model in self.client.models()}

    def load(self, *names: str) -> None:
        Router(self.client).load(names, 300)

    def child(self, name: str) -> int:
        """The process id of a model, which the router may be about to start."""
        wait_until(lambda: bool(self._children(name)), self.log)
        return self._children(name)[0]

    def _children(self, name: str) -> list[int]:
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path("/proc", entry, "cmdline").read_text().split("\0")
                parent = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == self.process.pid and name in words:
                found.append(int(entry))
        return found

    def busy(self, name: str) -> bool:
        """Whether a request has come to the model's process, and has no answer yet."""
        return any(model.id == name and is_connected(model.port) for model in self.client.models())

    @contextlib.contextmanager
    def answering(self, name: str) -> Iterator[None]:
        """An answer that has begun and does not end before this does; the model has `context-shift`."""
        parts = self.client.complete(name, ENDLESS, 600)
        try:
            assert next(parts, None), "it ended before its first word"
            yield
        finally:
            parts.close()

    @contextlib.contextmanager
    def answering_at_once(self, name: str) -> Iterator[list[int]]:
        """The same in one piece, which a model that is told to end does not break off: within this it has to be killed.

        The HTTP status is told when it has ended.
        """
        statuses: list[int] = []
        client = threading.Thread(target=lambda: statuses.append(self.complete(name, ENDLESS)))
        client.start()
        wait_until(lambda: self.busy(name))
        yield statuses
        client.join()

    def complete(self, name: str, tokens: int) -> int:
        """Ask for so many tokens; the HTTP status."""
        body = {"model": name, "prompt": "once", "max_tokens": tokens, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """Who opens this file waits until this ends (or the kernel's patience does, 45 s): a model that is loading."""
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which the kernel tells that somebody waits
    with file.open("rb") as mine:

        def alone() -> bool:
            with contextlib.suppress(BlockingIOError):  # somebody has it open
                fcntl.fcntl(mine, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                return True
            return False

        wait_until(alone)
        try:
            yield
        finally:
            fcntl.fcntl(mine, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, handler)


def wait_until(true: Callable[[], bool], log: Path | None = None, seconds: float = 120) -> None:
    """As long as that is patience alone: a machine may be slow, a test that passes is not."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except RouterError:
            pass
        assert time.monotonic() < deadline, log.read_text() if log else "it does not become true"
        time.sleep(0.01)
