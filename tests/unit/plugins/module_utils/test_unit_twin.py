# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _unit_twin
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_twin import (
    TIME_LIMIT,
    Ended,
    Settings,
    Twin,
    service_lines,
)
from ansible_collections.homelab.llamacpp.tests.unit.unit_double import RUNNING, Systemd


def test_a_twin_has_the_settings_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User, environment and sandbox; not its dependencies, its other commands and its folders."""
    systemd = Systemd(tmp_path, monkeypatch, drop_in="[Service]\nMemoryMax=1G\n[Unit]\nConflicts=x.service\n")
    settings = Settings.of(systemd, "llama-router.service")
    assert settings.program == "/usr/bin/llama-server"
    assert settings.words.split()[2:4] == ["--api-key-file", "%d/api-keys"]
    assert settings.names("LLAMA_") == ["LLAMA_ARG_MODEL", "LLAMA_CACHE"]
    with Twin(systemd, settings).made() as twin:
        presets = Path(twin.write("models.ini", "hf-token = secret"))
        assert presets.stat().st_mode & 0o777 == 0o440
        command = twin.command("/new/llama-server", settings.words, ["--host", "a b"], {"A": "$1"}, ["LLAMA_X"])
        assert twin.to_its_end(command, 7) == Ended("1", "")
    (text,) = systemd.written
    lines = text.splitlines()
    for line in ("User=daemon", "NoNewPrivileges=true", "MemoryMax=1G", "SyslogIdentifier=llama-router"):
        assert line in lines
    assert [line for line in lines if line.startswith("ExecStart=")] == [
        'ExecStart="/usr/bin/env" "-u" "LLAMA_X" "A=$$1" "/new/llama-server" --host 127.0.0.1'
        '    --api-key-file %d/api-keys    --alias "two words" "--host" "a b"'
    ]
    assert "TimeoutStartSec=7" in lines
    for word in ("Requires", "Conflicts", "ExecStartPre", "WantedBy", "=llama-router\n"):
        assert word not in text.replace("SyslogIdentifier=llama-router\n", "")
    assert list((tmp_path / "folder").iterdir()) == list((tmp_path / "units").iterdir()) == []
    verbs = [asked[0] for asked in systemd.asked]
    assert verbs.count("daemon-reload") == 2
    assert verbs[-1] == "daemon-reload"


@pytest.mark.parametrize("command", ["", "+/usr/bin/llama-server", "!/usr/bin/llama-server", "@/bin/llama-server x"])
def test_units_that_have_no_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    systemd = Systemd(tmp_path, monkeypatch, drop_in=f"[Service]\nExecStart=\nExecStart={command}\n")
    with pytest.raises(UnitError, match="to start one program as its user"):
        Settings.of(systemd, "llama-router.service")


def test_the_last_command_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_in = "[Service]\nExecStart=\nExecStart=:/opt/llama-server --x $y\n"
    systemd = Systemd(tmp_path, monkeypatch, drop_in=drop_in)
    settings = Settings.of(systemd, "llama-router.service")
    assert (settings.words, settings.expands) == (" --x $y", False)
    command = Twin(systemd, settings).command("/new", settings.words, ["$z"], {})
    assert command == ':"/usr/bin/env" "/new" --x $y "$z"'


def test_a_word_that_ends_the_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router tells the arguments of a model, and they become a line of a unit."""
    systemd = Systemd(tmp_path, monkeypatch)
    settings = Settings.of(systemd, "llama-router.service")
    with Twin(systemd, settings).made() as twin:
        for word in ("a\rNoNewPrivileges=false", "a\0b"):
            with pytest.raises(UnitError, match="a command of one line"):
                twin.command("/new", "", [word], {})
        twin.to_its_end(twin.command("/new", "", ["a\nUser=root"], {}), 1)
    assert "User=root" not in [line for text in systemd.written for line in text.splitlines()]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[Service]\n A = b \n", ["A=b"]),
        ("A=0\n[Unit]\nA=1\n[Service]\nA=2\n[Install]\nA=3\n[Service]\nB=4\n", ["A=2", "B=4"]),
        ("[Service]\nA=b \\\n  c\\\n;comment\n# another\n d\nB=1\n", ["A=b    c  d", "B=1"]),
        ("[Service]\nA=b\\\\\nB=1\n", ["A=b\\\\", "B=1"]),
        ("[Service]\nA=b\\\\\\\nB=1\n", ["A=b\\\\ B=1"]),
        ("[Service]\nA=b\\\n# c\\\nd\nB=1\n", ["A=b d", "B=1"]),
        ("[Service]\nA=\n[x\nno setting\n  # A=1\n\t;A=2\nB=c=d\n", ["A=", "B=c=d"]),
    ],
)
def test_settings_as_systemd_joins_lines(text: str, lines: list[str]) -> None:
    assert service_lines(text) == lines


