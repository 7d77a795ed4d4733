# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import ReleaseError
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_sources import (
    check_commit,
    find_tree,
    is_placed,
    place_tree,
    unpack,
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
    with pytest.raises(ReleaseError, match=r"cannot be unpacked in .*: file could not be opened"):
        place_tree(run, str(path), checksum(path), str(tmp_path / "src"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_tree_too_deep_is_not_found(tmp_path: Path) -> None:
    tree = tmp_path / "1/2/3"
    tree.mkdir(parents=True)
    (tree / "CMakeLists.txt").write_text('project("llama.cpp")')
    with pytest.raises(ReleaseError):
        find_tree(str(tmp_path))
    assert find_tree(str(tmp_path / "1")) == str(tree)


# --- archives of somebody who wants more than a directory -------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, leads_to: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, leads_to, mode
    info.size = 4 if kind == tarfile.REGTYPE else 0
    return info


def archive_of(path: Path, *members: tarfile.TarInfo) -> str:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(b"text") if info.size else None)
    return str(path)


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../victim")], r"found '\.\.'"),
        ([member("a/../../victim")], r"found '\.\.'"),
        ([member("/victim")], "its path is absolute"),
        ([member("a\nb")], "of printable characters"),
        ([member("a", LINK, "/"), member("a/victim")], "a link out of it"),
        ([member("a", LINK, ".."), member("a/victim")], "a link out of it"),
        ([member("d", tarfile.DIRTYPE), member("d/a", LINK, "../.."), member("d/a/victim")], "a link out of it"),
        ([member("d/a", LINK, ".."), member("d/b", LINK, "a/../..")], "a link out of it"),
        ([member("a", LINK, "d"), member("a/b")], "goes through a link"),
        ([member("a", LINK, "d"), member("a", LINK, "e")], "goes through a link"),
        ([member("a", HARD, "../victim")], r"found '\.\.'"),
        ([member("a", HARD, "/etc/passwd")], "its path is absolute"),
        ([member("a", LINK, "b"), member("c", HARD, "a")], "No such file"),
        ([member("a"), member("a")], "File exists"),
        ([member("a", mode=0o4755)], "set-user-ID"),
        ([member("a", mode=0o2755)], "set-user-ID"),
        ([member("a", tarfile.CHRTYPE)], "a device or a FIFO"),
        ([member("a", tarfile.BLKTYPE)], "a device or a FIFO"),
        ([member("a", tarfile.FIFOTYPE)], "a device or a FIFO"),
    ],
)
def test_an_archive_that_reaches_out_is_refused_whole(
    members: list[tarfile.TarInfo], message: str, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "a.tar", member("first"), *members)
    (tmp_path / "made").mkdir()
    with pytest.raises(ReleaseError, match=message):
        unpack(run, archive, str(tmp_path / "made/there"))
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "made"]
    assert os.listdir(tmp_path / "made") == []


def test_links_that_stay_inside_and_modes(tmp_path: Path) -> None:
    archive = archive_of(
        tmp_path / "a.tar",
        member("./", tarfile.DIRTYPE, mode=0o777),
        member("bin/run", mode=0o775),
        member("lib/x.so.1", mode=0o666),
        member("lib/x.so", LINK, "x.so.1"),
        member("bin/lib", LINK, "../lib"),
        member("lib/same", HARD, "bin/run"),
    )
    unpack(run, archive, str(tmp_path / "there"))
    there = tmp_path / "there"
    assert (there / "bin/lib/x.so").read_text() == "text"
    modes = [stat & 0o7777 for stat in (p.stat().st_mode for p in (there, there / "bin/run", there / "lib/x.so.1"))]
    assert modes == [0o755, 0o755, 0o644]
    assert (there / "lib/same").samefile(there / "bin/run")


