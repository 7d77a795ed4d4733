# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._hand_made import servers
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError

LINE = "{ path=/opt/llama-server ; argv[]=/opt/llama-server --models-dir /root/models ; ignore_errors=no }"


def block(unit: str, pid: int = 0, command: str = LINE, **properties: str) -> str:
    shown = {
        "Id": unit,
        "ExecStart": command,
        "ActiveState": "active" if pid else "inactive",
        "UnitFileState": "enabled",
        "MainPID": str(pid),
        "User": "",
        "WorkingDirectory": "",
        "Environment": "",
        "EnvironmentFiles": "",
        **properties,
    }
    return "".join(f"{key}={value}\n" for key, value in shown.items())


class Host:
    def __init__(self, *blocks: str, words: Sequence[str] = (), commands: int = 1) -> None:
        self.blocks = blocks
        self.words, self.commands = list(words), commands
        self.asked: list[list[str]] = []

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        self.asked.append(list(argv))
        if argv[0] == "busctl":
            data = [["/opt/llama-server", ["/opt/llama-server", *self.words], False]] * self.commands
            return 0, json.dumps({"type": "a(sasbttttuii)", "data": data}), ""
        if argv[1] == "show":
            return 0, "\n".join(self.blocks), ""
        return 0, "a.service enabled enabled\nllama-server@.service disabled enabled\n", ""


def test_one_that_runs_is_read_from_its_process(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"/opt/llama-server\0--models-preset\0/root/my models.ini\0")
    (tmp_path / "7/environ").write_bytes(b"HOME=/root\0CUDA_VISIBLE_DEVICES=0\0")
    host = Host(block("a.service", 7), block("ssh.service", command="{ path=/usr/sbin/sshd }"))
    (found,) = servers(host, str(tmp_path))
    assert (found.unit, found.active, found.enabled, found.user, found.folder) == ("a.service", True, True, "root", "/")
    assert found.words == ("--models-preset", "/root/my models.ini")
    assert found.environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert found.is_router
    assert "llama-server@.service" not in host.asked[2]


def test_one_that_does_not_run_is_asked_of_systemd(tmp_path: Path) -> None:
    (tmp_path / "env").write_text('# comment\nMODEL_PATH="/srv/a b.gguf"\nEXTRA=--jinja -c 1\n')
    files = f"{tmp_path}/env (ignore_errors=no)"
    words = ["--model", "${MODEL_PATH}", "--port", "$PORT", "$EXTRA", "--x", "a$$b"]
    host = Host(block("llama-server@a.service", Environment="PORT=81", EnvironmentFiles=files), words=words)
    (found,) = servers(host, str(tmp_path))
    assert found.words == ("--model", "/srv/a b.gguf", "--port", "81", "--jinja", "-c", "1", "--x", "a$b")
    assert not found.is_router
    assert found.why == ""
    assert "/org/freedesktop/systemd1/unit/llama_2dserver_40a_2eservice" in host.asked[-1]


def test_what_cannot_be_told(tmp_path: Path) -> None:
    (found,) = servers(Host(block("a.service"), commands=2), str(tmp_path))
    assert found.why == "it has 2 commands"
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"/bin/sh\0-c\0llama-server\0")
    (tmp_path / "7/environ").write_bytes(b"")
    (found,) = servers(Host(block("a.service", 7, "{ argv[]=/bin/sh -c llama-server }")), str(tmp_path))
    assert "which runs a llama-server by itself" in found.why


def test_no_systemd() -> None:
    with pytest.raises(UnitError, match="list-unit-files failed: not booted"):
        servers(lambda argv: (1, "", "not booted"))
