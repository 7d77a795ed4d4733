# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Switch Open WebUI from one release to another, each with the database that belongs to it.

A newer release converts the database for good, so a release that is left keeps a copy of it as it was then, and an
older release never starts on a newer database. Links beside `current` tell how far a broken-off switch has come:

- leaving: the release on its way out. While it is still current, nothing was changed. Once another one is current, its
  copy is complete.
- restoring: the release whose copy is replacing the database. While it exists the database belongs to no release.
- previous: the release that a rollback leads to.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

from ansible_collections.homelab.llamacpp.plugins.module_utils._as_user import User
from ansible_collections.homelab.llamacpp.plugins.module_utils._files import check_folder, locked
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_database import Copies
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError

CURRENT, PREVIOUS, LEAVING, RESTORING = "current", "previous", "leaving", "restoring"
LOCK = ".lock"
# The version that a release's name begins with (PEP 440), and the order of what can follow its numbers.
_VERSION = re.compile(r"(\d+(?:\.\d+)*)(?:[._]?(dev|a|b|rc|post)(\d*))?")
_STAGES = ("dev", "a", "b", "rc", None, "post")


class SwitchError(Exception):
    """What was expected, what was found and what serves now, in one message for the operator."""


class WentBack(SwitchError):
    """The release from before serves again."""


class Server(Protocol):
    """Open WebUI's service, which runs the release that is current. Raises UnitError."""

    def stop(self) -> None: ...

    def start(self, patient: bool = False) -> None:
        """Restart it, and return when it answers; wait longer (`patient`) for one that has served before."""

    def said(self) -> str:
        """The last lines of its journal."""


@dataclass(frozen=True)
class Places:
    """`root` has the links and the directory `releases`; `copies` gets a directory for each release that was left.

    Root writes to both, so no other user may. `database` belongs to `user`, as whom the service runs. `earlier` is
    where an earlier version of this collection kept the copies, empty for nowhere.
    """

    root: str
    database: str
    copies: str
    user: User
    earlier: str = ""


