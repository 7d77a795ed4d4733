# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _llama_dry_run, _router_quiet, _router_trial
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import Connection
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import Preset
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_trial import Running, Trial, room_beside


def plan(usable: int, **totals: int) -> dict[str, Any]:
    return {
        "devices": [{"name": "CUDA0", "usable_mib": usable}],
        "models": [{"name": n, "devices": [{"device": "CUDA0", "total_mib": t}]} for n, t in totals.items()],
    }


@pytest.mark.parametrize(
    ("usable", "limit", "room"),
    [(17, 2, False), (18, 2, True), (9, 1, False), (10, 1, True), (100, 0, False)],
)
def test_room_is_what_is_left_beside_any_models_that_run(usable: int, limit: int, room: bool) -> None:
    assert room_beside(plan(usable, small=1, big=9, middle=8), limit, "small") is room


def test_no_room_without_a_plan() -> None:
    assert not room_beside({"devices": [], "models": []}, 2, "small")
    assert not room_beside(plan(100, other=1), 2, "small")


def test_how_a_process_was_started() -> None:
    me = Running.of(os.getpid())
    assert me.args == sys.orig_argv[1:]
    assert (me.uid, me.gid) == (os.geteuid(), os.getegid())
    assert me.environ["PATH"]
    with pytest.raises(RouterError, match="run as root"):
        Running.of(1 << 30)


def test_lines_of_options() -> None:
    text = "; comment\nversion = 1\n\n[a]\nctx-size = 1\n[x/y:UD-Q4_K_XL]\r\nthreads = 2\nctx-size = 3\nctx-size = 4\n"
    preset = Preset(text)
    assert preset.line_number("a", "ctx-size") == 5
    assert preset.line_number("x/y:Q4_K_XL", "threads") == 7
    assert preset.line_number("x/y:Q4_K_XL", "ctx-size") == 9
    assert preset.line_number("a", "threads") == preset.line_number("none", "threads") == 0


def test_all_options_that_it_does_not_know_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below a character that ends a line for Python, and not for llama-server."""
    asked: list[str] = []

    def refusal(text: str) -> str:
        asked.append(text)
        assert len(asked) <= 3
        unknown = next((line.split(" = ")[0] for line in text.split("\n") if line.startswith("gone")), "")
        return f"option '{unknown}' not recognized in preset 'a'" if unknown else ""

    presets = tmp_path / "models.ini"
    presets.write_text(
        "; a page\fand a line\u2028of it\n[a]\r\ngone-1 = 1\nctx-size = 1\ngone-2 = 2\n", encoding="utf-8"
    )
    trial = Trial("/bin/llama-server", Running.of(os.getpid()), 1)
    monkeypatch.setattr(trial, "_refusal", refusal)
    with pytest.raises(RouterError, match=r"preset 'a', line 3: .*'gone-1'; preset 'a', line 5: .*'gone-2'"):
        trial.reads(str(presets))
    assert "ctx-size = 1" in asked[-1]


def test_what_a_dry_run_says() -> None:
    refused = "0.00 E srv  llama_server: failed to initialize router models: option 'x' not recognized in preset 'm'\n"
    assert _llama_dry_run.refusal(refused) == "option 'x' not recognized in preset 'm'"
    assert _llama_dry_run.refusal("couldn't bind HTTP server socket") == ""
    assert _llama_dry_run.refusal("Segmentation fault") is None
    assert _llama_dry_run.last_words("a\nb\nc\nd\n") == "b / c / d"
    assert _llama_dry_run.last_words("") == "nothing"


@pytest.mark.parametrize(
    ("state", "ready", "busy"),
    [(0x01, True, True), (0x0A, True, False), (0x06, True, False), (0x0A, False, True)],
)
def test_an_answer_is_a_connection_to_a_models_process(
    monkeypatch: pytest.MonkeyPatch, state: int, ready: bool, busy: bool
) -> None:
    table = [Connection(2, "127.0.0.1", 50001, state, 0, 0), Connection(2, "127.0.0.1", 8012, 0x01, 0, 0)]
    child = _router_quiet._router_children.Process(1, 0.0, ("--alias", "a", "--port", "50001"))
    monkeypatch.setattr(_router_quiet._router_children, "children", lambda pid: {"a": child})
    monkeypatch.setattr(_router_quiet._port_hold, "connections", lambda: iter(table))
    monkeypatch.setattr(_router_quiet, "_ready", lambda port: ready)
    assert _router_quiet.busy(1) is busy
    assert _router_quiet.wait_until_quiet(1, 0) is not busy


def test_quiet_has_to_last(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False, True, False, False, False, False, False, False])
    seen: list[bool] = []
    monkeypatch.setattr(_router_quiet, "_PAUSE", 0.02)
    monkeypatch.setattr(_router_quiet, "busy", lambda pid: seen.append(next(answers)) or seen[-1])
    assert _router_quiet.wait_until_quiet(1, 5, 0.03)
    assert len(seen) >= 5


def test_arguments_without_some() -> None:
    args = ["--host", "127.0.0.1", "--alias", "a", "--port", "0", "--jinja"]
    assert _router_trial._without(args, ("--host", "--port")) == ["--alias", "a", "--jinja"]