def test_specifiers_are_those_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin has another name; those that do not depend on the name are left to systemd."""
    unit = "[Service]\nExecStart=/bin/llama-server\nA=%n %N %p %i %I %j %% %d %\n"
    systemd = Systemd(tmp_path, monkeypatch, unit)
    (line,) = [x for x in Settings.of(systemd, "llama-in-x@coder.service").lines if x.startswith("A=")]
    assert line == "A=llama-in-x@coder.service llama-in-x@coder llama-in-x coder coder x %% %d %"


@pytest.mark.parametrize("name", _unit_twin._OTHER_COMMANDS + _unit_twin._OWN_FOLDERS)
def test_what_a_twin_does_not_take_over(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(tmp_path, monkeypatch, drop_in=f"[Service]\n{name}=x\nNice=5\n")
    lines = Settings.of(systemd, "llama-router.service").lines
    assert "Nice=5" in lines
    assert not [line for line in lines if line.startswith(f"{name}=")]


def test_the_names_of_what_is_not_taken_over() -> None:
    """As systemd.service(5) and systemd.exec(5) write them."""
    commands = {"ExecCondition", "ExecStartPre", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"}
    folders = {"RuntimeDirectory", "StateDirectory", "CacheDirectory", "LogsDirectory", "PIDFile", "BusName"}
    assert set(_unit_twin._OTHER_COMMANDS) == commands
    assert set(_unit_twin._OWN_FOLDERS) == folders


def test_variables_of_an_environment_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env").write_text("LLAMA_ARG_B=1\nOTHER=2\nXLLAMA_ARG_C=3\n")
    files = f'EnvironmentFile="{tmp_path}/env"\nEnvironmentFile=-/nowhere\n'
    systemd = Systemd(tmp_path, monkeypatch, drop_in=f"[Service]\n{files}")
    assert Settings.of(systemd, "u.service").names("LLAMA_") == ["LLAMA_ARG_B", "LLAMA_ARG_MODEL", "LLAMA_CACHE"]


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ({"LoadState": "not-found"}, "with a file, systemd says not-found; install it first"),
        ({"LoadState": "masked"}, "systemd says masked"),
        ({"FragmentPath": ""}, "with a file, systemd says loaded"),
        ({"FragmentPath": "/nowhere/x"}, "expected /nowhere/x of u.service readable: No such file"),
    ],
)
def test_units_without_a_file(
    shown: dict[str, str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd = Systemd(tmp_path, monkeypatch)
    systemd.shown.update(shown)
    with pytest.raises(UnitError, match=told):
        Settings.of(systemd, "u.service")


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        ({"ActiveState": "active"}, None),
        ({"ActiveState": "activating"}, None),
        ({"ActiveState": "deactivating"}, None),
        ({"ActiveState": "reloading"}, None),
        ({"ActiveState": "inactive", "ExecMainStatus": "0"}, Ended("0", "words")),
        ({"ActiveState": "failed", "ExecMainCode": "2", "ExecMainStatus": "9"}, Ended("signal 9", "words")),
        ({"ActiveState": "failed", "ExecMainCode": "3", "ExecMainStatus": "11"}, Ended("signal 11", "words")),
        ({"ActiveState": "failed", "Result": "timeout", "ExecMainCode": "2"}, Ended(TIME_LIMIT, "words")),
        ({"ActiveState": "failed", "ExecMainStatus": "203"}, Ended("203", "words")),
    ],
)
def test_how_it_ended(
    state: dict[str, str], ended: Ended | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd = Systemd(tmp_path, monkeypatch)
    systemd.ends.update(state)
    with Twin(systemd, Settings.of(systemd, "u.service")).made() as twin:
        Path(twin.folder, "output").write_text("words")
        assert twin.ended() == ended


def test_only_the_end_of_its_output_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unit_twin, "_SAID", 10)
    systemd = Systemd(tmp_path, monkeypatch)
    with Twin(systemd, Settings.of(systemd, "u.service")).made() as twin:
        assert twin.said() == ""
        Path(twin.folder, "output").write_bytes(b"0123456789abc\xff")
        assert twin.said() == "456789abc\ufffd"


def test_one_that_runs_is_ended_with_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(tmp_path, monkeypatch)
    systemd.ends = dict(RUNNING)
    with Twin(systemd, Settings.of(systemd, "u.service")).made() as twin:
        with twin.running("/bin/x", 5):
            assert "stop" not in systemd.verbs
        assert systemd.verbs[-3:] == ["show", "stop", "reset-failed"]
        assert systemd.asked[-2][1] == twin.unit.name
    lines = systemd.written[0].splitlines()
    assert lines[:4] == ["[Unit]", "Description=Trial of llama-server", "StartLimitIntervalSec=0", "[Service]"]
    own = {
        "Type=exec",
        "Restart=no",
        "RemainAfterExit=no",
        "WatchdogSec=0",
        "RuntimeMaxSec=5",
        "TimeoutStopSec=10",
        "KillMode=control-group",
        "SendSIGKILL=yes",
        "RuntimeDirectoryMode=0700",
        "RuntimeDirectoryPreserve=no",
        "StandardInput=null",
        "StandardError=inherit",
        "ExecStart=/bin/x",
        f"RuntimeDirectory={Path(twin.runtime).name}",
        f"StandardOutput=file:{twin.folder}/output",
    }
    # Behind the unit's own settings, which they overrule.
    assert own <= set(lines[lines.index("NoNewPrivileges=true") :])


def test_nothing_is_left_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one that was broken off: it is stopped, and systemd forgets its unit."""
    systemd = Systemd(tmp_path, monkeypatch)
    systemd.ends = dict(RUNNING)
    twin = Twin(systemd, Settings.of(systemd, "u.service"))
    helpers: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*args: Any, **more: Any) -> Any:
        helpers.append(real(*args, **more))
        return helpers[-1]

    monkeypatch.setattr(_unit_twin.subprocess, "Popen", popen)

    def broken() -> None:
        with twin.made():
            twin._write_unit("/bin/x", "exec", 5)
            assert helpers[0].poll() is None
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert helpers[0].poll() is not None
    assert systemd.verbs[-3:] == ["stop", "reset-failed", "daemon-reload"]
    assert list((tmp_path / "folder").iterdir()) == list((tmp_path / "units").iterdir()) == []


