# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file while it arrives: its bytes as NAME.part, and NAME.part.journal, which knows which of them are there.

The file is fetched in pieces. The journal's first line says what is fetched, and each further one how many bytes of a
piece have been written, and how many of those are known to be on the disk. After a kill what was written is believed,
since the kernel still has it; after a crash of the machine, seen by its boot id, only what was known to be on the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable

LINE = "{:015d} {:015d}\n"
LINE_LENGTH = 32  # bytes; a line is written by one call, whole or not at all
FORMAT = 1
SMALLEST_PIECE, LARGEST_PIECE = 8 << 20, 64 << 20  # bytes
LOCK_INTERVAL = 0.5  # seconds
JOURNAL = ".journal"


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def arrived(path: str) -> int:
    """Bytes that a part file has already, as its journal says; 0 where there is none."""
    found = _read(path + JOURNAL)
    return sum(written for written, _synced in found[1]) if found and os.path.exists(path) else 0


def _read(path: str) -> tuple[dict[str, object], list[tuple[int, int]]] | None:
    """The journal's heading and counts; None where there is none that can be read."""
    try:
        with open(path, encoding="ascii") as file:
            heading, *lines = file.read().splitlines()
        counts = [(int(line[:15]), int(line[16:31])) for line in lines]
        found = json.loads(heading)
        return (found, counts) if isinstance(found, dict) and found.get("format") == FORMAT else None
    except (OSError, ValueError):
        return None


def lock(path: str, mode: int, waits: Callable[[str], None]) -> int:
    """Open a part file, made when it is not there, for this run alone. `waits` is told while another run has it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waits(path)
                time.sleep(LOCK_INTERVAL)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        os.close(fd)  # the run that had it has put it in its place: look again


class Part:
    """One file that arrives, locked against other runs. Thread-safe as each piece has one writer."""

    def __init__(self, path: str, size: int, sha256: str, mode: int, waits: Callable[[str], None]) -> None:
        """Open it and go on where it was. `waits` is told when another run has it, for as long as that is so."""
        self.path = path
        self.size = size
        self.sha256 = sha256
        self._fd = lock(path, mode, waits)
        self._lock = threading.Lock()  # of the journal, which a new beginning replaces
        self._journal = -1
        self._head = 0  # bytes of the journal's first line
        heading = {"format": FORMAT, "size": size, "sha256": sha256, "piece": 0, "version": "", "boot": _boot()}
        # A journal may outlive its file, which is then new and has not got its size yet.
        found = _read(path + JOURNAL) if os.fstat(self._fd).st_size == size else None
        if found and all(found[0].get(key) == heading[key] for key in ("format", "size", "sha256")):
            same_boot = found[0].get("boot") == heading["boot"] != ""
            self.piece = int(str(found[0]["piece"]))
            self.version = str(found[0]["version"])
            self.written = [written if same_boot else synced for written, synced in found[1]]
            self._synced = [synced for _written, synced in found[1]]
        if not found or not hasattr(self, "piece") or len(self.written) != self._count():
            self.begin(ranges=True)
        else:
            self._write_journal()
        os.ftruncate(self._fd, size)

    def _count(self) -> int:
        return -(-self.size // self.piece) if self.piece else 0

    def begin(self, ranges: bool) -> None:
        """Start from nothing; without `ranges` in one piece."""
        self.version = ""
        wanted = max(SMALLEST_PIECE, min(LARGEST_PIECE, self.size // 16)) if ranges else self.size
        self.piece = max(1, wanted)
        self.written = [0] * self._count()
        self._synced = [0] * self._count()
        self._write_journal()

    def _write_journal(self) -> None:
        heading = {
            "format": FORMAT,
            "size": self.size,
            "sha256": self.sha256,
            "piece": self.piece,
            "version": self.version,
        }
        first = json.dumps({**heading, "boot": _boot()}) + "\n"
        beside = f"{self.path}{JOURNAL}.new"
        with self._lock:
            fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.write(fd, (first + "".join(map(LINE.format, self.written, self._synced))).encode())
            os.replace(beside, self.path + JOURNAL)
            if self._journal >= 0:
                os.close(self._journal)
            self._journal, self._head = fd, len(first)

    def name_version(self, version: str) -> None:
        """What the server calls this state of the file; it is kept in the journal."""
        self.version = version
        self._write_journal()

    def _note(self, index: int) -> None:
        line = LINE.format(self.written[index], self._synced[index]).encode()
        with self._lock:
            os.pwrite(self._journal, line, self._head + index * LINE_LENGTH)

    # --- its bytes ----------------------------------------------------------------------------------------------------

    @property
    def done(self) -> int:
        return sum(self.written)

    def unfinished(self) -> list[int]:
        return [index for index in range(len(self.written)) if self.left(index)]

    def left(self, index: int) -> int:
        """Bytes of a piece that are not there yet."""
        return min(self.piece, self.size - index * self.piece) - self.written[index]

    def span(self, index: int) -> tuple[int, int]:
        """What of a piece is not there yet, as offsets in the file."""
        start = index * self.piece + self.written[index]
        return start, start + self.left(index)

    def write(self, index: int, data: bytes) -> None:
        """The next bytes of a piece. OSError when the disk is full."""
        start = index * self.piece + self.written[index]
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, start)
            start, view = start + count, view[count:]
        self.written[index] += len(data)
        self._note(index)

    def forget(self, index: int) -> None:
        """Fetch this piece anew."""
        self.written[index] = self._synced[index] = 0
        self._note(index)

    def read(self, start: int, count: int) -> bytes:
        return os.pread(self._fd, count, start)

    def prefix(self) -> int:
        """Bytes from the beginning that are all there."""
        whole = 0
        for index, written in enumerate(self.written):
            whole += written
            if self.left(index):
                break
        return whole

    # --- its end ------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Bring it to the disk, and note what is there."""
        before = list(self.written)
        if before == self._synced:
            return
        os.fdatasync(self._fd)
        self._synced = before
        for index in range(len(before)):
            self._note(index)
        with self._lock:
            os.fsync(self._journal)

    def close(self) -> None:
        """Leave it as it is; the next run goes on here."""
        for fd in (self._journal, self._fd):
            os.close(fd)

    def remove(self) -> None:
        remove(self.path)

    def put(self, target: str) -> None:
        """The whole file in its place, at once."""
        os.fsync(self._fd)
        os.replace(self.path, target)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path + JOURNAL)


def remove(path: str) -> None:
    """A part file and its journal."""
    for name in (path, path + JOURNAL, f"{path}{JOURNAL}.new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
