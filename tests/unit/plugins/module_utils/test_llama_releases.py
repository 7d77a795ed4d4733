# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _llama_releases
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import (
    FALLBACK,
    ReleaseError,
    Releases,
    alone,
    prove,
)

STARTS = "echo 'version: 0.6.0-dev (build {build}, commit abc)' >&2"


def run(argv: Sequence[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


TIMES = itertools.count(1)  # when each was added, in seconds: the clock of files may not tell two of a moment apart


def write_server(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(run, str(tmp_path / "llama.cpp"))


def add(releases: Releases, name: str, body: str = STARTS.format(build=1)) -> None:
    staged = releases.stage(name)
    write_server(Path(staged, "bin", "llama-server"), body)
    releases.add(name, staged, {"wish": name})
    os.utime(releases.path(name), (next(TIMES),) * 2)


def names(releases: Releases) -> list[str]:
    return [release.name for release in releases.all()]


@pytest.mark.parametrize(
    ("said", "build", "version"),
    [
        ("version: 0.6.0-dev (build 11434, commit abc)", 11434, "0.6.0-dev (build 11434, commit abc)"),
        ("version: 8736 (c8ac02fa1)\nbuilt with GNU 13.3.0", 8736, "8736 (c8ac02fa1)"),
        ("load_backend: loaded\nversion: 0.7.0 (build 5, commit x)", None, "0.7.0 (build 5, commit x)"),
        ("something else", None, "something else"),
    ],
)
def test_what_it_says_of_its_version(tmp_path: Path, said: str, build: int | None, version: str) -> None:
    server = write_server(tmp_path / "llama-server", f"cat >&2 <<'END'\n{said}\nEND")
    assert prove(run, str(server), build) == version


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("echo dead >&2; exit 3", "--version ended with status 3: dead"),
        ("kill -ABRT $$", "--version ended with status"),
        (STARTS.format(build=7), r"Build 11434 was wanted of .*, it says: version: 0.6.0-dev \(build 7, commit abc\)"),
        ("true", "Build 11434 was wanted of .*, it says: it printed nothing"),
    ],
)
def test_a_server_that_does_not_pass(tmp_path: Path, body: str, told: str) -> None:
    server = write_server(tmp_path / "llama-server", body)
    with pytest.raises(ReleaseError, match=told):
        prove(run, str(server), 11434)


def test_a_server_that_does_not_end(tmp_path: Path) -> None:
    server = write_server(tmp_path / "llama-server", STARTS)

    def late(argv: Sequence[str]) -> tuple[int, str, str]:
        return (0, "", "") if argv[0] == "ldd" else (124, "", "")

    with pytest.raises(ReleaseError, match="did not end within 30 s"):
        prove(late, str(server))


@pytest.mark.parametrize(("library", "hint"), [("libcuda.so.1", "NVIDIA driver"), ("libgomp.so.1", "")])
def test_a_library_that_is_missing(tmp_path: Path, library: str, hint: str) -> None:
    server = write_server(tmp_path / "llama-server", STARTS)

    def ldd(argv: Sequence[str]) -> tuple[int, str, str]:
        return 0, f"\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\t{library} => not found\n", ""

    with pytest.raises(ReleaseError, match=f"needs {library}, which this machine does not have.*{hint}"):
        prove(ldd, str(server))


def test_a_release_appears_whole_with_its_stamp(releases: Releases) -> None:
    add(releases, "b1")
    (release,) = releases.all()
    assert (release.name, release.current, release.running) == ("b1", False, False)
    stamp = json.loads(Path(release.path, "stamp.json").read_text())
    assert stamp == {"name": "b1", "version": "0.6.0-dev (build 1, commit abc)", "wish": "b1"} == release.stamp
    assert stat.S_IMODE(os.stat(Path(release.path, "stamp.json")).st_mode) == 0o644
    assert os.listdir(releases.folder) == ["b1"]


def test_all_of_a_release_is_on_the_disk_before_it_appears(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()

    def fsync(handle: int) -> None:
        assert not os.path.exists(releases.path("b1"))
        flushed.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    staged = releases.stage("b1")
    write_server(Path(staged, "bin", "llama-server"), STARTS.format(build=1))
    os.symlink("nowhere", Path(staged, "bin", "libllama.so"))
    releases.add("b1", staged, {})
    there = [path for path in Path(releases.path("b1")).rglob("*") if path.is_file()]
    assert {path.stat().st_ino for path in there} == flushed
    assert len(there) == 2


def test_one_that_does_not_start_leaves_nothing(releases: Releases) -> None:
    with pytest.raises(ReleaseError):
        add(releases, "b1", "exit 1")
    assert os.listdir(releases.folder) == []


def test_what_an_interrupted_run_left_is_no_release(releases: Releases) -> None:
    releases.stage("b1")
    assert names(releases) == []
    add(releases, "b1")
    assert names(releases) == ["b1"]


def test_a_folder_without_a_stamp_is_no_release_and_is_made_anew(releases: Releases) -> None:
    write_server(Path(releases.path("b1"), "bin", "llama-server"), "exit 1")
    assert names(releases) == []
    add(releases, "b1")
    releases.switch("b1")
    assert names(releases) == ["b1"]


def test_switching_there_and_back(releases: Releases) -> None:
    for name in ("b1", "b2"):
        add(releases, name)
        releases.switch(name)
    assert [(r.name, r.current, r.previous) for r in releases.all()] == [("b2", True, False), ("b1", False, True)]
    assert os.readlink(Path(releases.root, "current")) == "releases/b2"
    releases.switch("b1")
    assert [(r.name, r.current, r.previous) for r in releases.all()] == [("b2", False, True), ("b1", True, False)]


def test_a_link_is_there_at_every_moment(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted at the rename, it leads where it led before, and the next try gets through."""
    add(releases, "b1")
    releases.switch("b1")
    add(releases, "b2")

    def interrupted(*_paths: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            releases.switch("b2")
    assert os.readlink(Path(releases.root, "current")) == "releases/b1"
    releases.switch("b2")
    assert os.readlink(Path(releases.root, "current")) == "releases/b2"


def test_one_that_broke_since_does_not_become_current(releases: Releases) -> None:
    add(releases, "b1")
    write_server(Path(releases.path("b1"), "bin", "llama-server"), "exit 1")
    with pytest.raises(ReleaseError, match="ended with status 1"):
        releases.switch("b1")
    assert not Path(releases.root, "current").exists()


def test_one_that_is_not_there(releases: Releases) -> None:
    add(releases, "b1")
    with pytest.raises(ReleaseError, match=r"Release b2 was wanted in .*; there are: b1"):
        releases.switch("b2")


@pytest.mark.parametrize("name", ["", ".new-x", "../x", "a/b", "a b"])
def test_a_name_that_is_no_name(releases: Releases, name: str) -> None:
    with pytest.raises(ReleaseError, match="letters, digits"):
        releases.stage(name)


def test_which_are_kept(releases: Releases) -> None:
    for number in range(1, 7):
        add(releases, f"b{number}")
    releases.switch("b1")
    releases.switch("b2")
    assert [r.name for r in releases.doomed(4)] == ["b4", "b3"]
    assert [r.name for r in releases.doomed(4, spare="b3")] == ["b5", "b4"]
    assert [r.name for r in releases.doomed(1)] == ["b6", "b5", "b4", "b3"]
    for release in releases.doomed(3):
        releases.remove(release)
    assert names(releases) == ["b6", "b2", "b1"]


def test_names_of_one_package_are_one_release(releases: Releases, tmp_path: Path) -> None:
    """After an upgrade by apt the older name is no way back, so it is neither previous nor kept."""
    server = write_server(tmp_path / "usr/bin/llama-server", STARTS.format(build=1))
    for name in ("package-1", "package-2"):
        staged = releases.stage(name)
        os.symlink(server, Path(staged, "bin", "llama-server"))
        releases.add(name, staged, {})
        releases.switch(name)
    assert [r.previous for r in releases.all()] == [False, False]
    assert [r.name for r in releases.doomed(5)] == ["package-1"]


def test_an_older_name_of_a_package_goes_though_the_packages_binary_runs(releases: Releases, tmp_path: Path) -> None:
    """As after an upgrade by apt and a reboot: the router runs what both names lead to."""
    server = write_server(tmp_path / "usr/bin/llama-server", "")
    server.write_bytes(Path(os.path.realpath("/bin/true")).read_bytes())
    for name in ("package-1", "package-2"):
        staged = releases.stage(name)
        os.symlink(server, Path(staged, "bin", "llama-server"))
        releases.add(name, staged, {})
        releases.switch(name)
    server.write_bytes(Path(os.path.realpath("/bin/sleep")).read_bytes())
    with subprocess.Popen([server, "60"]) as process:
        try:
            assert [r.running for r in releases.all()] == [True, True]
            for release in releases.doomed(3):
                releases.remove(release)
            assert names(releases) == ["package-2"]
        finally:
            process.kill()


@pytest.fixture
def sleeper(releases: Releases) -> Iterator[None]:
    """A release whose binary runs: ELF, so that the process is the binary itself."""
    add(releases, "b1")
    server = Path(releases.path("b1"), "bin", "llama-server")
    server.write_bytes(Path(os.path.realpath("/bin/sleep")).read_bytes())
    process = subprocess.Popen([server, "60"])
    yield
    process.kill()
    process.wait()


@pytest.mark.usefixtures("sleeper")
def test_what_runs_is_not_taken_away(releases: Releases) -> None:
    assert releases.all()[0].running
    assert releases.doomed(0) == []
    with pytest.raises(ReleaseError, match="Release b1 is running; switch to another one first"):
        releases.remove(releases.all()[0])


def test_the_previous_one_can_go_and_its_link_goes_too(releases: Releases) -> None:
    for name in ("b1", "b2"):
        add(releases, name)
        releases.switch(name)
    releases.remove(releases.all()[1])
    assert sorted(os.listdir(releases.root)) == ["current", "releases"]
    with pytest.raises(ReleaseError, match="is the current one"):
        releases.remove(releases.all()[0])


def test_what_an_interrupted_update_goes_back_to_is_kept(releases: Releases) -> None:
    for name in ("b1", "b2", "b3"):
        add(releases, name)
        releases.switch(name)
    releases.link(FALLBACK, "b1")
    assert releases.doomed(1) == []
    with pytest.raises(ReleaseError, match="b1 is what an interrupted update goes back to"):
        releases.remove(releases.all()[2])


def test_what_was_left_half_taken_away_goes_with_the_next(releases: Releases) -> None:
    for name in ("b1", "b2"):
        add(releases, name)
    for name in ("b0", "b2"):
        Path(releases.folder, f".old-{name}", "bin").mkdir(parents=True)
    releases.remove(releases.all()[0])
    assert os.listdir(releases.folder) == ["b1"]


# --- other users ------------------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user is played by root")


@as_root
def test_another_user_cannot_hold_the_lock(tmp_path: Path) -> None:
    """Whoever can open a file can lock it, a directory too."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir(mode=0o755)
    for parent in tmp_path.parents[: len(tmp_path.parents) - len(Path(tempfile.gettempdir()).parents) - 1]:
        parent.chmod(0o755)  # pytest's own directories, down to this test's
    tmp_path.chmod(0o755)
    with alone(str(folder)):
        pass
    hold = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)"
    hold += "; print(1, flush=True); input()"
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", hold]
    with subprocess.Popen([*nobody, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"1\n"  # it has the directory's
        with alone(str(folder)):
            pass
        holder.kill()
    refused = subprocess.run([*nobody, folder / ".lock"], input=b"", capture_output=True, check=False)
    assert b"PermissionError" in refused.stderr


def test_waiting_for_another_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_llama_releases, "LOCK_SECONDS", 0.2)
    with alone(str(tmp_path)), pytest.raises(ReleaseError, match="another run has held it"), alone(str(tmp_path)):
        pass
    handle = os.open(tmp_path / ".lock", os.O_RDONLY)
    with contextlib.closing(os.fdopen(handle)):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # and it is free again


@as_root
def test_no_release_is_made_below_a_directory_of_another_user(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with pytest.raises(PermissionError, match="belongs to user 65534"):
        Releases(run, str(theirs / "llama.cpp")).stage("a")
    with pytest.raises(ReleaseError, match="belongs to user 65534"), alone(str(theirs)):
        pass
    assert list(theirs.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("", {}),
        ("[]", {}),
        ("[" * 100000, {}),
        ('{"name": 7, "version": ["a"], "wish": "w"}', {"wish": "w"}),
        ('{"version": "a\\u001b[2J", "x": NaN}', {"version": "a\\x1b[2J", "x": None}),
        ("x" * (2 << 20), {}),
    ],
)
def test_a_stamp_is_data(text: str, stamp: dict[str, object], releases: Releases) -> None:
    add(releases, "a")
    Path(releases.path("a"), "stamp.json").write_text(text)
    assert [release.stamp for release in releases.all()] == [stamp]


def test_a_stamp_that_is_a_link_or_a_fifo_is_not_read(releases: Releases, tmp_path: Path) -> None:
    add(releases, "a")
    stamp = Path(releases.path("a"), "stamp.json")
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    stamp.unlink()
    stamp.symlink_to(tmp_path / "secret.json")
    assert [release.stamp for release in releases.all()] == [{}]
