# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import ReleaseError
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_sources import (
    find_tree,
    is_placed,
    place_tree,
    verify,
)


def run(argv: Sequence[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def checksum(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """As PyPI's sdist has it: the tree a folder deeper than at the top, and another project above it."""
    tree = tmp_path / "package-1/llama.cpp"
    tree.mkdir(parents=True)
    (tmp_path / "package-1/CMakeLists.txt").write_text("project(wrapper)\n")
    (tree / "CMakeLists.txt").write_text('cmake_minimum_required(VERSION 3.14)\nproject("llama.cpp" C CXX)\n')
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(tree.parent, "package-1")
    return path


def test_a_tree_comes_to_its_place_once(archive: Path, tmp_path: Path) -> None:
    tree = tmp_path / "build/src"
    tree.parent.mkdir()
    place_tree(run, str(archive), checksum(archive), str(tree))
    assert "llama.cpp" in (tree / "CMakeLists.txt").read_text()
    assert is_placed(str(tree), checksum(archive))
    assert not is_placed(str(tree), "sha256:" + "0" * 64)
    assert sorted(path.name for path in tree.parent.iterdir()) == ["src", "src.checksum"]


def test_another_archive_takes_the_place(archive: Path, tmp_path: Path) -> None:
    tree = tmp_path / "src"
    tree.mkdir()
    (tree / "of-an-older-build").touch()
    place_tree(run, str(archive), checksum(archive), str(tree))
    assert not (tree / "of-an-older-build").exists()


def test_what_is_not_what_was_wanted_changes_nothing(archive: Path, tmp_path: Path) -> None:
    tree = tmp_path / "src"
    with pytest.raises(ReleaseError, match=r"SHA-256 0{64} was wanted of .*, found .*; nothing was unpacked"):
        place_tree(run, str(archive), "sha256:" + "0" * 64, str(tree))
    assert not tree.exists()


@pytest.mark.parametrize("bad", ["", "sha256:", "md5:" + "0" * 64, "0" * 64])
def test_a_checksum_that_is_none(archive: Path, bad: str) -> None:
    with pytest.raises(ReleaseError, match="A checksum like sha256"):
        verify(str(archive), bad)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="No such file"):
        verify(str(tmp_path / "x"), "sha256:" + "0" * 64)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        file.add(Path(__file__), "test.py")
    with pytest.raises(ReleaseError, match=r"no CMakeLists.txt there is that of llama.cpp"):
        place_tree(run, str(path), checksum(path), str(tmp_path / "src"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar"]


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_text("<html>not found</html>")
    with pytest.raises(ReleaseError, match=r"was wanted unpacked in .*tar"):
        place_tree(run, str(path), checksum(path), str(tmp_path / "src"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_tree_too_deep_is_not_found(tmp_path: Path) -> None:
    tree = tmp_path / "1/2/3"
    tree.mkdir(parents=True)
    (tree / "CMakeLists.txt").write_text('project("llama.cpp")')
    with pytest.raises(ReleaseError):
        find_tree(str(tmp_path))
    assert find_tree(str(tmp_path / "1")) == str(tree)
