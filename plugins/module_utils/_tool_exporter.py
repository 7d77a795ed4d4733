# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""llama-router-exporter: metrics of a router for Prometheus, and a page for people.

It asks the router as often as it is asked itself, and reads the machine every few seconds on its own. nvidia-smi takes
its time, and may hang, so the GPUs have a thread of their own. Nothing that it asks loads a model, wakes one, keeps one
awake, or makes one look used.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import (
    _bounded,
    _exporter_metrics,
    _foreign,
    _port_hold,
    _router_places,
    _router_report,
    _status_page,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Refused, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_watch import Watch

PORT = 9836
MACHINE_SECONDS = 15.0  # between two readings of the machine
GPU_SECONDS = 20.0  # for an answer of nvidia-smi, which takes some when no process keeps the GPUs initialized
FIRST_SECONDS = 5.0  # that the first scrape waits for the GPUs
COMMAND_SECONDS = 10.0  # for one of systemctl
CONNECTIONS = 16  # that are served at once, each by a thread; further ones get 503
CONNECTION_SECONDS = 30.0  # from its begin to the end of its answer, whatever a client sends meanwhile
REFUSED = 64  # connections that were refused and are not closed yet
REFUSED_SECONDS = 2.0  # for a client to read why
HEADER_BYTES = 16 << 10  # of a request
SILENCE = 3600.0  # seconds without an event, after which the router is asked for its events anew
ROUTER_SECONDS = 3.0  # for an answer of the router: Prometheus gives up after ten, and would not hear that it hangs
AGAIN = 1.0  # seconds before a stream that ended is opened again
KEY_SECONDS = 60.0  # a key that is refused for so long has been replaced: systemd starts the service with the new one


class Source:
    """The report of one router, watched from now on. `journal` is the command that follows its journal."""

    def __init__(self, places: _router_places.Places, journal: list[str]) -> None:
        self.places = places
        self.watch = Watch()
        self._journal = journal
        self._machine: dict[str, Any] = {}
        driver = dict.fromkeys(("kernel_version", "library_version", "agree", "reason"))
        reading = {"at": None, "ok": None, "reason": None}
        self._gpus: dict[str, Any] = {"gpus": [], "driver": driver, "gpu_reading": reading}
        self._gpus_read_at: float | None = None  # the last time that it succeeded; at first when this began
        self._client: Client | None = None
        self._refused_since: float | None = None

    def start(self) -> None:
        self._read_machine()
        gpus_read = threading.Event()
        threading.Thread(target=self._follow_gpus, args=(gpus_read,), daemon=True, name="gpus").start()
        for work in (self._follow_machine, self._follow_events, self._follow_journal):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()
        gpus_read.wait(FIRST_SECONDS)

    def report(self) -> dict[str, Any]:
        router, models = _router_report.router_of(self.places.url, self._connect)
        if router["problem"] == "certificate":
            self._client = None  # its authority may become known to this machine
        plan = _router_report.plan_of(self.places.plan)
        machine = {**self._machine, "unit": dict(self._machine["unit"]), **self._gpus}
        report = self.watch.tell(_router_report.report(router, models, machine, plan, self.watch.loads(models)))
        found: dict[str, Any] = _foreign.data({**report, "host": socket.gethostname()})
        return found

    def metrics(self) -> Iterable[_exporter_metrics.Family]:
        report = self.report()
        yield from _exporter_metrics.families(report)
        yield from _exporter_metrics.of_children(_exporter_metrics.ask_children(report))

    def _connect(self) -> Client:
        """The client, made once: its certificates take longer to read than the rest of a scrape."""
        if self._client is None:
            self._client = _router_report.connect(self.places, ROUTER_SECONDS)
        return self._client

    @property
    def key_is_old(self) -> bool:
        return self._refused_since is not None and time.monotonic() - self._refused_since > KEY_SECONDS

    # --- threads ---

    def _read_machine(self) -> None:
        unit = _router_report.unit_of(_bounded.runner(COMMAND_SECONDS), self.places.unit)
        connections = sum(c.established and c.port == self.places.port for c in _port_hold.connections())
        # Without its own one, on which it hears the router's events.
        clients = max(0, connections - self.watch.events_up)
        self._machine = {**_router_report.host_of(self.places), "unit": unit, "connections": clients}

    def _follow_machine(self) -> None:
        while True:
            time.sleep(MACHINE_SECONDS)
            self._read_machine()

    def _read_gpus(self) -> None:
        began = time.time()
        found = _router_report.gpus_of(_bounded.runner(GPU_SECONDS))
        reading = found["gpu_reading"]
        if reading["ok"]:
            self._gpus_read_at = reading["at"]
        elif reading["ok"] is False:
            reading["at"] = self._gpus_read_at = self._gpus_read_at or began
        self._gpus = found

    def _follow_gpus(self, read: threading.Event) -> None:
        while True:
            self._read_gpus()
            read.set()
            time.sleep(MACHINE_SECONDS)

    def _follow_events(self) -> None:
        while True:
            try:
                client = self._connect()
                events = client.events(SILENCE)
                self.watch.sync(client.models())
                self._refused_since = None
                for event in map(_event, events):
                    if event:
                        self.watch.event(event)
                        if event["data"].get("status") == "loaded":
                            self.watch.ports(client.models())
            except Refused as error:
                if error.status == 401:
                    self._refused_since = self._refused_since or time.monotonic()
            except RouterError:
                pass
            self.watch.lost()
            time.sleep(AGAIN)

    def _follow_journal(self) -> None:
        heard = 0.0
        while True:
            with contextlib.suppress(OSError):
                heard = self._hear_journal(heard)
            self.watch.journal_up = False
            time.sleep(AGAIN)

    def _hear_journal(self, heard: float) -> float:
        """Until it ends, what came after this time: it begins with what was there before. Returns the last time."""
        last = heard
        quiet = subprocess.DEVNULL
        with subprocess.Popen(  # pylint: disable=ansible-bad-function
            self._journal, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(AGAIN)  # it ends at once where the journal may not be read
                return heard
            self.watch.journal_up = True
            for last, text in _timed(process.stdout or ()):
                if last > heard:  # many lines have the same time
                    self.watch.line(text, last)
        return last


def _event(told: object) -> dict[str, Any] | None:
    """An event of the router with the fields that a watch reads, as it wants them; None for what is none."""
    data = told.get("data") or {} if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(data, dict):
        return None
    found: dict[str, Any] = {"event": str(told.get("event")), "model": str(told.get("model")), "data": {}}
    if "status" in data:
        found["data"]["status"] = str(data["status"])
    if isinstance(data.get("exit_code"), int) and not isinstance(data["exit_code"], bool):
        found["data"]["exit_code"] = data["exit_code"]
    return found


def _timed(lines: Iterable[bytes]) -> Iterator[tuple[float, str]]:
    """Lines of `journalctl --output short-unix`: SECONDS HOST IDENTIFIER[PID]: TEXT."""
    for line in lines:
        head, _colon, text = line.decode(errors="replace").rstrip("\n").partition(": ")
        with contextlib.suppress(ValueError):
            yield float(head.partition(" ")[0]), text


# --- HTTP -------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """/ is the page, /report.json what it shows, /metrics for Prometheus, /health whether this server is up."""

    server: Server
    server_version = "llama-router-exporter"
    sys_version = ""
    timeout = CONNECTION_SECONDS

    def setup(self) -> None:
        super().setup()
        self.rfile = _Header(self.rfile)  # type: ignore[assignment]  # it has what this class reads with

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(200, "text/html; charset=utf-8", _status_page.PAGE.encode())
        elif self.path == "/report.json":
            self._answer(200, "application/json", json.dumps(self.server.source.report()).encode())
        elif self.path == "/metrics":
            self._answer(200, *self.server.render())
        elif self.path == "/health":
            self._answer(200, "text/plain", b"ok\n")
        else:
            self._answer(404, "text/plain", b"There are /, /report.json, /metrics and /health.\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _status_page.POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Whoever looks is not news."""


class _Header:
    """What a client sends, as long as it is of a request's size; the end of it then."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = HEADER_BYTES

    def readline(self, most: int) -> bytes:
        line: bytes = self._file.readline(min(most, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        self._file.close()


def _refusal(status: str, reason: str) -> bytes:
    head = f"HTTP/1.0 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(reason)}\r\n\r\n"
    return (head + reason).encode()


FORBIDDEN = _refusal("403 Forbidden", "This address is in none of the networks that are let in (--allow).\n")
BUSY = _refusal("503 Service Unavailable", f"At most {CONNECTIONS} connections are served at once.\n")


class Server(ThreadingHTTPServer):
    """A client gets a thread when it is let in and one is free. No client keeps one for longer than its time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: str, port: int, source: Source, allow: Iterable[str]) -> None:
        self.source = source
        self._allowed = [ipaddress.ip_network(network, strict=False) for network in ("127.0.0.0/8", "::1/128", *allow)]
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._registry, self._generate, self._kind = _library(source)
        self._lock = threading.Lock()
        self._served: dict[socket.socket, float] = {}  # until when
        self._refused: collections.deque[tuple[float, socket.socket]] = collections.deque()
        super().__init__((address, port), Handler)

    def allows(self, address: str, here: str) -> bool:
        """Whether a client of this address may ask, who has connected to the address `here`."""
        client = ipaddress.ip_address(address.partition("%")[0])
        client = getattr(client, "ipv4_mapped", None) or client
        return address == here or any(client in network for network in self._allowed)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Before there is a thread: who it is, and whether one is free."""
        try:
            allowed = self.allows(client_address[0], request.getsockname()[0])
        except OSError:
            self.shutdown_request(request)  # it has gone
            return
        with self._lock:
            free = allowed and len(self._served) < CONNECTIONS
            if free:
                self._served[request] = time.monotonic() + CONNECTION_SECONDS
        if not free:
            self._refuse(request, BUSY if allowed else FORBIDDEN)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            with self._lock:
                self._served.pop(request, None)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._served.pop(request, None)

    def _refuse(self, request: socket.socket, answer: bytes) -> None:
        """Say why without waiting. The connection stays open for a moment, as closing it could take the answer back."""
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(answer)
            request.shutdown(socket.SHUT_WR)
        self._refused.append((time.monotonic() + REFUSED_SECONDS, request))
        while len(self._refused) > REFUSED:
            self._refused.popleft()[1].close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is not news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def render(self) -> tuple[str, bytes]:
        return self._kind, self._generate(self._registry)

    def service_actions(self) -> None:
        """Twice a second, and after each connection."""
        now = time.monotonic()
        while self._refused and self._refused[0][0] < now:
            self._refused.popleft()[1].close()
        with self._lock:
            late = [request for request, until in self._served.items() if until < now]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        if self.source.key_is_old:
            raise SystemExit("the router refuses this key: started again, the service gets the new one")


def _library(source: Source) -> tuple[Any, Any, str]:
    """prometheus_client, with the source as a collector; and what the exporter itself takes."""
    import prometheus_client.registry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}

    class Collector(prometheus_client.registry.Collector):
        def collect(self) -> Iterator[Any]:
            for family in source.metrics():
                metric = kinds[family.kind](family.name, family.help)
                suffix = "_total" if family.kind == "counter" else ""
                for labels, value in family.samples:
                    metric.add_sample(family.name + suffix, labels, value)
                yield metric

        def describe(self) -> list[Any]:
            return []  # they depend on the router, which is asked when somebody wants to know

    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    prometheus_client.ProcessCollector(registry=registry)
    return registry, prometheus_client.generate_latest, prometheus_client.CONTENT_TYPE_LATEST


# --- the command ------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    keys = options.api_key_file
    if not keys and "CREDENTIALS_DIRECTORY" in os.environ:
        keys = os.path.join(os.environ["CREDENTIALS_DIRECTORY"], "api-keys")
    places = _router_places.Places(
        options.unit,
        options.url,
        keys or _router_places.KEYS,
        options.plan,
        options.models_dir,
        not options.url_insecure,
        tuple(options.tls),
    )
    journal = ["journalctl", "--unit", options.unit, "--follow", "--lines", str(_router_report.LINES)]
    source = Source(places, [*journal, "--output", "short-unix", "--no-pager", "--quiet"])
    try:
        server = Server(options.address, options.port, source, options.allow)
    except ImportError:
        return _failed("its library is missing: apt-get install python3-prometheus-client")
    except (OSError, ValueError) as error:
        return _failed(f"{options.address} port {options.port}: {error}")
    threading.excepthook = _end
    source.start()
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    return 0


def _end(broken: threading.ExceptHookArgs) -> None:
    """A stream that nobody follows any more would be silence: systemd starts the service again."""
    traceback.print_exception(broken.exc_type, broken.exc_value, broken.exc_traceback)
    os._exit(1)


def _failed(reason: str) -> int:
    sys.stderr.write(f"llama-router-exporter: {reason}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    places = _router_places.Places()
    parser = argparse.ArgumentParser(
        prog="llama-router-exporter", description="Metrics of a llama.cpp router, and a page."
    )
    parser.add_argument("--address", default="127.0.0.1", help="to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="to listen on (%(default)s)")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NETWORK",
        help="that is let in, beside the loopback; repeatable",
    )
    parser.add_argument("--unit", default=places.unit, help="the router's unit (%(default)s)")
    parser.add_argument("--url", default=places.url, help="the router (%(default)s)")
    parser.add_argument("--url-insecure", action="store_true", help="do not look at the router's certificate")
    parser.add_argument(
        "--tls",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="where a certificate is shown that is to be watched, beside the router's own; repeatable",
    )
    parser.add_argument(
        "--api-key-file", metavar="FILE", help="its keys; by default the credential api-keys of the unit"
    )
    parser.add_argument("--plan", default=places.plan, metavar="FILE", help="the plan that llama_router left")
    parser.add_argument("--models-dir", default=places.models, metavar="FOLDER", help="its models")
    return parser
