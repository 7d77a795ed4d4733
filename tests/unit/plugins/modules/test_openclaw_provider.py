# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.module_utils._json5 import loads
from ansible_collections.homelab.llamacpp.plugins.modules import openclaw_provider

THEIRS = """\
{
  // my channels
  channels: { telegram: { botToken: "123:secret" } },
  models: {
    mode: "merge", // keep the others
    providers: {
      other: { baseUrl: "https://example.org/v1", apiKey: "sk-secret" },
    },
  },
}
"""
MODELS = [{"id": "qwen3-8b", "context": 65536}, {"id": "tiny", "context": 2048}]


class Play:
    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys

    def __call__(self, check: bool = False, **options: Any) -> dict[str, Any]:
        given = {"path": str(self.path), "base_url": "http://192.0.2.20:8012", "models": MODELS, **options}
        arguments = {**given, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            openclaw_provider.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return result


@pytest.fixture
def play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Play:
    return Play(tmp_path / "openclaw.json", capsys)


def test_a_file_that_is_not_there(play: Play) -> None:
    assert play(check=True)["changed"]
    assert not play.path.exists()
    result = play(primary="qwen3-8b")
    assert result["changed"]
    assert "backup_file" not in result
    assert play.path.stat().st_mode & 0o777 == 0o600
    assert loads(play.path.read_text()) == {
        "models": {
            "providers": {
                "llama-server": {
                    "baseUrl": "http://192.0.2.20:8012/v1",
                    "apiKey": "${LLAMA_SERVER_API_KEY}",
                    "api": "openai-completions",
                    "models": [
                        {
                            "id": "qwen3-8b",
                            "name": "qwen3-8b",
                            "contextWindow": 65536,
                            "maxTokens": 8192,
                            "compat": {"supportsTools": True, "toolSchemaProfile": "llamacpp"},
                        },
                        {
                            "id": "tiny",
                            "name": "tiny",
                            "contextWindow": 2048,
                            "maxTokens": 512,
                            "compat": {"supportsTools": True, "toolSchemaProfile": "llamacpp"},
                        },
                    ],
                }
            }
        },
        "agents": {"defaults": {"model": {"primary": "llama-server/qwen3-8b"}}},
    }
    assert not play(primary="qwen3-8b")["changed"]


def test_what_is_theirs_stays_and_is_not_shown(play: Play) -> None:
    play.path.write_text(THEIRS)
    play.path.chmod(0o640)
    result = play()
    text = play.path.read_text()
    kept = [line for line in text.splitlines() if line in THEIRS.splitlines()]
    assert kept == THEIRS.splitlines()
    assert "secret" not in json.dumps(result["diff"])
    assert Path(result["backup_file"]).read_text() == THEIRS
    assert play.path.stat().st_mode & 0o777 == 0o640
    assert not play()["changed"]
    assert play(state="absent")["changed"]
    assert play.path.read_text() == THEIRS
    assert not play(state="absent")["changed"]


def test_what_they_added_to_our_provider_stays(play: Play) -> None:
    play()
    text = play.path.read_text()
    text = text.replace('"api": ', '"timeoutSeconds": 900, // it is slow\n        "api": ')
    text = text.replace('"name": "tiny",', '"name": "tiny", "input": ["text", "image"],')
    text = text.replace('"supportsTools": true', '"supportsTools": false', 1)
    play.path.write_text(text)
    assert not play()["changed"]
    assert play(base_url="http://192.0.2.21:8012/v1/")["changed"]
    assert play.path.read_text() == text.replace("2.20", "2.21")
    play(models=MODELS[1:])
    left = loads(play.path.read_text())["models"]["providers"]["llama-server"]
    assert [(model["id"], model["input"]) for model in left["models"]] == [("tiny", ["text", "image"])]
    assert left["timeoutSeconds"] == 900


def test_small_contexts_are_warned_about(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ansible itself tells a text once in a process, and this one runs many modules.
    warnings: list[str] = []
    monkeypatch.setattr(openclaw_provider.AnsibleModule, "warn", lambda self, text: warnings.append(text))
    play()
    (small,) = warnings
    assert "tiny has 2048 tokens of context; OpenClaw wants 40000 or more" in small
    warnings.clear()
    play(models=[{"id": "unknown"}])
    (unknown,) = warnings
    assert "unknown has a context of which the length is not known here" in unknown


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("{a: 1,\n b}", {}, "line 2: a colon was wanted"),
        ("[]", {}, "the document: an object was wanted, a list was found"),
        ("{models: {providers: {'llama-server': 'x'}}}", {}, "models.providers.llama-server: an object was wanted"),
        ("{models: 1}", {"state": "absent"}, "models: an object was wanted, a number was found"),
        ("{}", {"primary": "other"}, "one of the models was wanted (qwen3-8b, tiny), 'other' was found"),
        ("{}", {"base_url": "192.0.2.20:8012"}, "base_url: http://HOST:PORT or https://HOST:PORT was wanted"),
        ("{}", {"key_variable": "a b"}, "the name of a variable was wanted"),
        ("{agents: {defaults: {model: 1}}}", {"primary": "tiny"}, "agents.defaults.model: an object was wanted"),
        ("{}", {"models": [*MODELS, {"id": "tiny"}]}, "models: each id once was wanted, more than once there is tiny"),
    ],
)
def test_what_cannot_be_changed_is_left_alone(play: Play, text: str, options: dict[str, Any], said: str) -> None:
    play.path.write_text(text)
    assert said in play(**options)["msg"]
    assert play.path.read_text() == text


