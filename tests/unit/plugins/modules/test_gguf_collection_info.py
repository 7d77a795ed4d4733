# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of loose files, and a store with the shapes that Ollama 0.12 writes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import gguf_collection_info

KIND = "application/vnd.ollama.image."


def run(capfd: pytest.CaptureFixture[str], *paths: Path) -> dict[str, Any]:
    with patch_module_args({"paths": [str(path) for path in paths]}), pytest.raises(SystemExit):
        gguf_collection_info.main()
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    return result


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"GGUF" + name.encode())


class Store:
    """An Ollama's models folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs").mkdir(parents=True)
        (path / "manifests").mkdir()

    def blob(self, content: bytes) -> tuple[str, Path]:
        digest = hashlib.sha256(content).hexdigest()
        path = self.path / "blobs" / f"sha256-{digest}"
        path.write_bytes(content)
        return f"sha256:{digest}", path

    def model(self, name: str, *kinds: str, content: bytes = b"") -> dict[str, Path]:
        """One with such layers; their blobs."""
        blobs, layers = {}, []
        for kind in kinds:
            text = b"{}" if kind in ("params", "template") else b"GGUF" + name.encode() + kind.encode()
            digest, blobs[kind] = self.blob(content or text)
            layers.append({"mediaType": KIND + kind, "digest": digest, "size": blobs[kind].stat().st_size})
        config = {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": self.blob(b"{}")[0],
            "size": 2,
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": config,
            "layers": layers,
        }
        path = self.path / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
        return blobs


def test_scattered_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "a/Qwen3-8B-Q4_K_M.gguf", "b/c/big-Q8_0-00001-of-00002.gguf", "b/c/big-Q8_0-00002-of-00002.gguf")
    make(tmp_path, "eyes/gemma 3.gguf", "eyes/mmproj-F16.gguf", "eyes/mtp-gemma.gguf", "notes.txt", "b/half.gguf.part")
    done = run(capfd, tmp_path)
    assert (done["changed"], done["problems"]) == (False, [])
    assert [model["entry"] for model in done["models"]] == [
        {"name": "Qwen3-8B-Q4_K_M", "source": {"path": str(tmp_path / "a/Qwen3-8B-Q4_K_M.gguf")}},
        {"name": "big-Q8_0", "source": {"path": str(tmp_path / "b/c/big-Q8_0-00001-of-00002.gguf")}},
        {
            "name": "gemma-3",
            "source": {"path": str(tmp_path / "eyes/gemma 3.gguf")},
            "projector": {"path": str(tmp_path / "eyes/mmproj-F16.gguf")},
        },
    ]
    shards = [tmp_path / f"b/c/big-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    assert done["models"][1]["size"] == sum(shard.stat().st_size for shard in shards)


def test_what_is_not_clear_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "a/same.gguf", "b/same.gguf", "two/x.gguf", "two/y.gguf", "two/mmproj.gguf")
    (tmp_path / "a/gone.gguf").symlink_to(tmp_path / "nowhere.gguf")
    (tmp_path / "a/again.gguf").symlink_to(tmp_path / "two/x.gguf")
    done = run(capfd, tmp_path)
    assert [model["name"] for model in done["models"]] == ["again", "same", "x", "y"]
    assert [model["projector"] for model in done["models"]] == [None] * 4
    gone, same, eyes = sorted(done["problems"], key=lambda text: ("gone" not in text, "projectors" in text))
    assert gone == f"{tmp_path}/a/gone.gguf: No such file or directory"
    assert same.startswith(f"{tmp_path}/b/same.gguf would be same as well as {tmp_path}/a/same.gguf")
    assert "has 1 projectors and 2 models" in eyes


def test_an_ollama_store(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "ollama")
    library = "registry.ollama.ai/library"
    plain = store.model(f"{library}/qwen3/8b", "model", "template", "params")
    seeing = store.model(f"{library}/llava/latest", "model", "projector", "params")
    store.model("hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF/Q4_K_M", "model", "template")
    store.model(f"{library}/tuned/latest", "model", "adapter")
    store.model(f"{library}/remote/latest", "params")
    store.model(f"{library}/tensors/latest", "model", content=b"safetensors")
    cut = store.model(f"{library}/cut/latest", "model")
    cut["model"].unlink()
    (store.path / "manifests/broken").write_text("{")
    make(tmp_path / "ollama", "loose/beside.gguf")
    done = run(capfd, tmp_path)
    assert {model["name"]: model["origin"] for model in done["models"]} == {
        "qwen3-8b": "ollama:qwen3:8b",
        "llava": "ollama:llava:latest",
        "Llama-3.2-1B-Instruct-GGUF-Q4_K_M": "ollama:hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "beside": str(tmp_path / "ollama/loose/beside.gguf"),
    }
    entries = {model["name"]: model["entry"] for model in done["models"]}
    assert entries["qwen3-8b"] == {"name": "qwen3-8b", "source": {"path": str(plain["model"])}}
    assert entries["llava"]["projector"] == {"path": str(seeing["projector"])}
    told = "\n".join(sorted(done["problems"]))
    for said in (
        "ollama:tuned:latest cannot be taken: it is a model with an adapter",
        "ollama:remote:latest cannot be taken: one GGUF was wanted, it has 0",
        "ollama:tensors:latest cannot be taken: ",
        "ollama:cut:latest cannot be taken: [Errno 2]",
        "ollama:broken cannot be taken: ",
    ):
        assert said in told
    assert len(done["problems"]) == 5


def test_a_folder_that_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run(capfd, tmp_path / "none")
    assert done["msg"] == f"paths: a folder with models was wanted at {tmp_path}/none, found: No such file or directory"


def test_a_folder_below_that_cannot_be_read_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.gguf", "lost+found/x.gguf")
    scandir = gguf_collection_info.Collection.add.__globals__["os"].scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(gguf_collection_info.Collection.add.__globals__["os"], "scandir", refuse)
    done = run(capfd, tmp_path)
    assert [model["name"] for model in done["models"]] == ["a"]
    assert done["problems"] == [f"{tmp_path}/lost+found: Permission denied"]


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"[" * 100000, b"[]", b'{"layers": 7}', b'{"layers": ["x"]}', b'{"layers": [null]}', b"\xff",
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../x"}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": 7}]}',
        b'{"layers": [' + b" " * (2 << 20) + b"]}",
    ],
)  # fmt: skip
def test_a_manifest_that_is_none(tmp_path: Path, manifest: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    make(tmp_path, "manifests/registry.ollama.ai/library/odd/latest")
    (store.path / "manifests/registry.ollama.ai/library/odd/latest").write_bytes(manifest)
    done = run(capfd, tmp_path)
    assert done["models"] == []
    assert len(done["problems"]) == 1
    assert done["problems"][0].startswith("ollama:odd:latest cannot be taken: ")


def test_fifos_and_odd_names_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "ollama")
    blob = store.model("registry.ollama.ai/library/piped/latest", "model")["model"]
    blob.unlink()
    os.mkfifo(blob)
    manifest = store.path / "manifests/registry.ollama.ai/library/fifo/latest"
    manifest.parent.mkdir(parents=True)
    os.mkfifo(manifest)
    make(tmp_path, "good.gguf", "line\nbreak.gguf", "folder\x1b/x.gguf")
    (tmp_path / os.fsdecode(b"\xff.gguf")).write_bytes(b"GGUF")
    os.mkfifo(tmp_path / "fifo.gguf")
    done = run(capfd, tmp_path)
    assert [model["name"] for model in done["models"]] == ["good"]
    told = "\n".join(sorted(problem.replace(str(tmp_path), "") for problem in done["problems"]))
    for words in ("/fifo.gguf cannot be taken: it is not a regular file", "ollama:fifo:latest", "ollama:piped:latest",
                  "/line\N{REPLACEMENT CHARACTER}break.gguf", "/folder\N{REPLACEMENT CHARACTER}",
                  "/\N{REPLACEMENT CHARACTER}.gguf"):  # fmt: skip
        assert f"{words}" in told
    assert len(done["problems"]) == 6


def test_folders_without_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "d/" * 100 + "x.gguf", "good.gguf")
    done = run(capfd, tmp_path)
    assert [model["name"] for model in done["models"]] == ["good"]
    assert "lies too deep" in done["problems"][0]
