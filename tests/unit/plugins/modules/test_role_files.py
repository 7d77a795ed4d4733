# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import role_files


def run(capfd: pytest.CaptureFixture[str], **arguments: Any) -> tuple[dict[str, Any], str]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        role_files.main()
    output = capfd.readouterr().out
    result: dict[str, Any] = json.loads(output)
    return result, output


def test_files_and_commands_in_one_call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    unit, gate, status = (str(tmp_path / name) for name in ("unit", "gate", "status"))
    wanted = {
        "files": [{"path": unit, "content": "[Unit]\n"}, {"path": gate, "content": "#!/bin/sh\n", "mode": "0755"}],
        "tools": [{"name": "status", "path": status}],
    }
    result, _output = run(capfd, **wanted, _ansible_check_mode=True)
    assert (result["changed"], result["changed_files"]) == (True, [status, unit, gate])
    assert list(tmp_path.iterdir()) == []
    result, _output = run(capfd, **wanted)
    assert result["changed_files"] == [status, unit, gate]
    assert "usage: llama-router-status" in subprocess.check_output([status, "--help"], text=True)
    assert Path(gate).stat().st_mode & 0o777 == 0o755
    result, _output = run(capfd, **wanted)
    assert (result["changed"], result["changed_files"]) == (False, [])


def test_content_is_in_the_diff_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wanted = {"files": [{"path": str(tmp_path / "unit"), "content": "Environment=CONFIDENTIAL\n"}]}
    result, _output = run(capfd, **wanted, _ansible_check_mode=True, _ansible_diff=True)
    assert "CONFIDENTIAL" in result["diff"][0]["after"]
    _result, output = run(capfd, **wanted)
    assert "CONFIDENTIAL" not in output


def test_what_was_written_before_an_error_stays_for_the_next_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "missing" / "second"
    wanted = {"files": [{"path": str(path), "content": "text"} for path in (first, second)]}
    result, _output = run(capfd, **wanted)
    assert result["failed"]
    assert f"{second}: expected to write it" in result["msg"]
    second.parent.mkdir()
    assert run(capfd, **wanted)[0]["changed_files"] == [str(second)]


def test_a_mode_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result, _output = run(capfd, files=[{"path": str(tmp_path / "unit"), "content": "", "mode": "rw"}])
    assert "expected octal digits as mode, found 'rw'" in result["msg"]
    assert list(tmp_path.iterdir()) == []