def test_their_own_key_is_not_shown(play: Play) -> None:
    play.path.write_text("{models: {providers: {'llama-server': {apiKey: 'sk-secret', headers: {x: 'secret'}}}}}")
    result = play()
    assert "secret" not in json.dumps(result["diff"])
    assert "(not shown)" in result["diff"]["before"]
    assert "sk-secret" not in play.path.read_text()


def test_what_their_address_has_of_a_password_is_not_shown(play: Play) -> None:
    play.path.write_text("{models: {providers: {'llama-server': {baseUrl: 'https://me:sec@ret@example.org/v1'}}}}")
    before = play()["diff"]["before"]
    assert json.loads(before)["llama-server"] == {"baseUrl": "https://…@example.org/v1", "models": []}


COMMENTED = """\
{
  models: {
    providers: {
      "llama-server": {
        models: [
          // for every day
          { id: "tiny", reasoning: false /* it does not think */, compat: { supportsTools: false } }, // small
          { id: "gone" }, "what is this", { id: ["odd"] },
          { id: "tiny", name: "again" },
        ],
      },
    },
  },
}
"""


def test_comments_in_the_list_of_models_stay(play: Play) -> None:
    play.path.write_text(COMMENTED)
    assert play()["changed"]
    text = play.path.read_text()
    for kept in ("// for every day\n", '{ id: "tiny", reasoning: false /* it does not think */,', "// small\n"):
        assert kept in text
    models = loads(text)["models"]["providers"]["llama-server"]["models"]
    assert [model["id"] for model in models] == ["tiny", "qwen3-8b"]
    assert models[0]["compat"] == {"supportsTools": False, "toolSchemaProfile": "llamacpp"}
    assert models[0]["contextWindow"] == 2048
    assert not play()["changed"]
    play(models=[{**model, "context": 50000} for model in MODELS])
    assert play.path.read_text() == text.replace("65536", "50000").replace("2048", "50000").replace(
        '"maxTokens": 512', '"maxTokens": 8192'
    )


def test_a_default_model_that_is_a_text_stays_one(play: Play) -> None:
    play.path.write_text("{agents: {defaults: {model: 'other/one'}}} // mine")
    assert play(primary="tiny")["changed"]
    assert loads(play.path.read_text())["agents"] == {"defaults": {"model": "llama-server/tiny"}}
    assert not play(primary="tiny")["changed"]


def test_an_empty_provider_goes_as_well(play: Play) -> None:
    play.path.write_text("{models: {providers: {'llama-server': {}}}}")
    assert play(state="absent")["changed"]
    assert loads(play.path.read_text()) == {"models": {"providers": {}}}


def test_a_folder_that_is_not_there(play: Play, tmp_path: Path) -> None:
    play.path = tmp_path / "nobody" / "openclaw.json"
    for check in (True, False):
        assert "it is not there; set OpenClaw up first" in play(check=check)["msg"]
        assert not play(check=check, state="absent")["changed"]


