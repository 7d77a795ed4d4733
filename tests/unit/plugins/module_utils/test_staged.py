# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _staged
from ansible_collections.homelab.llamacpp.plugins.module_utils._staged import Moved


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
