# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _client_facts
from ansible_collections.homelab.llamacpp.plugins.module_utils._client_facts import (
    context,
    facts,
    from_outside,
    size_mib,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model


def model(id: str = "m", *args: str, n_ctx: int | None = None, **options: str) -> Model:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    meta: dict[str, Any] = {"n_ctx": n_ctx} if n_ctx else {}
    return Model(id, (), (), "unloaded", False, None, "preset", named, args, 0, ("text",), meta)


def made(path: Path, mib: int) -> str:
    path.touch()
    os.truncate(path, mib << 20)
    return str(path)


@pytest.mark.parametrize(
    ("found", "tokens"),
    [
        (model(), None),
        (model(ctx_size="0"), None),
        (model(n_ctx=4096), 4096),
        (model(ctx_size="8192"), 8192),
        (model(ctx_size="8192", parallel="1"), 8192),
        (model(ctx_size="8192", parallel="-1"), 8192),
        (model(ctx_size="8192", parallel="4"), 2048),
        (model(ctx_size="8192", parallel="4", n_ctx=8192), 2048),
        (model(ctx_size="8192", parallel="4", n_ctx=512), 512),
        *((model(ctx_size="8192", parallel="4", kv_unified=on), 8192) for on in ("on", "enabled", "true", "1")),
        (model(ctx_size="8192", parallel="0"), 8192),
        (model(ctx_size="x"), None),
        (model(ctx_size="8192", parallel="4", kv_unified="off"), 2048),
    ],
)
def test_the_context_of_one_conversation(found: Model, tokens: int | None) -> None:
    assert context(found) == tokens


def trained_for(path: Path, tokens: int) -> str:
    """The header of a GGUF file of that context."""

    def text(word: str) -> bytes:
        return struct.pack("<Q", len(word)) + word.encode()

    architecture = text("general.architecture") + struct.pack("<I", 8) + text("tiny")
    context_length = text("tiny.context_length") + struct.pack("<II", 4, tokens)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + architecture + context_length)
    return str(path)


def test_no_slot_has_more_than_the_model_was_trained_for(tmp_path: Path) -> None:
    path = trained_for(tmp_path / "m.gguf", 40960)
    assert context(model("m", "--model", path, ctx_size="65536")) == 40960
    assert context(model("m", "--model", path, ctx_size="65536", parallel="2")) == 32768
    assert context(model("m", "--model", path)) is None
    overridden = {"ctx_size": "65536", "override_kv": "tiny.context_length=int:65536"}
    assert context(model("m", "--model", path, **overridden)) == 65536
    assert context(model("m", "--model", trained_for(tmp_path / "none.gguf", 0), ctx_size="8")) == 8
    (tmp_path / "junk.gguf").write_text("junk")
    assert context(model("m", "--model", str(tmp_path / "junk.gguf"), ctx_size="8")) == 8


def test_all_files_of_a_model_count(tmp_path: Path) -> None:
    first = made(tmp_path / "m[1]-00001-of-00003.gguf", 10)
    made(tmp_path / "m[1]-00002-of-00003.gguf", 20)
    made(tmp_path / "m[1]-00003-of-00003.gguf", 5)
    made(tmp_path / "m[1]-00001-of-00002.gguf", 100)
    projector = made(tmp_path / "mmproj.gguf", 3)
    assert size_mib(model("m", "--model", first, "--mmproj", projector)) == 38
    assert size_mib(model("m", "--model", projector)) == 3
    assert size_mib(model("m", "--model", str(tmp_path / "none.gguf"))) is None
    assert size_mib(model("m", "--hf-repo", "user/repo")) is None
    assert size_mib(model("m", "--model")) is None


def test_the_task_model_is_the_smallest_that_stays_and_writes(tmp_path: Path) -> None:
    files = {
        name: made(tmp_path / f"{name}.gguf", mib) for name, mib in {"a": 900, "b": 200, "c": 100, "d": 50}.items()
    }
    models = [
        model("d", "--model", files["d"], load_on_startup="true", embedding="true"),
        model("c", "--model", files["c"]),
        model("b", "--model", files["b"], load_on_startup="true"),
        model("a", "--model", files["a"], load_on_startup="1"),
    ]
    told = facts(models)
    assert [entry["id"] for entry in told["models"]] == ["a", "b", "c", "d"]
    assert told["task_model"] == "b"
    assert told["longest_load_seconds"] == 30 + 9
    assert facts(models, read_mib_s=10)["longest_load_seconds"] == 30 + 90
    assert [entry["text"] for entry in told["models"]] == [True, True, True, False]
    assert facts(models[:2])["task_model"] == ""
    assert facts([]) == {"models": [], "task_model": "", "longest_load_seconds": 0}


@pytest.mark.parametrize(
    ("url", "outside"),
    [
        ("http://127.0.0.1:8012", "http://192.0.2.20:8012"),
        ("https://[::1]", "https://192.0.2.20:443"),
        ("http://192.0.2.9:8012", "http://192.0.2.9:8012"),
    ],
)
def test_how_others_reach_it(url: str, outside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client_facts, "own_address", lambda: "192.0.2.20")
    assert from_outside(url) == outside


class Ways:
    """A machine's sockets: the address that packets leave from, for each family that has a way out."""

    def __init__(self, **ways: str) -> None:
        self.ways = {getattr(socket, family): address for family, address in ways.items()}

    def __call__(self, family: int, kind: int) -> Any:
        assert kind == socket.SOCK_DGRAM, "a connection would send something"
        return Way(self.ways.get(family))


class Way:
    def __init__(self, address: str | None) -> None:
        self.address = address
        self.connected = False

    def connect(self, place: tuple[str, int]) -> None:
        assert place[0] not in ("127.0.0.1", "::1")
        if self.address is None:
            raise OSError(101, "Network is unreachable")
        self.connected = True

    def getsockname(self) -> tuple[str, int]:
        assert self.address
        return (self.address if self.connected else "0.0.0.0", 40001)

    def __enter__(self) -> Way:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


@pytest.mark.parametrize(
    ("ways", "address"),
    [
        ({"AF_INET": "192.0.2.20", "AF_INET6": "2001:db8::20"}, "192.0.2.20"),
        ({"AF_INET6": "2001:db8::20"}, "[2001:db8::20]"),
        ({}, "127.0.0.1"),
    ],
)
def test_the_own_address_is_the_one_that_packets_leave_from(
    ways: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_client_facts.socket, "socket", Ways(**ways))
    assert _client_facts.own_address() == address


def test_the_own_address_is_one_of_this_machine() -> None:
    address = _client_facts.own_address().strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        server.bind((address, 0))