class Switch:
    """`kept` names the databases that were set aside, which nobody removes."""

    def __init__(self, places: Places, server: Server) -> None:
        self.places = places
        self.server = server
        self.copies = Copies(places.database, places.copies, places.user)
        self.kept: list[str] = []

    def unfinished(self) -> bool:
        return bool(self.link(RESTORING) or self.link(LEAVING))

    def earlier(self) -> tuple[list[str], list[str]]:
        """The releases with copies at the earlier place, and messages about what is there and no copy."""
        return self.copies.earlier(self.places.earlier) if self.places.earlier else ([], [])

    def way_back(self) -> str:
        """The release that a rollback leads to; SwitchError when there is none."""
        now, left, before = map(self.link, (CURRENT, LEAVING, PREVIOUS))
        if self.unfinished():
            # Of an update that was broken off, or of a rollback, which knows its previous release already.
            return self.link(RESTORING) or (now if left == before else left)
        if not before:
            raise SwitchError(
                f"expected a release before {now or 'the first one'} in {self._place(PREVIOUS)}, found none: it was"
                " never updated"
            )
        if not os.path.isdir(self.copies.of(before)) and before not in self.earlier()[0]:
            raise SwitchError(
                f"expected the database as {before} left it in {self.copies.of(before)}, found none."
                " Nothing was changed"
            )
        return before

    def check(self, to: str) -> None:
        """SwitchError where `to` would start on the database of a newer release."""
        now, left = self.link(RESTORING) or self.link(CURRENT), self.link(LEAVING)
        if not now or to == now or _age(to) >= _age(now):
            return
        found = f"found {now}" if left in ("", now) else f"found {now}, whose update from {left} was broken off"
        try:
            back = self.way_back()
        except SwitchError:
            back = ""
        way = (
            "Go back with the entry point rollback of the role open_webui, which restores the database as"
            f" {back} left it; what was written since is lost"
            if back == to
            else "Restore a snapshot or a backup of the guest to get that version"
        )
        raise SwitchError(
            f"expected a release that is no older than the database's, {to} was requested, {found}: an older release"
            f" cannot use a database that a newer one has converted. {way}. Or set open_webui_version to the version"
            f" of {now}. Nothing was changed"
        )

    def forward(self, to: str) -> None:
        """Switch to this release. SwitchError when it does not start; then the one from before serves again."""
        with self._alone():
            self.check(to)
            self._finish_restoring()
            resumed = self.link(LEAVING) not in ("", self.link(CURRENT))
            if resumed and to != self.link(CURRENT):
                with contextlib.suppress(WentBack):
                    self._serve(resumed=True)  # first of all it is known which database is the good one
            now = self.link(CURRENT)
            if now and now != to:
                self._point(LEAVING, now)  # before the stop: the next run starts it again
                self._stop_and(self.copies.take, now)
            if now != to:
                self._point(CURRENT, to)
            self._serve(first=not now, resumed=resumed and now == to)

    def back(self) -> None:
        """Switch to the release before, with the database as it was when that one was left. SwitchError as above."""
        with self._alone():
            to, now, left = self.way_back(), self.link(CURRENT), self.link(LEAVING)
            resumed = left not in ("", now)
            if not self._finish_restoring() and to != now:
                if resumed:
                    self._stop_and(self._set_aside, now)
                else:
                    self._stop_and(self.copies.take, now)
                self._restore(to)
            self._serve(resumed=resumed and to == now)

    def adopt(self) -> None:
        """Move the copies from the earlier place. SwitchError when that fails; then nothing is lost."""
        if self.places.earlier:
            with self._alone():
                try:
                    self.copies.adopt(self.places.earlier)
                except OSError as error:
                    raise SwitchError(
                        f"the copies of the database in {self.places.earlier} could not be moved to"
                        f" {self.places.copies}: {_told(error)}"
                    ) from None

    def link(self, name: str) -> str:
        """The release that a link names, empty without one."""
        try:
            return os.path.basename(os.readlink(self._place(name)))
        except FileNotFoundError:
            return ""

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other run switch at the same time: one that was broken off may still go on here."""
        with contextlib.ExitStack() as stack:
            try:
                check_folder(self.places.root)
                self.copies.prepare()
                stack.enter_context(locked(self._place(LOCK), seconds=0))
            except TimeoutError:
                raise SwitchError("another run switches its release at this moment; wait for its end") from None
            except OSError as error:
                raise SwitchError(f"{_told(error)}. Nothing was changed") from None
            yield

    def _stop_and(self, act: Callable[[str], object], now: str) -> None:
        """Stop it, and copy the database as it was left."""
        try:
            self.server.stop()
            act(now)
        except (OSError, UnitError) as error:
            if self.link(LEAVING) == now:
                self._unlink(LEAVING)
            self._again(f"the database could not be copied ({_told(error)})")

    def _set_aside(self, now: str) -> None:
        """Keep a database that may have been written to since a switch was broken off."""
        self.kept.append(self.copies.set_aside(now))

    def _serve(self, first: bool = False, resumed: bool = False) -> None:
        """Start the current release. When it does not start, the one that is leaving takes its place again."""
        now, left = self.link(CURRENT), self.link(LEAVING)
        try:
            self.server.start()
        except UnitError as error:
            why = f"{now} did not come up ({error}); it said: {self.server.said()}"
            if left not in ("", now):
                self.server.stop()
                if resumed:
                    self._keep_or_stop(now, why)
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
            os.replace(self._place(LEAVING), self._place(PREVIOUS))  # last: from here on the switch is finished

    def _keep_or_stop(self, now: str, why: str) -> None:
        try:
            self._set_aside(now)
        except OSError as error:
            raise SwitchError(
                f"{why}; its database could not be copied ({_told(error)}), so it was not replaced. Nothing serves;"
                " correct that, and run again"
            ) from None

    def _again(self, why: str) -> NoReturn:
        """Start the one from before again, and raise the error that says why."""
        now = self.link(CURRENT)
        try:
            self.server.start(patient=True)
        except UnitError as error:
            raise SwitchError(f"{why}; nor did {now}, which is current again: {error}") from None
        raise WentBack(f"{why}; {now} serves again, with the database from before")

    def _finish_restoring(self) -> bool:
        release = self.link(RESTORING)
        if release:
            self.server.stop()
            self._restore(release)
        return bool(release)

    def _restore(self, release: str) -> None:
        """Restore the database as a release left it, and make that one current. The next run finishes what is left."""
        self._point(RESTORING, release)
        if not self.link(LEAVING) and self.link(CURRENT) != release:
            self._point(LEAVING, self.link(CURRENT))  # of a rollback, which has the copy of that one already
        try:
            self.copies.put_back(release)
        except OSError as error:
            raise SwitchError(
                f"the database as {release} left it could not be put in place of {self.places.database}:"
                f" {_told(error)}. It stays in {self.copies.of(release)}, and nothing serves; correct that, and"
                " run again"
            ) from None
        now, left, before = map(self.link, (CURRENT, LEAVING, PREVIOUS))
        if left not in ("", release):
            self._point(PREVIOUS, left)
        elif left == before and now != left:
            self._point(PREVIOUS, now)  # back from a rollback that failed
        self._point(CURRENT, release)
        if left == release:
            self._unlink(LEAVING)
        self._unlink(RESTORING)

    def _prune(self, before: str) -> None:
        """Keep two releases, and a copy of the database of each."""
        kept = (self.link(CURRENT), before)
        releases = os.path.join(self.places.root, "releases")
        for name in os.listdir(releases) if os.path.isdir(releases) else ():
            if name not in kept:
                shutil.rmtree(os.path.join(releases, name), ignore_errors=True)
        self.copies.prune(kept)

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


def _age(release: str) -> tuple[tuple[int, ...], int, int]:
    """Sorts releases by their versions; builds of one version are equal."""
    found = _VERSION.match(release.rpartition("-")[0] or release)
    if not found:
        return (), 0, 0
    numbers = [int(number) for number in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers), _STAGES.index(found[2]), int(found[3] or 0)


def _told(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
