# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gguf_info sees a models directory as the real router does: its ids are those of GET /models, and so are its files."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_info import Cache, model_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import view

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from ports import free_port

KEY = "only-for-this-test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a models directory may hold."""
    make = importlib.import_module("make_tiny_models").make_tests
    outside = tmp_path_factory.mktemp("elsewhere")
    make(outside)
    out = tmp_path_factory.mktemp("models")
    for name in ("alpha-Q4_K_M.gguf", "beta-Q8_0.gguf", "broken.gguf", "truncated.gguf", "notes.txt"):
        os.link(outside / name, out / name)
    for name in ("Sharded-Q4_K_M", "vision-Q8_0"):
        (outside / name).rename(out / name)
    model = outside / "gamma.gguf"
    (out / "linked.gguf").symlink_to(model)
    (out / "linked-folder").symlink_to(out / "vision-Q8_0")
    (out / "dangling.gguf").symlink_to(outside / "gone.gguf")
    for name in ("qwen3:8b.gguf", ".hidden.gguf", "a.gguf.b.gguf", "BIG.GGUF", "half.gguf.part", "mmproj-loose.gguf"):
        os.link(model, out / name)
    for number in (1, 2):
        os.link(model, out / f"loose-0000{number}-of-00002.gguf")
    inside = {
        "two": ["one.gguf", "other.gguf"],
        "drafted": ["mtp-head.gguf", "main.gguf"],
        "late": ["only-00002-of-00002.gguf"],
        "lonely": ["mmproj.gguf"],
        "same": ["x.gguf"],
        "nested": [],
        "colon:x-q4_k": ["x.gguf"],
    }
    for name, files in inside.items():
        (out / name).mkdir()
        for file in files:
            os.link(model, out / name / file)
    (out / "nested" / "deep").mkdir()
    os.link(model, out / "nested" / "deep" / "x.gguf")
    return out


@pytest.fixture(scope="module")
def router(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The entries of GET /models by id."""
    own = tmp_path_factory.mktemp("router")
    (own / "keys").write_text(f"{KEY}\n")
    port = free_port()
    argv = [
        str(TESTS / "llama-server"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--api-key-file",
        str(own / "keys"),
    ]
    argv += ["--models-dir", str(folder)]
    environment = {**os.environ, "LLAMA_CACHE": str(own / "cache")}
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/models", headers={"Authorization": f"Bearer {KEY}"})
        yield {entry["id"]: entry for entry in listed(request, process, own / "log")}
    finally:
        process.terminate()
        process.wait(60)


def listed(request: urllib.request.Request, process: subprocess.Popen[bytes], log: Path) -> list[dict[str, Any]]:
    """What it lists as soon as it is up."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                found: list[dict[str, Any]] = json.load(response)["data"]
                return found
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


def test_the_ids_are_the_routers(folder: Path, router: dict[str, Any]) -> None:
    assert [entry.id for entry in view(str(folder)).entries] == sorted(router)
    assert len(router) >= 15


def test_the_files_are_the_routers(folder: Path, router: dict[str, Any]) -> None:
    """As the arguments of each model's process name them."""
    for entry in view(str(folder)).entries:
        arguments = router[entry.id]["status"]["args"]
        named = dict(zip(arguments, arguments[1:]))
        assert named["--model"] == entry.path
        assert named.get("--mmproj") == entry.projector
        drafts = [named[key] for key in ("--spec-draft-model", "--model-draft", "-md") if key in named]
        assert drafts == [entry.draft] * bool(entry.draft)


def test_what_the_router_does_wrong_is_told(folder: Path) -> None:
    problems = "\n".join(view(str(folder)).problems)
    for word in (
        "dangling.gguf is a link that leads nowhere",
        "BIG.GGUF is passed over",
        "mmproj-loose.gguf is a projector on its own",
        "loose-00001-of-00002.gguf, loose-00002-of-00002.gguf lie loose",
        "the folder two has 2 models (one.gguf, other.gguf)",
        "the folder lonely has mmproj.gguf and no model",
    ):
        assert word in problems
    assert len(problems.splitlines()) == 6


def test_every_model_is_described(folder: Path) -> None:
    cache = Cache(None)
    models = {entry.id: model_of(entry, cache) for entry in view(str(folder)).entries}
    assert models["alpha-Q4_K_M"]["complete"]
    assert models["alpha-Q4_K_M"]["chat_template"]
    assert models["alpha-Q4_K_M"]["facts"]["architecture"] == "llama"
    assert len(models["Sharded-Q4_K_M"]["files"]) == 3
    assert not models["truncated"]["complete"]
    assert "damaged" in models["broken"]["error"]
    assert models["drafted"]["facts"]["draft"]["layers"] == 2
