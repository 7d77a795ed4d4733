# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Convert the state directory of an earlier version: root's is all of it but `state`, in which the service writes.

Before, the service owned the directory above the models, so it could put anything in their place. Whatever it left
there is untrusted: links are not followed, nothing is deleted. Each step can be the last one of a run; the next run
goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import DEEPEST, printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTING = re.compile(r"(?m)^(\s*StateDirectory\s*=)(.*)$")
_ACCESS_LISTS = ("system.posix_acl_access", "system.posix_acl_default")

# The options of a module that converts it: the fragment state_directory.
PLACES_ARGUMENTS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "default": "/var/lib/llama-router"},
    "models_dir": {"type": "path", "default": "/var/lib/llama-router/models"},
    "user": {"type": "str", "default": "llama-router"},
    "unit": {"type": "str", "default": "llama-router.service"},
    "unit_file": {"type": "path", "default": "/etc/systemd/system/llama-router.service"},
}


class StateError(Exception):
    """What was expected, what was found and how to fix it, in one message for the operator."""


@dataclass(frozen=True)
class Places:
    """`path` is the directory above `models` and `state`, which are names in it; `models` is empty when not there."""

    path: str
    unit: str
    unit_file: str
    user: str
    models: str = "models"
    state: str = "state"

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Places:
        """Those that PLACES_ARGUMENTS name."""
        path = os.path.normpath(params["path"])
        above, models = os.path.split(os.path.normpath(params["models_dir"]))
        return cls(path, params["unit"], params["unit_file"], params["user"], models if above == path else "")


@dataclass
class Outcome:
    """What was done, as paths below the directory; in check mode what would be."""

    unit: bool = False  # the unit's StateDirectory=
    owned: list[str] = field(default_factory=list)  # directories and models that became root's
    moved: list[str] = field(default_factory=list)  # the service's own, now in its state directory
    aside: list[str] = field(default_factory=list)  # what may have been planted
    aside_in: str = ""

    @property
    def changed(self) -> bool:
        return self.unit or bool(self.owned or self.moved or self.aside)

    def lines(self, places: Places) -> list[str]:
        """Each path with what happens to it."""
        lines = [f"{places.unit_file}: StateDirectory= is {places.state} below the directory"] if self.unit else []
        lines += [f"{printable(path)}: root's" for path in self.owned]
        lines += [f"{printable(name)}: moved to {places.state}" for name in self.moved]
        return lines + [f"{printable(path)}: moved aside" for path in self.aside]

    def warnings(self, places: Places) -> Iterator[str]:
        """What the operator has to look at."""
        if self.aside:
            yield (
                f"{places.path}: {', '.join(map(printable, self.aside))} belonged to the service, which may have"
                f" planted it. It was moved to {self.aside_in or 'a new directory'}: look at it, then remove it"
            )
        models = [path for path in self.owned if path != "./"]
        if models:
            yield (
                f"{places.path}: {', '.join(map(printable, models))} belonged to the service and is root's now."
                " Compare the models with their sources (llama_models_verify)"
            )


