# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exporter and its page beside the real router, whose journal is a double that follows its log."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import read_model
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import facts_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import vram_plan
from router_server import Server, free_port, held, section, wait_until
from rpc_devices import cards

DOUBLE = Path(__file__).with_name("journal_double.py")
EXPORTER = "import sys; from ansible_collections.homelab.llamacpp.plugins.module_utils._tool_exporter import main; "
EXPORTER += "sys.exit(main(sys.argv[1:]))"
MODELS = ("alpha", "beta", "broken", "gamma", "slow")
DEVICES = [{"name": "RPC0", "total_mib": 900}, {"name": "RPC1", "total_mib": 900}]


class Exporter:
    """The exporter as a process of its own."""

    def __init__(self, server: Server, folder: Path, models: Path) -> None:
        (folder / "bin").mkdir(exist_ok=True)
        journal = folder / "bin" / "journalctl"
        journal.write_text(f'#!/bin/sh\nexec {sys.executable} {DOUBLE} "$@"\n')
        journal.chmod(0o755)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        argv = [sys.executable, "-c", EXPORTER, "--port", str(self.port), "--url", server.url]
        argv += ["--api-key-file", str(server.keys), "--plan", str(folder / "plan.json"), "--models-dir", str(models)]
        environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "JOURNAL_DOUBLE": str(server.log),
        }
        self.process = subprocess.Popen(argv, env=environment, start_new_session=True)
        wait_until(self._up)

    def _up(self) -> bool:
        assert self.process.poll() is None
        try:
            return all(self.report()["watch"][name] for name in ("events", "journal"))
        except OSError:
            return False

    def get(self, path: str, seconds: float = 120) -> str:
        with urllib.request.urlopen(self.url + path, timeout=seconds) as response:
            return str(response.read().decode())

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.get("/report.json"))
        return report

    def value(self, sample: str) -> float | None:
        """Of one sample, as /metrics writes its name and labels."""
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else None

    def until(self, sample: str, value: float | None) -> None:
        wait_until(lambda: self.value(sample) == value)

    def tells(self, *events: str) -> None:
        """Wait until these are all that it has seen happen."""
        try:
            wait_until(lambda: self.happened() == list(events))
        except AssertionError:
            assert self.happened() == list(events)  # and tell the difference
            raise

    def happened(self) -> list[str]:
        """The latest last."""
        events = [f"{event['model']} {event['what']}" for event in reversed(self.report()["events"])]
        return [event for event in events if not event.endswith(" loading")]

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


Start = Callable[..., "tuple[Server, Exporter]"]


