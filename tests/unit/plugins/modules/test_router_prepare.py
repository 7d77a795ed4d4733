# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import router_prepare

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the directories are root's")
NOBODY = pwd.getpwnam("nobody")
# Refuses credentials where CREDENTIALS is 243, and shares no namespace of PID 1.
SYSTEMD_RUN = """#!/bin/sh
case "$*" in
*LoadCredential*) exit $CREDENTIALS;;
*) echo mnt:[1] ipc:[2] uts:[3] user:[4];;
esac
"""
PID_1 = "#!/bin/sh\necho mnt:[5] ipc:[6] uts:[7] user:[8]\n"


@pytest.fixture
def prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in (("systemd-run", SYSTEMD_RUN), ("readlink", PID_1)):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("CREDENTIALS", "0")

    def run(**given: Any) -> dict[str, Any]:
        arguments = {
            "path": str(tmp_path / "state"),
            "models_dir": str(tmp_path / "state" / "models"),
            "unit_file": str(tmp_path / "router.service"),
            "user": NOBODY.pw_name,
            "home": NOBODY.pw_dir,
            "shell": NOBODY.pw_shell,
            "directories": [str(tmp_path / "state"), str(tmp_path / "etc")],
            **given,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            router_prepare.main()
        result: dict[str, Any] = json.loads(capfd.readouterr().out)
        return result

    return run


def test_directories_are_made_once(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    wanted = [str(tmp_path / "state"), str(tmp_path / "etc")]
    checked = prepare(_ansible_check_mode=True)
    assert (checked["changed"], checked["directories"]) == (True, wanted)
    assert not (tmp_path / "etc").exists()
    done = prepare()
    assert (done["changed"], done["directories"], done["account"]) == (True, wanted, True)
    again = prepare()
    assert (again["changed"], again["directories"]) == (False, [])


def test_what_the_files_depend_on(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keeper").touch()
    found = prepare(exist=[str(tmp_path / "keeper"), str(tmp_path / "other")])
    assert (found["credentials"], found["refused"]) == (True, {})
    assert found["existing"] == [str(tmp_path / "keeper")]
    monkeypatch.setenv("CREDENTIALS", "243")
    assert prepare()["credentials"] is False
    assert prepare(credentials=False)["credentials"] is None


@pytest.mark.parametrize("other", [{"user": "no-such-user"}, {"home": "/elsewhere"}, {"shell": "/bin/sh"}])
def test_a_user_to_be_made_and_no_directory_of_it_in_check_mode(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, other: dict[str, str]
) -> None:
    found = prepare(**other, _ansible_check_mode=True)
    assert (found["account"], found["changed"], found["directories"]) == (False, False, [])
    assert prepare(**other)["directories"] == [str(tmp_path / "state"), str(tmp_path / "etc")]


def test_a_directory_of_the_service_is_converted(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "models").mkdir(parents=True)
    os.chown(state, NOBODY.pw_uid, NOBODY.pw_gid)
    (tmp_path / "bin" / "systemctl").write_text("#!/bin/sh\nprintf 'LoadState=loaded\\nStateDirectory=x\\n'\n")
    (tmp_path / "bin" / "systemctl").chmod(0o755)
    assert "./: root's" in prepare(_ansible_check_mode=True, _ansible_diff=True)["diff"][0]["after"]
    assert state.stat().st_uid == NOBODY.pw_uid
    assert prepare()["changed"] is True
    assert state.stat().st_uid == 0
