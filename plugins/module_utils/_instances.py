# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Converge dedicated llama-servers: an environment file, a key file and a unit of a template unit for each.

Everything is looked at and refused before anything is changed; then those that are to go are stopped, so that their
memory is free, and only what differs is restarted. What a running one was started with its unit has recorded
(`applied`), so that a run that was cut off between a file and the restart is made good by the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import (
    _files,
    _llama_dry_run,
    _names,
    _offload,
    _options,
    _port_hold,
    _router_children,
    _router_files,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._peer import Recipients
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, RouterError, read_key
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KEY = re.compile(r"[^\s#]\S{15,}")
_LOG = 20000  # lines of a journal, in which a model's load is looked for


class InstanceError(Exception):
    """What was wanted of which instance, what was found and what mends it."""


@dataclass(frozen=True)
class Places:
    """Where things lie. `unit` is the template's name without the @, a change of `watch` restarts every instance, and a
    model that model_file has replaced in `placed_in` the one that runs it."""

    config_dir: str
    run_dir: str
    unit: str
    user: str
    binary: str
    watch: Sequence[str]
    placed_in: str | None
    timeout: float  # seconds, for a model to be loaded


@dataclass
class Instance:
    """One of them: how it is to be, how it is, and what is done: none, start, restart, stop or remove."""

    name: str
    state: str
    port: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    keys: Sequence[str] = ()
    action: str = "none"
    pid: int = 0
    differs: bool = False  # it runs with another environment file, maybe on another port or with more memory
    before: str = ""  # the text of its environment file
    after: str = ""
    files: dict[str, str] = field(default_factory=dict)  # to be written, path to text
    enable: bool | None = None

    @property
    def changed(self) -> bool:
        return self.action != "none" or bool(self.files) or self.enable is not None


class Instances:
    """One run. It may end in InstanceError, RouterError or UnitError, or be killed, after any step."""

    def __init__(self, wanted: Sequence[Mapping[str, Any]], places: Places, run: Run) -> None:
        self.places = places
        self._run = run
        names = ("name", "state", "port", "environment", "keys")
        self.all = [
            Instance(**{name: entry[name] for name in names if entry.get(name) is not None}) for entry in wanted
        ]

    def look(self) -> None:
        """Decide what is to be done, and refuse what cannot be."""
        for instance in self.all:
            try:
                _names.plain(_names.component(instance.name, "a name of an instance"), "a name of an instance")
            except _names.BadName as error:
                raise InstanceError(str(error)) from None
        for instance in self.all:
            self._decide(instance)
        self._refuse_taken_ports()
        for instance in self.all:
            if instance.action in ("start", "restart"):
                self._dry_run(instance)

    def converge(self) -> None:
        if not any(instance.changed for instance in self.all):
            return
        Unit(self._run, f"{self.places.unit}@.service").daemon_reload()
        starting = [instance for instance in self.all if instance.action in ("start", "restart")]
        for instance in self.all:
            # The port and the memory of one that differs may be for another one, which starts before it.
            if instance.action in ("stop", "remove") or (instance.differs and len(starting) > 1):
                self._unit(instance).stop()
        for instance in self.all:
            for path, text in instance.files.items():
                self._write(path, text, secret=path.endswith(".keys"))
            if instance.enable is not None:
                self._systemctl("enable" if instance.enable else "disable", instance)
            if instance.state == "absent":
                for path in (*self._paths(instance), self._record(instance)):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
        failures = []
        for instance in starting:
            try:
                self._start(instance)
            except (InstanceError, RouterError) as error:  # the others are not to stay down for it
                failures.append(str(error))
        if failures:
            raise InstanceError(". And ".join(failures))

    # --- what is to be done -----------------------------------------------------------------------------------------

    def _decide(self, instance: Instance) -> None:
        unit = self._unit(instance)
        state = unit.properties("ActiveState", "UnitFileState", "NeedDaemonReload", "MainPID")
        instance.pid = int(state["MainPID"] or 0)
        up = state["ActiveState"] in ("active", "reloading", "refreshing")
        enabled = state["UnitFileState"] == "enabled"
        env, keys = self._paths(instance)
        instance.before = _read(env) or ""
        if instance.state == "absent":
            if up or state["ActiveState"] == "activating" or instance.before or os.path.exists(keys):
                instance.action = "remove"
            instance.enable = False if enabled else None
            return
        instance.after = _environment_file(instance)
        if not all(KEY.fullmatch(key) for key in instance.keys):
            raise InstanceError(
                f"instance {instance.name}: expected keys of 16 characters or more without blanks, of"
                " which none begins with #"
            )
        if instance.before != instance.after:
            instance.files[env] = instance.after
        wanted_keys = "".join(f"{key}\n" for key in instance.keys) or _read(keys) or f"{secrets.token_urlsafe(36)}\n"
        if wanted_keys != _read(keys):
            instance.files[keys] = wanted_keys
        starts = instance.state == "started"
        instance.enable = starts if starts != enabled else None
        if not starts:
            instance.action = "stop" if up or state["ActiveState"] == "activating" else "none"
        elif not up:
            instance.action = "start"
        elif self._outdated(instance, env, keys) or state["NeedDaemonReload"] == "yes":
            instance.action = "restart"

    def _outdated(self, instance: Instance, env: str, keys: str) -> bool:
        """Whether the running process was started with something else."""
        applied = _router_files.read_applied(self._record(instance)) or {}
        now = dict(_router_files.digests([*self.places.watch, env, keys]))
        now.update({path: hashlib.sha256(text.encode()).hexdigest() for path, text in instance.files.items()})
        instance.differs = applied.get(env) != now[env]
        process = _router_children.process(instance.pid) if self.places.placed_in else None
        replaced = process and _router_children.outdated(process, self.places.placed_in or "")
        return bool(replaced) or any(applied.get(path) != digest for path, digest in now.items())

    def _refuse_taken_ports(self) -> None:
        own = set()
        for instance in self.all:
            with contextlib.suppress(_port_hold.HoldError):  # it does not run, or not any more
                own |= {connection.inode for connection in _port_hold.listening(instance.pid)}
        taken = {c.port for c in _port_hold.connections() if c.listens and c.inode not in own}
        for instance in self.all:
            if instance.action in ("start", "restart") and instance.port in taken:
                raise InstanceError(
                    f"instance {instance.name}: port {instance.port} was wanted, another program listens there already"
                    " (ss -ltnp); stop that one, or give the instance another port"
                )

    def _dry_run(self, instance: Instance) -> None:
        """Let llama-server read the command line: it stops at an address that it cannot listen on, before the model."""
        env = instance.environment
        words = [
            "--model",
            env["MODEL"],
            "--alias",
            instance.name,
            "--host",
            _llama_dry_run.HOST,
            *shlex.split(env["OPTIONS"]),
        ]
        status, out, err = self._run(["timeout", "-k", "5", str(_llama_dry_run.TIMEOUT), self.places.binary, *words])
        if "couldn't bind" not in out + err:
            said = _llama_dry_run.last_words(err or out)
            raise InstanceError(
                f"instance {instance.name}: {self.places.binary} refuses its options ({status}): {said}"
            )
        if not os.access(env["MODEL"], os.R_OK):
            raise InstanceError(f"instance {instance.name}: its model {env['MODEL']} was wanted, it cannot be read")

    # --- doing it ---------------------------------------------------------------------------------------------------

    def _start(self, instance: Instance) -> None:
        unit = self._unit(instance)
        since, begun = time.time(), time.monotonic()
        try:
            unit.reset_failed()
            unit.restart()
        except UnitError as error:
            raise InstanceError(self._crash(instance, since, str(error))) from None
        url = f"http://{_reachable(instance.environment['HOST'])}:{instance.port}"
        stranger = Client(url)
        while not stranger.healthy():
            if not unit.state().up:
                raise InstanceError(self._crash(instance, since, "its process ended"))
            if time.monotonic() - begun > self.places.timeout:
                raise InstanceError(
                    self._crash(instance, since, f"its model is not loaded in {self.places.timeout:g} s")
                )
            time.sleep(0.1)
        keys = self._paths(instance)[1]
        if stranger.admits():
            raise InstanceError(f"instance {instance.name}: it answers without a key; see {keys}, and its options")
        if not Client(url, read_key(keys), recipients=Recipients.of_user(self.places.user)).admits():
            raise InstanceError(f"instance {instance.name}: it refuses the first key of {keys}")
        self._see_devices(instance, since)

    def _see_devices(self, instance: Instance, since: float) -> None:
        """It computes where the plan has it; llama-server would use the CPU without a word."""
        devices = instance.environment.get("DEVICES", "").split()
        seen = _offload.read(self._unit(instance).journal(since, lines=_LOG, read=_LOG)) if devices else None
        words = shlex.split(instance.environment["OPTIONS"])
        layers = words[words.index("--n-gpu-layers") + 1] if "--n-gpu-layers" in words else "all"
        wrong = _offload.complaint(f"the instance {instance.name}", seen, devices, layers) if seen else None
        if wrong:
            raise InstanceError(wrong)

    def _crash(self, instance: Instance, since: float, what: str) -> str:
        words = " / ".join(self._unit(instance).journal(since, lines=4)) or "nothing"
        return f"instance {instance.name} was wanted running: {what}. Its journal's last words: {words}"

    def _write(self, path: str, text: str, secret: bool) -> None:
        """Beside, then renamed. A key file is the service's alone, an environment file root's for it to read."""
        account = pwd.getpwnam(self.places.user)
        _files.replace(path, text, *((0o400, (account.pw_uid, 0)) if secret else (0o640, (0, account.pw_gid))))

    def _unit(self, instance: Instance) -> Unit:
        return Unit(self._run, f"{self.places.unit}@{instance.name}.service")

    def _systemctl(self, verb: str, instance: Instance) -> None:
        status, _out, err = self._run(["systemctl", verb, self._unit(instance).name])
        if status != 0:
            raise UnitError(f"systemctl {verb} {self._unit(instance).name} failed: {' '.join(err.split())}")

    def _record(self, instance: Instance) -> str:
        return os.path.join(self.places.run_dir, f"{self._unit(instance).name}.applied")

    def _paths(self, instance: Instance) -> tuple[str, str]:
        base = os.path.join(self.places.config_dir, instance.name)
        return base + ".env", base + ".keys"


def _read(path: str) -> str | None:
    try:
        return _files.read(path).decode(errors="surrogateescape")
    except FileNotFoundError:
        return None


def _reachable(host: str) -> str:
    """Where this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "localhost"):
        return "127.0.0.1"
    return f"[{'::1' if host == '::' else host}]" if ":" in host else host


def _check_line(instance: Instance, what: str, text: object) -> None:
    try:
        _names.line(text, what)
    except _names.BadName as error:
        raise InstanceError(f"instance {instance.name}: {error}") from None


def shown(text: str) -> str:
    """The text of an environment file for a diff: without the values of secret options."""
    return "".join(_shown_line(line) for line in text.splitlines(keepends=True))


def _shown_line(line: str) -> str:
    name, _equals, value = line.rstrip("\n").partition("=")
    if name not in ("OPTIONS", "DEVICE_OPTIONS"):
        return line
    try:
        words = shlex.split("".join(shlex.split(value)))
    except ValueError:
        return f"{name}={_options.SECRET}\n"
    masked = [words[0], *(_options.masked(key, word) for key, word in zip(words, words[1:]))] if words else []
    return line if masked == words else f"{name}={shlex.join(masked)}\n"


def secrets_of(environment: Mapping[str, Any]) -> set[str]:
    """The texts in an instance's environment that no output may show."""
    try:
        words = shlex.split(str(environment.get("OPTIONS", "")))
    except ValueError:
        return {str(environment["OPTIONS"])}
    return {text for key, word in zip(words, words[1:]) for text in _options.secrets_in({key: word})}


def _environment_file(instance: Instance) -> str:
    """As systemd reads it: inside double quotes a backslash keeps what would mean something."""
    lines = [f"# The instance {instance.name}. Made by Ansible (homelab.llamacpp.llama_instance), which overwrites it."]
    for name, value in instance.environment.items():
        if not _VARIABLE.fullmatch(name):
            raise InstanceError(
                f"instance {instance.name}: expected a name of a variable, found {_names.printable(name)!r}"
            )
        _check_line(instance, name, value)
        quoted = "".join("\\" + sign if sign in '\\"$`' else sign for sign in value)
        lines.append(f'{name}="{quoted}"')
    return "\n".join(lines) + "\n"
