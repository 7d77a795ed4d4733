# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The router's own downloads: what it fetches from the hub into its cache becomes a model of it.

It answers 200 to any download and tells even one that found nothing as finished; only a model in its list is one that
is there. Names are the hub's, `user/repository` or `user/repository:quant`; ids are the router's, with the quant that
it read off the file's name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import served_name
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Model, Refused, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import LoadError, telling

# From the process of a download (None when it had ended before it could be seen: the router's own lines, then) and the
# time, in seconds since the epoch, at which it was asked for, to lines of the log that say why it came to nothing.
Why = Callable[["Model | None", float], "list[str]"]

_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", re.ASCII)
_UNDER_WAY = frozenset({"downloading", "downloaded"})


def check_names(names: Iterable[str]) -> None:
    """RouterError for what no hub has."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise RouterError(
                f"name: user/repository or user/repository:quant was wanted for the cache, found {name!r}"
            )


def cached(models: Iterable[Model], name: str) -> list[str]:
    """The ids of the cache that a name stands for; without a quant every one of its repository."""
    entries = [model.id for model in models if model.source == "cache" and model.status not in _UNDER_WAY]
    if ":" in name:
        return [entry for entry in entries if entry == served_name(name)]
    return [entry for entry in entries if entry.rpartition(":")[0] == name]


def under_way(models: Iterable[Model], name: str) -> Model | None:
    """Its download, when one runs; the router lists that by the name it was asked for."""
    return next((model for model in models if model.id == name and model.status in _UNDER_WAY), None)


class Cache:
    """A router's cache. `acted` tells, also after an error, whether anything was changed."""

    def __init__(self, client: Client, why: Why | None = None) -> None:
        self.client = client
        self.acted = False
        self._why = why

    def fetch(self, names: Sequence[str], silence: float, wait: bool = True) -> None:
        """Have the router download those that are not there. `silence` is how many seconds nothing may arrive."""
        check_names(names)
        for name in names:
            models = self.client.models()
            if cached(models, name):
                continue
            if name in {model.id for model in models} and not under_way(models, name):
                raise RouterError(
                    f"{name} was wanted in the router's cache, a preset or a file in its models directory is served by"
                    " that id already; take one of the two away"
                )
            self._fetch(name, under_way(models, name), silence, wait)

    def remove(self, names: Sequence[str], timeout: float) -> None:
        """Take them out of the cache; what runs is stopped, a download ended. `timeout` in seconds is for each."""
        check_names(names)
        for name in names:
            models = self.client.models()
            download = under_way(models, name)
            for model_id in cached(models, name) + ([download.id] if download else []):
                self.acted = True
                self.client.remove(model_id, max(timeout, self.client.request_timeout))

    def _fetch(self, name: str, download: Model | None, silence: float, wait: bool) -> None:
        since = time.time()
        # Listening begins before the download does, so that its end cannot be missed.
        events = self.client.events(silence) if wait else iter(())
        if not download:
            try:
                self.client.download(name)
            except Refused as error:
                raise LoadError(f"{name} was wanted in the router's cache, it refused: {error.reason}") from None
            self.acted = True
            download = under_way(self.client.models(), name)
        if not wait:
            return
        arrived = _until_it_ends(events, name, silence)
        models = self.client.models()
        if cached(models, name):
            return
        if under_way(models, name):
            raise LoadError(
                f"{name} was wanted in the router's cache, nothing has arrived for {silence:g} s and the router still"
                f" tries ({arrived}); see its network, or raise timeout; state=absent ends the download"
            )
        lines = telling(self._why(download, since)) if self._why else []
        told = "; it said: " + " | ".join(lines) if lines else "; its journal says why"
        raise LoadError(
            f"{name} was wanted in the router's cache, its download ended without a model ({arrived}){told}. See that"
            " the repository and the quant exist, and that the router may read them (HF_TOKEN in its environment)"
        )


def _until_it_ends(events: Iterator[Mapping[str, Any]], name: str, silence: float) -> str:
    """Listen to a download until it has ended or falls silent; what had arrived by then, in words."""
    done, total = 0, 0
    heard = time.monotonic()
    for event in events:
        if event.get("model") != name:
            if time.monotonic() - heard > silence:
                break  # only others are heard of
            continue
        heard = time.monotonic()
        if event.get("event") in ("download_finished", "download_failed"):
            break
        files = (event.get("data") or {}).get("progress", {}).values()
        done, total = sum(file["done"] for file in files), sum(file["total"] for file in files)
    return f"{done / 2**20:.1f} of {total / 2**20:.1f} MiB arrived" if total else "nothing arrived"
