# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast a download may be, and how slow."""

from __future__ import annotations

import threading
import time

from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError, shown

BLOCK = 256 << 10  # bytes, the most that is taken from a connection at once
SLOWEST = 1024  # bytes a second that a connection has to bring, on average of WINDOW
WINDOW = 300.0  # seconds spent waiting for bytes


class Limit:
    """So many bytes a second, for all threads together; 0 is no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def block(self) -> int:
        """Bytes to take at once, so that a slow rate is a steady one."""
        return min(BLOCK, max(4096, int(self._rate / 10))) if self._rate else BLOCK

    def pause(self, count: int) -> float:
        """Seconds to wait after so many bytes."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._rate
            return self._free_at - now


class Pace:
    """Ends a download whose server keeps the connection busy with next to nothing."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waited = 0.0  # seconds
        self._arrived = 0  # bytes

    def count(self, seconds: float, arrived: int) -> None:
        """Time spent waiting, and what it brought. Raises FetchError."""
        self._waited += seconds
        self._arrived += arrived
        if self._waited < WINDOW:
            return
        if self._arrived < SLOWEST * self._waited:
            raise FetchError(
                f"{shown(self._url)}: expected at least {SLOWEST} bytes a second, found {self._arrived} bytes in"
                f" {self._waited:.0f} seconds. Run again later: what has arrived is kept"
            )
        self._waited, self._arrived = 0.0, 0
