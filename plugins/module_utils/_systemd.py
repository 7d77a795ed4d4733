# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One systemd unit, through systemctl and journalctl."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.llamacpp.plugins.module_utils import _names

# Runs a command without a shell and answers (exit status, stdout, stderr); 127 when it is not there.
Run = Callable[[Sequence[str]], "tuple[int, str, str]"]


def runner(run_command: Callable[..., tuple[int, str, str]]) -> Run:
    """Ansible's `run_command` as a Run: a command that is not there is a status, not the end of the module."""

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        try:
            return run_command(list(argv), handle_exceptions=False)
        except OSError as error:
            return 127, "", str(error)

    return run


def word(text: str, variables: bool = True) -> str:
    """A word of a unit's command line that systemd reads as this text; without `variables` one of Environment=.

    Raises BadName for control characters: a carriage return would end the line.
    """
    _names.line(text.replace("\n", " "), "a word of a unit")
    signs = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "%": "%%", **({"$": "$$"} if variables else {})}
    return '"' + "".join(signs.get(sign, sign) for sign in text) + '"'


_PROPERTIES = ("LoadState", "ActiveState", "SubState", "NeedDaemonReload", "MainPID")


class UnitError(Exception):
    """systemd refused, in one message for the operator."""


@dataclass(frozen=True)
class UnitState:
    """`active` is systemd's ActiveState, `sub` its SubState; `main_pid` is 0 when nothing runs."""

    loaded: str
    active: str
    sub: str
    needs_daemon_reload: bool
    main_pid: int

    @property
    def up(self) -> bool:
        return self.active in ("active", "reloading", "refreshing")


class Unit:
    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self.name = name

    def properties(self, *names: str) -> dict[str, str]:
        """These properties, as systemd writes them."""
        output = self._systemctl("show", self.name, "--property=" + ",".join(names))
        found = dict(line.partition("=")[::2] for line in output.splitlines())
        missing = [name for name in names if name not in found]
        if missing:
            raise UnitError(f"systemctl show {self.name} names no {', '.join(missing)}; is this systemd?")
        return {name: found[name] for name in names}

    def state(self) -> UnitState:
        found = self.properties(*_PROPERTIES)
        return UnitState(
            loaded=found["LoadState"],
            active=found["ActiveState"],
            sub=found["SubState"],
            needs_daemon_reload=found["NeedDaemonReload"] == "yes",
            main_pid=int(found["MainPID"] or 0),
        )

    def daemon_reload(self) -> None:
        self._systemctl("daemon-reload")

    def reset_failed(self) -> None:
        """Forget earlier failures and starts, so that the unit's start limit does not count them."""
        self._systemctl("reset-failed", self.name)

    def start(self) -> None:
        """Start it. For a oneshot service this lasts until it has ended, at most its TimeoutStartSec=."""
        self._systemctl("start", self.name)

    def restart(self) -> None:
        """Start it, also out of a pause between two tries, which a plain start would sit out."""
        self._systemctl("restart", self.name)

    def reload(self) -> None:
        """Let it read its files again, without an end of what it does."""
        self._systemctl("reload", self.name)

    def enabled(self) -> bool:
        """Whether it starts with the machine; also of one that another unit starts, which has nothing to enable."""
        return self.properties("UnitFileState")["UnitFileState"] not in ("disabled", "")

    def enable(self, wanted: bool) -> None:
        """Whether it starts with the machine."""
        self._systemctl("enable" if wanted else "disable", "--quiet", self.name)

    def stop(self) -> None:
        """Stop it; nothing happens when it does not run, or is not there."""
        state = self.properties("LoadState", "ActiveState")
        if state["LoadState"] != "not-found" and state["ActiveState"] not in ("inactive", "failed"):
            self._systemctl("stop", self.name)

    def journal(self, since: float, prefix: str = "", lines: int = 50, read: int = 500) -> list[str]:
        """Its last `lines` of output since a time (seconds since the epoch) that begin with `prefix`.

        Of all its output the last `read` lines are looked at. Nothing where there is no journal, or none that this
        user may read.
        """
        argv = ["journalctl", "--unit", self.name, "--since", f"@{int(since)}", "--lines", str(read)]
        status, output, _errors = self._run([*argv, "--output", "cat", "--no-pager", "--quiet"])
        if status != 0:
            return []
        found = [line[len(prefix) :].strip() for line in output.splitlines() if line.startswith(prefix)]
        return [line for line in found if line][-lines:]

    def _systemctl(self, *args: str) -> str:
        status, output, errors = self._run(["systemctl", *args])
        if status == 127:
            raise UnitError("systemctl was wanted, this host has none; the service needs a systemd host")
        if status != 0:
            said = " ".join((errors.strip() or output.strip() or f"exit status {status}").split())
            raise UnitError(f"systemctl {' '.join(args)} failed: {said}")
        return output
