# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import router_keys

OLD, NEW = "an-old-key-of-some-length", "a-new-key-of-some-length"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api-keys"


@pytest.fixture
def run(path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(check: bool = False, **params: Any) -> dict[str, Any]:
        capsys.readouterr()
        args = {"path": str(path), "mode": "0400", **params, "_ansible_check_mode": check, "_ansible_diff": True}
        args["_ansible_inject_invocation"] = True  # as with -vvv, so that a key among the arguments is seen
        with patch_module_args(args), pytest.raises(SystemExit):
            router_keys.main()
        output = capsys.readouterr().out
        for key in [*params.get("keys", []), *lines(path)]:
            assert key not in output
        result: dict[str, Any] = json.loads(output)
        assert result.pop("invocation")
        return result

    return run


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().split("\n") if line.strip()] if path.exists() else []


def test_one_is_made_and_kept(run: Run, path: Path) -> None:
    assert run(check=True)["changed"]
    assert not path.exists()
    assert run()["changed"]
    (key,) = lines(path)
    assert len(key) == 48
    assert path.stat().st_mode & 0o777 == 0o400
    assert not run()["changed"]
    assert lines(path) == [key]


def test_those_of_the_vault_replace_it(run: Run, path: Path) -> None:
    run()
    done = run(keys=[NEW, OLD])
    assert (done["changed"], done["count"]) == (True, 2)
    assert lines(path) == [NEW, OLD]
    done = run(keys=[NEW])
    assert done["diff"] == {"before": "key 1\nkey 2\n", "after": "key 1\n"}
    assert not run(keys=[NEW])["changed"]


def test_rotation_keeps_the_old_ones_until_it_is_finished(run: Run, path: Path) -> None:
    run()
    (old,) = lines(path)
    done = run(rotate="begin")
    assert done["diff"] == {"before": "key 1\n", "after": "another key\nkey 1\n"}
    run(rotate="begin")  # as after a run that was cut off
    newest, _between, oldest = lines(path)
    assert oldest == old
    assert len({newest, _between, old}) == 3
    assert not run()["changed"]
    assert run(rotate="finish", check=True)["changed"]
    assert run(rotate="finish")["changed"]
    assert lines(path) == [newest]
    assert not run(rotate="finish")["changed"]


def test_a_file_with_comments_stays_as_it_is(run: Run, path: Path) -> None:
    path.write_text(f"# mine\n\n{OLD}\n")
    path.chmod(0o400)
    assert not run()["changed"]
    assert not run(keys=[OLD])["changed"]
    assert path.read_text().startswith("# mine")


def test_a_file_of_blank_lines_gets_a_key(run: Run, path: Path) -> None:
    """llama-server would start without authentication on it."""
    path.write_text("\n \n")
    assert run()["changed"]
    assert len(lines(path)) == 1


@pytest.mark.parametrize("bad", ["short", "with a blank in the middle", "#begins-with-a-hash", f"{NEW}\n"])
def test_what_llama_server_would_read_otherwise_is_refused(run: Run, path: Path, bad: str) -> None:
    done = run(keys=[OLD, bad])
    assert done["failed"]
    assert "at least 16 characters without blanks" in done["msg"]
    assert not path.exists()


def test_what_cannot_be_written_leaves_nothing_behind(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    before = lines(path)

    def refuse(*_paths: str) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", refuse)
    done = run(rotate="begin")
    assert done["failed"]
    assert "No space left" in done["msg"]
    assert os.listdir(path.parent) == ["api-keys"]
    assert lines(path) == before


def test_a_folder_that_is_not_there_is_said(run: Run, path: Path) -> None:
    done = run(path=str(path.parent / "gone" / "api-keys"))
    assert done["failed"]
    assert "its folder has to be there" in done["msg"]
