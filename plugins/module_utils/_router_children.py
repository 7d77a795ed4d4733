# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The processes in which models run, seen from their host: it works when no API does."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._model_store import Store


class Process(NamedTuple):
    parent: int
    started: float  # seconds since the epoch
    words: tuple[str, ...]  # its command line

    def option(self, name: str) -> str:
        """The value of an option, empty when it is not given."""
        return self.words[self.words.index(name) + 1] if name in self.words[:-1] else ""


def process(pid: int) -> Process | None:
    """None for one that has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # from the third on, see proc(5)
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            words = tuple(file.read()[:-1].split("\0"))
    except OSError:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return Process(int(fields[1]), time.time() - age, words)


def children(pid: int) -> dict[str, Process]:
    """The processes of a router's models, by the models' ids."""
    found = (process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return {
        one.option("--alias"): one
        for one in found
        if one and one.parent == pid and one.option("--alias") and one.option("--port")
    }


def outdated(one: Process, models_dir: str) -> bool:
    """Whether files that it was started with have been replaced by the module model_file since."""
    store = Store(models_dir, None)
    inside = (os.path.relpath(word, models_dir) for word in one.words if word.startswith(models_dir.rstrip("/") + "/"))
    return any(store.placed(store.model_of(place)) > one.started for place in inside)
