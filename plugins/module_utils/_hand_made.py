# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The units of a machine that run a llama-server: their command lines as the processes got them.

What `systemctl show` prints of a command line has lost its quotes. A process has it in /proc, and of a unit that does
not run systemd tells it over D-Bus, word by word.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, UnitError

SERVER = "llama-server"
# What makes a server one of a single model.
SINGLE = frozenset({"--model", "-m", "--hf-repo", "-hf", "-hfr", "--model-url", "-mu"})
SINGLE_ENV = ("LLAMA_ARG_MODEL", "LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL_URL")
_PROPERTIES = "Id,ExecStart,ActiveState,UnitFileState,MainPID,User,WorkingDirectory,Environment,EnvironmentFiles"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|(\$))")


@dataclass(frozen=True)
class Server:
    """A unit with a llama-server. `words` is its command line without the program, `why` why that cannot be told."""

    unit: str
    active: bool
    enabled: bool
    user: str
    folder: str  # that relative paths of it begin in
    program: str = ""
    words: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def is_router(self) -> bool:
        return not SINGLE.intersection(self.words) and not any(self.environment.get(name) for name in SINGLE_ENV)


def servers(run: Run, proc: str = "/proc") -> list[Server]:
    """All of them, by unit. UnitError where there is no systemd."""
    found = []
    for shown in _units(run):
        if SERVER not in shown["ExecStart"]:
            continue
        pid = int(shown["MainPID"] or 0)
        environment = _of_process(f"{proc}/{pid}/environ") if pid else None
        words = _of_process(f"{proc}/{pid}/cmdline") if pid else None
        variables = _pairs(environment) if environment else _configured(shown)
        why = ""
        if words is None:
            words, why = _of_unit(run, shown["Id"], variables)
        if words and os.path.basename(words[0]) != SERVER:
            words, why = [], f"its command is {words[0]}, which runs a llama-server by itself"
        found.append(
            Server(
                shown["Id"],
                shown["ActiveState"] in ("active", "activating", "reloading"),
                shown["UnitFileState"].startswith("enabled"),
                shown["User"] or "root",
                _folder(shown),
                words[0] if words else "",
                tuple(words[1:]),
                variables,
                why,
            )
        )
    return found


def _folder(shown: Mapping[str, str]) -> str:
    folder = shown["WorkingDirectory"].lstrip("!-") or "/"
    return os.path.expanduser(f"~{shown['User'] or 'root'}") if folder == "~" else folder


def _units(run: Run) -> Iterator[dict[str, str]]:
    names: set[str] = set()
    for argv in (
        ["systemctl", "list-unit-files", "--type=service", "--no-legend", "--plain", "--no-pager"],
        ["systemctl", "list-units", "--type=service", "--all", "--no-legend", "--plain", "--no-pager"],
    ):
        status, output, errors = run(argv)
        if status != 0:
            raise UnitError(f"{' '.join(argv[:2])} failed: {errors.strip() or f'exit status {status}'}")
        names.update(line.split()[0] for line in output.splitlines() if line.strip())
    # A template is no unit; its instances are among those that are loaded.
    names = {name for name in names if "@." not in name}
    status, output, errors = run(["systemctl", "show", f"--property={_PROPERTIES}", "--", *sorted(names)])
    if status != 0:
        raise UnitError(f"systemctl show failed: {errors.strip() or f'exit status {status}'}")
    seen = set()
    for block in output.split("\n\n"):
        shown = dict.fromkeys(_PROPERTIES.split(","), "")
        for line in block.splitlines():
            key, _equals, value = line.partition("=")
            shown[key] = f"{shown[key]} {value}".strip() if key == "EnvironmentFiles" else value
        if shown["Id"] and shown["Id"] not in seen:
            seen.add(shown["Id"])
            yield shown


def _of_process(path: str) -> list[str] | None:
    try:
        with open(path, "rb") as file:
            text = file.read().decode(errors="surrogateescape")
    except OSError:
        return None  # it has just ended
    return text[:-1].split("\0") if text else None


def _pairs(words: list[str]) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in words)


def _configured(shown: Mapping[str, str]) -> dict[str, str]:
    """The environment that a unit would start with, as far as it says so itself."""
    try:
        found = _pairs(shlex.split(shown["Environment"]))
    except ValueError:
        found = {}
    for path in re.findall(r"(/.*?) \(ignore_errors=(?:yes|no)\)", shown["EnvironmentFiles"]):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                lines = [line.strip() for line in file]
        except OSError:
            continue
        for line in lines:
            if "=" in line and not line.startswith(("#", ";")):
                key, _equals, value = line.partition("=")
                found[key.strip()] = value.strip().strip("\"'")
    return found


def _of_unit(run: Run, unit: str, environment: Mapping[str, str]) -> tuple[list[str], str]:
    """The command line of a unit that does not run, and "" or why it cannot be told."""
    path = "/org/freedesktop/systemd1/unit/" + "".join(
        char if char.isascii() and char.isalnum() and (number or not char.isdigit()) else f"_{ord(char):02x}"
        for number, char in enumerate(unit)
    )
    argv = ["busctl", "--json=short", "get-property", "org.freedesktop.systemd1", path]
    status, output, errors = run([*argv, "org.freedesktop.systemd1.Service", "ExecStart"])
    if status != 0:
        return [], f"it does not run, and D-Bus does not tell its command line ({errors.strip()}); start it"
    commands = json.loads(output)["data"]
    if len(commands) != 1:
        return [], f"it has {len(commands)} commands"
    return [word for text in commands[0][1] for word in _expanded(text, environment)], ""


def _expanded(text: str, environment: Mapping[str, str]) -> list[str]:
    """A word as systemd expands it: a variable that stands alone without braces may become several words, or none."""
    alone = re.fullmatch(r"\$(\w+)", text)
    if alone:
        return environment.get(alone[1], "").split()
    return [_VARIABLE.sub(lambda found: "$" if found[3] else environment.get(found[1] or found[2], ""), text)]
