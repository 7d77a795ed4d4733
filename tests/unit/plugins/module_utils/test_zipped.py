# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_state
from ansible_collections.homelab.llamacpp.plugins.module_utils._zipped import PACKAGE, SHEBANG, pack


def names(content: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return set(archive.namelist())


def test_it_holds_what_is_imported_and_no_more() -> None:
    folder = PACKAGE.replace(".", "/")
    inside = {name for name in names(pack(_router_state)) if name.startswith(folder)}
    names_of = "_bounded _files _http_service _json _names _peer _port_hold _router_answers _router_api _router_places"
    wanted = ["__init__", *names_of.split(), "_router_state", "_systemd"]
    assert inside == {f"{folder}/{name}.py" for name in wanted}


def test_the_same_sources_are_the_same_bytes() -> None:
    assert pack(_router_state) == pack(_router_state)
    with zipfile.ZipFile(io.BytesIO(pack(_router_state))) as archive:
        # A moment later, and on another machine, too: no time of the files or of the clock is in it.
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_python_runs_it_alone_whatever_lies_around(tmp_path: Path) -> None:
    """The engine has no main(): that is what it says, once all of it is imported."""
    program = tmp_path / "program"
    program.write_bytes(pack(_router_state))
    (tmp_path / "ansible_collections.py").write_text("raise AssertionError('the caller decides what is imported')")
    done = subprocess.run(
        [sys.executable, "-I", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot import name 'main'" in done.stderr
    assert str(program) in done.stderr


def test_its_first_line_starts_python() -> None:
    assert pack(_router_state).startswith(SHEBANG)


def test_a_file_begins_with_its_first_line_and_is_a_whole_archive(tmp_path: Path) -> None:
    """Isolated: neither the environment nor the folder decides what is imported."""
    content = pack(_router_state)
    assert content.startswith(b"#!/usr/bin/python3 -I\nPK")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