def test_the_helper_ends_what_a_killed_run_leaves(tmp_path: Path) -> None:
    """As soon as its input ends, which the kernel does for a process that was killed."""
    calls, unit, folder = tmp_path / "calls", tmp_path / "x.service", tmp_path / "folder"
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    systemctl.chmod(0o755)
    unit.touch()
    folder.mkdir()
    subprocess.run(
        ["/bin/sh", "-c", _unit_twin._HELPER, "sh", "x.service", str(unit), str(folder)],
        stdin=subprocess.DEVNULL,
        env={"PATH": f"{systemctl.parent}:/usr/bin:/bin"},
        check=True,
        timeout=60,
    )
    assert calls.read_text() == "stop x.service\nreset-failed x.service\ndaemon-reload\n"
    assert not unit.exists()
    assert not folder.exists()


@pytest.mark.parametrize(("user", "group"), [("", ""), ("0", ""), ("root", "0"), ("", "root"), ("nobody", "root")])
def test_whom_a_file_of_a_twin_belongs_to(
    user: str, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd = Systemd(tmp_path, monkeypatch)
    systemd.shown.update(User=user, Group=group)
    assert Twin(systemd, Settings.of(systemd, "u.service"))._group() == 0
    systemd.shown.update(User="nobody", Group="")
    nobody = pwd.getpwnam("nobody")
    assert Twin(systemd, Settings.of(systemd, "u.service"))._group() == nobody.pw_gid
    systemd.shown.update(User=str(nobody.pw_uid))
    assert Twin(systemd, Settings.of(systemd, "u.service"))._group() == nobody.pw_gid


def test_names_of_twins_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(tmp_path, monkeypatch)
    settings = Settings.of(systemd, "u.service")
    names = {Twin(systemd, settings).unit.name for _time in range(50)}
    assert len(names) == 50
    assert all(name.startswith("llama-trial-") and name.endswith(".service") for name in names)


def test_each_command_has_an_output_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier one said is not taken for the words of the next."""
    systemd = Systemd(tmp_path, monkeypatch)
    with Twin(systemd, Settings.of(systemd, "u.service")).made() as twin:
        for words in ("first", "second"):
            systemd.says = words
            assert twin.to_its_end("/bin/x", 5) == Ended("1", words)


def test_an_environment_file_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env").write_bytes(b"LLAMA_ARG_B=\xff\n")
    systemd = Systemd(tmp_path, monkeypatch, drop_in=f"[Service]\nEnvironmentFile={tmp_path}/env\n")
    assert "LLAMA_ARG_B" in Settings.of(systemd, "u.service").names("LLAMA_")
