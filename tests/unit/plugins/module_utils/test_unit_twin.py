# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_twin import Ended, Settings, Twin
from ansible_collections.homelab.llamacpp.tests.unit.unit_double import Systemd


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