def test_zstd(archive: Path, tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.zst"
    plain = subprocess.run(["gzip", "-dc", archive], check=True, capture_output=True).stdout
    packed.write_bytes(b"\x28\xb5\x2f\xfd" + plain)

    def zstd(argv: Sequence[str]) -> tuple[int, str, str]:
        assert argv[:2] == ["zstd", "-d"]
        Path(argv[-1]).write_bytes(plain)
        return 0, "", ""

    unpack(zstd, str(packed), str(tmp_path / "there"))
    assert find_tree(str(tmp_path / "there")).endswith("package-1/llama.cpp")
    assert not (tmp_path / "there.tar").exists()


def test_an_archive_that_another_user_can_change_is_refused(archive: Path) -> None:
    """Also with the right checksum: it is read once more when it is unpacked."""
    archive.chmod(0o666)
    with pytest.raises(ReleaseError, match="that only root can change"):
        verify(str(archive), checksum(archive))
    archive.chmod(0o644)
    verify(str(archive), checksum(archive))
    if os.geteuid() == 0:
        os.chown(archive, 65534, 65534)
        with pytest.raises(ReleaseError, match="belongs to user 65534"):
            verify(str(archive), checksum(archive))


def test_an_archive_of_a_group_of_others_that_may_write(archive: Path) -> None:
    """World-writable is refused, whatever else the mode says."""
    for mode in (0o602, 0o4602, 0o2646):
        archive.chmod(mode)
        with pytest.raises(ReleaseError, match=f"has mode {mode & 0o7777:04o}; chown and chmod it"):
            verify(str(archive), checksum(archive))


def test_a_checksum_in_capitals(archive: Path) -> None:
    verify(str(archive), "sha256:" + checksum(archive).partition(":")[2].upper())


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_an_archive_that_is_damaged(kind: str, damage: str, tmp_path: Path) -> None:
    """Each packer has errors of its own."""
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    path = tmp_path / "a.tar"
    with tarfile.open(path, f"w:{kind}") as file:
        file.add(tmp_path / "file", "file")
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"a.tar cannot be unpacked in .*there: "):
        unpack(run, str(path), str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def test_an_archive_with_a_folder_in_a_files_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        for name in ("a", "a/b"):
            file.addfile(tarfile.TarInfo(name))
    with pytest.raises(ReleaseError, match=r"cannot be unpacked"):
        unpack(run, str(path), str(tmp_path / "there"))


def test_what_was_in_the_directory_before_goes(archive: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(0o700)
    (there / "old").touch()
    unpack(run, str(archive), str(there))
    assert [path.name for path in there.iterdir()] == ["package-1"]


def test_directories_that_an_archive_does_not_name(tmp_path: Path) -> None:
    """With times of files, by which a build sees what it has built already."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        member = tarfile.TarInfo("./a//b/./c")
        member.mtime, member.mode = 1_000_000_000, 0o100
        file.addfile(member)
    unpack(run, str(path), str(tmp_path / "there"))
    found = (tmp_path / "there/a/b/c").stat()
    assert (found.st_mtime, found.st_mode & 0o7777) == (1_000_000_000, 0o755)
    assert (tmp_path / "there/a/b").stat().st_mode & 0o777 == 0o755


def test_a_file_is_nobodys_until_it_is_whole(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: set[int] = set()
    copy = shutil.copyfileobj

    def watched(source: object, target: io.BufferedWriter, length: int) -> None:
        modes.add(os.fstat(target.fileno()).st_mode & 0o777)
        copy(source, target, length)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "copyfileobj", watched)
    unpack(run, str(archive), str(tmp_path / "there"))
    assert modes == {0o600}


def test_words_of_zstd_are_told_in_short(tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.zst"
    packed.write_bytes(b"\x28\xb5\x2f\xfd")
    words = " ".join(f"w{number}" for number in range(100))
    for answer in ((1, "", words), (1, words, " ")):
        with pytest.raises(ReleaseError) as caught:
            unpack(lambda argv, answer=answer: answer, str(packed), str(tmp_path / "there"))  # type: ignore[misc]
        assert str(caught.value).endswith("zstd cannot read it: " + " ".join(words.split()[-40:]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.zst"]


def test_a_tree_without_its_note_or_a_note_without_its_tree_is_not_placed(archive: Path, tmp_path: Path) -> None:
    tree = tmp_path / "src"
    assert not is_placed(str(tree), checksum(archive))
    (tmp_path / "src.checksum").write_text(checksum(archive))
    assert not is_placed(str(tree), checksum(archive))
    tree.mkdir()
    assert is_placed(str(tree), checksum(archive))
    (tmp_path / "src.checksum").write_bytes(b"\xff")
    assert not is_placed(str(tree), checksum(archive))


# --- commits ----------------------------------------------------------------------------------------------------


class Git:
    """Answers to rev-parse."""

    def __init__(self, head: str) -> None:
        self.head = head

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        assert argv[:2] == ["git", "-C"]
        return (0, self.head + "\n", "") if self.head else (128, "", "fatal: not a git repository")


ONE, OTHER = "1" * 40, "2" * 40
REPO = "https://example.org/llama.cpp.git"


def test_a_tag_that_was_moved_is_an_error(tmp_path: Path) -> None:
    git, tree = Git(ONE), str(tmp_path / "git")
    assert check_commit(git, tree, REPO, "b1", "") == ONE
    assert check_commit(git, tree, REPO, "b1", "") == ONE
    git.head = OTHER
    with pytest.raises(
        ReleaseError, match=f"to be the commit {ONE}, as at the build before, found {OTHER}; nothing was"
    ):
        check_commit(git, tree, REPO, "b1", "")
    assert check_commit(git, tree, REPO, "b2", "") == OTHER  # another tag
    assert check_commit(git, tree, "https://example.org/fork.git", "b1", "") == OTHER  # another repository
    assert check_commit(git, tree, REPO, "b1", OTHER) == OTHER  # the operator says so
    assert check_commit(git, tree, REPO, "b1", "") == OTHER
    assert json.loads((tmp_path / "commits.json").read_text())[f"{REPO} b1"] == OTHER


def test_a_tag_has_to_be_the_expected_commit(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=f"expected b1 of {REPO} to be the commit {ONE}, found {OTHER}"):
        check_commit(Git(OTHER), str(tmp_path / "git"), REPO, "b1", ONE.upper())
    with pytest.raises(ReleaseError, match=f"found {OTHER}"):  # a version that is a commit
        check_commit(Git(OTHER), str(tmp_path / "git"), REPO, ONE, "")
    assert not (tmp_path / "commits.json").exists()


@pytest.mark.parametrize("record", ["", "[]", '{"a": 1}', "[" * 100000])
def test_a_record_that_is_none_is_an_error(record: str, tmp_path: Path) -> None:
    (tmp_path / "commits.json").write_text(record)
    with pytest.raises(ReleaseError, match="expected the commits of earlier builds"):
        check_commit(Git(ONE), str(tmp_path / "git"), REPO, "b1", "")


def test_a_tree_that_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="expected a git repository"):
        check_commit(Git(""), str(tmp_path / "git"), REPO, "b1", "")


def test_what_git_says_that_is_no_commit(tmp_path: Path) -> None:
    for head in ("HEAD", "1" * 39, "1" * 41, f"{ONE}\n{OTHER}"):
        with pytest.raises(ReleaseError, match=r"expected a git repository at .*git: HEAD|expected a git repository"):
            check_commit(Git(head), str(tmp_path / "git"), REPO, "b1", "")
    with pytest.raises(ReleaseError, match=r"expected a git repository at .*: odd$"):
        check_commit(lambda argv: (1, ONE, "odd\n"), str(tmp_path / "git"), REPO, "b1", "")


def test_a_commit_is_recorded_once(tmp_path: Path) -> None:
    record = tmp_path / "commits.json"
    check_commit(Git(ONE), str(tmp_path / "git"), REPO, "b1", ONE.upper())
    assert record.stat().st_mode & 0o777 == 0o644
    before = record.stat().st_ino
    check_commit(Git(ONE), str(tmp_path / "git"), REPO, "b1", "")
    assert record.stat().st_ino == before
    for version in ("b2", "b0"):
        check_commit(Git(OTHER), str(tmp_path / "git"), REPO, version, "")
    found = json.loads(record.read_text())
    assert found == {f"{REPO} b0": OTHER, f"{REPO} b1": ONE, f"{REPO} b2": OTHER}
    assert list(found) == sorted(found), "so that a diff shows what was added"
