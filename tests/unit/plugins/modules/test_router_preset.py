# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module with its file system; tests/integration/targets/router_preset runs it with the real llama-server."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import router_preset

FILE = "; mine\n[m]\nctx-size = 8192 ; enough\n\n; other\n[n]\njinja = on\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "models.ini"
    file.write_text(FILE)
    return file


def run(capfd: pytest.CaptureFixture[str], **args: Any) -> dict[str, Any]:
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in args.items()}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        router_preset.main()
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    return result


def test_merged_and_then_unchanged(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {"m": {"c": 4096}, "o": {"alias": ["a", "b"]}}
    result = run(capfd, path=path, config=config, _ansible_diff=True)
    assert result["changed"]
    assert result["before"] == {"m": {"ctx-size": 8192}, "n": {"jinja": True}}
    assert result["after"] == {"m": {"c": 4096}, "n": {"jinja": True}, "o": {"alias": "a,b"}}
    expected = "; mine\n[m]\nc = 4096 ; enough\n\n; other\n[n]\njinja = on\n\n[o]\nalias = a,b\n"
    assert path.read_text() == result["diff"][0]["after"] == expected
    assert result["diff"][0]["before"] == FILE
    assert os.listdir(path.parent) == ["models.ini"]

    before = path.stat()
    result = run(capfd, path=path, config=config)
    assert not result["changed"]
    assert result["before"] == result["after"]
    assert path.stat() == before


@pytest.mark.parametrize(
    ("state", "config", "after"),
    [
        ("replaced", {"m": {"ngl": 1}}, {"m": {"ngl": 1}, "n": {"jinja": True}}),
        ("overridden", {"m": {"ngl": 1}}, {"m": {"ngl": 1}}),
        ("deleted", {"m": None}, {"n": {"jinja": True}}),
        ("merged", {"m": {"ctx-size": None, "ngl": 1}}, {"m": {"ngl": 1}, "n": {"jinja": True}}),
    ],
)
def test_states(
    path: Path, capfd: pytest.CaptureFixture[str], state: str, config: dict[str, Any], after: dict[str, Any]
) -> None:
    result = run(capfd, path=path, config=config, state=state)
    assert (result["changed"], result["after"]) == (True, after)
    assert not run(capfd, path=path, config=config, state=state)["changed"]


def test_a_new_file_with_its_mode(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.unlink()
    result = run(capfd, path=path, config={"m": {"ngl": 1}}, mode="0640", backup=True)
    assert (result["changed"], result["before"], result["after"]) == (True, {}, {"m": {"ngl": 1}})
    assert "backup_file" not in result
    assert path.read_text() == "version = 1\n\n[m]\nngl = 1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not run(capfd, path=path, config={"m": {"ngl": 1}}, mode="0640")["changed"]
    result = run(capfd, path=path, config={"m": {"ngl": 1}}, mode="0600", _ansible_diff=True)
    assert result["changed"]
    assert result["diff"][1]["before"]["mode"] == "0640"


def test_nothing_to_delete_makes_no_file(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.unlink()
    assert not run(capfd, path=path, config={"m": None}, state="deleted")["changed"]
    assert not path.exists()


def test_check_mode_writes_nothing(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = run(capfd, path=path, config={"m": {"ngl": 1}}, backup=True, mode="0600", _ansible_check_mode=True)
    assert result["changed"]
    assert result["after"]["m"] == {"ctx-size": 8192, "ngl": 1}
    assert (path.read_text(), os.listdir(path.parent)) == (FILE, ["models.ini"])
    # In check mode the task that makes the folder has made none.
    assert run(capfd, path=path / "x" / "y.ini", config={"m": {}}, _ansible_check_mode=True)["failed"]
    result = run(capfd, path=path.parent / "later" / "models.ini", config={"m": {}}, _ansible_check_mode=True)
    assert result["changed"]


def test_the_old_file_is_kept_and_its_mode(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.chmod(0o604)
    result = run(capfd, path=path, config={"m": {"ngl": 1}}, backup=True)
    assert Path(result["backup_file"]).read_text() == FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert "backup_file" not in run(capfd, path=path, config={"m": {"ngl": 1}}, backup=True)


def test_a_link_stays_a_link(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    link = path.with_name("link.ini")
    link.symlink_to(path)
    assert run(capfd, path=link, config={"n": None}, state="deleted")["changed"]
    assert link.is_symlink()
    assert "[n]" not in path.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[m]\n threads = 1\n", "models.ini is no preset that llama-server reads, and was left as it is: line 2: "),
        (b"[m]\r\n\r\n; caf\xe9\r\n", "line 3, is not UTF-8"),
    ],
)
def test_a_file_that_does_not_parse(
    path: Path, capfd: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    path.write_bytes(content)
    for state, config in (("merged", {"m": {}}), ("overridden", {"m": {}}), ("deleted", {"m": None})):
        result = run(capfd, path=path, config=config, state=state)
        assert result["failed"]
        assert message in result["msg"]
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"config": {"m": {"tags": "a;b"}}},
            "config cannot be written as a preset: section 'm': tags: its value holds",
        ),
        ({"config": {"m": {"ngl": 1}}, "state": "deleted"}, "takes whole sections away"),
        ({"state": "deleted"}, "missing required arguments: config"),
        ({"config": {"m": {}}, "llama_server": "/no/such/llama-server"}, "/no/such/llama-server is not there"),
    ],
)
def test_wrong_arguments(path: Path, capfd: pytest.CaptureFixture[str], args: dict[str, Any], message: str) -> None:
    result = run(capfd, path=path, **args)
    assert result["failed"]
    assert message in result["msg"]
    assert path.read_text() == FILE


def test_a_folder_that_is_not_there(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = run(capfd, path=path.parent / "none" / "models.ini", config={"m": {}})
    assert f"the folder {path.parent}/none is not there; make it before" in result["msg"]


@pytest.mark.parametrize("call", ["fsync", "mkstemp", "rename"])
def test_a_full_disk_leaves_the_file_as_it_was(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(router_preset.tempfile if call == "mkstemp" else os, call, full)
    result = run(capfd, path=path, config={"m": {"ngl": 1}})
    monkeypatch.undo()
    assert result["failed"]
    assert "No space left on device" in result["msg"]
    assert (path.read_text(), os.listdir(path.parent)) == (FILE, ["models.ini"])


def test_odd_options_are_warnings_without_a_server(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(router_preset.AnsibleModule, "warn", lambda self, text: warnings.append(text))
    result = run(capfd, path=path, config={"m": {"mlock": True, "host": "::", "of-tomorrow": 1, "ngl": 1, "pin": None}})
    assert result["changed"]
    assert [warning[:40] for warning in warnings] == [
        "section 'm': mlock is no option of llama",
        "section 'm': host belongs to the router:",
        "section 'm': of-tomorrow is not an optio",
    ]


FOREIGN = """\
[m]
hft = hf_first_hush
hf-token = hf_old_hush ; one
model-url = https://me:url_hush@example.org/a.gguf
mcp-servers-json = {"a": {"env": {"T": "mcp_hush"}}}
[n]
LLAMA_API_KEY = key_hush
"""


@pytest.mark.parametrize(
    "config",
    [
        {"m": {"HF_TOKEN": "hf_new_hush"}},
        {"m": {"hf-token": "hf_new_hush"}},
        {"m": {"api-key": "hf_new_hush"}},
        {"m": {"model-url": "https://me:hf_new_hush@example.org/"}},
        {"m": {"mcp-servers-json": {"a": {"env": {"T": "hf_new_hush"}}}}},
        {"m": {"mcp-servers-json": '{"a": {"env": {"T": "hf_new_hush"}}}'}},
    ],
)
@pytest.mark.parametrize("server", [{}, {"llama_server": "/nonexistent/llama-server"}])
def test_secrets_are_refused_and_not_shown(
    path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    server: dict[str, str],
) -> None:
    """Neither in the result with the module's arguments, nor in the guest's log."""
    logged: list[str] = []
    monkeypatch.setattr(router_preset.AnsibleModule, "log", lambda self, msg, log_args=None: logged.append(msg))
    path.write_text(FOREIGN)
    result = run(capfd, path=path, config=config, _ansible_diff=True, _ansible_inject_invocation=True, **server)
    assert result["failed"]
    assert "section 'm': " in result["msg"]
    assert logged
    assert "_hush" not in json.dumps(result) + "".join(logged)
    assert path.read_text() == FOREIGN


def test_secrets_of_a_foreign_file_are_not_shown(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.write_text(FOREIGN)
    result = run(capfd, path=path, config={"m": {"ctx-size": 1}}, _ansible_diff=True)
    assert result["changed"]
    assert "_hush" not in json.dumps(result)
    assert result["diff"][0]["before"].splitlines()[2] == "hf-token = ******** ; one"
    assert result["after"]["m"]["model-url"] == "https://********@example.org/a.gguf"
    assert "hf_old_hush" in path.read_text()
    result = run(capfd, path=path, config={"m": {"hf-token": None}}, _ansible_diff=True)
    assert "_hush" not in json.dumps(result)
    assert "hf_old_hush" not in path.read_text()


def test_a_secret_in_a_broken_file_is_not_shown(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.write_text("[m]\nhf-token hf_old_hush\n")
    result = run(capfd, path=path, config={"m": {"ctx-size": 1}})
    assert "line 2" in result["msg"]
    assert "_hush" not in json.dumps(result)


def test_options_that_run_commands_need_their_names(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {"m": {"tools": "all", "LLAMA_ARG_AGENT": True}}
    result = run(capfd, path=path, config=config)
    assert "tools lets whoever has a key run commands on the server" in result["msg"]
    result = run(capfd, path=path, config=config, allow_options=["tools"])
    assert "agent lets whoever" in result["msg"]
    assert path.read_text() == FILE
    result = run(capfd, path=path, config=config, allow_options=["tools", "agent"])
    assert result["changed"]
    assert "tools = all" in path.read_text()


def test_a_copy_is_no_more_open_than_the_new_file(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.chmod(0o644)
    result = run(capfd, path=path, config={"m": {"ctx-size": 1}}, mode="0640", backup=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(os.stat(result["backup_file"]).st_mode) == 0o640


# --- a server that says what it is told, to see what the module makes of its words ---


def server(folder: Path, words: str, code: int = 1) -> Path:
    program = folder / "llama-server"
    program.write_text(f'#!/bin/sh\nenv > {folder}/env\necho "$@" > {folder}/args\n{words}\nexit {code}\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("check", [False, True])
def test_what_the_server_is_asked(
    path: Path, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, check: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("LLAMA_ARG_MODEL", "/single.gguf")
    warnings: list[str] = []
    monkeypatch.setattr(router_preset.AnsibleModule, "warn", lambda self, text: warnings.append(text))
    folder = tmp_path_factory.mktemp("server")
    program = server(folder, 'cat "$4" > ' + f"{folder}/read; echo couldn\\'t bind to x >&2")
    result = run(
        capfd, path=path, config={"m": {"of-tomorrow": 1}}, llama_server=program, models_dir=folder,
        _ansible_check_mode=check,
    )  # fmt: skip
    assert result["changed"]
    assert warnings == []  # the server's own judgement counts
    assert "of-tomorrow = 1" in (folder / "read").read_text()
    assert "LLAMA_ARG_MODEL" not in (folder / "env").read_text()
    words = (folder / "args").read_text().split()
    assert words[:3] == ["--host", "/nonexistent-folder/x.sock", "--models-preset"]
    assert words[-2:] == ["--models-dir", str(folder)]
    assert os.listdir(path.parent) == ["models.ini"]
    assert ("of-tomorrow" in path.read_text()) is not check


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "echo \"E failed to initialize router models: option 'x' not recognized in preset 'm'\" >&2",
            "llama-server refuses the preset for {path}, which was left as it is: option 'x' not recognized",
        ),
        (
            "echo 'E failed to initialize router models: failed to parse server config file: '$4 >&2",
            "left as it is: failed to parse server config file: {path}",
        ),
        ("echo error: invalid argument: --models-preset >&2", "it ended with 1 and said: error: invalid argument"),
        ("exit 127", "it ended with 127 and said: nothing"),
    ],
)
def test_what_the_server_says(
    path: Path, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str],
    words: str, message: str, check: bool,
) -> None:  # fmt: skip
    program = server(tmp_path_factory.mktemp("server"), words)
    result = run(capfd, path=path, config={"m": {"ngl": 1}}, llama_server=program, _ansible_check_mode=check)
    assert result["failed"]
    assert message.format(path=path) in result["msg"]
    assert (path.read_text(), os.listdir(path.parent)) == (FILE, ["models.ini"])


@pytest.mark.parametrize(("key", "word"), [("port", "belongs to the router"), ("no-mmap", "load-mode: none")])
def test_odd_options_are_errors_with_a_server(
    path: Path, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str], key: str, word: str
) -> None:
    program = server(tmp_path_factory.mktemp("server"), "echo couldn\\'t bind >&2")
    result = run(capfd, path=path, config={"m": {key: True if key == "no-mmap" else 1}}, llama_server=program)
    assert result["failed"]
    assert word in result["msg"]
    assert path.read_text() == FILE
