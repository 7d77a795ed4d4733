# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _tool_exporter
from ansible_collections.homelab.llamacpp.plugins.module_utils._exporter_metrics import (
    ask_children,
    families,
    names,
    of_children,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import Places
from ansible_collections.homelab.llamacpp.plugins.module_utils._status_page import PAGE, POLICY

MIB = 1 << 20
HISTORY = {
    "seconds": 12.5,
    "loads": 3,
    "load_seconds": 2.0,
    "load_seconds_total": 7.0,
    "wakes": 1,
    "queued": 4,
    "evictions": 2,
    "failures": {"1": 1, "137": 2},
    "answers": 9,
    "prompt_tokens": 100,
    "predicted_tokens": 200,
}
MODEL: dict[str, Any] = {
    "id": "a",
    "status": "loaded",
    "failed": False,
    "exit_code": 137,
    "ctx_size": 8192,
    "port": 0,
    "memory": [
        {"device": "CUDA0", "planned_mib": 5000.0, "used_mib": 4700.0},
        {"device": "host", "planned_mib": 300.0, "used_mib": None},
    ],
    "on_cpu": False,
    "history": HISTORY,
}
REPORT: dict[str, Any] = {
    "at": 1_700_000_100.0,
    "verdict": "degraded",
    "gpu_reading": {"at": 1_700_000_040.0, "ok": False, "reason": "it hangs"},
    "router": {"up": True, "problem": None, "role": "router", "build": "b11669", "limit": 2, "loaded": ["a"]},
    "unit": {"state": "active", "restarts": 1, "since": 1_700_000_000, "memory_mib": 812},
    "models": [MODEL],
    "devices": [{"name": "CUDA0", "total_mib": 24576, "usable_mib": 23552, "used_mib": 4700.0}],
    "gpus": [
        {
            "index": 0,
            "uuid": "GPU-1",
            "product": "RTX 3090",
            "memory_total_mib": 24576,
            "memory_used_mib": 5100,
            "utilization_percent": 97,
            "temperature_celsius": 71,
            "power_watts": 280.5,
            "power_limit_watts": None,
            "throttling": ["power limit"],
        }
    ],
    "driver": {"kernel_version": "550.1", "library_version": "550.1", "agree": True},
    "memory": {"total_mib": 8000, "available_mib": 6000},
    "disk": {"path": "/m", "total_mib": 1000, "free_mib": 400},
    "certificates": [
        {"address": "127.0.0.1:443", "expires": 1_800_000_000, "reason": None},
        {"address": "127.0.0.1:444", "expires": None, "reason": "Connection refused"},
    ],
    "watch": {"since": 1.0, "events": True, "journal": False},
    "connections": 5,
}
GPU = {"gpu": "0", "uuid": "GPU-1", "product": "RTX 3090"}
# Every metric, with the samples that the report above makes of it.
EXPECTED: dict[str, list[tuple[dict[str, str], float]]] = {
    "up": [({}, 1)],
    "problem": [({"problem": word}, 0) for word in ("unreachable", "key", "certificate", "refused")],
    "verdict": [({"verdict": "healthy"}, 0), ({"verdict": "degraded"}, 1), ({"verdict": "down"}, 0)],
    "build_info": [({"build": "b11669", "role": "router"}, 1)],
    "models_max": [({}, 2)],
    "models_running": [({}, 1)],
    "models_usable": [({}, 1)],
    "connections": [({}, 5)],
    "unit_active": [({}, 1)],
    "unit_restarts_total": [({}, 1)],
    "unit_start_time_seconds": [({}, 1_700_000_000)],
    "unit_memory_bytes": [({}, 812 * MIB)],
    "exporter_watching": [({"source": "events"}, 1), ({"source": "journal"}, 0)],
    "model_status": [
        ({"model": "a", "status": status}, float(status == "loaded"))
        for status in ("unloaded", "loading", "loaded", "sleeping")
    ],
    "model_status_seconds": [({"model": "a"}, 12.5)],
    "model_failed": [({"model": "a"}, 0)],
    "model_failures_total": [({"model": "a"}, 3)],
    "model_exit_code": [({"model": "a"}, 137)],
    "model_loads_total": [({"model": "a"}, 3)],
    "model_load_seconds_total": [({"model": "a"}, 7)],
    "model_last_load_seconds": [({"model": "a"}, 2)],
    "model_wakes_total": [({"model": "a"}, 1)],
    "model_queued_total": [({"model": "a"}, 4)],
    "model_evictions_total": [({"model": "a"}, 2)],
    "model_answers_total": [({"model": "a"}, 9)],
    "model_prompt_tokens_total": [({"model": "a"}, 100)],
    "model_predicted_tokens_total": [({"model": "a"}, 200)],
    "model_on_cpu": [({"model": "a"}, 0)],
    "model_context_tokens": [({"model": "a"}, 8192)],
    "model_memory_bytes": [({"model": "a", "device": "CUDA0"}, 4700 * MIB)],
    "model_planned_memory_bytes": [
        ({"model": "a", "device": "CUDA0"}, 5000 * MIB),
        ({"model": "a", "device": "host"}, 300 * MIB),
    ],
    "device_usable_bytes": [({"device": "CUDA0"}, 23552 * MIB)],
    "device_used_bytes": [({"device": "CUDA0"}, 4700 * MIB)],
    "gpu_reading_success": [({}, 0)],
    "gpu_reading_age_seconds": [({}, 60)],
    "driver_agrees": [({}, 1)],
    "driver_info": [({"kernel": "550.1", "library": "550.1"}, 1)],
    "gpu_memory_total_bytes": [(GPU, 24576 * MIB)],
    "gpu_memory_used_bytes": [(GPU, 5100 * MIB)],
    "gpu_utilization_ratio": [(GPU, pytest.approx(0.97))],
    "gpu_temperature_celsius": [(GPU, 71)],
    "gpu_power_watts": [(GPU, 280.5)],
    "gpu_throttled": [(GPU, 1)],
    "memory_total_bytes": [({}, 8000 * MIB)],
    "memory_available_bytes": [({}, 6000 * MIB)],
    "models_disk_total_bytes": [({}, 1000 * MIB)],
    "models_disk_free_bytes": [({}, 400 * MIB)],
    "certificate_expiry_timestamp_seconds": [({"address": "127.0.0.1:443"}, 1_800_000_000)],
}
CHILD = """\
# HELP llamacpp:tokens_predicted_total Number of generation tokens processed
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total {}
# HELP llamacpp:n_tokens_max Largest observed sequence length (prompt + generation)
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max 25
# HELP llamacpp:requests_deferred Number of requests deferred
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 0
"""


@pytest.mark.parametrize("name", EXPECTED)
def test_each_metric(name: str) -> None:
    found = {next(iter(names([family]))): family for family in families(REPORT)}
    assert found[f"llamacpp_{name}"].samples == EXPECTED[name]


def test_there_is_no_other_metric_and_each_has_its_words() -> None:
    found = list(families(REPORT))
    assert names(found) == {f"llamacpp_{name}" for name in EXPECTED}
    assert all(family.help.endswith(".") for family in found)


def test_what_is_not_known_is_not_told() -> None:
    nothing = {**REPORT["driver"], "kernel_version": None, "agree": None}
    down = {**REPORT, "models": [], "gpus": [], "devices": [], "driver": nothing}
    down["router"] = {"up": False, "problem": "key", "limit": None, "loaded": []}
    down["unit"] = {"state": "failed", "restarts": None, "since": None, "memory_mib": None}
    down["disk"] = {"path": "/m", "total_mib": None, "free_mib": None}
    found = {family.name: family.samples for family in families(down)}
    assert found["llamacpp_up"] == [({}, 0.0)]
    assert ({"problem": "key"}, 1.0) in found["llamacpp_problem"]
    assert found["llamacpp_unit_active"] == [({}, 0.0)]
    for name in (
        "build_info",
        "models_max",
        "unit_restarts",
        "driver_agrees",
        "models_disk_free_bytes",
        "model_status",
    ):
        assert f"llamacpp_{name}" not in found


def test_a_download_has_a_status_of_its_own() -> None:
    report = {**REPORT, "models": [{**MODEL, "status": "downloading"}]}
    status = next(family for family in families(report) if family.name == "llamacpp_model_status")
    assert status.samples[-1] == ({"model": "a", "status": "downloading"}, 1.0)


def test_the_models_own_metrics_get_its_name() -> None:
    found = {family.name: family for family in of_children({"a": CHILD.format(20), "b": CHILD.format(7)})}
    assert found["llamacpp:tokens_predicted"].kind == "counter"
    assert found["llamacpp:tokens_predicted"].samples == [({"model": "a"}, 20.0), ({"model": "b"}, 7.0)]
    assert found["llamacpp:n_tokens_max"].kind == "gauge"  # as its name says, whatever it says
    assert found["llamacpp:requests_deferred"].help == "Number of requests deferred"


@pytest.mark.parametrize(
    "line",
    [
        "<html>",
        "llamacpp:requests_deferred much",
        "llamacpp:requests_deferred",
        "llamacpp:requests_deferred 1 2 3",
        "llamacpp:not_declared 1",
        "llamacpp:requests_deferred 8",  # twice
        'llamacpp:labels{a="b"} 1',
        "# TYPE llamacpp:x histogram\nllamacpp:x 1",
        "# TYPE llamacpp:x y\nllamacpp:x 1",
        "# TYPE llamacpp_up gauge\nllamacpp_up 0",  # the exporter's own
        "# TYPE llamacpp:é gauge\nllamacpp:é 1",
        "# TYPE llamacpp:requests_deferred_total counter\nllamacpp:requests_deferred_total 1",  # the name of two kinds
        "\x00",
    ],
)
def test_a_bad_line_is_left_out_and_counted(line: str) -> None:
    found = {family.name: family for family in of_children({"a": CHILD.format(20) + line + "\n"})}
    assert found.pop("llamacpp_exporter_bad_lines").samples == [({"model": "a"}, 1.0)]
    assert found == {family.name: family for family in of_children({"a": CHILD.format(20)})}


def test_values_that_are_no_finite_numbers_are_values() -> None:
    text = "# TYPE llamacpp:x gauge\nllamacpp:x {}\n"
    values = {word: of_children({"a": text.format(word)})[0].samples[0][1] for word in ("NaN", "+Inf", "-Inf", "1e300")}
    assert str(values) == "{'NaN': nan, '+Inf': inf, '-Inf': -inf, '1e300': 1e+300}"


def test_a_child_that_never_ends_its_answer_keeps_no_thread() -> None:
    """A byte now and then: no read takes too long. Its connection is shut, and so its thread ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shut = threading.Event()

        def drip() -> None:
            line = listener.accept()[0]
            with line, contextlib.suppress(OSError):
                line.recv(9999)
                line.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                while True:
                    line.sendall(b"#")
                    time.sleep(0.01)
            shut.set()

        threading.Thread(target=drip, daemon=True).start()
        rows = [{"id": "e", "status": "loaded", "port": listener.getsockname()[1]}]
        assert ask_children({"models": rows}, 1) == {}
        assert shut.wait(60)


@pytest.mark.parametrize("port", [None, 0, "80", 1 << 16, -1, [80], {}])
def test_a_port_that_is_none(port: object) -> None:
    assert ask_children({"models": [{"id": "a", "status": "loaded", "port": port}]}) == {}


@pytest.mark.parametrize("value", ["much", [], {"a": 1}, float("nan"), 10**400])
def test_a_number_of_the_router_that_is_none_has_no_sample(value: object) -> None:
    report = {**REPORT, "router": {**REPORT["router"], "limit": value}, "models": [{**MODEL, "ctx_size": value}]}
    found = names(families(report))
    assert "llamacpp_models_max" not in found
    assert "llamacpp_model_context_tokens" not in found
    assert "llamacpp_up" in found


def test_only_loaded_models_are_asked() -> None:
    asked = []

    class Child(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x 1\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Child) as child:
        threading.Thread(target=child.serve_forever, daemon=True).start()
        rows = [
            {"id": status, "status": status, "port": child.server_port}
            for status in ("unloaded", "loading", "loaded", "sleeping")
        ]
        gone = {"id": "gone", "status": "loaded", "port": 1}
        assert ask_children({"models": [*rows, gone]}, 60) == {"loaded": "x 1\n"}
        child.shutdown()
    assert asked == ["/metrics"]


def test_children_are_asked_at_once_and_who_hangs_is_left_out() -> None:
    """Those here answer when the last one has been asked: one after the other they would hang, too."""
    all_asked = threading.Barrier(4, timeout=60)

    class Child(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            all_asked.wait()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x 1\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with contextlib.ExitStack() as stack:
        rows = []
        for name in "abcd":
            child = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Child))
            stack.callback(child.shutdown)
            threading.Thread(target=child.serve_forever, args=(0.01,), daemon=True).start()
            rows.append({"id": name, "status": "loaded", "port": child.server_port})
        assert ask_children({"models": rows}, 60) == dict.fromkeys("abcd", "x 1\n")
    with socket.create_server(("127.0.0.1", 0)) as hangs:  # and never answers
        rows = [{"id": "e", "status": "loaded", "port": hangs.getsockname()[1]}]
        assert ask_children({"models": rows}, 0.1) == {}


# --- the server -------------------------------------------------------------------------------------------------


def test_the_journals_lines() -> None:
    lines = [b"1795.25 host llama-server[1]: a: b\n", b"-- Boot --\n", b"1796.5 host llama-server[1]: [4001] \xff\n"]
    assert list(_tool_exporter._timed(lines)) == [(1795.25, "a: b"), (1796.5, "[4001] \ufffd")]


def test_a_journal_that_may_not_be_read_is_not_heard_for_a_moment_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard = []
    monkeypatch.setattr(_tool_exporter, "AGAIN", 60)
    refused = _tool_exporter.Source(Places(), ["false"])
    assert refused._hear_journal(5.0) == 5.0
    assert refused.watch.journal_up is False
    monkeypatch.setattr(_tool_exporter, "AGAIN", 0.1)
    end = tmp_path / "end"
    os.mkfifo(end)
    read = _tool_exporter.Source(Places(), ["sh", "-c", f"echo 1795.25 host unit[1]: a; cat {end}"])

    def line(text: str, at: float) -> None:
        heard.append((text, at, read.watch.journal_up))
        end.write_text("")

    monkeypatch.setattr(read.watch, "line", line)
    assert read._hear_journal(5.0) == 1795.25
    assert heard == [("a", 1795.25, True)]


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("192.0.3.7", False),
        ("fd00::1", True),
        ("fe80::1%eth0", False),
    ],
)
def test_who_is_let_in(address: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tool_exporter, "_library", lambda _source: (None, None, ""))
    source = _tool_exporter.Source(Places(), [])
    with _tool_exporter.Server("127.0.0.1", 0, source, ["192.0.2.9/24", "fd00::/8"]) as server:
        assert server.allows(address, "198.51.100.1") is allowed
        assert server.allows(address, address)  # the guest itself, by its own address


@pytest.mark.parametrize("arguments", [["--allow", "192.0.2.1/33"], ["--allow", "all"], ["--address", "192.0.2.1"]])
def test_what_cannot_be_served_is_said(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_tool_exporter, "_library", lambda _source: (None, None, ""))
    assert _tool_exporter.main([*arguments, "--port", "0"]) == 1
    assert "llama-router-exporter: " in capsys.readouterr().err


class Served:
    """The server with a source that answers when `go` is set."""

    def __init__(self, allow: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.go.set()
        monkeypatch.setattr(_tool_exporter, "_library", lambda _source: (None, None, ""))
        source = _tool_exporter.Source(Places(), [])
        monkeypatch.setattr(source, "report", self._report)
        self.server = _tool_exporter.Server("127.0.0.1", 0, source, allow)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def _report(self) -> dict[str, Any]:
        assert self.go.wait(60)
        return {}

    def connect(self, sent: bytes = b"") -> socket.socket:
        line = socket.create_connection(self.server.server_address[:2], 60)
        line.sendall(sent)
        return line

    def ask(self, path: str = "/health") -> bytes:
        with self.connect(f"GET {path} HTTP/1.0\r\n\r\n".encode()) as line:
            return all_of(line)


def all_of(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(9999), b""))


def until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    served = Served([], monkeypatch)
    yield served
    served.go.set()
    served.server.shutdown()
    served.server.server_close()


def test_who_is_not_let_in_gets_no_thread(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.server, "allows", lambda _address, _here: False)
    before = threading.active_count()
    held = [served.connect() for _client in range(40)]  # and they send nothing
    assert all(all_of(line).startswith(b"HTTP/1.0 403 ") for line in held)
    assert threading.active_count() == before
    for line in held:
        line.close()
    monkeypatch.undo()
    until(lambda: not served.server._refused)


def test_connections_are_bounded(served: Served) -> None:
    served.go.clear()
    slow = [served.connect(b"GET /report.json HTTP/1.0\r\n\r\n") for _client in range(_tool_exporter.CONNECTIONS)]
    until(lambda: len(served.server._served) == _tool_exporter.CONNECTIONS)
    before = threading.active_count()
    assert served.ask().startswith(b"HTTP/1.0 503 ")
    assert threading.active_count() == before
    served.go.set()
    assert all(all_of(line).startswith(b"HTTP/1.0 200 ") for line in slow)
    until(lambda: not served.server._served)
    assert served.ask().endswith(b"ok\n")


def test_a_client_that_is_slow_on_purpose_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header line now and then keeps each read short, and the request without end."""
    monkeypatch.setattr(_tool_exporter, "CONNECTION_SECONDS", 0.3)
    with served.connect(b"GET /health HTTP/1.0\r\n") as line:
        ended = False
        deadline = time.monotonic() + 60
        while not ended and time.monotonic() < deadline:
            time.sleep(0.02)
            try:
                line.sendall(b"a: b\r\n")
            except OSError:
                ended = True
    assert ended
    until(lambda: not served.server._served)


def test_a_request_without_end_is_not_kept(served: Served) -> None:
    with served.connect(b"GET /health HTTP/1.0\r\n") as line:
        with contextlib.suppress(OSError):
            line.sendall(b"a: " + b"b" * (4 * _tool_exporter.HEADER_BYTES))
        with contextlib.suppress(ConnectionResetError):  # what it sent was not read
            assert all_of(line).endswith(b"ok\n")
    until(lambda: not served.server._served)


def test_a_report_of_odd_answers_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with control characters and surrogates, numbers that JSON does not have."""
    source = _tool_exporter.Source(Places(), [])
    source._machine = {"unit": {"errors": []}}
    monkeypatch.setattr(_tool_exporter._router_report, "router_of", lambda _url, _client: ({"problem": None}, []))
    told = {"models": [{"id": "a\x00\ud800\x1b[2J", "ctx_size": float("nan")}], "at": 1.0}
    monkeypatch.setattr(_tool_exporter._router_report, "report", lambda *_args: {})
    monkeypatch.setattr(source.watch, "loads", lambda _models: {})
    monkeypatch.setattr(source.watch, "tell", lambda _report: told)
    found = source.report()
    assert found["models"] == [{"id": "a\\x00\\ud800\\x1b[2J", "ctx_size": None}]
    json.dumps(found, allow_nan=False).encode()


@pytest.mark.parametrize("told", [None, [], "x", 7, {"data": "loaded"}, {"data": [1]}])
def test_an_event_that_is_none(told: object) -> None:
    event = _tool_exporter._event(told)
    assert event is None or event["data"] == {}


def test_an_event_with_fields_of_other_types() -> None:
    told = {"event": 1, "model": ["a"], "data": {"status": {"x": 1}, "exit_code": "9"}}
    assert _tool_exporter._event(told) == {"event": "1", "model": "['a']", "data": {"status": "{'x': 1}"}}
    told = {"event": "e", "model": "a", "data": {"status": "unloaded", "exit_code": 9, "more": 1}}
    assert _tool_exporter._event(told) == {
        "event": "e",
        "model": "a",
        "data": {"status": "unloaded", "exit_code": 9},
    }


def test_a_hung_nvidia_smi_is_told_of_and_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [
        {"gpus": [1], "driver": {}, "gpu_reading": {"at": 100.0, "ok": True, "reason": None}},
        {"gpus": [], "driver": {}, "gpu_reading": {"at": None, "ok": False, "reason": "it hangs"}},
    ]
    monkeypatch.setattr(_tool_exporter._router_report, "gpus_of", lambda _run: readings.pop(0))
    source = _tool_exporter.Source(Places(), [])
    assert source._gpus["gpu_reading"]["ok"] is None  # what a scrape tells while the first one hangs
    source._read_gpus()
    source._read_gpus()
    assert source._gpus["gpus"] == []
    assert source._gpus["gpu_reading"] == {"at": 100.0, "ok": False, "reason": "it hangs"}


def test_the_page_needs_nothing_of_others() -> None:
    assert "default-src 'none'" in POLICY
    assert "innerHTML" not in PAGE
    assert "http://" not in PAGE
    assert "https://" not in PAGE


# --- the dashboard ----------------------------------------------------------------------------------------------

ROLE = Path(__file__).resolve().parents[4] / "roles" / "llama_monitoring"
DASHBOARD = json.loads((ROLE / "files" / "llamacpp.dashboard.json").read_text(encoding="utf-8"))
RULES = (ROLE / "files" / "llamacpp.rules.yml").read_text(encoding="utf-8")


def test_dashboard_and_alerts_ask_for_metrics_that_there_are() -> None:
    texts = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"\bllamacpp_\w+", " ".join([*texts, *re.findall(r"expr: (.*(?:\n {10,}.*)*)", RULES)])))
    assert asked <= {f"llamacpp_{name}" for name in EXPECTED}
    assert len(asked) > 30


def test_the_dashboards_panels_stand_side_by_side() -> None:
    """Grafana's own rules for a panel: an id, a place in 24 columns, a data source, targets with ids of their own."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}


# What is aggregated over everything has an empty group here.
AGGREGATED = re.compile(r"\b(?:sum|min|max|avg|count|topk|quantile|stddev)\b(?: by \((.*?)\))?")


def test_the_dashboard_tells_two_routers_apart() -> None:
    for target in (target for panel in DASHBOARD["panels"] for target in panel["targets"]):
        assert "{{instance}}" in target["legendFormat"]
        assert all(by.startswith("instance") for by in AGGREGATED.findall(target["expr"])), target["expr"]
