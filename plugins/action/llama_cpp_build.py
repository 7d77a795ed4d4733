# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module of this name until its build has ended, and shows a line about the progress each time."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Every call of the module waits for the end of the build, up to `report` seconds."""
        super().run(tmp, task_vars)
        host = (task_vars or {}).get("inventory_hostname", "")
        arguments = dict(self._task.args)
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        while "progress" in result and not result.get("failed"):
            display.display(f"{host}: {arguments['name']}: {progress(result['progress'])}")
            result = self._execute_module(module_args={**arguments, "following": True}, task_vars=task_vars)
        return result


def progress(found: dict[str, Any]) -> str:
    """`step 120 of 360, about 11 min left`."""
    if not found["steps"]:
        return "configuring"
    left = found["seconds_left"]
    if left is None:
        return f"step 0 of {found['steps']}"
    minutes = f"{round(left / 60)} min" if left >= 90 else f"{left} s"
    return f"step {found['step']} of {found['steps']}, about {minutes} left"
