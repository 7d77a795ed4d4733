# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hand a router over from one release of llama-server to another, and back when the other does not serve.

The link `fallback` is there from before the switch until the new release is confirmed. A run that is interrupted leaves
it, and so the next one knows where to go back to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import (
    FALLBACK,
    Release,
    Releases,
    prove,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import PortHold
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_service import Convergence, Outcome
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, UnitError

# Makes a convergence of the router to the release that is current then, with this hold of its port.
Converge = Callable[[PortHold], Convergence]


class Handover:
    """`outcome` is what was done to the service last; None when nothing was."""

    def __init__(self, run: Run, releases: Releases, converge: Converge) -> None:
        self._run = run
        self._releases = releases
        self._converge = converge
        self._hold = PortHold()
        self.outcome: Outcome | None = None
        self.warnings: list[str] = []

    @property
    def paused(self) -> float:
        """For how many seconds new requests had to wait."""
        return self._hold.seconds

    def fallback(self) -> Release | None:
        """The release to go back to while another one is not confirmed."""
        name = self._releases.linked(FALLBACK)
        return self._releases.find(name) if name else None

    def switch(self, name: str) -> bool:
        """Serve with this release. RouterError when it does not serve: the one before serves again then."""
        new, old = self._releases.find(name), self.fallback() or self._releases.current()
        if new is None or old is None:
            there = ", ".join(release.name for release in self._releases.all()) or "none"
            wanted = name if new is None else "a current release"
            raise RouterError(f"{wanted} was wanted in {self._releases.folder}, there are: {there}; install it first")
        self._converge(self._hold)  # reads the key: what cannot be read is said before anything is changed
        switched = not new.current
        if switched:
            prove(self._run, new.server)
            self._releases.link(FALLBACK, old.name)
            self._releases.link("current", name)
        with self._holding():
            try:
                return self._serve(restart=switched) or switched
            except (RouterError, UnitError) as error:
                if old.name == name:
                    raise
                why = f"{name} was wanted to serve: {error}"
                self._back(old, why)
                raise RouterError(f"{why}. {old.name} serves again") from None

    def confirm(self) -> bool:
        """Keep what is current: from now on it is the way back that is the previous one."""
        old, current = self.fallback(), self._releases.current()
        if old is None:
            return False
        if current and current.name != old.name:
            self._releases.link("previous", old.name)
        self._forget()
        return True

    def revert(self) -> bool:
        """Serve with the release before again, unless the current one was confirmed."""
        old = self.fallback()
        if old is None:
            return False
        with self._holding():
            self._back(old)
        return True

    def _back(self, old: Release, why: str = "an update was not confirmed") -> None:
        self._releases.link("current", old.name)
        try:
            self._serve()
        except (RouterError, UnitError) as error:
            raise RouterError(f"{why}. And {old.name}, which served before, does not serve any more: {error}") from None
        self._forget()

    def _serve(self, restart: bool = False) -> bool:
        convergence = self._converge(self._hold)
        self.outcome = convergence.outcome
        try:
            convergence.run(restart=restart)
        finally:
            self.warnings += convergence.outcome.warnings
        return convergence.outcome.changed

    def _forget(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._releases.root, FALLBACK))

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._hold.give()
