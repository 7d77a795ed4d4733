# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a command that returns in time: SIGTERM at its limit, then SIGKILL, then it is left behind.

A process in an uninterruptible sleep (a GPU that hangs) outlives SIGKILL. Whoever waits for it would hang as well, as
coreutils' `timeout` does. While one is left behind, the same program is not started again, so they do not pile up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run

SECONDS = 60.0
GRACE = 2.0  # seconds after each signal
NOT_FOUND, TIMED_OUT, LEFT_BEHIND = 127, 124, 137  # exit statuses, as those of `timeout`

_left: dict[str, subprocess.Popen[bytes]] = {}  # by program


def runner(seconds: float = SECONDS, grace: float = GRACE) -> Run:
    """A Run with this limit, without Ansible."""

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        return run_bounded(argv, seconds, grace)

    return run


def run_bounded(argv: Sequence[str], seconds: float = SECONDS, grace: float = GRACE) -> tuple[int, str, str]:
    """Run a command in a process group of its own. Returns exit status, stdout and stderr."""
    program = argv[0]
    if program in _left:
        if _left[program].poll() is None:
            return LEFT_BEHIND, "", f"{program} (process {_left[program].pid}) still hangs and cannot be killed"
        del _left[program]
    try:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        return NOT_FOUND, "", str(error)
    late = False
    for limit, follows in ((seconds, signal.SIGTERM), (grace, signal.SIGKILL), (grace, None)):
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            late = True
            if follows is not None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, follows)
            continue
        status = TIMED_OUT if late else process.returncode
        return status, output.decode(errors="replace"), errors.decode(errors="replace")
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    if process.poll() is not None:  # it has ended, and a process outside its group holds its output
        return TIMED_OUT, "", f"{program} did not end within {seconds:g} seconds"
    _left[program] = process
    return LEFT_BEHIND, "", f"{program} (process {process.pid}) did not end within {seconds:g} seconds, nor by SIGKILL"
