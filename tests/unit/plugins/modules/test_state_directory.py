# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read beside the conversion, which is tested in module_utils."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import state_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the directories are root's")
NOBODY = pwd.getpwnam("nobody")
SYSTEMCTL = "#!/bin/sh\nprintf 'LoadState=loaded\\nStateDirectory=x\\n'\n"


def run(folder: Path, capfd: pytest.CaptureFixture[str], **given: Any) -> dict[str, Any]:
    state = folder / "state"
    arguments = {"path": str(state), "models_dir": str(state / "models"), "user": "nobody", "read": True, **given}
    with patch_module_args({**arguments, "unit_file": str(folder / "unit")}), pytest.raises(SystemExit):
        state_directory.main()
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert not result.get("failed"), result
    return result


@pytest.fixture(autouse=True)
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def ids(result: dict[str, Any]) -> list[str]:
    return [model["id"] for model in result["found"]["models"]]


def test_models_are_read_and_the_directory_is_judged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    none = run(tmp_path, capfd)
    assert (none["changed"], none["ready"], none["found"]) == (
        False,
        False,
        {"models": [], "problems": [], "blocking": []},
    )
    models = tmp_path / "state" / "models"
    models.mkdir(parents=True, mode=0o755)
    (models / "one.gguf").write_text("weights")
    found = run(tmp_path, capfd)
    assert (found["changed"], found["ready"], ids(found)) == (False, True, ["one"])
    assert "found" not in run(tmp_path, capfd, read=False)
    models.chmod(0o700)
    assert run(tmp_path, capfd)["ready"] is False


def test_check_mode_reads_nothing_that_the_service_can_still_change(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "state" / "models"
    models.mkdir(parents=True, mode=0o755)
    (models / "one.gguf").write_text("weights")
    os.chown(models.parent, NOBODY.pw_uid, NOBODY.pw_gid)
    checked = run(tmp_path, capfd, _ansible_check_mode=True)
    assert (checked["changed"], ids(checked)) == (True, [])
    done = run(tmp_path, capfd)
    assert (done["changed"], ids(done)) == (True, ["one"])
