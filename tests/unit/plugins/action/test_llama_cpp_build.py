# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from ansible.playbook.task import Task
from ansible_collections.homelab.llamacpp.plugins.action import llama_cpp_build
from ansible_collections.homelab.llamacpp.plugins.action.llama_cpp_build import ActionModule, progress


@pytest.mark.parametrize(
    ("step", "steps", "left", "told"),
    [
        (0, 0, None, "configuring"),
        (0, 353, None, "step 0 of 353"),
        (120, 353, 660, "step 120 of 353, about 11 min left"),
        (350, 353, 42, "step 350 of 353, about 42 s left"),
    ],
)
def test_a_line_of_progress(step: int, steps: int, left: int | None, told: str) -> None:
    assert progress({"step": step, "steps": steps, "seconds_left": left}) == told


def test_it_follows_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way = {"changed": True, "progress": {"step": 1, "steps": 2, "seconds_left": 3}}
    answers = [under_way, under_way, {"changed": True, "release": {"name": "b1"}}]
    asked: list[dict[str, Any]] = []
    shown: list[str] = []

    def execute(_self: ActionModule, module_args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        asked.append(module_args)
        return answers.pop(0)

    monkeypatch.setattr(ActionModule, "_execute_module", execute)
    monkeypatch.setattr(llama_cpp_build.display, "display", shown.append)
    task = Task.load({"action": "homelab.llamacpp.llama_cpp_build", "args": {"name": "b1", "source": "/src"}})
    plugin = ActionModule(task, Mock(), None, None, None, None)
    assert plugin.run(task_vars={"inventory_hostname": "llama"}) == {"changed": True, "release": {"name": "b1"}}
    assert [args.get("following") for args in asked] == [None, True, True]
    assert shown == ["llama: b1: step 1 of 2, about 3 s left"] * 2
