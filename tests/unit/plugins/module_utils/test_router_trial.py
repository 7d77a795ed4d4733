# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _llama_dry_run, _router_trial, _unit_twin
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import Preset
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_files import Sized
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_trial import Trial, room_beside
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_twin import Twin
from ansible_collections.homelab.llamacpp.tests.unit.unit_double import RUNNING, Systemd


def plan(usable: int, **totals: int) -> dict[str, Any]:
    return {
        "devices": [{"name": "CUDA0", "usable_mib": usable}],
        "models": [{"name": n, "devices": [{"device": "CUDA0", "total_mib": t}]} for n, t in totals.items()],
    }


@pytest.mark.parametrize(
    ("usable", "limit", "room"),
    [(17, 2, False), (18, 2, True), (9, 1, False), (10, 1, True), (100, 0, False)],
)
def test_room_is_what_is_left_beside_any_models_that_run(usable: int, limit: int, room: bool) -> None:
    assert room_beside(plan(usable, small=1, big=9, middle=8), limit, "small") is room


def test_no_room_without_a_plan() -> None:
    assert not room_beside({"devices": [], "models": []}, 2, "small")
    assert not room_beside(plan(100, other=1), 2, "small")


def test_lines_of_options() -> None:
    text = "; comment\nversion = 1\n\n[a]\nctx-size = 1\n[x/y:UD-Q4_K_XL]\r\nthreads = 2\nctx-size = 3\nctx-size = 4\n"
    preset = Preset(text)
    assert preset.line_number("a", "ctx-size") == 5
    assert preset.line_number("x/y:Q4_K_XL", "threads") == 7
    assert preset.line_number("x/y:Q4_K_XL", "ctx-size") == 9
    assert preset.line_number("a", "threads") == preset.line_number("none", "threads") == 0


def test_a_unit_that_starts_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(tmp_path, monkeypatch, drop_in="[Service]\nExecStart=\nExecStart=/opt/start.sh\n")
    with pytest.raises(RouterError, match=r"to start llama-server itself, found /opt/start.sh"):
        Trial(systemd, "llama-router.service", "/new/llama-server", 1)


def test_all_options_that_it_does_not_know_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below a character that ends a line for Python, and not for llama-server."""
    asked: list[str] = []

    def refusal(_twin: Twin, text: str) -> str:
        asked.append(text)
        assert len(asked) <= 3
        unknown = next((line.split(" = ")[0] for line in text.split("\n") if line.startswith("gone")), "")
        return f"option '{unknown}' not recognized in preset 'a'" if unknown else ""

    presets = tmp_path / "models.ini"
    presets.write_text(
        "; a page\fand a line\u2028of it\n[a]\r\ngone-1 = 1\nctx-size = 1\ngone-2 = 2\n", encoding="utf-8"
    )
    trial = Trial(Systemd(tmp_path, monkeypatch), "llama-router.service", "/bin/llama-server", 1)
    monkeypatch.setattr(trial, "_refusal", refusal)
    with pytest.raises(RouterError, match=r"preset 'a', line 3: .*'gone-1'; preset 'a', line 5: .*'gone-2'"):
        trial.reads(str(presets))
    assert "ctx-size = 1" in asked[-1]


@pytest.mark.parametrize("section", ["a", "none"])
def test_an_option_that_is_refused_for_ever_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str) -> None:
    """A build that names an option without a line, or one whose line was emptied already."""
    presets = tmp_path / "models.ini"
    presets.write_text("[a]\nctx-size = 1\n")
    asked: list[str] = []

    def refusal(_twin: Twin, text: str) -> str:
        asked.append(text)
        assert len(asked) < 10
        return f"option 'ctx-size' not recognized in preset '{section}'"

    trial = Trial(Systemd(tmp_path, monkeypatch), "llama-router.service", "/bin/llama-server", 1)
    monkeypatch.setattr(trial, "_refusal", refusal)
    with pytest.raises(RouterError, match="option 'ctx-size' not recognized"):
        trial.reads(str(presets))


def test_arguments_without_some() -> None:
    args = ["--host", "127.0.0.1", "--alias", "a", "--port", "0", "--jinja"]
    assert _router_trial._without(args, ("--host", "--port")) == ["--alias", "a", "--jinja"]


def trial_of(systemd: Systemd, timeout: float = 60) -> Trial:
    return Trial(systemd, "llama-router.service", "/new/llama-server", timeout)


COULD_NOT_BIND = "0.00.100.000 E srv  start: couldn't bind HTTP server socket, hostname: /nonexistent-folder/x.sock\n"


def test_a_build_that_reads_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends where it cannot listen; the presets that it gets are those on disk."""
    systemd = Systemd(tmp_path, monkeypatch)
    systemd.says = COULD_NOT_BIND
    read: list[str] = []

    def serves(text: str) -> None:
        path = text.partition('"--models-preset" "')[2].partition('"')[0]
        read.append(Path(path).read_text())

    systemd.serves = serves
    presets = tmp_path / "models.ini"
    presets.write_text("[a]\nctx-size = 1\n")
    trial_of(systemd).reads(str(presets))
    assert read == ["[a]\nctx-size = 1\n"]
    (text,) = systemd.written
    command = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert f'"--host" "{_llama_dry_run.HOST}" "--offline"' in command
    assert '--alias "two words"' in command
    runtime = text.partition("WorkingDirectory=")[2].partition("\n")[0]
    assert f'"LLAMA_CACHE={runtime}" "/new/llama-server"' in command
    assert f"TimeoutStartSec={_llama_dry_run.TIMEOUT}" in text


