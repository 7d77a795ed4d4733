# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of the lab as testinfra's host, for the suites that molecule's scenarios end with.

testinfra itself gets into such a guest by a whole run of `ansible` for each command, some ten times the work.
The connection that takes has suites of its own.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

sys.path.insert(0, str(Path(__file__).parent / "lab"))

from homelab_lab.settings import Settings

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ThroughNode(BaseBackend):
    """Commands by ssh to the node, and lxc-attach there."""

    NAME = "lab"

    def __init__(self, vmid: int) -> None:
        super().__init__(f"guest {vmid}")
        self._enter = ["lxc-attach", "-n", str(vmid), "--clear-env", "-v", PATH, "--", "/bin/sh", "-c"]

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        """Run a shell command as the guest's root."""
        command = self.get_command(command, *args)
        argv = Settings.from_environment().ssh(shlex.join([*self._enter, command]))
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return self.result(done.returncode, command.encode(), done.stdout, done.stderr)


def guest(vmid: int) -> Host:
    """The guest, with all that testinfra can look at."""
    return Host(ThroughNode(vmid))
