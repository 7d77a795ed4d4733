# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._removal import RemovalError, empty, found, remove


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
