# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a router lets a model finish its answer while others are loaded in front of it.

There were builds that took the busy model for the victim when they needed a slot, and its answer broke off. So: one
model answers at length, as many others as the router runs at once are asked for, and what ran before is loaded again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_files
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router, running


@dataclass
class Swap:
    """`tokens` is the length that the answer has at most; `others` the models that were asked for meanwhile."""

    busy: str = ""
    others: list[str] = field(default_factory=list)
    tokens: int = 0


class SwapTest:
    """`tokens` bounds the long answer, `load_timeout` in seconds each load."""

    def __init__(self, client: Client, tokens: int, load_timeout: float) -> None:
        self.client = client
        self.tokens = tokens
        self.load_timeout = load_timeout
        self.swap = Swap()
        self.warnings: list[str] = []

    def choose(self) -> bool:
        """Pick the models, small ones first; False when there are none to swap."""
        models = self.client.models()
        ordered = _router_files.by_size(models)
        if not ordered or not ordered[0].writes:
            return False
        limit = Router(self.client).limit or len(ordered)
        self.swap.busy = ordered[0].model.id
        self.swap.others = [other.model.id for other in ordered[1 : 1 + limit]]
        return bool(self.swap.others)

    def run(self) -> None:
        """RouterError when the answer is broken off, or another model cannot be loaded beside it."""
        before = running(self.client.models())
        try:
            self._swap()
        except BaseException:
            with contextlib.suppress(RouterError):  # the first error is the one to tell
                self._restore(before)
            raise
        try:
            self._restore(before)
        except RouterError as error:
            self.warnings.append(f"what ran before the test does not run as it did: {error}")

    def _swap(self) -> None:
        answer = _LongAnswer(self.client, self.swap.busy, self.tokens, self.load_timeout)
        answer.start()
        try:
            if not answer.begun.wait(self.load_timeout):
                raise RouterError(f"{self.swap.busy} was wanted answering, it said nothing in {self.load_timeout:g} s")
            for other in self.swap.others:
                if answer.error:
                    break
                self.client.ask_for(other, self.load_timeout)
        finally:
            answer.enough.set()
            answer.join(self.load_timeout)
        self.swap.tokens = answer.tokens
        if answer.is_alive():
            raise RouterError(
                f"{self.swap.busy} was wanted to finish its answer, it is still at it {self.load_timeout:g} s after it"
                " was told to end; see the router's journal"
            )
        if answer.error and not answer.tokens:
            raise RouterError(f"{self.swap.busy} was wanted answering, before any other was asked for: {answer.error}")
        if answer.error:
            raise RouterError(
                f"{self.swap.busy} was wanted to finish its answer while {', '.join(self.swap.others)} were loaded;"
                f" after {answer.tokens} tokens {answer.error}. This build stops models that are busy: stay with the"
                " one that served before"
            )

    def _restore(self, before: Sequence[str]) -> None:
        """Unload what the test has loaded, and nothing that a client has asked for meanwhile."""
        router = Router(self.client)
        own = {self.swap.busy, *self.swap.others}.difference(before)
        router.unload([name for name in running(self.client.models()) if name in own], self.load_timeout)
        router.load(before, self.load_timeout)


class _LongAnswer(threading.Thread):
    """Runs until it has all its tokens, or until it is `enough`; `error` says how it ended before that."""

    def __init__(self, client: Client, model: str, tokens: int, timeout: float) -> None:
        super().__init__(daemon=True)
        self._parts = client.complete(model, tokens, timeout)
        self.begun = threading.Event()
        self.enough = threading.Event()
        self.error = ""
        self.tokens = 0

    def run(self) -> None:
        try:
            for _part in self._parts:
                self.tokens += 1
                self.begun.set()
                if self.enough.is_set():
                    break
        except RouterError as error:
            self.error = str(error)
        finally:
            self._parts.close()
            self.begun.set()
