# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module and its cache, on real headers; tests/functional/test_models_dir.py holds it against the real router."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.module_utils import _gguf_info
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import vram_plan
from ansible_collections.homelab.llamacpp.plugins.modules import gguf_info

HEADERS = Path(__file__).parents[3] / "fixtures" / "gguf_headers"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "homelab.llamacpp" / "gguf_info.json"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three models, one of them in a folder with a projector and a draft model."""
    folder = tmp_path / "models"
    (folder / "seeing").mkdir(parents=True)
    shutil.copy(HEADERS / "Qwen3-8B-Q4_K_M.gguf", folder)
    shutil.copy(HEADERS / "gpt-oss-20b-mxfp4.gguf", folder / "oss.gguf")
    shutil.copy(HEADERS / "gemma-3-4b-Q4_K_M.gguf", folder / "seeing" / "model.gguf")
    shutil.copy(HEADERS / "Qwen3-1.7B-Q4_K_M.gguf", folder / "seeing" / "mtp-head.gguf")
    (folder / "seeing" / "mmproj.gguf").write_bytes(projector())
    return folder


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def projector() -> bytes:
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("clip")]
    keys += [text("clip.has_vision_encoder") + struct.pack("<I?", 7, True)]
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys) + bytes(100)


def run(capfd: pytest.CaptureFixture[str], **args: Any) -> dict[str, Any]:
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in args.items()}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        gguf_info.main()
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    result.pop("invocation", None)  # ansible-core before 2.21 repeats the arguments
    return result


def test_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    result = run(capfd, path=HEADERS / "Qwen3-8B-Q4_K_M.gguf")
    assert not result["changed"]
    assert result["problems"] == []
    (model,) = result["models"]
    facts = model.pop("facts")
    assert model == {
        "id": "Qwen3-8B-Q4_K_M",
        "path": str(HEADERS / "Qwen3-8B-Q4_K_M.gguf"),
        "files": [str(HEADERS / "Qwen3-8B-Q4_K_M.gguf")],
        "missing": [],
        "projector": None,
        "draft": None,
        "size": 24192,
        "complete": False,
        "error": None,
        "architecture": "qwen3",
        "name": "Qwen3-8B",
        "quantization": "q4_K",
        "parameters": 8190735360,
        "layers": 36,
        "ctx_train": 40960,
        "chat_template": False,
        "modalities": ["text"],
    }
    plan = vram_plan([{"name": "a", "facts": facts, "options": {"ctx-size": 8192}}], [24576])
    assert plan["models"][0]["devices"][0]["weights_mib"] == 4455.344


def test_a_directory(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = {model["id"]: model for model in run(capfd, path=models)["models"]}
    assert sorted(found) == ["Qwen3-8B-Q4_K_M", "oss", "seeing"]
    seeing = found["seeing"]
    assert seeing["modalities"] == ["text", "vision"]
    assert seeing["size"] == sum(path.stat().st_size for path in (models / "seeing").iterdir())
    assert seeing["facts"]["projector"] == len(projector())
    assert seeing["facts"]["draft"]["architecture"] == "qwen3"
    assert all(len(json.dumps(model["facts"])) < 4096 for model in found.values())


def test_a_broken_file_in_a_directory_is_told(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (models / "bad.gguf").write_bytes(b"<html>")
    found = {model["id"]: model for model in run(capfd, path=models)["models"]}
    assert "it is not a GGUF file" in found["bad"]["error"]
    assert (found["bad"]["complete"], found["bad"]["facts"], found["bad"]["size"]) == (False, None, 0)
    assert found["oss"]["error"] is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"<html>"), "it is not a GGUF file"),
        (lambda path: None, "path must be a GGUF file or a directory of them; nothing is at"),
    ],
)
def test_one_clear_error(make: Any, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "x.gguf")
    result = run(capfd, path=tmp_path / "x.gguf")
    assert result["failed"]
    assert said in result["msg"]


def test_a_user_that_is_not_there_yet_owns_nothing(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (models / "oss.gguf").chmod(0o600)
    (models / "lost+found").mkdir(mode=0o700)
    result = run(capfd, path=models, user="nobody-has-this-name")
    assert [problem.split(" cannot")[0] for problem in result["problems"]] == ["oss.gguf", "the folder lost+found"]
    assert [problem.split(" cannot")[0] for problem in result["blocking"]] == ["the folder lost+found"]


# --- the cache --------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    seen: list[str] = []
    read_model = _gguf_info.read_model

    def read(path: str) -> Any:
        seen.append(os.path.basename(path))
        return read_model(path)

    monkeypatch.setattr(_gguf_info, "read_model", read)
    return seen


def test_a_second_look_reads_nothing(models: Path, reads: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    first = run(capfd, path=models)
    assert len(reads) == 5
    assert run(capfd, path=models) == first
    assert len(reads) == 5
    assert run(capfd, path=models, cache="") == first
    assert len(reads) == 10


def test_what_changed_is_read_again(models: Path, reads: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, path=models)
    reads.clear()
    os.utime(models / "oss.gguf", ns=(1, 1))
    os.truncate(models / "Qwen3-8B-Q4_K_M.gguf", 5027779392)  # sparse
    found = {model["id"]: model for model in run(capfd, path=models)["models"]}
    assert sorted(reads) == ["Qwen3-8B-Q4_K_M.gguf", "oss.gguf"]
    assert found["Qwen3-8B-Q4_K_M"]["complete"]
    (models / "oss.gguf").write_bytes(b"GGUF")
    found = {model["id"]: model for model in run(capfd, path=models)["models"]}
    assert "damaged" in found["oss"]["error"]


def test_a_shard_that_comes_is_seen(tmp_path: Path, reads: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    def shard(number: int) -> bytes:
        keys = [text(f"split.{key}") + struct.pack("<II", 4, value) for key, value in (("no", number), ("count", 2))]
        name = text(f"t{number}") + struct.pack("<IQIQ", 1, 32, 0, 0)
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + b"".join(keys) + name
        return head + bytes(-len(head) % 32 + 128)

    first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    first.write_bytes(shard(0))
    (model,) = run(capfd, path=first)["models"]
    assert (model["missing"], model["complete"]) == ([str(second)], False)
    second.write_bytes(shard(1))
    (model,) = run(capfd, path=first)["models"]
    assert (model["missing"], model["complete"]) == ([], True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', '{"format": 1, "files": {"%s": {"seen": [7]}}}'])
def test_a_damaged_cache_is_made_anew(
    content: str, models: Path, own_cache: Path, reads: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text(content.replace("%s", str(models / "oss.gguf")))
    assert len(run(capfd, path=models)["models"]) == 3
    assert len(reads) == 5
    assert sorted(json.loads(own_cache.read_text())) == ["files", "format"]
    assert sorted(os.listdir(own_cache.parent)) == ["gguf_info.json"]


def test_a_cache_that_cannot_be_written_is_left_out(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(run(capfd, path=models, cache="/dev/null/x.json")["models"]) == 3


def test_files_that_are_gone_leave_the_cache(models: Path, own_cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, path=models)
    before = set(json.loads(own_cache.read_text())["files"])
    (models / "oss.gguf").unlink()
    os.utime(models / "Qwen3-8B-Q4_K_M.gguf", ns=(1, 1))
    run(capfd, path=models)
    assert before - {str(models / "oss.gguf")} == set(json.loads(own_cache.read_text())["files"])
    assert str(models / "oss.gguf") in before


def test_a_cache_that_another_user_can_change_is_neither_believed_nor_followed(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache, victim = tmp_path / "open" / "cache.json", tmp_path / "victim"
    victim.write_text("kept")
    first = run(capfd, path=models, cache=tmp_path / "own.json")
    cache.parent.mkdir()
    cache.parent.chmod(0o777)
    lies = json.loads((tmp_path / "own.json").read_text())
    for known in lies["files"].values():
        known["model"]["name"] = "a lie"
    cache.write_text(json.dumps(lies))
    assert run(capfd, path=models, cache=cache) == first
    cache.parent.chmod(0o755)
    cache.unlink()
    cache.symlink_to(victim)
    assert run(capfd, path=models, cache=cache) == first
    assert victim.read_text() == "kept"


def test_a_cache_that_is_a_fifo_holds_nobody(models: Path, own_cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own_cache.parent.mkdir(parents=True)
    os.mkfifo(own_cache)
    assert len(run(capfd, path=models)["models"]) == 3


def test_a_file_s_own_words_are_one_short_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama\n" * 999)]
    keys += [text("general.name") + struct.pack("<I", 8) + text("\x1b[31m\u2028" * 999)]
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys) + bytes(100))
    (model,) = run(capfd, path=path)["models"]
    assert model["facts"] is None
    assert len(model["name"]) <= 201
    for key in ("name", "architecture"):
        assert len(model[key].splitlines()) == 1
        assert "\x1b" not in model[key]


def test_an_odd_name_is_told(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = run(capfd, path=models, cache="")
    (models / os.fsdecode(b"\xff.gguf")).write_bytes(b"GGUF")
    (models / "a\nb").mkdir()
    after = run(capfd, path=models, cache="")
    assert after["models"] == before["models"]
    assert len(after["problems"]) == len(before["problems"]) + 2
