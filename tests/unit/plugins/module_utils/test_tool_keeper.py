# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _tool_keeper
from ansible_collections.homelab.llamacpp.plugins.module_utils._keeper import Keeper, Wanted
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Refused, RouterError


def test_the_program_tells_each_reason_once_and_ends_for_a_key_that_is_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    errors = [RouterError("down"), RouterError("down"), None, RouterError("down"), Refused("the key", 401, "")]
    pauses: list[float] = []

    def look(_keeper: Keeper, _client: object) -> bool:
        error = errors.pop(0)
        if error:
            raise error
        return True

    monkeypatch.setattr(Keeper, "look", look)
    monkeypatch.setattr(_tool_keeper.time, "sleep", pauses.append)
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-some-length\n")
    argv = ["--url", "http://127.0.0.1:1", "--api-key-file", str(keys), "--unload-idle", "40"]
    assert _tool_keeper.main(argv) == 1
    assert capsys.readouterr().out.splitlines() == ["down", "down", "the key"]
    assert pauses == [10, 10, 1, 10]


def test_the_program_says_that_it_has_no_key(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    argv = ["--url", "http://127.0.0.1:1", "--api-key-file", str(tmp_path / "keys")]
    assert _tool_keeper.main(argv) == 1
    assert "there is no such file" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--url", "http://127.0.0.1:1"], ["--api-key-file", "/k"], []])
def test_the_router_and_its_keys_are_required(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _tool_keeper.main(argv)
    assert "the following arguments are required: --" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "wanted", "pause"),
    [
        ([], Wanted(-1, [], 300), 15),
        (["--unload-idle", "0.5", "--keep", "a", "--keep", "b"], Wanted(0.5, ["a", "b"], 300), 1),
        (["--unload-idle", "600", "--patience", "12"], Wanted(600, [], 12), 3),
        (["--patience", "0"], Wanted(-1, [], 0), 15),
    ],
)
def test_what_the_program_is_told(
    argv: list[str], wanted: Wanted, pause: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It looks four times within the shortest time that counts, but not more than once a second."""
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-some-length\n")
    seen: list[tuple[Wanted, str]] = []
    pauses: list[float] = []

    def look(keeper: Keeper, client: Client) -> bool:
        seen.append((keeper.wanted, client.url))
        if len(seen) == 2:
            raise Refused("ended", 401, "")
        return False

    monkeypatch.setattr(Keeper, "look", look)
    monkeypatch.setattr(_tool_keeper.time, "sleep", pauses.append)
    assert _tool_keeper.main(["--url", "http://127.0.0.1:8012", "--api-key-file", str(keys), *argv]) == 1
    assert seen == [(wanted, "http://127.0.0.1:8012")] * 2
    assert pauses == [pause]
