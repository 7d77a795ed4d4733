# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan beside the log of the real llama-server on two stand-ins for GPUs, and the limit beside the real router.

The models are a tiny one, and real headers as sparse files of their size.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import read_model
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import facts_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import vram_plan
from rpc_devices import TESTS, buffers, cards, free_port

DEVICES = [{"name": name, "total_mib": 16384} for name in ("RPC0", "RPC1")]


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    """Two devices with room for everything."""
    ports = [free_port(), free_port()]
    with cards(ports, [16384, 16384]):
        yield ports


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    sys.path.insert(0, str(TESTS))
    importlib.import_module("make_tiny_models").make(
        folder / "tiny.gguf", 1, context=8192, width=256, layers=8, ff=1024
    )
    # The sizes of the files as they were published.
    for name, size in (("Qwen3-1.7B-Q4_K_M", 1107404448), ("gemma-3-4b-Q4_K_M", 2499020480)):
        shutil.copy(TESTS / "fixtures" / "gguf_headers" / f"{name}.gguf", folder)
        os.truncate(folder / f"{name}.gguf", size)
    return folder


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tiny", {"ctx-size": "8192", "tensor-split": "1,1"}),
        ("tiny", {"ctx-size": "2048", "parallel": "3", "device": "RPC1"}),
        ("Qwen3-1.7B-Q4_K_M", {"ctx-size": "8192", "tensor-split": "3,1"}),
        (
            "gemma-3-4b-Q4_K_M",
            {"ctx-size": "8192", "tensor-split": "1,1", "cache-type-k": "q8_0", "cache-type-v": "q8_0"},
        ),
    ],
)
def test_the_plan_is_what_the_server_allocates(
    name: str, options: dict[str, str], folder: Path, ports: list[int]
) -> None:
    """Weights and caches to the log's two decimals, totals within 3 %."""
    facts = facts_of(read_model(str(folder / f"{name}.gguf")))
    plan = vram_plan([{"name": name, "facts": facts, "options": options}], DEVICES, overhead_mib=0)
    untold = ["--override-kv", "tokenizer.ggml.model=str:none"] if name != "tiny" else []
    truth = buffers(folder / f"{name}.gguf", ports, options, *untold)
    rows: list[dict[str, Any]] = plan["models"][0]["devices"]
    for row in rows:
        device = row["device"]
        assert row["weights_mib"] == pytest.approx(truth.get((device, "model"), 0), abs=0.0051)
        assert row["kv_mib"] == pytest.approx(truth.get((device, "KV"), 0), abs=0.0051)
    seen = sum(size for (device, _kind), size in truth.items() if device != "host")
    assert sum(row["total_mib"] for row in rows) == pytest.approx(seen, rel=0.03)
    host = sum(size for (device, _kind), size in truth.items() if device == "host")
    assert plan["models"][0]["host_mib"] == pytest.approx(host, rel=0.05)


# --- the limit ----------------------------------------------------------------------------------------------------

SLACK = 40  # MiB on each device, for what the RPC server itself takes while it works
CONTEXTS = {"a": 49152, "b": 40960, "c": 32768, "d": 24576}


class Router:
    """The real router over the tiny model under four names, each with a context of its own."""

    def __init__(self, folder: Path, ports: list[int], presets: dict[str, dict[str, str]]) -> None:
        (folder / "keys").write_text("only-for-this-test\n")
        lines = [
            line
            for name, options in presets.items()
            for line in (f"[{name}]", f"model = {folder / 'tiny.gguf'}", *(f"{k} = {v}" for k, v in options.items()))
        ]
        (folder / "models.ini").write_text("\n".join([*lines, ""]))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        argv = [
            str(TESTS / "llama-server"),
            "--rpc",
            ",".join(f"127.0.0.1:{rpc}" for rpc in ports),
            "--host",
            "127.0.0.1",
        ]
        argv += [
            "--port",
            str(port),
            "--api-key-file",
            str(folder / "keys"),
            "--models-preset",
            str(folder / "models.ini"),
        ]
        self.log = folder / "router.log"
        with self.log.open("wb") as file:
            environment = {**os.environ, "LLAMA_CACHE": str(folder / "cache")}
            self.process = subprocess.Popen([*argv, "--models-max", "4"], stdout=file, stderr=file, env=environment)

    def __enter__(self) -> Router:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                self.statuses()
                return self
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ask(self, path: str, body: dict[str, str] | None = None) -> Any:
        headers = {"Authorization": "Bearer only-for-this-test", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=120) as response:
            return json.load(response)

    def statuses(self) -> dict[str, str]:
        return {entry["id"]: entry["status"]["value"] for entry in self.ask("/models")["data"]}

    def wait(self, name: str, *wanted: str) -> str:
        deadline = time.monotonic() + 300
        while True:
            status = self.statuses()[name]
            if status in wanted:
                return status
            assert time.monotonic() < deadline, self.said()[-2000:]
            time.sleep(0.05)

    def load(self, name: str) -> bool:
        self.ask("/models/load", {"model": name})  # answers when it is loading
        return self.wait(name, "loaded", "unloaded") == "loaded"

    def unload_all(self) -> None:
        for name, status in self.statuses().items():
            if status != "unloaded":
                self.ask("/models/unload", {"model": name})
                self.wait(name, "unloaded")


def test_every_set_that_the_plan_allows_loads_and_the_one_that_it_forbids_does_not(
    folder: Path,
) -> None:
    facts = facts_of(read_model(str(folder / "tiny.gguf")))
    options = {"parallel": "1", "ubatch-size": "64", "tensor-split": "1,1"}
    models = [
        {"name": name, "facts": facts, "options": {**options, "ctx-size": str(size)}} for name, size in CONTEXTS.items()
    ]
    limits: dict[str, Any] = {"overhead_mib": 0, "margin_mib": 0}
    needs = [[row["total_mib"] for row in model["devices"]] for model in vram_plan(models, DEVICES, **limits)["models"]]
    budgets = [math.ceil(sum(sorted(column)[1:])) + SLACK for column in zip(*needs)]
    plan = vram_plan(models, [{**device, "total_mib": mib} for device, mib in zip(DEVICES, budgets)], **limits)
    assert plan["models_max"] == 3
    assert [conflict["models"] for conflict in plan["conflicts"]] == [["a", "b", "c", "d"]]

    presets = {name: {**options, "ctx-size": str(size), "fit": "off"} for name, size in CONTEXTS.items()}
    own = [free_port(), free_port()]
    with cards(own, budgets), Router(folder, own, presets) as router:
        for allowed in itertools.combinations(CONTEXTS, plan["models_max"]):
            assert [router.load(name) for name in allowed] == [True] * 3, (allowed, router.said())
            router.unload_all()
        assert [router.load(name) for name in "abcd"] == [True, True, True, False]
        assert "failed to allocate" in router.said()
