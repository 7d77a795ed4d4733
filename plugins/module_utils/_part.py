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
import json
import os
import re
import threading
from typing import NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _json
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_record import boot

LINE = "{:015d} {:015d}\n"
_LINE = re.compile(r"([0-9]{15}) ([0-9]{15})")
LINE_LENGTH = 32  # bytes; a line is written by one call, whole or not at all
FORMAT = 1
# So that what is fetched at the same time is little of the file: the checksum is taken in order.
SMALLEST_PIECE, LARGEST_PIECE = 8 << 20, 64 << 20  # bytes
JOURNAL = ".journal"


def arrived(path: str) -> int:
    """Bytes that a part file has already, as its journal says; 0 where there is none."""
    journal = read_journal(path + JOURNAL)
    return sum(written for written, _synced in journal.counts) if journal and os.path.exists(path) else 0


class Journal(NamedTuple):
    """What a journal says, checked: one count of each piece of `piece` bytes."""

    size: int
    sha256: str
    piece: int
    version: str
    boot: str
    counts: list[tuple[int, int]]  # bytes written, and bytes that are on the disk


def read_journal(path: str) -> Journal | None:
    """None where there is none that can be read."""
    try:
        return parse_journal(_files.read(path))
    except OSError:
        return None


def parse_journal(data: bytes) -> Journal | None:
    """None for what this collection would not have written."""
    try:
        heading, *lines = data.decode("ascii").splitlines()
        found = _json.parse(heading)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            return None
        size, piece = found["size"], found["piece"]
        texts = [found[key] for key in ("sha256", "version", "boot")]
        counts = [_counts(line) for line in lines]
    except (ValueError, KeyError):
        return None
    whole = isinstance(size, int) and isinstance(piece, int) and size >= 0 and piece > 0
    if not whole or not all(isinstance(text, str) for text in texts) or len(counts) != -(-size // piece):
        return None
    lengths = (min(piece, size - index * piece) for index in range(len(counts)))
    if any(not synced <= written <= length for (written, synced), length in zip(counts, lengths)):
        return None
    return Journal(size, texts[0], piece, texts[1], texts[2], counts)


def _counts(line: str) -> tuple[int, int]:
    match = _LINE.fullmatch(line)
    if not match:
        raise ValueError(line)
    return int(match[1]), int(match[2])


def open_part(path: str, mode: int) -> int:
    """Open a part file of this user, made when it is not there. What else has that name is removed.

    A link, a FIFO, another user's file, and one with a second name were not made by a run of this module.
    """
    try:
        handle = _files.open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        return _create(path, mode)
    except OSError:
        os.unlink(path)
        return _create(path, mode)
    status = os.fstat(handle)
    if status.st_uid == os.geteuid() and status.st_nlink == 1:
        return handle
    os.close(handle)
    os.unlink(path)
    return _create(path, mode)


def _create(path: str, mode: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


class Part:
    """One file that arrives; its model is locked against other runs. Thread-safe as each piece has one writer."""

    def __init__(self, path: str, size: int, sha256: str, mode: int) -> None:
        """Open it and go on where it was."""
        self.path = path
        self.size = size
        self.sha256 = sha256
        self._fd = open_part(path, mode)
        self._lock = threading.Lock()  # of the journal, which a new beginning replaces
        self._journal = -1
        self._head = 0  # bytes of the journal's first line
        # A journal may outlive its file, which is then new and has not got its size yet.
        found = read_journal(path + JOURNAL) if os.fstat(self._fd).st_size == size else None
        if found and (found.size, found.sha256) == (size, sha256):
            same_boot = found.boot == boot() != ""
            self.piece, self.version = found.piece, found.version
            self.written = [written if same_boot else synced for written, synced in found.counts]
            self._synced = [synced for _written, synced in found.counts]
            self._write_journal()
        else:
            self.begin(ranges=True)
        os.ftruncate(self._fd, size)

    def _count(self) -> int:
        return -(-self.size // self.piece) if self.piece else 0

    def begin(self, ranges: bool) -> None:
        """Start from nothing; without `ranges` in one piece."""
        self.version = ""
        wanted = max(SMALLEST_PIECE, min(LARGEST_PIECE, self.size // 64)) if ranges else self.size
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
        first = json.dumps({**heading, "boot": boot()}) + "\n"
        beside = f"{self.path}{JOURNAL}.new"
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            fd = _create(beside, 0o600)
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
        written, synced = self.written, self._synced
        before = list(written)
        if before == synced:
            return
        os.fdatasync(self._fd)
        if written is not self.written:  # a thread has begun anew meanwhile
            return
        for index, there in enumerate(before):
            if there != synced[index]:
                synced[index] = min(there, written[index])  # which a thread may have forgotten meanwhile
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
