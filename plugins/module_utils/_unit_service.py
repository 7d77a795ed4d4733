# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A unit that runs with the files as they are now.

What it has read is noted in a record (`applied`, in the format of sha256sum): a unit of ours writes it itself when it
starts, and for a server that others have set up it is written here, afterwards. So a run that was cut off between
a file and the restart is made good by the next, and no run has to remember what it has changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence

from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_files
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError


class UnitService:
    """With `files` the record is written here, and the unit reloads, or restarts when asked to; else it restarts."""

    def __init__(self, run: Run, name: str, applied: str, files: Sequence[str] = (), restart: bool = False) -> None:
        self.unit = Unit(run, name)
        self.applied = applied
        self.files = files
        self.restart = restart or not files

    def outdated(self) -> list[str]:
        """What it has not read as it is now; the record itself where there is none. RouterError: it may not be read."""
        noted = _router_files.read_applied(self.applied)
        if noted is None or not (noted or self.files):
            return [self.applied]
        now = self._now(self.files or noted)
        other = [path for path, digest in now.items() if noted.get(path) != digest]
        return other or [path for path in self.files if self._is_younger(path)]

    def wanting(self) -> Iterator[str]:
        """What is to be done, by systemctl's verbs, in this order. Raises UnitError, RouterError."""
        told = self.unit.properties("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload")
        if told["NeedDaemonReload"] == "yes" or told["LoadState"] == "not-found":
            yield "daemon-reload"
        if told["UnitFileState"] in ("disabled", ""):
            yield "enable"
        if told["ActiveState"] not in ("active", "reloading", "refreshing"):
            yield "start"
        elif self.outdated():
            yield "restart" if self.restart else "reload"

    def apply(self, steps: Sequence[str]) -> None:
        """Do it. UnitError also when it runs and has not noted what it read: every run would start it again."""
        if "daemon-reload" in steps:
            self.unit.daemon_reload()
        if "enable" in steps:
            self.unit.enable(True)
        if not {"start", "restart", "reload"} & set(steps):
            return
        now, begin = self._now(self.files), time.time()
        if "reload" in steps:
            self.unit.reload()
        else:
            self.unit.restart()
        if self.files:
            _router_files.amend_applied(self.applied, now)
            os.utime(self.applied, (begin, begin))
        elif self.outdated():
            raise UnitError(
                f"the unit {self.unit.name} was wanted to note in {self.applied} what it starts with, and that differs"
                f" in {', '.join(self.outdated())}; let an ExecStartPre= of it write `sha256sum` of its files there"
            )

    @staticmethod
    def _now(paths: Iterable[str]) -> dict[str, str | None]:
        return _router_files.digests(path for path in paths if not os.path.isdir(path))

    def _is_younger(self, path: str) -> bool:
        """Whether it has changed since: it may have been another one in between, and been read."""
        try:
            return os.stat(path).st_ctime > os.stat(self.applied).st_mtime
        except FileNotFoundError:
            return False
