# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import guest_tool


def run(capfd: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        guest_tool.main()
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    return result


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file gets larger than 1000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_command_is_written_and_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "status"
    assert run(capfd, name="status", path=str(path))["changed"] is True
    assert path.stat().st_mode & 0o777 == 0o755
    assert "usage: llama-router-status" in subprocess.check_output([path, "--help"], text=True)
    assert run(capfd, name="status", path=str(path))["changed"] is False
    assert [entry.name for entry in tmp_path.iterdir()] == ["status"]


def test_a_full_disk_leaves_the_file_as_it_was_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], full_disk: None
) -> None:
    path = tmp_path / "status"
    path.write_text("old")
    result = run(capfd, name="status", path=str(path))
    assert result["failed"] is True
    assert "which was left as it is" in result["msg"]
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["status"]


def test_a_directory_of_another_user_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user's directory is made by root")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    result = run(capfd, name="status", path=str(theirs / "status"))
    assert "belongs to user 65534" in result["msg"]
    assert list(theirs.iterdir()) == []
