# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _staged
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._staged import Copied, HardLinked, Linked, Moved


@pytest.fixture(params=["hard link", "copy"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "copy":

        def refuse(*_arguments: object, **_options: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(_staged.os, "link", refuse)
    file = tmp_path / "theirs" / "model.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")
    return file


def move(source: Path, target: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    before = os.listdir("/proc/self/fd")
    staged = Moved(str(source), str(target), 0o644, lambda done: None)
    meanwhile()
    staged.put(str(target))
    staged.close()
    assert os.listdir("/proc/self/fd") == before
    assert target.read_bytes() == b"GGUF"


def test_the_source_is_removed(source: Path, tmp_path: Path) -> None:
    move(source, tmp_path / "model.gguf")
    assert not source.exists()


@pytest.mark.parametrize("what", ["directory", "file"])
def test_another_file_in_its_place_stays(source: Path, tmp_path: Path, what: str) -> None:
    """The owner of its directory exchanges one or the other before the source is removed."""

    def exchange() -> None:
        (source.parent if what == "directory" else source).rename(tmp_path / "away")
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(b"victim")

    move(source, tmp_path / "model.gguf", exchange)
    assert source.read_bytes() == b"victim"


def sums(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_that_is_put(tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    target.write_text("old")
    staged = Linked("/srv/m.gguf", str(target))
    assert (staged.path, staged.sha256) == ("/srv/m.gguf", "")
    assert target.read_text() == "old", "not before it is put"
    staged.put(str(target))
    staged.close()
    assert os.readlink(target) == "/srv/m.gguf"
    assert left(tmp_path) == ["m.gguf"]


def test_a_link_that_is_not_put(tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    (tmp_path / f"m.gguf.{os.getpid()}.part").write_text("left by an earlier process of this number")
    staged = Linked("/srv/m.gguf", str(target))
    assert left(tmp_path) == [f"m.gguf.{os.getpid()}.part"]
    staged.close()
    assert left(tmp_path) == []


def test_a_second_name(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "m.gguf"
    source.write_text("x")
    staged = HardLinked(str(source), str(target), "sum")
    assert staged.sha256 == "sum"
    assert staged.status().st_nlink == 2
    staged.put(str(target))
    staged.close()
    assert target.samefile(source)
    again = HardLinked(str(source), str(target))
    again.put(str(target))  # of the same file: that does nothing
    again.close()
    assert left(tmp_path) == ["m.gguf", "source"]


def test_a_second_name_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("x")
    (tmp_path / "link").symlink_to("victim")
    os.mkfifo(tmp_path / "fifo")
    before = left(tmp_path)
    for name in ("link", "fifo"):
        with pytest.raises(FetchError, match=f"{name}: expected a regular file, found something else; look at it"):
            HardLinked(str(tmp_path / name), str(tmp_path / "m.gguf"))
        assert left(tmp_path) == before


@pytest.fixture(params=["shared", "copied"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the file system shares blocks."""

    def ioctl(target: int, number: int, source: int) -> int:
        assert number == 0x40049409
        if request.param == "copied":
            raise OSError(95, "Operation not supported")
        os.pwrite(target, os.pread(source, 1 << 30, 0), 0)
        return 0

    monkeypatch.setattr(_staged.fcntl, "ioctl", ioctl)
    monkeypatch.setattr(_staged, "BLOCK", 1000)
    kind: str = request.param
    return kind


def test_a_copy(tmp_path: Path, blocks: str) -> None:
    source, target = tmp_path / "source", tmp_path / "m.gguf"
    content = os.urandom(2500)
    source.write_bytes(content)
    (tmp_path / "m.gguf.part").write_bytes(b"left by an earlier run" * 1000)
    (tmp_path / "m.gguf.part").chmod(0o640)
    done: list[int] = []
    before = os.listdir("/proc/self/fd")
    staged = Copied(str(source), str(target), 0o640, done.append)
    assert done == [1000, 2000, 2500]
    assert staged.sha256 == sums(content)
    assert not target.exists()
    staged.put(str(target))
    staged.close()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (content, 0o640)
    assert left(tmp_path) == ["m.gguf", "source"]
    assert os.listdir("/proc/self/fd") == before


def test_a_copy_that_is_not_put(tmp_path: Path, blocks: str) -> None:
    (tmp_path / "source").write_bytes(b"x")
    Copied(str(tmp_path / "source"), str(tmp_path / "m.gguf"), 0o644, lambda done: None).close()
    assert left(tmp_path) == ["source"]


def test_a_part_file_of_another_run_stays(tmp_path: Path, blocks: str) -> None:
    source, part = tmp_path / "source", tmp_path / "m.gguf.part"
    source.write_bytes(b"x")
    staged = Copied(str(source), str(tmp_path / "m.gguf"), 0o644, lambda done: None)
    part.unlink()
    part.write_text("of another run")
    staged.close()
    assert part.read_text() == "of another run"


@pytest.mark.parametrize(
    ("number", "mend"),
    [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EIO, "mend that")],
)
def test_a_copy_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, mend: str) -> None:
    (tmp_path / "source").write_bytes(b"x")
    before = os.listdir("/proc/self/fd")

    def fails(_handle: int) -> None:
        raise OSError(number, "it fails")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(FetchError, match=rf"m.gguf.part cannot be made a copy of .*source: it fails; {mend}, then run"):
        Copied(str(tmp_path / "source"), str(tmp_path / "m.gguf"), 0o644, lambda done: None)
    assert left(tmp_path) == ["source"]
    assert os.listdir("/proc/self/fd") == before


def test_a_move_tells_how_far_it_is(source: Path, tmp_path: Path) -> None:
    done: list[int] = []
    staged = Moved(str(source), str(tmp_path / "model.gguf"), 0o644, done.append)
    assert (done, staged.sha256) == ([4], sums(b"GGUF"))
    assert os.path.dirname(staged.path) == str(tmp_path)
    assert source.exists()
    staged.close()
    assert source.exists(), "what is not put is not moved"
    assert left(tmp_path) == ["theirs"]


def test_a_move_that_cannot_be_begun_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")

    def broken(*_given: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(_staged, "_sha256", broken)
    monkeypatch.setattr(_staged.Copied, "_copy", broken)
    with pytest.raises(KeyboardInterrupt):
        Moved(str(source), str(tmp_path / "model.gguf"), 0o644, lambda done: None)
    assert source.read_bytes() == b"GGUF"
    if os.listdir("/proc/self/fd") != before:  # a copy's own handle is closed with the process
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    with pytest.raises(FileNotFoundError):
        Moved(str(tmp_path / "theirs" / "nowhere"), str(tmp_path / "model.gguf"), 0o644, lambda done: None)


def test_a_link_is_moved_as_what_it_leads_to(tmp_path: Path) -> None:
    """And goes itself; the content behind it stays under its first name, too."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "content").write_bytes(b"GGUF")
    (tmp_path / "theirs" / "link").symlink_to("../content")
    move(tmp_path / "theirs" / "link", tmp_path / "model.gguf")
    assert left(tmp_path / "theirs") == []
    assert (tmp_path / "content").read_bytes() == b"GGUF"
    assert not (tmp_path / "model.gguf").is_symlink()
