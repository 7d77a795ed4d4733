# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files
from ansible_collections.homelab.llamacpp.plugins.module_utils._files import UntrustedPath

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_replace_creates_keeps_and_sets(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    with pytest.raises(FileNotFoundError):
        _files.replace(str(file), "text")
    _files.replace(str(file), "text", create_mode=0o755)
    assert (file.read_text(), mode_of(file)) == ("text", 0o644)
    file.chmod(0o600)
    _files.replace(str(file), b"\xff")
    assert (file.read_bytes(), mode_of(file)) == (b"\xff", 0o600)
    _files.replace(str(file), "x", mode=0o640)
    assert mode_of(file) == 0o640
    assert os.listdir(file.parent) == ["file"]


@as_root
def test_replace_keeps_the_owner(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.chown(file, NOBODY, NOBODY)
    _files.replace(str(file), "x")
    assert (file.stat().st_uid, file.stat().st_gid) == (NOBODY, NOBODY)
    _files.replace(str(file), "x", owner=(0, 0))
    assert file.stat().st_uid == 0


def test_replace_does_not_follow_a_link(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "file"
    victim.write_text("kept")
    file.symlink_to(victim)
    _files.replace(str(file), "new")
    assert victim.read_text() == "kept"
    assert file.read_text() == "new"
    assert not file.is_symlink()


def test_replace_leaves_nothing_behind_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        _files.replace(str(file), "new")
    assert (file.read_text(), os.listdir(tmp_path)) == ("old", ["file"])


def lock(path: str) -> None:
    with _files.locked(path):
        raise AssertionError("locked")


@as_root
@pytest.mark.parametrize(
    "act",
    [
        lambda folder: _files.replace(f"{folder}/file", "x"),
        lambda folder: lock(f"{folder}/file"),
        _files.check_folder,
        lambda folder: _files.open_folder(f"{folder}/new", 0o755),
    ],
)
def test_a_folder_of_another_user_is_refused(tmp_path: Path, act: Callable[[str], None]) -> None:
    theirs = tmp_path / "theirs" / "below"
    theirs.mkdir(parents=True)
    os.chown(theirs.parent, NOBODY, NOBODY)
    with pytest.raises(UntrustedPath) as caught:
        act(str(theirs))
    assert caught.value.strerror == (
        f"{theirs.parent} belongs to user 65534, who could lead this task to another file;"
        " make it root's, with mode 0755"
    )
    assert os.listdir(theirs) == []


@as_root
@pytest.mark.parametrize(
    ("mode", "group", "trusted"), [(0o757, 0, False), (0o775, 1, False), (0o775, 0, True), (0o1777, 0, True)]
)
def test_a_folder_that_others_write_to(tmp_path: Path, mode: int, group: int, trusted: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chown(folder, 0, group)
    folder.chmod(mode)
    if trusted:
        _files.check_folder(str(folder))
    else:
        with pytest.raises(UntrustedPath, match="can be written to by"):
            _files.check_folder(str(folder))


@as_root
def test_links_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "link").symlink_to("../real")
    (tmp_path / "absolute").symlink_to(tmp_path / "far" / "link")
    handle = _files.open_folder(str(tmp_path / "absolute"))
    assert os.path.samestat(os.fstat(handle), os.stat(tmp_path / "real"))
    os.close(handle)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        _files.open_folder(str(tmp_path / "loop"))
    (tmp_path / "real").chmod(0o1777)
    link = tmp_path / "real" / "theirs"
    link.symlink_to("/etc")
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(UntrustedPath, match="is a link of user 65534"):
        _files.open_folder(str(link))


def test_every_directory_on_the_path_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the root on, and behind a link those on its way."""
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("./real//./below")
    checked: list[str] = []
    real = _files._check_folder
    monkeypatch.setattr(_files, "_check_folder", lambda folder, shown: (checked.append(shown), real(folder, shown)))
    _files.check_folder(str(tmp_path / "link"))
    parents = [str(parent) for parent in reversed(tmp_path.parents)]
    assert checked == [*parents, str(tmp_path), str(tmp_path / "real"), str(tmp_path / "real" / "below")]
    checked.clear()
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    _files.check_folder(str(tmp_path / "absolute"))
    assert checked[-len(parents) - 1 :] == [*parents[1:], str(tmp_path), str(tmp_path / "real")]


def test_as_many_links_as_the_kernel_follows(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    for number in range(1, 42):
        (tmp_path / str(number)).symlink_to(str(number - 1))
    _files.check_folder(str(tmp_path / "40"))
    with pytest.raises(OSError, match="symbolic links"):
        _files.check_folder(str(tmp_path / "41"))


def test_errors_name_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, shown in (("none/x", "none"), ("file/x", "file")):
        with pytest.raises(OSError, match=r"No such file|Not a directory") as caught:
            _files.check_folder(str(tmp_path / path))
        assert caught.value.filename == str(tmp_path / shown)


@as_root
def test_an_untrusted_directory_on_the_way_is_told_with_the_whole_path(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "below").mkdir(parents=True)
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(UntrustedPath) as caught:
        _files.check_folder(str(theirs / "below"))
    assert (caught.value.filename, caught.value.owner) == (str(theirs / "below"), NOBODY)


def test_a_long_name_and_a_name_of_others_are_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written beside has a name of its own, that the file system takes, and that nobody can foresee."""
    file = tmp_path / ("x" * 255)
    beside: list[str] = []
    rename = os.rename

    def renamed(old: str, new: str, **more: int) -> None:
        beside.append(old)
        rename(old, new, **more)

    monkeypatch.setattr(os, "rename", renamed)
    for _time in range(2):
        _files.replace(str(file), "text")
    assert file.read_text() == "text"
    assert len(set(beside)) == 2
    assert all(len(name) == 1 + 200 + 1 + 16 for name in beside)


def test_what_is_written_is_on_the_disk_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda handle: (did.append(f"fsync {os.fstat(handle).st_size}"), fsync(handle)))
    monkeypatch.setattr(os, "rename", lambda *names, **more: (did.append("rename"), rename(*names, **more)))
    _files.replace(str(tmp_path / "file"), "text")
    assert did == ["fsync 4", "rename"]


def test_nobody_reads_a_file_before_it_has_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    write = os.fchmod
    monkeypatch.setattr(
        os, "fchmod", lambda handle, mode: (modes.append(stat.S_IMODE(os.fstat(handle).st_mode)), write(handle, mode))
    )
    _files.replace(str(tmp_path / "file"), "a key", mode=0o640)
    assert modes == [0o600]


def test_a_lock_that_does_not_stay(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with _files.locked(str(file), keep=False):
        assert file.exists()
    assert not file.exists()
    with _files.locked(str(file)):
        pass
    assert file.exists()


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two would hold it: one the removed file, the other the new one."""
    file = tmp_path / "lock"
    flock = fcntl.flock
    times: list[int] = []

    def removed_meanwhile(handle: int, how: int) -> None:
        times.append(handle)
        if len(times) == 1:
            file.unlink()
        if len(times) == 2:
            file.unlink()
            file.touch()
        flock(handle, how)

    monkeypatch.setattr(_files.fcntl, "flock", removed_meanwhile)
    with _files.locked(str(file)):
        assert len(times) == 3
        with open(file) as other, pytest.raises(BlockingIOError):
            flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_whose_holder_gets_on_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time begins anew whenever its progress changes."""
    clock = [1000.0]
    monkeypatch.setattr(_files.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_files.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    with _files.locked(str(tmp_path / "lock")):
        steps = [*range(30), *[29] * 100]
        with (
            pytest.raises(TimeoutError, match=r"for 1 seconds; wait for that run or end it"),
            _files.locked(str(tmp_path / "lock"), 1, progress=lambda: steps.pop(0)),
        ):
            raise AssertionError("locked twice")
    assert clock[0] == pytest.approx(1000 + 2.9 + 1, abs=0.2)


def test_no_descriptor_is_left_open_by_locks_and_writes(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with _files.locked(str(tmp_path / "lock")):
        with pytest.raises(TimeoutError), _files.locked(str(tmp_path / "lock"), 0):
            raise AssertionError("locked twice")
        _files.replace(str(tmp_path / "file"), "x")
        with pytest.raises(OSError, match="expected a regular file"):
            _files.read(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    before = os.listdir("/proc/self/fd")
    for path in (tmp_path / "file" / "x", tmp_path / "none" / "x", tmp_path / "link"):
        try:
            _files.check_folder(str(path))
        except OSError:
            continue
    assert os.listdir("/proc/self/fd") == before


def test_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert _files.read(str(file), 5) == b"12345"
    with pytest.raises(OSError, match="at most 4 bytes"):
        _files.read(str(file), 4)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(OSError, match="symbolic links"):
        _files.read(str(tmp_path / "link"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="expected a regular file"):
        _files.read(str(tmp_path / "fifo"))
    with pytest.raises(OSError, match="expected a regular file"):
        _files.read("/dev/zero")


def test_locked(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.touch(mode=0o666)
    with _files.locked(str(file)):
        assert mode_of(file) == 0o600
        with pytest.raises(TimeoutError, match="another run has held it for 0 seconds"), _files.locked(str(file), 0):
            raise AssertionError("locked twice")
    with _files.locked(str(file), 0), open(file, "rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_locked_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch(mode=0o644)
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        lock(str(tmp_path / "lock"))
    os.unlink(tmp_path / "lock")
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match="expected a regular file"):
        lock(str(tmp_path / "lock"))
    assert mode_of(victim) == 0o644
