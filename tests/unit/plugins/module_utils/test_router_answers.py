# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_answers, _router_api, _router_watch
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_answers import AnswerError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, RouterError, Unreachable
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_table import lines_of

PROPS = {"role": "router", "max_instances": 3, "models_autoload": True, "build_info": "b1"}
JSON = "Content-Type: application/json\r\n"


def model(**changes: Any) -> bytes:
    entry = {"id": "qwen", "aliases": [], "tags": [], "status": {"value": "loaded", "args": []}, **changes}
    return json.dumps({"data": [entry]}).encode()


def read(data: bytes) -> list[_router_answers.Model]:
    return _router_answers.models(_router_answers.decode(data))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"status": "loaded"}, r"an object as data\[0\]\.status, found a text"),
        ({"status": None}, "found null"),
        ({"status": {"value": 1}}, r"a text as data\[0\]\.status\.value, found a whole number"),
        ({"status": {"args": []}}, r"a text as value of data\[0\]\.status, found none"),
        ({"status": {"value": "loaded", "failed": "no"}}, "true or false"),
        ({"status": {"value": "loaded", "exit_code": "1"}}, r"exit_code, found a text"),
        ({"status": {"value": "loaded", "exit_code": True}}, r"exit_code, found true or false"),
        ({"status": {"value": "loaded", "args": "--port 1"}}, "a list"),
        ({"status": {"value": "loaded", "args": ["--port", "1x"]}}, "a port behind --port"),
        ({"status": {"value": "loaded", "args": ["--port", "99999"]}}, "a port behind --port"),
        ({"status": {"value": "loaded", "args": ["--model", "/m\0"]}}, r"args\[1\], found"),
        ({"status": {"value": "loaded", "args": [1]}}, r"args\[0\], found a whole number"),
        ({"status": {"value": "loaded", "preset": ["x"]}}, r"preset, found a list"),
        ({"meta": [1]}, r"an object as data\[0\]\.meta, found a list"),
        ({"meta": []}, r"an object as data\[0\]\.meta, found a list"),
        ({"meta": {"n_ctx": "256"}}, "n_ctx, found a text"),
        ({"meta": {"n_ctx": -1}}, "n_ctx, found -1"),
        ({"architecture": []}, "architecture, found a list"),
        ({"architecture": {"input_modalities": "text"}}, "input_modalities, found a text"),
        ({"id": 1}, r"data\[0\]\.id, found a whole number"),
        ({"id": ""}, "an empty one"),
        ({"id": "a\0b"}, "printable text"),
        ({"id": "a\nb"}, "printable text"),
        ({"id": "\ud800"}, "printable text"),
        ({"id": "\x1b[2J"}, "printable text"),
        ({"id": "x" * 2000}, "printable text"),
        ({"aliases": "chat"}, "aliases, found a text"),
        ({"aliases": ["\x07"]}, r"aliases\[0\]"),
        ({"tags": {}}, "tags, found an object"),
        ({"source": 1}, "source"),
    ],
)
def test_fields_of_another_kind(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(AnswerError, match=told) as caught:
        read(model(**changes))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_what_may_be_missing_or_null() -> None:
    nothing = dict.fromkeys(("architecture", "meta", "aliases", "tags", "source"))
    status = {"value": "unloaded", "args": None, "failed": None, "exit_code": None, "preset": None}
    (found,) = read(model(**nothing, status=status))
    assert (found.modalities, found.meta, found.aliases, found.ctx_size, found.port) == ((), {}, (), None, 0)
    (found,) = read(json.dumps({"data": [{"id": "x", "status": {"value": "unloaded"}}]}).encode())
    assert (found.failed, found.exit_code, found.args) == (False, None, ())


def test_a_context_that_is_no_number() -> None:
    for text in ("²", "9" * 5000, "x"):
        status = {"value": "unloaded", "preset": f"[a]\nctx-size = {text}\n"}
        assert read(model(status=status))[0].ctx_size is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_instances": None}, "a whole number"),
        ({"max_instances": "3"}, "a whole number"),
        ({"max_instances": True}, "a whole number"),
        ({"max_instances": 3.5}, "found a number"),
        ({"max_instances": -1}, "found -1"),
        ({"models_autoload": "yes"}, "true or false"),
        ({"build_info": "b1\x1b[2J"}, "printable"),
    ],
)
def test_props_of_another_kind(changes: dict[str, Any], told: str) -> None:
    assert _router_answers.props(PROPS)["max_instances"] == 3
    with pytest.raises(AnswerError, match=told):
        _router_answers.props({**PROPS, **changes})
    for key in ("max_instances", "models_autoload"):
        with pytest.raises(AnswerError, match=f"as {key} of the answer, found none"):
            _router_answers.props({name: value for name, value in PROPS.items() if name != key})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 100_000, "a number of 100000 digits"),
        (b"NaN", "NaN is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
    ],
)
def test_json_that_no_router_writes(text: bytes, told: str) -> None:
    with pytest.raises(AnswerError, match=told):
        _router_answers.decode(text)


