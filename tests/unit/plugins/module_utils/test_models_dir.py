# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory by itself; tests/functional/test_models_dir.py holds it against the real router."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _models_dir
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import Entry, Reader, view


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_files_and_folders_are_models_by_their_names(tmp_path: Path) -> None:
    make(tmp_path, "a.gguf", "b/x-00001-of-00002.gguf", "b/x-00002-of-00002.gguf", "c/model.gguf", "c/mmproj-F16.gguf")
    make(tmp_path, "c/mtp-x.gguf", "notes.txt", "d/readme.md", "e/deep/x.gguf", "half.gguf.part")
    assert view(str(tmp_path)) == (
        [
            Entry("a", str(tmp_path / "a.gguf")),
            Entry("b", str(tmp_path / "b/x-00001-of-00002.gguf")),
            Entry(
                "c",
                str(tmp_path / "c/model.gguf"),
                str(tmp_path / "c/mmproj-F16.gguf"),
                str(tmp_path / "c/mtp-x.gguf"),
            ),
        ],
        [],
        [],
    )


@pytest.mark.parametrize(
    ("names", "ids", "said"),
    [
        (
            ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"],
            ["x-00001-of-00002", "x-00002-of-00002"],
            "x-00001-of-00002.gguf, x-00002-of-00002.gguf lie loose, and the router lists each as a model: put them"
            " into a folder x",
        ),
        (["m/a.gguf", "m/b.gguf"], ["m"], "the folder m has 2 models (a.gguf, b.gguf), of which the router serves one"),
        (["m/mmproj.gguf"], [], "the folder m has mmproj.gguf and no model to go with it"),
        (["m/a.gguf", "m/mmproj-1.gguf", "m/mmproj-2.gguf"], ["m"], "the folder m has several projectors"),
        (["mtp-a.gguf"], [], "mtp-a.gguf is a draft model on its own"),
        (["mmproj-a.gguf"], [], "mmproj-a.gguf is a projector on its own"),
        (["A.GGUF"], [], "A.GGUF is passed over: the router wants its name to end in .gguf, in small letters"),
        (["m.gguf", "m/a.gguf"], ["m"], "both are the model m, of which the router serves one"),
    ],
)
def test_what_the_router_does_wrong_is_told(tmp_path: Path, names: list[str], ids: list[str], said: str) -> None:
    make(tmp_path, *names)
    entries, (problem,), _blocking = view(str(tmp_path))
    assert [entry.id for entry in entries] == ids
    assert said in problem


def test_links_are_followed_and_dangling_ones_told(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "m/a.gguf", "b.gguf")
    models = tmp_path / "models"
    models.mkdir()
    (models / "m").symlink_to(tmp_path / "elsewhere" / "m")
    (models / "b.gguf").symlink_to(tmp_path / "elsewhere" / "b.gguf")
    (models / "gone.gguf").symlink_to(tmp_path / "gone.gguf")
    entries, problems, _blocking = view(str(models))
    assert [entry.id for entry in entries] == ["b", "m"]
    assert problems == [
        "gone.gguf is a link that leads nowhere, and the router passes over it: mend or remove it",
    ]


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.gguf")
    assert view(str(tmp_path)) == ([], ["a.gguf is not a regular file, and the router passes over it"], [])


def test_what_the_servers_user_cannot_read_is_told(tmp_path: Path) -> None:
    make(tmp_path, "lost+found/x.gguf", "a.gguf", "ok/b.gguf")
    (tmp_path / "lost+found").chmod(0o700)
    (tmp_path / "a.gguf").chmod(0o640)
    (tmp_path / "ok").chmod(0o755)
    (tmp_path / "ok/b.gguf").chmod(0o644)
    stranger = Reader(12345, frozenset({12345}))
    entries, problems, blocking = view(str(tmp_path), stranger)
    assert [entry.id for entry in entries] == ["a", "ok"]
    assert problems == [
        "a.gguf cannot be read by the server's user: loading its model will fail",
        "the folder lost+found cannot be read (the server's user may not), and with such a folder the router does not"
        " start: give the server's user the right to, or take it out of the models directory",
    ]
    assert blocking == problems[1:]
    group = Reader(12345, frozenset({(tmp_path / "a.gguf").stat().st_gid}))
    assert len(view(str(tmp_path), group).problems) == 1
    assert view(str(tmp_path), Reader(0, frozenset())).problems == []


def test_what_links_lead_to_is_behind_folders_that_can_be_closed(tmp_path: Path) -> None:
    make(tmp_path / "private" / "inner", "m/a.gguf", "b.gguf")
    models = tmp_path / "models"
    models.mkdir(mode=0o755)
    for name in ("m", "b.gguf"):
        (models / name).symlink_to(tmp_path / "private" / "inner" / name)
    for folder in (models, *models.parents[:-2], tmp_path / "private" / "inner", tmp_path / "private" / "inner" / "m"):
        folder.chmod(0o755)
    stranger = Reader(12345, frozenset())
    assert view(str(models), stranger).problems == []
    (tmp_path / "private").chmod(0o700)
    entries, problems, blocking = view(str(models), stranger)
    assert (entries, blocking) == ([], [])
    assert [problem.split(", where the server's user may not go")[0] for problem in problems] == [
        f"{name} leads to {tmp_path / 'private' / 'inner' / name}" for name in ("b.gguf", "m")
    ]


def test_a_folder_that_we_cannot_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "m/a.gguf")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("/m"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(_models_dir.os, "scandir", refuse)
    assert view(str(tmp_path)).problems[0].startswith("the folder m cannot be read (Permission denied)")
