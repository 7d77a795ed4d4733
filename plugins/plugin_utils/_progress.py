# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long modules that say in the play's output how far they are.

A module's output arrives when it has ended. So a module that has more to do than an amount runs as a job of ansible's
own async, and what it writes by module_utils/_progress is read and shown until it ends. A task that says `async`
itself, and check mode, are left as they are.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import time
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.homelab.llamacpp.plugins.module_utils._progress import AT_ONCE, VARIABLE

display = Display()

JOB_LIMIT = 7 * 24 * 3600  # seconds that a job may take
WAIT = 3.0  # seconds, the longest that the target waits for the job's end before it answers
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between two of its looks; in between a twentieth of the job's time
FIRST_LINE, LONGEST_LINE = 5.0, 60.0  # seconds between two lines of output
UNREACHABLE_FOR = 300.0  # seconds that the target may be out of reach

Result = dict[str, Any]


class ProgressAction(ActionBase):
    """Runs the module of its own name, which supports `_progress.postponed`."""

    _supports_check_mode = True
    _supports_async = True

    at_once: int  # bytes, the most that the module does without being watched

    def is_long(self) -> bool:
        """Whether it is known to take long before the module has compared anything."""
        return False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> Result:
        result: Result = super().run(tmp, task_vars)
        del tmp
        result.update(self._run(task_vars or {}))
        if not self._task.async_val:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _run(self, task_vars: dict[str, Any]) -> Result:
        if self._task.async_val or self._task.check_mode:
            return self._module(task_vars, wrap_async=self._task.async_val)
        if not self.is_long():
            with self._set(environment=[*self._task.environment, {AT_ONCE: str(self.at_once)}]):
                result = self._module(task_vars)
            # What cannot be done is said before a job is begun.
            if not result.get("postponed"):
                return result
        return self._watch(task_vars)

    def _module(self, task_vars: dict[str, Any], wrap_async: bool = False) -> Result:
        # A copy, as ansible adds to the arguments what is right for this call alone.
        result: Result = self._execute_module(
            module_args=dict(self._task.args), task_vars=task_vars, wrap_async=bool(wrap_async)
        )
        return result

    @contextlib.contextmanager
    def _set(self, **values: Any) -> Iterator[None]:
        """The task with other attributes for a while."""
        before = {name: getattr(self._task, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self._task, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self._task, name, value)

    def _watch(self, task_vars: dict[str, Any]) -> Result:
        folder = self.get_shell_option("async_dir", default="~/.ansible_async")
        name = f"{self._task.action.rpartition('.')[2]}-{secrets.token_hex(8)}.progress"
        environment = [*self._task.environment, {VARIABLE: f"{folder}/{name}"}]
        with self._set(async_val=JOB_LIMIT, environment=environment):
            job = self._module(task_vars, wrap_async=True)
        if job.get("failed") or "ansible_job_id" not in job:
            return job
        absolute = job["results_file"].rpartition("/")[0]
        path = f"{absolute}/{name}"
        try:
            result = self._until_it_ends(job["ansible_job_id"], job["results_file"], path, task_vars)
        finally:
            with contextlib.suppress(AnsibleConnectionFailure):
                self._low_level_execute_command(f"rm -f {shlex.quote(path)} {shlex.quote(job['results_file'])}")
        for key in ("ansible_job_id", "started", "finished", "results_file"):
            result.pop(key, None)
        return result

    def _until_it_ends(self, job: str, results: str, path: str, task_vars: dict[str, Any]) -> Result:
        host = task_vars.get("inventory_hostname", "")
        # Until the module has ended, its results have this key.
        goes_on = f"""grep -qs '"started":' {shlex.quote(results)}"""
        on, ended = (f"echo {word}; cat {shlex.quote(file)}" for word, file in (("on", path), ("ended", results)))
        between = FIRST_LINE
        begun = said = reached = time.monotonic()
        shown = ""
        while True:
            pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, (time.monotonic() - begun) / 20))
            turns = f"for turn in {' '.join('.' * int(WAIT / pause))}; do {goes_on} || break; sleep {pause:.1f}; done"
            command = f"{turns}; if {goes_on}; then {on}; else {ended}; fi"
            try:
                state, _newline, text = self._low_level_execute_command(command)["stdout"].partition("\n")
                if state.strip() == "ended":
                    status = plain_result(text) or self._status(job, results.rpartition("/")[0], task_vars)
                    if status.get("finished") or status.get("failed"):
                        return status
                elif state.strip() != "on":  # the shell itself was ended
                    time.sleep(WAIT)
            except AnsibleConnectionFailure:
                if time.monotonic() - reached > UNREACHABLE_FOR:
                    raise
                time.sleep(WAIT)
                continue
            reached = now = time.monotonic()
            if text.strip() not in ("", shown) and now - said >= between:
                shown = text.strip()
                display.display(f"[{host}] {shown}")
                said, between = now, min(LONGEST_LINE, between * 1.5)

    def _status(self, job: str, folder: str, task_vars: dict[str, Any]) -> Result:
        result: Result = self._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={"jid": job, "mode": "status", "_async_dir": folder},
            task_vars=task_vars,
        )
        return result


def plain_result(text: str) -> Result | None:
    """A job's result without errors and warnings, which ansible would convert: read here, it saves a module start."""
    with contextlib.suppress(ValueError):
        result = json.loads(text)
        if isinstance(result, dict) and not {"failed", "exception", "warnings", "deprecations"} & set(result):
            return {**result, "finished": True}
    return None