def test_events() -> None:
    read_event = _router_answers.event
    assert read_event(b": keep-alive\n") is None
    loaded = {"model": "a", "event": "model_status", "data": {"status": "loaded", "other": []}}
    assert read_event(b"data: " + json.dumps(loaded).encode()) == {**loaded, "data": {"status": "loaded"}}
    progress = {"a": {"done": 1, "total": 2}, "b": {"done": "1", "total": 2}, "c": 3}
    told = {"model": "a", "event": "x", "data": {"progress": progress}}
    found = read_event(b"data: " + json.dumps(told).encode())
    assert found is not None
    assert found["data"] == {"progress": {"a": {"done": 1, "total": 2}}}
    assert read_event(b'data: {"data": {"progress": {"stages": []}}}') is not None
    for bad in (
        "[]",
        "1",
        '{"model": 1}',
        '{"data": []}',
        '{"data": {"status": 1}}',
        '{"data": {"exit_code": "1"}}',
        "{",
    ):
        with pytest.raises(AnswerError, match="expected"):
            read_event(b"data: " + bad.encode())


def test_refusals() -> None:
    told = _router_answers.refusal
    assert told(b'{"error": {"message": "no"}}') == "no"
    assert told(b'{"error": {"message": "a\\nb"}}') == "a\ufffdb"
    for other in (b"[]", b"{}", b'{"error": "no"}', b'{"error": []}', b"[" * 100_000, b"\xff"):
        assert told(other) is None


# --- over HTTP ------------------------------------------------------------------------------------------------------


@contextmanager
def saying(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads each request's beginning, and then says what it wants."""
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                try:
                    connection.recv(65536)
                    speak(connection)
                except OSError:
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            with socket.create_connection(listener.getsockname(), 10):
                pass
            thread.join(60)


def says(text: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"hello\r\n\r\n", "the connection was closed before an answer came"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "closed before an answer came"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "closed before an answer came"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "closed before an answer came"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "closed before an answer came"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\xc2\xb2\r\n{}\r\n", "closed before an answer came"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\n{}", "closed before an answer came"),
        (b"HTTP/1.1 302 No\r\nLocation: http://[\r\n\r\n", "answered 302 with a redirect to http://"),
        (b"HTTP/1.1 302 No\r\nLocation: file:///etc/passwd\r\n\r\n", "answered 302 with a redirect to"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: \x1b[2J\r\n\r\nx", "no JSON"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "nested too deeply"),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe{}", "no JSON"),
    ],
)
def test_odd_answers_end_in_a_message(text: bytes, told: str) -> None:
    with saying(says(text)) as url, pytest.raises(RouterError) as caught:
        Client(url, request_timeout=60).props()
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_answer_without_end_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_router_answers, "LARGEST", 1 << 16)

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with saying(endless) as url, pytest.raises(RouterError, match="it answered more than 0 MiB"):
        Client(url, request_timeout=60).props()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_drips_is_broken_off(head: bytes) -> None:
    """Each read ends in time; all of them together would last for ever."""
    until = time.monotonic() + 60

    def drip(connection: socket.socket) -> None:
        connection.sendall(head)
        while time.monotonic() < until:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" if not head else b"A")
            time.sleep(0.02)

    with saying(drip) as url, pytest.raises(Unreachable, match=r"did not answer within 0.5 s"):
        Client(url, request_timeout=0.5).props()
    assert time.monotonic() < until


