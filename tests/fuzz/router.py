# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a router answers: whatever it is, typed data that can be shown and kept as JSON, or the one error.

The first byte chooses the reader.
"""

from __future__ import annotations

import io
import json
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import (
    _client_facts,
    _exporter_metrics,
    _keeper,
    _offload,
    _router_answers,
    _router_report,
    _router_state,
    _router_table,
    _router_watch,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_answers import AnswerError, Model
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, RouterError

MODEL: dict[str, Any] = {
    "id": "qwen",
    "aliases": ["chat"],
    "tags": [],
    "source": "preset",
    "status": {
        "value": "loaded",
        "args": ["/bin/llama-server", "--port", "4711", "--alias", "qwen"],
        "preset": "[qwen]\nctx-size = 256\nload-on-startup = on\n",
        "failed": False,
        "exit_code": None,
    },
    "architecture": {"input_modalities": ["text"]},
    "meta": {"n_ctx": 256},
}
PROPS = {"role": "router", "max_instances": 3, "models_autoload": True, "build_info": "b1"}
EVENTS = [
    {"model": "qwen", "event": "status_change", "data": {"status": "loading", "progress": {"stages": ["a"]}}},
    {"model": "u/r", "event": "download_progress", "data": {"progress": {"a.gguf": {"done": 1, "total": 2}}}},
    {"model": "qwen", "event": "model_status", "data": {"status": "unloaded", "exit_code": 1}},
]
JOURNAL = [
    "[4711] 0.00.1 I llama_server: initializing",
    "[4711] load_tensors: offloaded 3/3 layers to GPU",
    "[4711] CUDA0 model buffer size =    12.50 MiB",
    "[4711] llama_server: model loaded",
    "[4711] | eval time = 1.0 ms / 12 tokens",
    "spawning server instance with name=qwen on port 4711",
    "request for name=qwen queued at position 1",
    "[4711] 0.00.1 E it broke",
]
METRICS = "llamacpp:requests_processing 0\nllamacpp:requests_deferred 0\nllamacpp:tokens_predicted_total 4\n"
HOST: dict[str, Any] = {
    "unit": {"name": "u", "state": "active", "sub": "running", "enabled": "enabled", "since": 1, "restarts": 0},
    "gpus": [],
    "gpu_reading": dict.fromkeys(("at", "ok", "reason")),
    "driver": dict.fromkeys(("reason", "agree", "kernel_version", "library_version")),
    "memory": {"total_mib": 2, "available_mib": 1},
    "disk": {"path": "/", "total_mib": 2, "free_mib": 1},
    "certificates": [],
    "connections": 0,
}


def seeds() -> list[bytes]:
    answers = [json.dumps({"data": [MODEL]}), json.dumps(PROPS), "\n".join(f"data: {json.dumps(e)}" for e in EVENTS)]
    refused = json.dumps({"error": {"code": 401, "message": "Invalid API Key", "type": "x"}})
    texts = [*answers, refused, "\n".join(JOURNAL), METRICS, json.dumps({"data": [{**MODEL, "architecture": None}]})]
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    texts.append(f"{head}Content-Length: 2\r\n\r\n{{}}")
    texts.append(f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")
    kinds = [0, 1, 2, 3, 4, 5, 0, 6, 6]
    return [bytes([kind]) + text.encode() for kind, text in zip(kinds, texts)]


def fuzz_one(data: bytes) -> None:
    readers = [_models, _props, _events, _refusal, _journal, _metrics, _http]
    readers[data[0] % len(readers) if data else 0](data[1:])


def _models(data: bytes) -> None:
    try:
        models = _router_answers.models(_router_answers.decode(data))
    except ValueError as error:
        _message(error)
        return
    for model in models:
        _printable(model.id, *model.aliases, *model.tags, model.status, model.source)
        assert 0 <= model.port < 1 << 16
        assert model.ctx_size is None or model.ctx_size >= 0
        _client_facts.context(model)
    router = {"up": True, "url": "http://x", "limit": 3, "build": "b1", "loaded": _router_state.running(models)}
    _report(router, models)


def _report(router: dict[str, Any], models: list[Model]) -> None:
    watch = _router_watch.Watch()
    watch.sync(models)
    watch.ports(models)
    host = {**HOST, "unit": {**HOST["unit"], "memory_mib": None, "errors": []}}
    router = {"reason": None, "problem": None, "role": "router", "autoload": True, **router}
    report = watch.tell(_router_report.report(router, models, host, {"devices": [], "models": []}, {}))
    assert json.dumps(report, allow_nan=False).encode()
    for line in _router_table.lines_of(report):
        _printable(line)
    list(_exporter_metrics.families(report))


def _props(data: bytes) -> None:
    try:
        props = _router_answers.props(_router_answers.decode(data))
    except ValueError as error:
        _message(error)
        return
    assert props["max_instances"] >= 0
    _printable(props["build_info"])


def _events(data: bytes) -> None:
    watch = _router_watch.Watch()
    for line in data.split(b"\n"):
        try:
            event = _router_answers.event(line)
        except AnswerError as error:
            _message(error)
            return
        if event is not None:
            _printable(event["model"], event["event"])
            watch.event(event)
            for file in event["data"].get("progress", {}).values():
                assert file["done"] + file["total"] is not None


def _refusal(data: bytes) -> None:
    reason = _router_answers.refusal(data)
    if reason is not None:
        _printable(reason)


def _journal(data: bytes) -> None:
    watch = _router_watch.Watch(clock=lambda: 0.0)
    lines = data.decode(errors="replace").split("\n")
    for line in lines:
        watch.line(line, 1.0)
    _offload.read(lines)
    _router_report.errors_in(lines, "active")
    for line in _router_state.telling(lines):
        _printable(line)


def _metrics(data: bytes) -> None:
    try:
        _keeper.use_of(data.decode(errors="replace"))
    except RouterError as error:
        _message(error)


def _http(data: bytes) -> None:
    """A whole answer with its head, as http.client reads it."""
    client = Client("http://127.0.0.1:1")

    class Connection:
        def makefile(self, *_args: Any, **_kwargs: Any) -> io.BytesIO:
            return io.BytesIO(data)

        def close(self) -> None:
            pass

    import http.client

    response = http.client.HTTPResponse(Connection())  # type: ignore[arg-type]
    try:
        response.begin()
    except (OSError, http.client.HTTPException, ValueError):  # which `_open` makes a message of
        return
    try:
        client._read(response, 1)
    except RouterError as error:
        _message(error)


def _printable(*texts: str) -> None:
    for text in texts:
        text.encode()
        assert text.isprintable() or not any(ord(sign) < 32 or sign in "\x7f\x85\u2028\u2029" for sign in text), text


def _message(error: Exception) -> None:
    _printable(str(error))
    assert len(str(error)) < 4000
