# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_report, _tool_status
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import Places

REPORT: dict[str, Any] = {
    "verdict": "healthy",
    "reasons": [],
    "unit": {"name": "u", "state": "active", "sub": "running", "enabled": "enabled", "errors": []},
    "router": {"up": True, "url": "http://x", "build": "b1", "loaded": [], "limit": 2},
    "models": [],
    "devices": [],
    "gpus": [],
    "driver": {"agree": None},
    "memory": {"total_mib": 10, "available_mib": 4},
    "disk": {"path": "/m", "total_mib": None, "free_mib": None},
    "certificates": [{"address": "proxy:443", "expires": 1_800_000_000, "reason": None}],
}
REPORT["unit"].update(dict.fromkeys(("since", "restarts", "memory_mib")))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Places]:
    """Where was looked; the report is REPORT."""
    places: list[Places] = []

    def gather(where: Places, _run: object) -> dict[str, Any]:
        places.append(where)
        return REPORT

    monkeypatch.setattr(_router_report, "gather", gather)
    monkeypatch.setattr(_tool_status.os, "geteuid", lambda: 0)
    return places


@pytest.mark.parametrize(("verdict", "status"), [("healthy", 0), ("degraded", 1), ("down", 2)])
def test_it_ends_with_the_verdict(
    verdict: str, status: int, asked: list[Places], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(REPORT, "verdict", verdict)
    assert _tool_status.main([]) == status
    assert (
        "u: active (running, enabled)\nrouter at http://x: build b1, 0 of at most 2 models loaded\n"
        in capsys.readouterr().out
    )
    assert _tool_status.main(["--json"]) == status
    assert json.loads(capsys.readouterr().out) == REPORT


def test_where_things_are_can_be_said(asked: list[Places]) -> None:
    words = [
        "--unit",
        "none.service",
        "--url",
        "http://h:1",
        "--api-key-file",
        "/k",
        "--plan",
        "/p",
        "--models-dir",
        "/m",
    ]
    _tool_status.main([*words, "--plan", "/p", "--models-dir", "/m"])
    assert asked == [Places("none.service", "http://h:1", "/k", "/p", "/m")]


def test_again_and_again_until_it_is_interrupted(
    asked: list[Places], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(_tool_status, "time", SimpleNamespace(sleep=sleep))  # others sleep as well
    assert _tool_status.main(["--watch", "0.5", "--json"]) == 130
    assert slept == [0.5] * 3
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [REPORT] * 3


def test_no_control_character_reaches_the_terminal(
    asked: list[Places], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(REPORT, "reasons", ["a\x1b]0;owned\x07\r\x9b2J\ud800 failed\nhealthy"])
    monkeypatch.setitem(REPORT["unit"], "errors", ["\x1b[2J"])
    _tool_status.main([])
    shown = capsys.readouterr().out
    assert "a\\x1b]0;owned\\x07\\x0d\\x9b2J\\ud800 failed\\x0ahealthy\n" in shown
    assert "error: \\x1b[2J\n" in shown
    assert all(sign.isprintable() or sign == "\n" for sign in shown)


def test_who_cannot_read_the_key_is_told_so(
    asked: list[Places], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_tool_status.os, "geteuid", lambda: 1000)
    assert _tool_status.main(["--api-key-file", str(tmp_path / "api-keys")]) == 2
    assert "run it with sudo" in capsys.readouterr().err
    assert asked == []