@pytest.mark.parametrize("line", [b": ping\n", b"\n", b"event: x\n"])
def test_a_stream_that_tells_nothing_ends(line: bytes) -> None:
    until = time.monotonic() + 60

    def tell(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while time.monotonic() < until:
            connection.sendall(line)
            time.sleep(0.02)

    with saying(tell) as url:
        assert list(Client(url, request_timeout=60).events(0.5)) == []
        with pytest.raises(RouterError, match=r"has no part for 0\.5 s|ended with an error"):
            list(Client(url, request_timeout=60).complete("x", 1, 0.5))
    assert time.monotonic() < until


def test_a_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_router_answers, "LONGEST_LINE", 1 << 16)
    text = b"HTTP/1.1 200 OK\r\n\r\ndata: " + b"x" * (1 << 17)
    with saying(says(text)) as url, pytest.raises(RouterError, match="a line of its stream has more than 65536 bytes"):
        list(Client(url, request_timeout=60).events(60))


def test_an_event_of_another_kind() -> None:
    text = b'HTTP/1.1 200 OK\r\n\r\ndata: {"model": "a"}\n\ndata: []\n\n'
    with saying(says(text)) as url:
        events = Client(url, request_timeout=60).events(60)
        assert next(events)["model"] == "a"
        with pytest.raises(RouterError, match="answered GET /models/sse in another form: expected an object"):
            next(events)


def test_a_key_file_that_is_a_pipe(tmp_path: Any) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(RouterError, match="the file holds none"):
        _router_api.read_key(str(tmp_path / "keys"))


# --- where it is shown ----------------------------------------------------------------------------------------------


def test_a_terminal_gets_no_control_characters() -> None:
    report: dict[str, Any] = {
        "unit": {"name": "u", "state": "failed", "sub": "", "enabled": "", "since": None, "restarts": None},
        "router": {"up": False},
        "verdict": "down",
        "reasons": ["\x1b]0;owned\x07"],
        "models": [],
        "devices": [],
        "gpus": [],
        "driver": {"agree": None},
        "memory": {"total_mib": 1, "available_mib": 1},
        "disk": {"total_mib": None},
        "certificates": [],
    }
    report["unit"].update(memory_mib=None, errors=["\x1b[2Jerror"])
    lines = lines_of(report)
    assert any("error" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_a_watch_of_a_router_that_invents_names_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_router_watch, "MODELS", 10)
    watch = _router_watch.Watch(clock=lambda: 0.0)
    for number in range(100):
        watch.line(f"request for name=m{number} queued at position 1", 1.0)
        watch.event({"model": f"n{number}", "event": "model_status", "data": {"status": "loading"}})
    assert len(watch._models) == 10


@pytest.mark.parametrize(
    "line",
    [
        "spawning server instance with name=a on port " + "9" * 5000,
        "[" + "9" * 5000 + "] x",
        "[1] | eval time = 1 ms / " + "9" * 5000 + " tokens",
        "[1] CUDA0 model buffer size = 1.2.3 MiB",
        "[1] load_tensors: offloaded " + "9" * 5000 + "/1 layers to GPU",
        "[1] CUDA0 model buffer size = " + "9" * 5000 + " MiB",
    ],
)
def test_odd_lines_of_the_journal(line: str) -> None:
    watch = _router_watch.Watch(clock=lambda: 0.0)
    watch.line("[1] llama_server: initializing", 1.0)
    watch.line("[1] load_tensors: offloaded 1/1 layers to GPU", 1.0)
    watch.line(line, 1.0)
    watch.line("[1] llama_server: model loaded", 1.0)
    _router_watch._offload.read(["llama_server: initializing", line, "llama_server: model loaded"])


# --- answers as they should be ----------------------------------------------------------------------------------------


def test_a_model_as_the_router_tells_it() -> None:
    status = {
        "value": "loaded",
        "failed": True,
        "exit_code": 137,
        "args": ["llama-server", "--port", "65535", "--alias", "a\nb"],
        "preset": "[qwen]\nctx-size = 8\nchat-template = {{ a = b }}\n; odd\nload-on-startup = true\n",
    }
    (found,) = read(
        model(
            status=status,
            aliases=["chat", "x"],
            tags=["t"],
            source="preset",
            architecture={"input_modalities": ["text", "image"]},
            meta={"n_ctx": 4096, "later": 1},
        )
    )
    assert found == _router_answers.Model(
        id="qwen",
        aliases=("chat", "x"),
        tags=("t",),
        status="loaded",
        failed=True,
        exit_code=137,
        source="preset",
        options={"ctx-size": "8", "chat-template": "{{ a = b }}", "load-on-startup": "true"},
        args=("llama-server", "--port", "65535", "--alias", "a\nb"),
        port=65535,
        modalities=("text", "image"),
        meta={"n_ctx": 4096, "later": 1},
    )
    assert (found.ctx_size, found.loads_on_startup) == (4096, True)