def test_a_link_stays_a_link(play: Play, tmp_path: Path) -> None:
    behind = tmp_path / "dotfiles.json"
    behind.write_text(THEIRS)
    play.path.symlink_to(behind)
    assert play()["changed"]
    assert play.path.is_symlink()
    assert "llama-server" in behind.read_text()


SECOND = 65534


@pytest.fixture
def theirs(capsys: pytest.CaptureFixture[str]) -> Iterator[Play]:
    """The configuration of another user, which root is to change."""
    if os.geteuid() != 0:
        pytest.skip("acts as a second user, which needs root")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        home = Path(folder, "home", ".openclaw")
        home.mkdir(parents=True)
        for place in (home.parent, home):
            os.chown(place, SECOND, SECOND)
        yield Play(home / "openclaw.json", capsys)


def test_root_writes_a_users_file_as_that_user(theirs: Play) -> None:
    theirs()
    theirs.path.write_text(THEIRS)
    theirs.path.chmod(0o640)
    result = theirs()
    for place in (theirs.path, Path(result["backup_file"])):
        assert (place.stat().st_uid, place.stat().st_mode & 0o777) == (SECOND, 0o640)
    assert Path(result["backup_file"]).read_text() == THEIRS
    assert not theirs()["changed"]


@pytest.mark.parametrize("link", ["openclaw.json", ".openclaw"])
def test_a_users_link_does_not_lead_root_to_other_files(theirs: Play, link: str) -> None:
    etc = theirs.path.parent.parent.parent / "etc"
    etc.mkdir()
    for name in ("openclaw.json", "secret"):
        (etc / name).write_text("{root: 'secret'}")
        (etc / name).chmod(0o600)
    place = theirs.path if link == theirs.path.name else theirs.path.parent
    if place.exists():
        place.rename(place.with_name("aside"))
    place.symlink_to(etc / "secret" if place == theirs.path else etc)
    os.lchown(place, SECOND, SECOND)
    for state in ("present", "absent"):
        result = theirs(state=state)
        assert "Permission denied" in result["msg"]
        assert "secret'" not in json.dumps(result)
    assert {file.name: file.read_text() for file in etc.iterdir()} == dict.fromkeys(
        ("openclaw.json", "secret"), "{root: 'secret'}"
    )


def test_a_fifo_is_not_waited_for(play: Play) -> None:
    os.mkfifo(play.path)
    assert "expected a regular file" in play()["msg"]


def test_a_directory_that_everybody_can_write_to(play: Play) -> None:
    play.path.parent.chmod(0o777)
    play.path.write_text("{}")
    assert "can be written to by every user" in play()["msg"]
    assert play.path.read_text() == "{}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": [{"id": "a\u2028"}]}, "models: expected at most 512 printable characters"),
        ({"models": [{"id": "a", "name": "b\n}, {"}]}, "models: expected at most 512 printable characters"),
        ({"provider": "\x1b"}, "provider: expected at most 512 printable characters"),
    ],
)
def test_names_that_cannot_be_written(play: Play, options: dict[str, Any], said: str) -> None:
    assert said in play(**options)["msg"]
    assert not play.path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "{models: {providers: {'llama-server': {models: [{id: 'tiny', contextWindow: 0x" + "f" * 9000 + "}]}}}}",
        "{models: {providers: {'llama-server': {api: " + "9" * 9000 + "}}}}",
        "{models: {providers: {" + "'llama-server': 1," * 1500 + "}}}",
        "[" * 5000,
        "{models: {providers: {'llama-server': {baseUrl: 'http://h/v1?key=secret', apiKey: {}, models: {}}}}}",
        "{models: {providers: {'llama-server': {models: [[], null, {id: {}}, {id: 'tiny', compat: []}]}}}}",
    ],
)
def test_odd_configurations_end_in_a_file_or_a_message(play: Play, text: str) -> None:
    for state in ("present", "absent"):
        play.path.write_text(text)
        result = play(state=state)
        assert ("msg" in result) != result.get("changed", False)
        assert "secret" not in json.dumps(result.get("diff", ""))