def test_a_router_without_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(tmp_path, monkeypatch)
    systemd.says = COULD_NOT_BIND
    trial_of(systemd).reads(None)
    assert "--models-preset" not in systemd.written[0]
    systemd.says = "error: invalid argument: --gone\n"
    with pytest.raises(RouterError, match="was wanted to read the command line as the router does, it refuses"):
        trial_of(systemd).reads(None)


@pytest.mark.parametrize(
    ("ends", "says", "told"),
    [
        ({}, "x\nerror: invalid argument: --gone\ny\n", "error: invalid argument: --gone (on the command line of"),
        ({}, 'error while handling argument "--port": stoi\n', 'error while handling argument "--port": stoi (on'),
        ({"Result": "timeout"}, "", f"it took more than {_llama_dry_run.TIMEOUT} s"),
        ({"ActiveState": "deactivating"}, "", f"it took more than {_llama_dry_run.TIMEOUT} s"),
        ({"ExecMainCode": "3", "ExecMainStatus": "11"}, "", "it ended with signal 11 and said: nothing"),
        ({}, "one\ntwo\n", "it ended with 1 and said: one / two"),
        ({}, "failed to initialize router models: no such folder\n", "it refuses: no such folder. Take out"),
    ],
)
def test_a_build_that_reads_something_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: dict[str, str], says: str, told: str
) -> None:
    systemd = Systemd(tmp_path, monkeypatch)
    systemd.says = says
    systemd.ends.update(ends)
    presets = tmp_path / "models.ini"
    presets.write_text("[a]\nctx-size = 1\n")
    with pytest.raises(RouterError) as caught:
        trial_of(systemd).reads(str(presets))
    assert told in str(caught.value)
    assert len(systemd.written) == 1


def test_presets_that_nobody_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RouterError, match=r"nowhere.ini was wanted readable: No such file"):
        trial_of(Systemd(tmp_path, monkeypatch)).reads(str(tmp_path / "nowhere.ini"))


class LlamaServer(socketserver.ThreadingUnixStreamServer):
    """Listens on a socket; `ready` are the statuses of /health, the last one for ever, `said` its completion."""

    daemon_threads = True
    said: tuple[int, Any] = (200, {"content": " there was\x1b a", "tokens_predicted": 8})
    ready: list[int]

    def __init__(self, address: str) -> None:
        super().__init__(address, Handler)
        self.ready = [503, 200]
        self.asked: list[Any] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: LlamaServer

    def do_GET(self) -> None:
        assert self.path == "/health"
        self._answer(self.server.ready.pop(0) if len(self.server.ready) > 1 else self.server.ready[0], {})

    def do_POST(self) -> None:
        assert self.path == "/completion"
        assert self.headers["Content-Type"] == "application/json"
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, answer = self.server.said
        if status:
            self._answer(status, answer)

    def _answer(self, status: int, answer: Any) -> None:
        body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_args: Any) -> None:
        pass


class Beside:
    """A trial whose twin serves as `prepare` makes it; `systemd` and `server` are there afterwards."""

    def __init__(self, systemd: Systemd) -> None:
        self.systemd = systemd
        self.systemd.ends = dict(RUNNING)
        self.systemd.serves = self.serves
        self.server: LlamaServer | None = None
        self.prepare: Callable[[LlamaServer], None] = lambda server: None

    def serves(self, text: str) -> None:
        address = Path(text.partition('"--host" "')[2].partition('"')[0])
        address.parent.mkdir(parents=True, exist_ok=True)  # RuntimeDirectory=
        self.server = LlamaServer(str(address))
        self.prepare(self.server)

    def answers(self, on_gpu: bool = False, writes: bool = True, timeout: float = 60) -> str:
        args = ("/old/llama-server", "--host", "127.0.0.1", "--port", "50001", "--ctx-size", "8", "--alias", "m")
        options = {} if writes else {"embedding": "true"}
        model = Model("m", (), (), "loaded", False, None, "preset", options, args, 50001, ("text",), {})
        sized = Sized(model, "/models/m.gguf", 1)
        return trial_of(self.systemd, timeout).answers(sized, on_gpu)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    one = Beside(Systemd(tmp_path, monkeypatch))
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has at most 107 bytes
        monkeypatch.setattr(_unit_twin, "RUNTIME", short)
        yield one
        if one.server:
            one.server.shutdown()
            one.server.server_close()


