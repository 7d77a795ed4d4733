# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_files
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model, RouterError


def test_digests(tmp_path: Path) -> None:
    file, none = tmp_path / "file", tmp_path / "none"
    file.write_bytes(b"x" * 3_000_000)
    assert _router_files.digests([str(file), str(none)]) == {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest(),
        str(none): None,
    }
    with pytest.raises(RouterError, match="Is a directory"):
        _router_files.digests([str(tmp_path)])


def test_the_record_is_what_sha256sum_writes(tmp_path: Path) -> None:
    files = [tmp_path / "models.ini", tmp_path / "with a  blank"]
    for file in files:
        file.write_text(file.name)
    record = tmp_path / "applied"
    with record.open("wb") as out:
        subprocess.run(["sha256sum", *files], stdout=out, check=True)
    names = [str(file) for file in files]
    assert _router_files.read_applied(str(record)) == _router_files.digests(names)
    assert _router_files.read_applied(str(tmp_path / "none")) is None

    files[0].write_text("changed")
    record.chmod(0o640)
    _router_files.amend_applied(str(record), _router_files.digests(names[:1]))
    assert subprocess.run(["sha256sum", "--check", "--strict", record], check=False).returncode == 0
    assert record.stat().st_mode & 0o777 == 0o640
    _router_files.amend_applied(str(record), {names[0]: None})
    assert list(_router_files.read_applied(str(record)) or {}) == names[1:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["applied", "models.ini", "with a  blank"]


def test_a_record_that_is_none(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{'x' * 80}\n{'a' * 64}  /file\n{'A' * 64}  /upper\n\n{'a' * 64}  relative\n")
    assert _router_files.read_applied(str(secret)) == {"/file": "a" * 64}
    link = tmp_path / "applied"
    link.symlink_to(secret)
    with pytest.raises(RouterError, match="expected a readable record"):
        _router_files.read_applied(str(link))


@pytest.mark.parametrize("mode", [0o777, 0o755])
def test_a_record_that_another_user_could_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    """Its directory is the service's, or everybody's: root neither compares the record nor writes there."""
    folder = tmp_path / "run"
    folder.mkdir()
    record, victim = folder / "applied", tmp_path / "victim"
    record.write_text(f"{'a' * 64}  /file\n")
    assert _router_files.read_applied(str(record)) == {"/file": "a" * 64}
    victim.write_text("root's")
    (folder / "pending.json").symlink_to(victim)
    folder.chmod(mode)
    os.chown(folder, 65534 if mode == 0o755 else 0, -1)
    assert _router_files.read_applied(str(record)) is None
    for write in (
        lambda: _router_files.amend_applied(str(record), {"/file": "b" * 64}),
        lambda: _router_files.write_pending(str(folder / "pending.json"), ["a"]),
        lambda: _router_files.read_pending(str(folder / "pending.json")),
    ):
        with pytest.raises(RouterError, match=r"make it root's, with mode 0755"):
            write()
    with pytest.raises(OSError, match="make it root's"):
        _router_files.write_pending(str(folder / "pending.json"), [])
    assert (victim.read_text(), record.read_text()) == ("root's", f"{'a' * 64}  /file\n")


def test_a_fifo_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    fifo = tmp_path / "conf"
    os.mkfifo(fifo)
    with pytest.raises(RouterError, match="expected a regular file"):
        _router_files.digests([str(fifo)])
    with pytest.raises(RouterError, match="expected a regular file"):
        _router_files.read_applied(str(fifo))


def test_pending(tmp_path: Path) -> None:
    file = tmp_path / "state" / "pending.json"
    assert _router_files.read_pending(str(file)) == []
    _router_files.write_pending(str(file), ["b", "ä"])
    assert _router_files.read_pending(str(file)) == ["b", "ä"]
    _router_files.write_pending(str(file), [])
    _router_files.write_pending(str(file), [])
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", "[1]", "nonsense"])
def test_a_damaged_pending_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pending.json"
    file.write_text(text)
    with pytest.raises(RouterError, match=r"a JSON list of model names was wanted in .*; remove that file"):
        _router_files.read_pending(str(file))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pending.json"
    _router_files.write_pending(str(file), ["a"])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RouterError, match="No space left on device"):
        _router_files.write_pending(str(file), ["b"])
    assert _router_files.read_pending(str(file)) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["pending.json"]


def test_the_ids_of_a_folder(tmp_path: Path) -> None:
    for name in (
        "Qwen3-8B-Q4_K_M.gguf",
        ".hidden.gguf",
        "mmproj-F16.gguf",
        "mtp-x.gguf",
        "big.GGUF",
        "half.gguf.part",
        "split/a-00001-of-00002.gguf",
        "split/a-00002-of-00002.gguf",
        "vision/vision.gguf",
        "vision/mmproj-F16.gguf",
        "projector-only/x-mmproj.gguf",
        "deep/er/x.gguf",
        "empty/readme.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked.gguf").symlink_to("Qwen3-8B-Q4_K_M.gguf")
    (tmp_path / "linked-folder").symlink_to("split")
    (tmp_path / "dangling.gguf").symlink_to("nowhere")
    assert _router_files.folder_ids(str(tmp_path)) == {
        "Qwen3-8B-Q4_K_M",
        ".hidden",
        "split",
        "vision",
        "linked",
        "linked-folder",
    }
    with pytest.raises(FileNotFoundError):
        _router_files.folder_ids(str(tmp_path / "none"))


def test_models_by_their_size(tmp_path: Path) -> None:
    """Those that write come first; without a file that is there none is any."""

    def model(name: str, *args: str, **options: str) -> Model:
        return Model(name, (), (), "unloaded", False, None, "preset", options, args, 0, ("text",), {})

    for name, size in (("big", 30), ("small", 10), ("embed", 1)):
        (tmp_path / name).write_bytes(b"x" * size)
    models = [
        model("embed", "--model", str(tmp_path / "embed"), embedding="true"),
        model("rank", "--model", str(tmp_path / "embed"), reranking="true"),
        model("big", "x", "--model", str(tmp_path / "big"), "--port", "1"),
        model("small", "--model", str(tmp_path / "small")),
        model("gone", "--model", str(tmp_path / "gone")),
        model("cut", "--model"),
        model("hub", "--hf-repo", "x"),
    ]
    found = _router_files.by_size(models)
    assert [(one.model.id, one.size, one.writes) for one in found] == [
        ("small", 10, True),
        ("big", 30, True),
        ("embed", 1, False),
        ("rank", 1, False),
    ]
    assert found[0].path == str(tmp_path / "small")


@pytest.mark.parametrize("option", ["embedding", "embeddings", "rerank", "reranking"])
def test_what_answers_with_no_text(option: str) -> None:
    entry = Model("a", (), (), "unloaded", False, None, "preset", {option: "true"}, (), 0, ("text",), {})
    assert not _router_files.writes(entry)


def test_ids_of_a_models_folder(tmp_path: Path) -> None:
    for place in (
        *("a.gguf", "b.txt", "mmproj-x.gguf", "x-mmproj.gguf", "mtp-a.gguf", "dspark-a.gguf", "dflash-a.gguf"),
        *("folder/c.gguf", "empty/readme", "side/mmproj.gguf", "deep/er/d.gguf", "e.gguf.part"),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "dir.gguf").mkdir()
    assert _router_files.folder_ids(str(tmp_path)) == {"a", "folder"}


def test_folders_of_records_are_made_for_everybody_to_look_into(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pending.json"
    _router_files.write_pending(str(path), ["a"])
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert _router_files.read_pending(str(path)) == ["a"]
    _router_files.write_pending(str(path), [])
    _router_files.write_pending(str(path), [])
    assert list(path.parent.iterdir()) == []
