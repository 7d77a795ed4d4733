# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._files import UntrustedPath
from ansible_collections.homelab.llamacpp.plugins.module_utils._root_files import put_file, put_folder

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="another user's file is made by root")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_file_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "unit"
    change = put_file(str(path), b"one\n", 0o644, check_mode=False)
    assert change is not None
    assert (change.before.content, change.after.content) == (None, b"one\n")
    assert (path.read_bytes(), mode(path)) == (b"one\n", 0o644)
    assert put_file(str(path), b"one\n", 0o644, check_mode=False) is None


@pytest.mark.parametrize(("content", "wanted"), [(b"two", 0o644), (b"one", 0o755)])
def test_check_mode_tells_the_change_and_leaves_the_file(tmp_path: Path, content: bytes, wanted: int) -> None:
    path = tmp_path / "unit"
    put_file(str(path), b"one", 0o644, check_mode=False)
    before = path.stat()
    change = put_file(str(path), content, wanted, check_mode=True)
    assert change is not None
    assert change.diff()["before"] != change.diff()["after"]
    assert (path.read_bytes(), path.stat().st_ino, mode(path)) == (b"one", before.st_ino, 0o644)
    assert put_file(str(path), content, wanted, check_mode=False) is not None
    assert (path.read_bytes(), mode(path)) == (content, wanted)


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "unit"
    victim.write_text("kept")
    path.symlink_to(victim)
    assert put_file(str(path), b"kept", 0o644, check_mode=False) is not None
    assert not path.is_symlink()
    assert (victim.read_text(), path.read_text()) == ("kept", "kept")


def test_a_fifo_is_an_error_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "unit")
    with pytest.raises(OSError, match="expected a regular file"):
        put_file(str(tmp_path / "unit"), b"one", 0o644, check_mode=False)


@needs_root
def test_owner_is_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "unit"
    put_file(str(path), b"one", 0o644, check_mode=False)
    os.chown(path, 65534, 65534)
    assert put_file(str(path), b"one", 0o644, check_mode=False) is not None
    assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)


@needs_root
def test_a_directory_of_another_user_is_no_place_for_a_file(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with pytest.raises(UntrustedPath):
        put_file(str(theirs / "unit"), b"one", 0o644, check_mode=False)
    with pytest.raises(UntrustedPath):
        put_folder(str(theirs / "below"), 0o755, check_mode=False)
    assert list(theirs.iterdir()) == []


def test_a_directory_is_made_with_those_above_it(tmp_path: Path) -> None:
    path = tmp_path / "above" / "folder"
    assert put_folder(str(path), 0o755, check_mode=True) is not None
    assert not path.parent.exists()
    assert put_folder(str(path), 0o755, check_mode=False) is not None
    assert mode(path) == 0o755
    assert put_folder(str(path), 0o755, check_mode=False) is None


@needs_root
def test_a_directory_that_another_user_has_becomes_ours(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir(mode=0o777)
    os.chown(path, 65534, 65534)
    assert put_folder(str(path), 0o755, check_mode=False) is not None
    assert (path.stat().st_uid, mode(path)) == (0, 0o755)


def test_a_link_to_a_directory_stays(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    assert put_folder(str(tmp_path / "link"), 0o755, check_mode=False) is not None
    assert (tmp_path / "link").is_symlink()
    assert mode(real) == 0o755


@needs_root
@pytest.mark.parametrize("planted", ["in a directory of another user", "in a directory for all"])
def test_a_link_of_another_user_is_not_followed(tmp_path: Path, planted: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    link = theirs / "link"
    link.symlink_to(victim)
    os.lchown(link, 65534, 65534)
    if planted == "in a directory for all":
        theirs.chmod(0o1777)
    else:
        os.chown(theirs, 65534, 65534)
    with pytest.raises(UntrustedPath):
        put_folder(str(link), 0o755, check_mode=False)
    assert mode(victim) == 0o700
