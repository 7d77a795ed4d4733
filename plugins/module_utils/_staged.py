# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that are on the target already, made ready beside their places: links, copies, moves.

Like a Part each has `path`, where its content is until then, `sha256`, `put` which brings it to its place at once, and
`close`, after which it is as if nothing had been, unless it was put.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator

from ansible_collections.homelab.llamacpp.plugins.module_utils import _part
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError

PART = ".part"
BLOCK = 1 << 20  # bytes
FICLONE = 0x40049409  # of linux/fs.h: share the blocks of another file

Report = Callable[[int], None]
Waits = Callable[[str], None]


class Linked:
    """A link to `path`: symbolic, or to the same content."""

    def __init__(self, path: str, target: str, symbolic: bool, sha256: str = "") -> None:
        self.path = path
        self.sha256 = sha256
        self._beside = f"{target}.{os.getpid()}{PART}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._beside)
        (os.symlink if symbolic else os.link)(path, self._beside)

    def put(self, target: str) -> None:
        os.replace(self._beside, target)

    def close(self) -> None:
        # Renaming one name of a file over another one of it does nothing, so that this may still be there.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._beside)


class Copied:
    """A copy of `source`, that shares its blocks where the file system can."""

    def __init__(self, source: str, target: str, mode: int, report: Report, waits: Waits) -> None:
        self.path = target + PART
        self._out = _part.lock(self.path, mode, waits)
        try:
            with open(source, "rb") as file:
                self.sha256 = self._copy(file.fileno(), report)
            os.fsync(self._out)
        except OSError as error:
            self.close()
            mend = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
            raise FetchError(
                f"{self.path} was wanted as a copy of {source}: {error.strerror}; {mend}, then run again"
            ) from None

    def _copy(self, source: int, report: Report) -> str:
        os.ftruncate(self._out, 0)
        cloned = True
        try:
            fcntl.ioctl(self._out, FICLONE, source)
        except OSError:
            cloned = False
        digest, done = hashlib.sha256(), 0
        for block in _blocks(source):
            digest.update(block)
            view = memoryview(b"" if cloned else block)
            while view:
                view = view[os.write(self._out, view) :]
            done += len(block)
            report(done)
        return digest.hexdigest()

    def put(self, target: str) -> None:
        os.replace(self.path, target)

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._out), os.stat(self.path)):
                os.unlink(self.path)
        os.close(self._out)


class Moved:
    """The source itself; on another file system a copy, and the source goes when that is in its place."""

    def __init__(self, source: str, target: str, mode: int, report: Report, waits: Waits) -> None:
        self._source = source
        self._copy: Copied | None = None
        if os.stat(source).st_dev != os.stat(os.path.dirname(target)).st_dev:
            self._copy = Copied(source, target, mode, report, waits)
        self.path = self._copy.path if self._copy else source
        self.sha256 = self._copy.sha256 if self._copy else _sha256(source, report)

    def put(self, target: str) -> None:
        if self._copy:
            self._copy.put(target)
            os.unlink(self._source)
        else:
            os.replace(self._source, target)

    def close(self) -> None:
        if self._copy:
            self._copy.close()


def _sha256(path: str, report: Report) -> str:
    digest, done = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for block in _blocks(file.fileno()):
            digest.update(block)
            done += len(block)
            report(done)
    return digest.hexdigest()


def _blocks(fd: int) -> Iterator[bytes]:
    return iter(lambda: os.read(fd, BLOCK), b"")