@pytest.fixture
def start(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """start(*arguments of the router, **options of the models): the router and its exporter."""
    monkeypatch.setenv("LLAMA_ARG_LOG_VERBOSITY", "4")
    started: list[Any] = []

    def run(*args: str, **options: str) -> tuple[Server, Exporter]:
        presets = tmp_path / "models.ini"
        presets.write_text(
            "".join(section(name, models / f"{name}.gguf", ctx_size="512", **options) for name in MODELS)
        )
        server = Server(tmp_path, "--models-preset", str(presets), "--models-max", "2", "--metrics", *args)
        server.__enter__()
        started.append(server)
        started.append(Exporter(server, tmp_path, models))
        return server, started[-1]

    yield run
    for one in reversed(started):
        one.stop() if isinstance(one, Exporter) else one.__exit__()


def test_a_hundred_scrapes_load_nothing(start: Start) -> None:
    server, exporter = start()
    for _scrape in range(100):
        text = exporter.get("/metrics")
    assert 'llamacpp_model_status{model="alpha",status="unloaded"} 1.0' in text
    assert "llamacpp:" not in text
    assert set(server.status().values()) == {"unloaded"}
    assert "spawning" not in server.log.read_text()


def test_a_sleeper_sleeps_on_and_an_idle_model_falls_asleep_while_it_is_scraped(start: Start) -> None:
    server, exporter = start("--sleep-idle-seconds", "1", context_shift="on", threads="1")
    with server.answering("alpha"):
        exporter.until('llamacpp:requests_processing{model="alpha"}', 1)

    def sleeps() -> bool:
        """Whether a scrape says so; each of them asks alpha as long as it is awake."""
        time.sleep(0.1)
        return exporter.value('llamacpp_model_status{model="alpha",status="sleeping"}') == 1

    wait_until(sleeps)
    exporter.tells("alpha loaded", "alpha sleeping")
    for _scrape in range(10):
        text = exporter.get("/metrics")
        assert 'llamacpp_model_status{model="alpha",status="sleeping"} 1.0' in text
        assert "llamacpp:" not in text
    assert server.status()["alpha"] == "sleeping"
    answers = exporter.value('llamacpp_model_answers_total{model="alpha"}')
    server.complete("alpha", 3)
    assert answers is not None
    exporter.until('llamacpp_model_answers_total{model="alpha"}', answers + 1)
    wait_until(lambda: "alpha woken" in exporter.happened())
    assert exporter.value('llamacpp_model_loads_total{model="alpha"}') == 1


def test_what_happens_between_two_scrapes_is_counted(start: Start) -> None:
    server, exporter = start()
    server.load("alpha")
    for _scrape in range(5):
        exporter.get("/metrics")
    server.load("beta")
    exporter.get("/metrics")
    assert server.complete("gamma", 7) == 200  # alpha has to go, though it was scraped last
    assert server.complete("gamma", 5) == 200
    os.kill(server.child("gamma"), signal.SIGKILL)
    wait_until(lambda: server.status()["gamma"] == "unloaded")
    server.client.load("broken", 60)
    wait_until(lambda: server.status()["broken"] == "unloaded")
    server.client.unload("beta")
    wait_until(lambda: server.status()["beta"] == "unloaded")

    expected = ["alpha loaded", "beta loaded", "alpha evicted", "gamma loaded", "gamma failed", "broken failed"]
    exporter.tells(*expected, "beta unloaded")
    exporter.until('llamacpp_model_predicted_tokens_total{model="gamma"}', 12)
    codes = {model["id"]: model["history"]["failures"] for model in exporter.report()["models"]}
    assert list(codes["broken"].values()) == [1]
    assert list(codes["gamma"].values()) == [1]
    assert codes["alpha"] == codes["beta"] == {}
    for name, loads, evictions, answers in (
        ("alpha", 1, 1, 0),
        ("beta", 1, 0, 0),
        ("gamma", 1, 0, 2),
        ("broken", 0, 0, 0),
    ):
        assert exporter.value(f'llamacpp_model_loads_total{{model="{name}"}}') == loads
        assert exporter.value(f'llamacpp_model_evictions_total{{model="{name}"}}') == evictions
        assert exporter.value(f'llamacpp_model_answers_total{{model="{name}"}}') == answers
    assert exporter.value('llamacpp_model_failed{model="broken"}') == 1
    assert exporter.value("llamacpp_models_usable") == 3
    assert exporter.value('llamacpp_model_queued_total{model="gamma"}') == 1


def test_a_router_that_goes_and_comes_is_heard_again(start: Start) -> None:
    server, exporter = start()
    server.load("alpha")
    exporter.until('llamacpp_model_loads_total{model="alpha"}', 1)
    server.__exit__()
    exporter.until("llamacpp_up", 0)
    exporter.until('llamacpp_exporter_watching{source="events"}', 0)
    assert exporter.report()["verdict"] == "down"
    server.__enter__()
    server.load("alpha")
    exporter.until('llamacpp_exporter_watching{source="events"}', 1)
    exporter.until('llamacpp_model_loads_total{model="alpha"}', 2)
    assert exporter.value("llamacpp_up") == 1


def test_a_router_and_models_that_hang_are_told_of_in_time(start: Start) -> None:
    """Prometheus waits for ten seconds, as is done here, and takes what is later for an exporter that is down."""
    server, exporter = start()
    server.load("alpha", "beta")
    hung = [server.child("alpha"), server.child("beta"), server.process.pid]
    for pid in hung[:2]:
        os.kill(pid, signal.SIGSTOP)
    text = exporter.get("/metrics", 10)
    assert "llamacpp_models_running 2.0" in text
    assert "llamacpp:" not in text
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        assert 'llamacpp_problem{problem="unreachable"} 1.0' in exporter.get("/metrics", 10)
    finally:
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
    exporter.until("llamacpp_up", 1)
    exporter.until('llamacpp:requests_processing{model="beta"}', 0)
    exporter.tells("alpha loaded", "beta loaded")


def test_other_paths_and_other_methods(start: Start) -> None:
    _server, exporter = start()
    assert exporter.get("/health") == "ok\n"
    for path, method, status in (("/etc/passwd", "GET", 404), ("/metrics", "POST", 501)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(exporter.url + path, method=method))
        assert refused.value.code == status


# --- the page ---------------------------------------------------------------------------------------------------


def plan(folder: Path, models: Path) -> None:
    """As llama_router leaves it."""
    whole = [name for name in MODELS if name != "broken"]
    options = {"ctx-size": "512", "tensor-split": "1,1"}
    entries = [
        {"name": name, "facts": facts_of(read_model(str(models / f"{name}.gguf"))), "options": options}
        for name in whole
    ]
    found = vram_plan(entries, DEVICES, overhead_mib=0, margin_mib=0)
    (folder / "plan.json").write_text(json.dumps(found))


class Browser:
    """Chromium without a window. `pictures` stay where PICTURES says, to be looked at."""

    def __init__(self, folder: Path) -> None:
        self.profile = folder / "chromium"
        self.pictures = Path(os.environ.get("PICTURES", folder))

    def run(self, url: str, *args: str, dark: bool = False, width: int = 1100, height: int = 1000) -> str:
        argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
        argv += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--user-data-dir={self.profile}"]
        # As the page fetches its data, time stands still until it came.
        argv += ["--virtual-time-budget=2500", *args, url]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
        assert "Uncaught" not in done.stderr, done.stderr
        return done.stdout

    def text(self, url: str) -> str:
        """What a person reads on it."""
        body = re.sub(r"<(script|style).*?</\1>", "", self.run(url, "--dump-dom"), flags=re.DOTALL)
        return " ".join(re.sub(r"<[^>]+>", " ", body).split())

    def picture(self, url: str, name: str, **how: Any) -> None:
        file = self.pictures / f"{name}.png"
        self.run(url, f"--screenshot={file}", **how)
        assert file.stat().st_size > 15_000


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_the_page_of_what_is_seldom(start: Start, tmp_path: Path) -> None:
    """A name like a tag, an event of days ago, a GPU without memory of its own, numbers of weeks."""
    _server, exporter = start()
    report = exporter.report()
    name, days_ago = '<b>a & "b"</b>', time.time() - 3 * 86400
    report["models"][0].update(id=name, status="loaded")
    report["models"][0]["history"].update(seconds=40 * 86400, loads=1234567, load_seconds=2, answers=7654321)
    report["events"] = [{"at": days_ago, "model": name, "what": "loaded", "seconds": 2.0}]
    keys = ["memory_used_mib", "memory_total_mib", "utilization_percent", "power_watts", "power_limit_watts"]
    gpu = {**dict.fromkeys(keys), "index": 0, "product": "NVIDIA GB10", "temperature_celsius": 40, "throttling": None}
    report["gpus"] = [gpu]
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "index.html").write_text(exporter.get("/"))

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = Browser(tmp_path).text(f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    assert '&lt;b&gt;a &amp; "b"&lt;/b&gt; loaded 40 d' in text
    assert "7,654,321 answers loaded 1,234,567 times" in text
    assert time.strftime("%-m/%-d/%Y", time.localtime(days_ago)) in text
    assert "GPU 0 NVIDIA GB10 temperature 40 °C" in text


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_the_page_in_its_states(start: Start, tmp_path: Path, models: Path) -> None:
    """Fresh, loading, full, failing, down; on a phone, and in the dark."""
    plan(tmp_path, models)
    ports = [free_port(), free_port()]
    browser = Browser(tmp_path)
    with cards(ports, [900, 900]):
        server, exporter = start("--rpc", ",".join(f"127.0.0.1:{port}" for port in ports), tensor_split="1,1")
        page = exporter.url + "/"
        assert not re.search(r'(?:src|href|url)\s*[=(]\s*["\']?(?:https?:)?//', exporter.get("/"))

        text = browser.text(page)
        assert "0 of at most 2 models loaded" in text
        assert all(f"{name} unloaded" in text for name in MODELS)
        browser.picture(page, "fresh")

        with held(models / "slow.gguf"):
            server.client.load("slow", 60)
            child = server.child("slow")
            os.kill(child, signal.SIGSTOP)  # for as long as the browser takes
        wait_until(lambda: server.status()["slow"] == "loading")
        assert "slow loading" in browser.text(page)
        browser.picture(page, "loading")
        os.kill(child, signal.SIGCONT)
        wait_until(lambda: server.status()["slow"] == "loaded")

        server.load("gamma")
        assert server.complete("gamma", 12) == 200
        wait_until(lambda: "RPC0" in str(exporter.report()["models"]))
        exporter.until('llamacpp_model_answers_total{model="gamma"}', 1)
        text = browser.text(page)
        assert "2 of at most 2 models loaded" in text
        assert re.search(r"gamma loaded .*512 tokens of context · 1 answer", text)
        taken = re.search(r"RPC0 taken by models (\d+) of 900 MiB", text)
        assert taken
        assert int(taken[1]) > 100
        browser.picture(page, "full")
        browser.picture(page, "dark", dark=True)
        browser.picture(page, "phone", width=500, height=1400)

        server.client.load("broken", 30)
        wait_until(lambda: server.status()["broken"] == "unloaded")
        exporter.until('llamacpp_model_failed{model="broken"}', 1)
        wait_until(lambda: bool(exporter.report()["unit"]["errors"]))
        text = browser.text(page)
        assert "degraded" in text
        assert "broken failed: its process ended with exit code 1" in text
        assert "Last errors in the log" in text
        browser.picture(page, "failing")

        server.__exit__()
        exporter.until("llamacpp_up", 0)
        text = browser.text(page)
        assert " down " in text
        assert "nothing listens there" in text
        browser.picture(page, "down", dark=True)
