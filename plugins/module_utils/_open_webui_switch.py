# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One release of Open WebUI in the place of another, each with the database that belongs to it.

A newer release changes the database for good, so one that is left keeps a copy of it as it was then. Broken off at any
point, a switch is finished by the next one, for links beside `current` tell how far it came:

- leaving: the release on its way out. Once another one is current, its copy is complete.
- restoring: the release whose copy is taking the database's place. As long as it is there the database is nobody's.
- previous: the release that the way back leads to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, UnitError

CURRENT, PREVIOUS, LEAVING, RESTORING = "current", "previous", "leaving", "restoring"
_PARTS = ("", "-wal", "-shm", "-journal")  # of a database of SQLite


class SwitchError(Exception):
    """What was wanted, what was found and what serves now, in one message for the operator."""


class Server(Protocol):
    """Open WebUI's service, which runs the release that is current. Raises UnitError."""

    def stop(self) -> None: ...

    def start(self, patient: bool = False) -> None:
        """Start it again, and return when it answers; one that served before is to be waited for longer."""

    def said(self) -> str:
        """Its last words."""


@dataclass(frozen=True)
class Places:
    """`root` has the links and the folder `releases`; `copies` gets a folder for each release that was left."""

    root: str
    database: str
    copies: str


class Switch:
    def __init__(self, places: Places, server: Server, run: Run) -> None:
        self.places = places
        self.server = server
        self._run = run

    def unfinished(self) -> bool:
        return bool(self.link(RESTORING)) or self.link(LEAVING) not in ("", self.link(CURRENT))

    def way_back(self) -> str:
        """The release that the way back leads to; SwitchError when there is none."""
        now, left, before = map(self.link, (CURRENT, LEAVING, PREVIOUS))
        if self.unfinished():
            # One that was broken off: of an update, or of the way back itself, which knows its previous one already.
            return self.link(RESTORING) or (now if left == before else left)
        if not before:
            raise SwitchError(
                f"a release before {now or 'the first one'} was wanted in {self._place(PREVIOUS)}, there is none: it"
                " was never updated"
            )
        if not os.path.isdir(self._copy_of(before)):
            raise SwitchError(
                f"the database as {before} left it was wanted in {self._copy_of(before)}, there is none. Nothing was"
                " changed"
            )
        return before

    def forward(self, to: str) -> None:
        """This release serves. SwitchError when it does not come up, and the one from before serves again."""
        with self._alone():
            self._finish_restoring()
            now = self.link(CURRENT)
            if now and now != to:
                self._leave(now)
            self._point(CURRENT, to)
            self._serve(first=not now)

    def back(self) -> None:
        """The release before serves, with the database as it was when that one was left. SwitchError as above."""
        with self._alone():
            to, now = self.way_back(), self.link(CURRENT)
            if not self._finish_restoring() and to != now:
                if self.unfinished():
                    self.server.stop()
                else:
                    self._leave(now)
                self._restore(to)
            self._serve()

    def link(self, name: str) -> str:
        """The release that a link names, empty without one."""
        try:
            return os.path.basename(os.readlink(self._place(name)))
        except FileNotFoundError:
            return ""

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other run switches at the same time: one that was broken off may still go on here."""
        if os.path.islink(self.places.copies):
            raise SwitchError(f"a folder was wanted at {self.places.copies}, a link was found. Nothing was changed")
        folder = os.open(self.places.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SwitchError("another run switches its release at this moment; wait for its end") from None
            yield
        finally:
            os.close(folder)

    def _leave(self, now: str) -> None:
        """Stop it, and copy the database as it was left."""
        try:
            self.server.stop()
            self._copy(now)
        except (OSError, UnitError) as error:
            self._again(f"the database could not be copied ({error})")
        self._point(LEAVING, now)

    def _serve(self, first: bool = False) -> None:
        """The current release starts. When it does not come up, the one that is leaving takes its place again."""
        now, left = self.link(CURRENT), self.link(LEAVING)
        try:
            self.server.start()
        except UnitError as error:
            why = f"{now} did not come up ({error}); it said: {self.server.said()}"
            if left not in ("", now):
                self.server.stop()
                self._restore(left)
                self._again(why)
            if first:
                self.server.stop()
                self._unlink(CURRENT)
            raise SwitchError(f"{why}; there is none to go back to") from None
        if left in ("", now):
            self._unlink(LEAVING)
            self._prune(self.link(PREVIOUS))
        else:
            self._prune(left)
            os.replace(self._place(LEAVING), self._place(PREVIOUS))  # at last: from here on it is no switch any more

    def _again(self, why: str) -> NoReturn:
        """The one from before serves again, and the error says why."""
        now = self.link(CURRENT)
        try:
            self.server.start(patient=True)
        except UnitError as error:
            raise SwitchError(f"{why}; nor did {now}, which is current again: {error}") from None
        raise SwitchError(f"{why}; {now} serves again, with the database from before")

    def _finish_restoring(self) -> bool:
        release = self.link(RESTORING)
        if release:
            self.server.stop()
            self._restore(release)
        return bool(release)

    def _restore(self, release: str) -> None:
        """The database as a release left it, and that one current. What is not done of it the next run does."""
        self._point(RESTORING, release)
        try:
            self._put_in_place(release)
        except OSError as error:
            raise SwitchError(
                f"the database as {release} left it could not be put in place of {self.places.database}: {error}."
                f" It stays in {self._copy_of(release)}, and nothing serves; mend that, and run again"
            ) from None
        now, left, before = map(self.link, (CURRENT, LEAVING, PREVIOUS))
        if left not in ("", release):
            self._point(PREVIOUS, left)
        elif left == before and now != left:
            self._point(PREVIOUS, now)  # back from a way back that led nowhere
        self._point(CURRENT, release)
        if left == release:
            self._unlink(LEAVING)
        self._unlink(RESTORING)

    def _copy(self, now: str) -> None:
        copy = self._copy_of(now)
        new = copy + ".new"
        for old in (copy, new):
            shutil.rmtree(old, ignore_errors=True)
        os.makedirs(self.places.copies, 0o700, exist_ok=True)
        os.mkdir(new, 0o700)
        try:
            self._copied(os.path.dirname(self.places.database), new)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        os.rename(new, copy)

    def _put_in_place(self, release: str) -> None:
        """A copy without a database is of one that lies elsewhere, which is its owner's."""
        copy, name = self._copy_of(release), os.path.basename(self.places.database)
        if not os.path.exists(os.path.join(copy, name)):
            return
        for part in _PARTS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.places.database + part)
        self._copied(copy, os.path.dirname(self.places.database))

    def _copied(self, source: str, folder: str) -> None:
        """The database's files, with owner and mode; where the file system can, without taking room."""
        name = os.path.basename(self.places.database)
        there = [path for part in _PARTS if os.path.lexists(path := os.path.join(source, name + part))]
        if there:
            status, _output, errors = self._run(["cp", "--archive", "--reflink=auto", "--", *there, folder])
            if status != 0:
                raise OSError(errors.strip())

    def _prune(self, before: str) -> None:
        """Two releases are kept, and the database of the one before."""
        releases = os.path.join(self.places.root, "releases")
        for folder, kept in ((releases, (self.link(CURRENT), before)), (self.places.copies, (before,))):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if name not in kept:
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)

    def _point(self, name: str, release: str) -> None:
        place = self._place(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place + ".new")
        os.symlink(f"releases/{release}", place + ".new")
        os.replace(place + ".new", place)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._place(name))

    def _place(self, name: str) -> str:
        return os.path.join(self.places.root, name)

    def _copy_of(self, release: str) -> str:
        return os.path.join(self.places.copies, release)
