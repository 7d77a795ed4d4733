# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._removal import (
    RemovalError,
    empty,
    found,
    remove,
    running_as,
)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    for name in ("a/models/x.gguf", "a/pending.json", "a/deep/er/file", "other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a/link").symlink_to(tmp_path / "other")
    (tmp_path / "a/folder").symlink_to(tmp_path)
    return tmp_path


def test_what_stays_keeps_the_folders_above_it(made: Path) -> None:
    paths = found([f"{made}/a", f"{made}/nothing*"], [f"{made}/a/models"])
    assert paths == [f"{made}/a/{name}" for name in ("deep", "folder", "link", "pending.json")]
    for path in paths:
        remove(path)
    assert sorted(os.listdir(made)) == ["a", "other"]
    assert os.listdir(made / "a") == ["models"]


def test_a_mount_point_stays(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == f"{made}/a/deep/er")
    assert f"{made}/a/deep" not in found([f"{made}/a"])
    assert found([f"{made}/a/deep/er"]) == []
    assert empty([f"{made}/a/deep/er"], [f"{made}/a/deep/er/file"]) == []


def test_a_folder_goes_with_all_in_it_and_links_are_not_followed(made: Path) -> None:
    assert found([f"{made}/a"]) == [f"{made}/a"]
    remove(f"{made}/a")
    assert os.listdir(made) == ["other"]


def test_folders_that_would_be_empty(made: Path) -> None:
    inner, outer = f"{made}/a/deep/er", f"{made}/a/deep"
    assert empty([inner, outer], [f"{inner}/file"]) == [inner, outer]
    assert empty([inner, outer, f"{made}/a"], []) == []
    assert empty([f"{made}/a/folder"], []) == []


@pytest.mark.parametrize("path", ["/", "/etc", "/*", "etc/x", "/etc/..", "//"])
def test_paths_that_nobody_means(path: str) -> None:
    with pytest.raises(RemovalError, match="below the first level"):
        found([path])


def test_a_folder_that_is_exchanged_meanwhile_leads_nowhere(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner still runs, and has put a link in its place when the first file goes."""
    folder, victim = made / "a/cache", made / "victim"
    for place in (folder, victim):
        place.mkdir()
        for name in ("one", "two", "three"):
            (place / name).write_text(name)
    unlink = os.unlink

    def exchanged(*args: Any, **options: Any) -> None:
        if not folder.is_symlink():
            folder.rename(made / "moved")
            folder.symlink_to(victim)
        unlink(*args, **options)

    monkeypatch.setattr(os, "unlink", exchanged)
    with pytest.raises(OSError, match=r"Not a directory|No such file|symbolic link"):
        remove(str(folder))
    assert sorted(os.listdir(victim)) == ["one", "three", "two"]


def test_processes_of_a_user_are_named() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, who starts a process of another user's")
    with subprocess.Popen(["setpriv", "--reuid", "64999", "--clear-groups", "sleep", "600"]) as process:
        try:
            named = {f"{process.pid} (sleep)", f"{process.pid} (setpriv)"}
            while not named & set(running_as(64999)):
                assert process.poll() is None
        finally:
            process.kill()
    assert not named & set(running_as(64999))