def test_what_it_answers_from_the_smallest_model(beside: Beside) -> None:
    assert beside.answers() == " there was\ufffd a"
    assert beside.server
    assert beside.server.asked == [
        {"prompt": "Once upon a time", "n_predict": 8, "ignore_eos": True, "temperature": 0},
    ]
    (text,) = beside.systemd.written
    command = text.partition("ExecStart=")[2].partition("\n")[0]
    assert "50001" not in command
    for part in (
        '"-u" "LLAMA_ARG_MODEL" "-u" "LLAMA_CACHE"',
        '"CUDA_VISIBLE_DEVICES=" "HIP_VISIBLE_DEVICES=" "GGML_VK_VISIBLE_DEVICES="',
        '"--model" "/models/m.gguf" "--ctx-size" "512" "--parallel" "1" "--device" "none" "--n-gpu-layers" "0"',
        '"--offline"',
    ):
        assert part in command
    runtime = text.partition("WorkingDirectory=")[2].partition("\n")[0]
    assert f'"LLAMA_CACHE={runtime}"' in command
    assert "RuntimeMaxSec=150" in text
    assert "stop" in beside.systemd.verbs


def test_with_room_on_the_gpu_it_takes_the_routers_options(beside: Beside) -> None:
    beside.answers(on_gpu=True)
    command = beside.systemd.written[0].partition("ExecStart=")[2].partition("\n")[0]
    assert '"--ctx-size" "8" "--alias" "m" "--host"' in command
    assert "VISIBLE_DEVICES" not in command
    assert '"-u"' not in command
    assert "50001" not in command


def test_a_model_that_writes_no_text_only_has_to_load(beside: Beside) -> None:
    assert beside.answers(writes=False) == ""
    assert beside.server
    assert beside.server.asked == []


def test_one_that_ends_before_it_is_ready(beside: Beside) -> None:
    beside.systemd.says = "0.00.107.388 E srv  bad: no room\n"

    def prepare(server: LlamaServer) -> None:
        server.ready = [503]
        threading.Timer(0.1, lambda: beside.systemd.ends.update(ActiveState="failed")).start()

    beside.prepare = prepare
    with pytest.raises(RouterError, match=r"it ended with 0 before it was ready; it said: E srv  bad: no room\. Stay"):
        beside.answers()


def test_one_that_never_gets_ready(beside: Beside) -> None:
    beside.prepare = lambda server: server.ready.__setitem__(slice(None), [503])
    with pytest.raises(RouterError, match=r"m beside the router, it does not serve after 0\.1 s; it said: nothing"):
        beside.answers(timeout=0.1)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((500, {"error": "x"}), "answered with status 500"),
        ((500, {"content": "x", "tokens_predicted": 8}), "answered with status 500"),
        ((200, {"content": "", "tokens_predicted": 0}), "answered with status 200"),
        ((200, {"content": "", "tokens_predicted": "8"}), "answered with status 200"),
        ((200, {"content": ""}), "answered with status 200"),
        ((200, [1]), "answered with status 200"),
        ((200, "<html>"), "answered with status 0"),
        ((0, None), "answered with status 0"),
    ],
)
def test_one_that_loads_and_does_not_answer(beside: Beside, said: tuple[int, Any], told: str) -> None:
    beside.prepare = lambda server: setattr(server, "said", said)
    with pytest.raises(RouterError, match=f"it loaded the model and {told} when it was asked"):
        beside.answers()


def test_one_that_listens_later(beside: Beside) -> None:
    """At first there is no socket."""
    now = beside.serves
    beside.systemd.serves = lambda text: threading.Timer(0.1, now, [text]).start()
    assert beside.answers().endswith(" a")


def test_one_that_takes_a_request_and_never_answers(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/socket")
        listener.listen()
        assert _router_trial._call(f"{short}/socket", "GET", "/health", None, 0.1) == (0, {})


def test_room_counts_each_device_for_itself() -> None:
    """A model takes nothing of a device that it is not on."""
    one = {"device": "CUDA0", "total_mib": 5}
    two = {"device": "CUDA1", "total_mib": 5}
    models = [{"name": "a", "devices": [one]}, {"name": "b", "devices": [two]}, {"name": "c", "devices": [one, two]}]
    devices = [{"name": "CUDA0", "usable_mib": 10}, {"name": "CUDA1", "usable_mib": 5}]
    assert room_beside({"devices": devices, "models": models}, 1, "a")
    assert not room_beside({"devices": devices, "models": models}, 1, "b")
    assert not room_beside({"devices": devices, "models": models}, 2, "a")


def test_one_that_ends_when_it_is_asked(beside: Beside) -> None:
    """systemd may see the end a moment later than its client does."""

    def prepare(server: LlamaServer) -> None:
        server.said = (0, None)
        real = server.asked.append

        def asked(body: Any) -> None:
            real(body)
            killed = {"ActiveState": "failed", "ExecMainCode": "2", "ExecMainStatus": "11"}
            threading.Timer(0.1, beside.systemd.ends.update, [killed]).start()

        server.asked = type("Asked", (list,), {"append": lambda self, body: asked(body)})()

    beside.prepare = prepare
    with pytest.raises(RouterError, match="it loaded the model and ended with signal 11 when it was asked"):
        beside.answers()
