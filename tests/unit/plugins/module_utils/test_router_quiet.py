# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_quiet
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import Connection


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