@pytest.mark.parametrize(
    ("status", "running"),
    [("loading", True), ("loaded", True), ("sleeping", True), ("unloaded", False), ("downloading", False), ("", False)],
)
def test_which_models_hold_a_slot(status: str, running: bool) -> None:
    assert read(model(status={"value": status}))[0].running is running


@pytest.mark.parametrize(
    ("args", "port"),
    [
        ([], 0),
        (["--port"], 0),
        (["--port", "0"], 0),
        (["--port", "1"], 1),
        (["--port", "65535"], 65535),
        (["--port", "00080"], 80),
    ],
)
def test_the_port_of_a_model(args: list[str], port: int) -> None:
    assert read(model(status={"value": "loaded", "args": args}))[0].port == port


@pytest.mark.parametrize("text", ["65536", "000080", "-1", "\u0661", "", " 1"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(AnswerError, match="a port behind --port in a model's args"):
        read(model(status={"value": "loaded", "args": ["--port", text]}))


@pytest.mark.parametrize(
    ("asked", "own", "size"),
    [
        ("8192", None, 8192),
        ("8192", 0, 8192),
        ("8192", 4096, 4096),
        ("0", None, None),
        ("", None, None),
        ("9" * 18, None, int("9" * 18)),
        ("9" * 19, None, None),
        ("\u0661", None, None),
    ],
)
def test_the_context_of_a_model(asked: str, own: int | None, size: int | None) -> None:
    status = {"value": "loaded", "preset": f"ctx-size = {asked}\n" if asked else ""}
    assert read(model(status=status, meta={"n_ctx": own}))[0].ctx_size == size


@pytest.mark.parametrize("value", ["on", "enabled", "true", "1"])
def test_which_models_load_at_the_start(value: str) -> None:
    assert read(model(status={"value": "unloaded", "preset": f"load-on-startup = {value}"}))[0].loads_on_startup
    assert not read(model(status={"value": "unloaded", "preset": "load-on-startup = off"}))[0].loads_on_startup


def test_props_as_the_router_tells_them() -> None:
    assert _router_answers.props({**PROPS, "later": 1}) == {**PROPS, "later": 1}
    assert _router_answers.props({**PROPS, "max_instances": 0, "build_info": None}) == {
        **PROPS,
        "max_instances": 0,
        "build_info": "",
    }
    with pytest.raises(AnswerError, match="a number from 0 as max_instances, found -1"):
        _router_answers.props({**PROPS, "max_instances": -1})


def test_all_fields_of_an_event() -> None:
    files = {"f": {"done": 1, "total": 2, "later": 3}, "odd": {"done": True, "total": 2}, "none": {"done": 1}, "x": 7}
    told = {"model": "qwen", "event": "status", "data": {"status": "loaded", "exit_code": 0, "progress": files}}
    assert _router_answers.event(b"data: " + json.dumps(told).encode()) == {
        "model": "qwen",
        "event": "status",
        "data": {"status": "loaded", "exit_code": 0, "progress": {"f": {"done": 1, "total": 2}}},
    }
    assert _router_answers.event(b'data: {"data": {"progress": 0.5}}') == {"model": "", "event": "", "data": {}}
    for line in (b"", b": ping", b"event: x", b'data:{"model": "x"}'):
        assert _router_answers.event(line) is None


def test_values_of_an_event_of_another_kind() -> None:
    for data in ({"status": 1}, {"exit_code": "1"}, {"exit_code": True}, {"status": "a\nb"}, []):
        with pytest.raises(AnswerError):
            _router_answers.event(b"data: " + json.dumps({"model": "x", "event": "y", "data": data}).encode())
    for line in (b"data: {", b"data: [1]", b'data: {"model": 7}', b'data: {"event": 7}'):
        with pytest.raises(AnswerError):
            _router_answers.event(line)
