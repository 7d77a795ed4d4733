# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import pwd
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
        if argv[1] == "list-units":
            return 0, "\nb@1.service loaded active running B\na.service loaded inactive dead A\n", ""
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


def test_every_unit_is_asked_for_once(tmp_path: Path) -> None:
    """Those with a file, and instances of templates, which only the list of loaded units has."""
    host = Host(block("a.service"), block("a.service"), block(""), block("b.service", command="x"))
    assert [one.unit for one in servers(host, str(tmp_path))] == ["a.service"]
    assert host.asked[2][-3:] == ["--", "a.service", "b@1.service"]


@pytest.mark.parametrize(
    ("failing", "told"), [("list-units", "systemctl list-units failed: x"), ("show", "show failed: x")]
)
def test_a_systemd_that_fails_later(failing: str, told: str, tmp_path: Path) -> None:
    host = Host(block("a.service"))

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        return (1, "", "x\n") if argv[1] == failing else host(argv)

    with pytest.raises(UnitError, match=told):
        servers(run, str(tmp_path))
    with pytest.raises(UnitError, match="list-unit-files failed: exit status 4"):
        servers(lambda argv: (4, "", " "))


@pytest.mark.parametrize(
    ("shown", "folder"),
    [
        ("", "/"),
        ("/srv/x", "/srv/x"),
        ("!/srv/x", "/srv/x"),
        ("-/srv/~x", "/srv/~x"),
        ("~", pwd.getpwnam("daemon").pw_dir),
        ("!~", pwd.getpwnam("daemon").pw_dir),
    ],
)
def test_where_relative_paths_begin(shown: str, folder: str, tmp_path: Path) -> None:
    (found,) = servers(Host(block("a.service", WorkingDirectory=shown, User="daemon")), str(tmp_path))
    assert (found.folder, found.user) == (folder, "daemon")
    (root,) = servers(Host(block("a.service", WorkingDirectory="~")), str(tmp_path))
    assert (root.folder, root.user) == (pwd.getpwnam("root").pw_dir, "root")


@pytest.mark.parametrize(
    ("state", "active"),
    [("active", True), ("activating", True), ("reloading", True), ("failed", False), ("deactivating", False)],
)
def test_its_state(state: str, active: bool, tmp_path: Path) -> None:
    (found,) = servers(Host(block("a.service", ActiveState=state, UnitFileState="enabled-runtime")), str(tmp_path))
    assert (found.active, found.enabled) == (active, True)
    (found,) = servers(Host(block("a.service", ActiveState=state, UnitFileState="static")), str(tmp_path))
    assert not found.enabled


@pytest.mark.parametrize("option", ["--model", "-m", "--hf-repo", "-hf", "-hfr", "--model-url", "-mu"])
def test_what_makes_it_a_server_of_one_model(option: str, tmp_path: Path) -> None:
    assert not servers(Host(block("a.service"), words=[option, "x"]), str(tmp_path))[0].is_router
    assert servers(Host(block("a.service"), words=["--models-dir", "x"]), str(tmp_path))[0].is_router


@pytest.mark.parametrize("name", ["LLAMA_ARG_MODEL", "LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL_URL"])
def test_a_variable_makes_it_one_too(name: str, tmp_path: Path) -> None:
    assert not servers(Host(block("a.service", Environment=f"{name}=x")), str(tmp_path))[0].is_router
    assert servers(Host(block("a.service", Environment=f"{name}=")), str(tmp_path))[0].is_router


def test_a_process_that_has_just_ended_is_asked_of_systemd(tmp_path: Path) -> None:
    (found,) = servers(Host(block("a.service", 7), words=["--port", "1"]), str(tmp_path))
    assert (found.words, found.why) == (("--port", "1"), "")


def test_what_d_bus_does_not_tell(tmp_path: Path) -> None:
    host = Host(block("a.service"))

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        return (1, "", "no bus\n") if argv[0] == "busctl" else host(argv)

    (found,) = servers(run, str(tmp_path))
    assert found.why == "it does not run, and D-Bus does not tell its command line (no bus); start it"
    assert (found.program, found.words) == ("", ())


def test_environment_files_as_systemd_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("; no\n #A=1\nB = '2' \nwords\nC=x=y\n")
    (tmp_path / "b").write_text("B=3\n")
    files = {"EnvironmentFiles": f"{tmp_path}/a (ignore_errors=no)\nEnvironmentFiles={tmp_path}/b (ignore_errors=yes)"}
    files["EnvironmentFiles"] = "/nowhere (ignore_errors=yes)\nEnvironmentFiles=" + files["EnvironmentFiles"]
    (found,) = servers(Host(block("a.service", Environment='D="4 5" B=0', **files)), str(tmp_path))
    assert found.environment == {"D": "4 5", "B": "3", "C": "x=y"}
    (broken,) = servers(Host(block("a.service", Environment='D="4')), str(tmp_path))
    assert broken.environment == {}


def test_a_unit_whose_name_begins_with_a_digit(tmp_path: Path) -> None:
    host = Host(block("7b.service"))
    servers(host, str(tmp_path))
    assert " ".join(host.asked[-1]) == (
        "busctl --json=short get-property org.freedesktop.systemd1 /org/freedesktop/systemd1/unit/_37b_2eservice"
        " org.freedesktop.systemd1.Service ExecStart"
    )


def test_a_process_with_words_that_are_no_text(tmp_path: Path) -> None:
    """They come back as the bytes that they are."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"/opt/llama-server\0--model\0/srv/\xff.gguf\0")
    (tmp_path / "7/environ").write_bytes(b"")
    (found,) = servers(Host(block("a.service", 7)), str(tmp_path))
    assert os.fsencode(found.words[1]) == b"/srv/\xff.gguf"
