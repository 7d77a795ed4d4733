# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run another command in the sandbox of a service: its user, environment, credentials and hardening.

Everything is taken from the unit's files, which are root's, and nothing from the service's process, which can change
what /proc shows of it. A twin is a unit below /run with the [Service] settings of the other one and a command of its
own; systemd ends it after a time limit, and a helper ends it when this process is killed.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError, word

UNITS = "/run/systemd/system"
FOLDER = "/run/homelab-llamacpp"  # root's: for what a twin reads and says
RUNTIME = "/run"  # where systemd makes the directories of units
STOP_SECONDS = 10
TIME_LIMIT = "a time limit"  # the status of what was ended by it
_SAID = 1 << 20  # bytes of its output
_WORD = re.compile(r"""\s*([-@:+!|]*)("[^"]*"|'[^']*'|\S+)(.*)""", re.DOTALL)
_HEADER = re.compile(r"\[(.+)\]")
_OTHER_COMMANDS = ("ExecCondition", "ExecStartPre", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")
_OWN_FOLDERS = ("RuntimeDirectory", "StateDirectory", "CacheDirectory", "LogsDirectory", "PIDFile", "BusName")
# Ends the twin as soon as the one that started it has ended, however that was.
_HELPER = 'read -r _; systemctl stop "$1"; systemctl reset-failed "$1"; rm -rf "$2" "$3"; systemctl daemon-reload'


@dataclass(frozen=True)
class Settings:
    """What a unit's files say of its service; `words` is the text behind the program on its command line."""

    lines: tuple[str, ...]
    program: str
    words: str
    expands: bool  # whether systemd replaces variables in the words
    user: str
    group: str

    @classmethod
    def of(cls, run: Run, unit: str) -> Settings:
        """UnitError for a unit that is not there, or that starts otherwise than with one program of its user."""
        shown = Unit(run, unit).properties("LoadState", "FragmentPath", "DropInPaths", "User", "Group")
        if shown["LoadState"] != "loaded" or not shown["FragmentPath"]:
            raise UnitError(
                f"expected the unit {unit} with a file, systemd says {shown['LoadState']}; install it first"
            )
        lines: list[str] = []
        for path in [shown["FragmentPath"], *shown["DropInPaths"].split()]:
            try:
                lines += service_lines(_files.read(os.path.realpath(path)).decode(errors="surrogateescape"))
            except OSError as error:
                raise UnitError(f"expected {path} of {unit} readable: {error.strerror}; run as root (become)") from None
        lines = [_expanded(line, unit) for line in lines]
        commands: list[str] = []
        for line in lines:
            name, _equals, text = line.partition("=")
            if name == "ExecStart":
                commands = [*commands, text] if text else []
        found = _WORD.fullmatch(commands[-1]) if commands else None
        if found is None or set(found[1]) - set("-:"):
            raise UnitError(
                f"expected {unit} to start one program as its user, found ExecStart={commands[-1] if commands else ''};"
                " correct the unit"
            )
        kept = [line for line in lines if line.partition("=")[0] not in ("ExecStart", *_OTHER_COMMANDS, *_OWN_FOLDERS)]
        program = found[2].strip("\"'")
        return cls(tuple(kept), program, found[3], ":" not in found[1], shown["User"], shown["Group"])

    def names(self, prefix: str) -> list[str]:
        """The environment variables with this prefix that the unit, or a file of it, may set."""
        texts = list(self.lines)
        for line in self.lines:
            if line.startswith("EnvironmentFile="):
                with contextlib.suppress(OSError):
                    texts.append(_files.read(line.partition("=")[2].strip("-\"' ")).decode(errors="replace"))
        return sorted({name for text in texts for name in re.findall(rf"\b{prefix}\w+", text)})


def service_lines(text: str) -> list[str]:
    """The settings of the sections [Service], one line each, as systemd joins them."""
    lines: list[str] = []
    section, begun = "", ""
    for raw in text.split("\n"):
        if raw.lstrip(" \t").startswith(("#", ";")):
            continue
        line = begun + raw
        begun = ""
        if (len(line) - len(line.rstrip("\\"))) % 2:
            begun = line[:-1] + " "
            continue
        header = _HEADER.fullmatch(line.strip())
        if header:
            section = header[1]
        elif section == "Service" and "=" in line:
            name, _equals, value = line.partition("=")
            lines.append(f"{name.strip()}={value.strip()}")
    return lines


def _expanded(line: str, unit: str) -> str:
    """With the specifiers that stand for the unit's name: the twin has another one."""
    name = unit.rpartition(".")[0]
    prefix, _at, instance = name.partition("@")
    known = {"n": unit, "N": name, "p": prefix, "i": instance, "I": instance, "j": prefix.rpartition("-")[2]}
    return re.sub(r"%(.)", lambda found: known.get(found[1], found[0]).replace("\n", " "), line)


@dataclass(frozen=True)
class Ended:
    """`status` is its exit status, or `signal N`."""

    status: str
    said: str


class Twin:
    """One service's twin. `runtime` is its own directory, `folder` one of root's that its user can read.

    Commands are the text of ExecStart=. Each may take `seconds`. UnitError and OSError when systemd refuses.
    """

    def __init__(self, run: Run, settings: Settings) -> None:
        self._run = run
        self._settings = settings
        name = f"llama-trial-{secrets.token_hex(4)}"
        self.unit = Unit(run, f"{name}.service")
        self.runtime = os.path.join(RUNTIME, name)
        self.folder = os.path.join(FOLDER, name)
        self._file = os.path.join(UNITS, self.unit.name)
        self._output = os.path.join(self.folder, "output")

    @contextlib.contextmanager
    def made(self) -> Iterator[Twin]:
        """Its folder is there within this; afterwards nothing is left."""
        os.close(_files.open_folder(self.folder, 0o755))
        helper = subprocess.Popen(  # pylint: disable=ansible-bad-function
            ["/bin/sh", "-c", _HELPER, "sh", self.unit.name, self._file, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield self
        finally:
            helper.kill()
            helper.communicate()
            self._stop()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._file)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.unit.daemon_reload()

    def write(self, name: str, text: str) -> str:
        """A file in its folder that only its user, and root, can read."""
        path = os.path.join(self.folder, name)
        _files.replace(path, text, 0o440, (0, self._group()) if os.geteuid() == 0 else None)
        return path

    def to_its_end(self, command: str, seconds: float) -> Ended:
        """Run a command and wait for its end."""
        self._write_unit(command, "oneshot", seconds)
        with contextlib.suppress(UnitError):  # also when the command fails
            self.unit.start()
        return self.ended() or Ended(TIME_LIMIT, self.said())

    @contextlib.contextmanager
    def running(self, command: str, seconds: float) -> Iterator[None]:
        """Start a command, and end it with this."""
        self._write_unit(command, "exec", seconds)
        try:
            self.unit.start()
            yield
        finally:
            self._stop()

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""
        shown = self.unit.properties("ActiveState", "ExecMainCode", "ExecMainStatus", "Result")
        if shown["ActiveState"] in ("active", "activating", "deactivating", "reloading"):
            return None
        if shown["Result"] == "timeout":
            return Ended(TIME_LIMIT, self.said())
        killed = shown["ExecMainCode"] in ("2", "3")  # CLD_KILLED, CLD_DUMPED
        return Ended(f"{'signal ' if killed else ''}{shown['ExecMainStatus']}", self.said())

    def said(self) -> str:
        """The end of its output."""
        try:
            with open(_files.open_regular(self._output), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _SAID))
                return file.read(_SAID).decode(errors="replace")
        except OSError:
            return ""

    def command(
        self,
        program: str,
        given: str,
        more: Sequence[str],
        environment: Mapping[str, str],
        without: Iterable[str] = (),
    ) -> str:
        """A command: `given` is text that is already as in the unit, `more` words behind it."""
        words = ["/usr/bin/env", *(part for name in without for part in ("-u", name))]
        words += [f"{name}={value}" for name, value in environment.items()]
        expands = self._settings.expands
        try:
            quoted, rest = (" ".join(word(text, expands) for text in texts) for texts in ([*words, program], more))
        except BadName as error:
            raise UnitError(f"expected a command of one line: {error}") from None
        return f"{'' if expands else ':'}{quoted}{given} {rest}"

    def _write_unit(self, command: str, kind: str, seconds: float) -> None:
        if any(sign in command for sign in "\r\n\0"):
            raise UnitError(f"expected a command of one line, found {command!r}")
        limit = "TimeoutStartSec" if kind == "oneshot" else "RuntimeMaxSec"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._output)
        own = [
            f"Type={kind}",
            "Restart=no",
            "RemainAfterExit=no",
            "WatchdogSec=0",
            f"{limit}={seconds:g}",
            f"TimeoutStopSec={STOP_SECONDS}",
            "KillMode=control-group",
            "SendSIGKILL=yes",
            f"RuntimeDirectory={os.path.basename(self.runtime)}",
            "RuntimeDirectoryMode=0700",
            "RuntimeDirectoryPreserve=no",
            f"WorkingDirectory={self.runtime}",
            "StandardInput=null",
            f"StandardOutput=file:{self._output}",
            "StandardError=inherit",
            f"ExecStart={command}",
        ]
        text = [
            "[Unit]",
            "Description=Trial of llama-server",
            "StartLimitIntervalSec=0",
            "[Service]",
            *self._settings.lines,
            *own,
            "",
        ]
        _files.replace(self._file, "\n".join(text), 0o644, create_mode=0o755)
        self.unit.daemon_reload()

    def _stop(self) -> None:
        with contextlib.suppress(UnitError):
            self.unit.stop()
        with contextlib.suppress(UnitError):  # it has not failed, and is not known any more
            self.unit.reset_failed()

    def _group(self) -> int:
        if self._settings.group:
            name = self._settings.group
            return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
        name = self._settings.user
        return pwd.getpwuid(int(name)).pw_gid if name.isdigit() else pwd.getpwnam(name or "root").pw_gid
