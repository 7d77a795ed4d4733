# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of a router that notice everything: one asks something small every 50 ms, one has long answers streamed.

Each request has a connection of its own. Those of KeptAlive keep theirs and ask over it again and again.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

PATIENCE = 120  # seconds until a client gives up
MOST = 500  # short requests that wait at once: a machine that is slow is not to run out of files or ports


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
            running = [other for other in running if other.is_alive()]
            if len(running) < MOST:
                running.append(threading.Thread(target=self._ask, args=("short", self.models)))
                running[-1].start()
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


@dataclass
class KeptAlive:
    """Clients that keep their connection, from entering to leaving; each has one and asks every `interval` seconds.

    As HTTP allows, a server may close a connection between two answers. A client sees that as an end before the first
    byte of an answer, and asks again over a new one: `closed` counts these, `reset` those where it was no clean end.
    What else goes wrong is in `lost`, such as an answer that breaks off.
    """

    host: str
    port: int
    key: str
    model: str
    clients: int = 4
    tokens: int = 8
    interval: float = 0.05  # seconds
    answered: int = 0
    closed: int = 0
    reset: int = 0
    lost: list[str] = field(default_factory=list)

    def __enter__(self) -> KeptAlive:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _client(self, number: int) -> None:
        """Every other one asks for answers of a model, the others for the list."""
        connection = self._connection()
        try:
            while not self._over.wait(self.interval):
                lost = self._ask(connection, number % 2 == 0)
                with self._lock:
                    self.answered += not lost
                    self.lost += [lost] if lost else []
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def _ask(self, connection: http.client.HTTPConnection, long: bool) -> str:
        for _time in range(2):
            reused = connection.sock is not None
            try:
                self._send(connection, long)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not reused:
                    return f"over a new connection: {type(error).__name__}: {error}"
                with self._lock:
                    # http.client calls the clean end a reset, too.
                    clean = isinstance(error, http.client.RemoteDisconnected)
                    self.closed += clean
                    self.reset += not clean
                continue
            try:
                text = response.read().decode(errors="replace")
                parts = json.loads(text)["choices" if long else "data"]
                return "" if response.status == 200 and parts else f"{response.status}: {text[:200]}"
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                connection.close()
                return f"an answer broke off: {type(error).__name__}: {error}"
        return "a new connection ended at once"

    def _send(self, connection: http.client.HTTPConnection, long: bool) -> None:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        if long:
            body = {"model": self.model, "prompt": "Once", "max_tokens": self.tokens, "ignore_eos": True}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
        else:
            connection.request("GET", "/v1/models", None, headers)
