# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""llama-router-exporter: metrics of a router for Prometheus, and a page for people.

It asks the router as often as it is asked itself, and looks at the machine every few seconds on its own, since
nvidia-smi takes its time. Nothing that it asks loads a model, wakes one, keeps one awake, or makes one look used.
"""

from __future__ import annotations

import argparse
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
    _exporter_metrics,
    _port_hold,
    _router_places,
    _router_report,
    _status_page,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Refused, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_watch import Watch

PORT = 9836
MACHINE_SECONDS = 15.0  # between two looks at the machine
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
        self._client: Client | None = None
        self._refused_since: float | None = None

    def start(self) -> None:
        self._look()
        for work in (self._follow_machine, self._follow_events, self._follow_journal):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()

    def report(self) -> dict[str, Any]:
        router, models = _router_report.router_of(self.places.url, self._connect)
        if router["problem"] == "certificate":
            self._client = None  # its authority may become known to this machine
        plan = _router_report.plan_of(self.places.plan)
        machine = {**self._machine, "unit": dict(self._machine["unit"])}
        report = self.watch.tell(_router_report.report(router, models, machine, plan, self.watch.loads(models)))
        return {**report, "host": socket.gethostname()}

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

    def _look(self) -> None:
        run = _router_places.run_here
        unit = _router_report.unit_of(run, self.places.unit)
        connections = sum(c.established and c.port == self.places.port for c in _port_hold.connections())
        # Without its own one, on which it hears the router's events.
        clients = max(0, connections - self.watch.events_up)
        self._machine = {**_router_report.host_of(self.places, run), "unit": unit, "connections": clients}

    def _follow_machine(self) -> None:
        while True:
            time.sleep(MACHINE_SECONDS)
            self._look()

    def _follow_events(self) -> None:
        while True:
            try:
                client = self._connect()
                events = client.events(SILENCE)
                self.watch.sync(client.models())
                self._refused_since = None
                for event in events:
                    self.watch.event(event)
                    if (event.get("data") or {}).get("status") == "loaded":
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
    timeout = 30

    def do_GET(self) -> None:
        if not self.server.allows(self.client_address[0], self.connection.getsockname()[0]):
            self._answer(403, "text/plain", b"This address is in none of the networks that are let in (--allow).\n")
        elif self.path == "/":
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


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int, source: Source, allow: Iterable[str]) -> None:
        self.source = source
        self._allowed = [ipaddress.ip_network(network, strict=False) for network in ("127.0.0.0/8", "::1/128", *allow)]
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._registry, self._generate, self._kind = _library(source)
        super().__init__((address, port), Handler)

    def allows(self, address: str, here: str) -> bool:
        """Whether a client of this address may ask, who has connected to the address `here`."""
        client = ipaddress.ip_address(address.partition("%")[0])
        client = getattr(client, "ipv4_mapped", None) or client
        return address == here or any(client in network for network in self._allowed)

    def render(self) -> tuple[str, bytes]:
        return self._kind, self._generate(self._registry)

    def service_actions(self) -> None:
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
