# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far long work is, for the play's output: a line in a file, which an action plugin reads while the module runs.

The action plugin names the file in the environment (VARIABLE); a module that is run without it says nothing. In the
same way (AT_ONCE) it says how much a module may do while nobody is told about its progress.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque

VARIABLE = "HOMELAB_LLAMACPP_PROGRESS"
AT_ONCE = "HOMELAB_LLAMACPP_AT_ONCE"
WINDOW = 15.0  # seconds that a rate is taken over
INTERVAL = 1.0  # seconds between two lines
_saying = threading.Lock()  # models that are placed at the same time may all wait for another run
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Progress:
    """Bytes of a total."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._path = os.path.expanduser(os.environ.get(VARIABLE, ""))
        self._seen: deque[tuple[float, int]] = deque()
        self._said = 0.0

    def report(self, done: int, what: str) -> None:
        """So many bytes are done; `what` is in hand now."""
        now = time.monotonic()
        if not self._path or now - self._said < INTERVAL:
            return
        self._said = now
        self._seen.append((now, done))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        self.say(line(done, self.total, self._rate(), what))

    def say(self, text: str) -> None:
        if self._path:
            with _saying:
                with open(f"{self._path}.new", "w", encoding="utf-8") as file:
                    file.write(text + "\n")
                os.replace(f"{self._path}.new", self._path)

    def _rate(self) -> float:
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else 0.0


def postponed(count: int) -> bool:
    """Whether so many bytes are more than this run may do. It then changes nothing and returns `postponed`."""
    most = os.environ.get(AT_ONCE, "")
    return most.isdigit() and count > int(most)


def line(done: int, total: int, rate: float, what: str) -> str:
    """One line: percent, amount, rate, time left."""
    text = f"{what}: {100 * done // max(1, total)} % of {amount(total)}"
    if rate > 0:
        text += f", {amount(rate)}/s, {duration((total - done) / rate)} left"
    return text


def amount(count: float) -> str:
    """Bytes in the unit that reads best."""
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count /= 1024
        power += 1
    return f"{count:.0f} {UNITS[power]}" if power == 0 or count >= 100 else f"{count:.1f} {UNITS[power]}"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
