# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long modules that say in the play's output how far they are.

A module's output arrives when it has ended. So a module that is going to take long runs as a job of ansible's own
async, and what it writes by module_utils/_progress is read and shown until it ends. A task that says `async` itself,
and check mode, are left as they are.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import time
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.homelab.llamacpp.plugins.module_utils._progress import VARIABLE

display = Display()

JOB_LIMIT = 7 * 24 * 3600  # seconds that a job may take
FIRST_LOOK, LONGEST_LOOK = 0.5, 5.0  # seconds between two looks at the job; in between a tenth of its time until then
FIRST_LINE, LONGEST_LINE = 5.0, 60.0  # seconds between two lines of output
UNREACHABLE_FOR = 300.0  # seconds that the target may be out of reach

Result = dict[str, Any]


class ProgressAction(ActionBase):
    """Runs the module of its own name. A subclass says what is long."""

    _supports_check_mode = True
    _supports_async = True

    def is_long(self, outlook: Result) -> bool:
        """Whether it will take long enough to be watched, by what the module says in check mode."""
        raise NotImplementedError

    def outlook_is_long(self) -> bool:
        """Whether even asking in check mode takes long, so that it is watched at once."""
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
        if not self.outlook_is_long():
            with self._set(check_mode=True):
                outlook = self._module(task_vars)
            # Nothing to do is the same in either mode, and what cannot be done is said before anything is begun.
            if outlook.get("failed") or not outlook.get("changed"):
                return outlook
            if not self.is_long(outlook):
                return self._module(task_vars)
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
            result = self._until_it_ends(job["ansible_job_id"], path, task_vars)
        finally:
            with contextlib.suppress(AnsibleConnectionFailure):
                self._low_level_execute_command(f"rm -f {shlex.quote(path)}")
                self._status(job["ansible_job_id"], "cleanup", absolute, task_vars)
        for key in ("ansible_job_id", "started", "finished", "results_file"):
            result.pop(key, None)
        return result

    def _until_it_ends(self, job: str, path: str, task_vars: dict[str, Any]) -> Result:
        host = task_vars.get("inventory_hostname", "")
        shown: str | None = None
        between = FIRST_LINE
        now = begun = said = reached = time.monotonic()
        while True:
            time.sleep(min(LONGEST_LOOK, max(FIRST_LOOK, (now - begun) / 10)))
            now = time.monotonic()
            try:
                text = self._low_level_execute_command(f"cat {shlex.quote(path)}")["stdout"].strip()
                # A job that says something new goes on; otherwise ask whether it has ended.
                if text == shown:
                    status = self._status(job, "status", path.rpartition("/")[0], task_vars)
                    if status.get("finished") or status.get("failed"):
                        return status
            except AnsibleConnectionFailure:
                if now - reached > UNREACHABLE_FOR:
                    raise
                continue
            reached = now
            if text != shown and now - said >= between:
                display.display(f"[{host}] {text}")
                said, between = now, min(LONGEST_LINE, between * 1.5)
            shown = text

    def _status(self, job: str, mode: str, folder: str, task_vars: dict[str, Any]) -> Result:
        result: Result = self._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={"jid": job, "mode": mode, "_async_dir": folder},
            task_vars=task_vars,
        )
        return result
