# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of a router that notice everything: one asks something small every 50 ms, one has long answers streamed."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

PATIENCE = 120  # seconds until a client gives up


@dataclass
class Asked:
    """One request; `lost` says how it went wrong."""

    kind: str
    begun: float
    seconds: float
    lost: str


@dataclass
class Load:
    """Two clients, from entering to leaving; `asked` has all that they asked for."""

    host: str
    port: int
    key: str
    model: str
    tokens: int = 100
    interval: float = 0.05  # seconds
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=client) for client in (self._every_50_ms, self._at_length)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        for thread in list(self._threads):
            thread.join()

    @property
    def lost(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.lost]

    def without_service(self) -> float:
        """The longest time in seconds in which no short request was answered."""
        answers = sorted(a.begun + a.seconds for a in self.asked if a.kind == "short" and not a.lost)
        return max((later - earlier for earlier, later in zip(answers, answers[1:])), default=float("inf"))

    def seconds_refused(self) -> float:
        """From the first short request that was lost to the next one that was answered, in seconds."""
        lost = [a.begun for a in self.asked if a.kind == "short" and a.lost]
        after = [a.begun for a in self.asked if a.kind == "short" and not a.lost and lost and a.begun > max(lost)]
        return min(after) - min(lost) if lost and after else 0.0

    def _every_50_ms(self) -> None:
        running: list[threading.Thread] = []
        while not self._over.is_set():
            thread = threading.Thread(target=self._ask, args=("short", self.models))
            thread.start()
            running = [*(other for other in running if other.is_alive()), thread]
            time.sleep(self.interval)
        for thread in running:
            thread.join()

    def _at_length(self) -> None:
        while not self._over.is_set():
            self._ask("long", self.stream)
            self._over.wait(0.5)

    def _ask(self, kind: str, ask: Callable[[], str]) -> None:
        begun = time.monotonic()
        try:
            lost = ask()
        except (OSError, http.client.HTTPException) as error:
            lost = f"{type(error).__name__}: {error}"
        self.asked.append(Asked(kind, begun, time.monotonic() - begun, lost))

    def models(self) -> str:
        status, text = self.call("GET", "/v1/models", None)
        return "" if status == 200 else f"{status}: {text[:200]}"

    def stream(self) -> str:
        """Ask, and read to the end; how it went wrong, or nothing."""
        body = {"model": self.model, "prompt": "Once", "max_tokens": self.tokens, "ignore_eos": True, "stream": True}
        status, text = self.call("POST", "/v1/completions", json.dumps(body))
        if status != 200:
            return f"{status}: {text[:200]}"
        lines = text.split("\n\n")
        parts = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        finished = any(choice.get("finish_reason") for part in parts for choice in part["choices"])
        if "data: [DONE]" not in lines or not finished:
            return f"broke off after {len(parts)} parts"
        return ""

    def call(self, method: str, path: str, body: str | None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()