class StateDirectory:
    """One run; StateError, UnitError and OSError end it."""

    def __init__(self, places: Places, run: Run, check_mode: bool = False) -> None:
        self.places = places
        self.check_mode = check_mode
        self.outcome = Outcome()
        self._unit = Unit(run, places.unit)
        self._theirs: set[int] = set()
        self._owner = (0, 0)
        self._folder = -1
        self._aside = -1

    def run(self) -> Outcome:
        # A link above it, or in its place, is root's: it lies in a trusted directory.
        path = os.path.realpath(self.places.path)
        with contextlib.ExitStack() as opened:
            parent, name = opened.enter_context(_files.folder_of(path))
            try:
                self._folder = os.open(name, _OPEN, dir_fd=parent)
            except FileNotFoundError:
                return self.outcome
            opened.callback(os.close, self._folder)
            status = os.fstat(self._folder)
            self._owner = (status.st_uid, status.st_gid)
            with contextlib.suppress(KeyError):  # the user may be gone
                account = pwd.getpwnam(self.places.user)
                self._owner = (account.pw_uid, account.pw_gid)
            self._theirs = {status.st_uid, self._owner[0]} - {0}
            # First: systemd gives all that is in StateDirectory= to the service when its owner is another one.
            self._convert_unit()
            self._own(self._folder, "")
            self._sort()
            if self._aside != -1:
                os.close(self._aside)
        return self.outcome

    # --- the unit ---------------------------------------------------------------------------------------------------

    def _convert_unit(self) -> None:
        old = os.path.basename(self.places.path)
        try:
            text = _files.read(self.places.unit_file).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            text = ""
        new = _SETTING.sub(lambda line: line[1] + self._setting(old, line[2]), text)
        if new != text:
            self.outcome.unit = True
            if not self.check_mode:
                _files.replace(self.places.unit_file, new)
        if self.check_mode or (new == text and os.fstat(self._folder).st_uid == 0):
            return
        # Also after a run that ended between the file and this.
        self._unit.daemon_reload()
        shown = self._unit.properties("LoadState", "StateDirectory")
        if shown["LoadState"] == "loaded" and old in shown["StateDirectory"].split():
            raise StateError(
                f"{self.places.unit}: expected no StateDirectory={old}, by which systemd gives the models to the"
                f" service, found it in another file of the unit (systemctl cat {self.places.unit}); remove it there"
            )

    def _setting(self, old: str, value: str) -> str:
        words = value.split()
        return (
            " ".join(f"{old}/{self.places.state}" if word == old else word for word in words) if old in words else value
        )

    # --- the directory ----------------------------------------------------------------------------------------------

    def _sort(self) -> None:
        """Everything in the directory that is not root's."""
        entries = {name: self._status(self._folder, name) for name in sorted(os.listdir(self._folder))}
        models = entries.pop(self.places.models, None)
        state = entries.pop(self.places.state, None)
        if state and not (stat.S_ISDIR(state.st_mode) and state.st_uid in self._theirs | {0}):
            self._put_aside(self._folder, self.places.state, "")
            state = None
        for name, status in entries.items():
            if status.st_uid in self._theirs:
                self._move(name)
        if models and not (stat.S_ISLNK(models.st_mode) and models.st_uid == 0):
            if stat.S_ISDIR(models.st_mode):
                self._walk(self._folder, self.places.models, "", 0)
            else:
                self._put_aside(self._folder, self.places.models, "")

    def _walk(self, folder: int, name: str, above: str, depth: int) -> None:
        """A directory among the models. It is root's before it is read, so nobody changes it meanwhile."""
        path = f"{above}{name}/"
        handle = os.open(name, _OPEN, dir_fd=folder)
        try:
            self._own(handle, path)
            for entry in sorted(os.listdir(handle)):
                status = self._status(handle, entry)
                planted = status.st_uid in self._theirs
                if stat.S_ISDIR(status.st_mode) and (planted or status.st_uid == 0) and depth < DEEPEST:
                    self._walk(handle, entry, path, depth + 1)
                elif planted and stat.S_ISREG(status.st_mode) and entry.endswith(".gguf") and entry[0] != ".":
                    self._own_model(handle, entry, path)
                elif planted:
                    self._put_aside(handle, entry, path)
        finally:
            os.close(handle)

    def _own(self, folder: int, path: str) -> None:
        """Give a directory to root, with the rights that let nobody else write."""
        status = os.fstat(folder)
        if status.st_uid == 0 and not status.st_mode & 0o022:
            return
        self.outcome.owned.append(path or "./")
        if not self.check_mode:
            self._give_to_root(folder, path, 0o755)

    def _own_model(self, folder: int, name: str, above: str) -> None:
        """A model that belongs to the service: systemd may have given it that. Its content is compared by others."""
        self.outcome.owned.append(above + name)
        if self.check_mode:
            return
        handle = _files.open_regular(name, dir_fd=folder)
        try:
            self._give_to_root(handle, above + name, 0o644)
        finally:
            os.close(handle)

    def _give_to_root(self, handle: int, path: str, mode: int) -> None:
        try:
            os.fchown(handle, 0, 0)
            os.fchmod(handle, mode)
        except PermissionError as error:
            raise StateError(
                f"{self._shown(path)}: expected to give it to root, found: {error.strerror}; run as root (become). If"
                " it is a mount point, its directory on the node has to belong to the user that root is in here"
                " (second number in /proc/self/uid_map)"
            ) from None
        for name in _ACCESS_LISTS:
            with contextlib.suppress(OSError):  # it has none
                os.removexattr(handle, name)

    # --- what is not root's -----------------------------------------------------------------------------------------

    def _move(self, name: str) -> None:
        """The service's own (a cache, a history) to where it writes now."""
        if self.check_mode:
            self.outcome.moved.append(name)
            return
        state = self._open_state()
        try:
            os.stat(name, dir_fd=state, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, name, src_dir_fd=self._folder, dst_dir_fd=state)
            self.outcome.moved.append(name)
        else:
            self._put_aside(self._folder, name, "")
        finally:
            os.close(state)

    def _open_state(self) -> int:
        name = self.places.state
        try:
            return os.open(name, _OPEN, dir_fd=self._folder)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=self._folder)
            handle = os.open(name, _OPEN, dir_fd=self._folder)
            os.fchown(handle, *self._owner)
            return handle

    def _put_aside(self, folder: int, name: str, above: str) -> None:
        """Into a new directory that is root's alone, for the operator to look at."""
        self.outcome.aside.append(above + name)
        if self.check_mode:
            return
        if self._aside == -1:
            self.outcome.aside_in = f"moved-aside-{secrets.token_hex(4)}"
            os.mkdir(self.outcome.aside_in, 0o700, dir_fd=self._folder)
            self._aside = os.open(self.outcome.aside_in, _OPEN, dir_fd=self._folder)
        target = f"{len(self.outcome.aside)}-{name}"[:200]
        try:
            os.rename(name, target, src_dir_fd=folder, dst_dir_fd=self._aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise StateError(
                f"{self._shown(above + name)}: expected an entry of root's, found one of the service's, which may have"
                " been planted; it lies on another file system, so it is not moved: look at it, then remove it"
            ) from None

    def _shown(self, path: str) -> str:
        return printable(os.path.join(self.places.path, path))

    @staticmethod
    def _status(folder: int, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
