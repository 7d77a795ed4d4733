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
import stat
from collections.abc import Callable, Iterator

from ansible_collections.homelab.llamacpp.plugins.module_utils import _part
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_store import open_source, sha256_of

PART = ".part"
BLOCK = 1 << 20  # bytes
FICLONE = 0x40049409  # of linux/fs.h: share the blocks of another file

Report = Callable[[int], None]


class Linked:
    """A symbolic link to `path`."""

    sha256 = ""

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self._beside = _free(target)
        os.symlink(path, self._beside)

    def put(self, target: str) -> None:
        os.replace(self._beside, target)

    def close(self) -> None:
        _remove(self._beside)


class HardLinked:
    """A second name of `source`, which is the content that was there when it was made."""

    def __init__(self, source: str, target: str, sha256: str = "") -> None:
        self.path = _free(target)
        self.sha256 = sha256
        os.link(source, self.path, follow_symlinks=False)
        if not stat.S_ISREG(self.status().st_mode):
            self.close()
            raise FetchError(f"{source}: expected a regular file, found something else; look at it, then run again")

    def status(self) -> os.stat_result:
        return os.lstat(self.path)

    def put(self, target: str) -> None:
        os.replace(self.path, target)

    def close(self) -> None:
        # Renaming one name of a file over another one of it does nothing, so that this may still be there.
        _remove(self.path)


def _free(target: str) -> str:
    """A name beside a target that nothing has."""
    beside = f"{target}.{os.getpid()}{PART}"
    _remove(beside)
    return beside


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class Copied:
    """A copy of `source`, that shares its blocks where the file system can."""

    def __init__(self, source: str, target: str, mode: int, report: Report) -> None:
        self.path = target + PART
        self._out = _part.open_part(self.path, mode)
        try:
            with os.fdopen(open_source(source), "rb") as file:
                self.sha256 = self._copy(file.fileno(), report)
            os.fsync(self._out)
        except OSError as error:
            self.close()
            mend = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
            raise FetchError(
                f"{self.path} cannot be made a copy of {source}: {error.strerror}; {mend}, then run again"
            ) from None

    def _copy(self, source: int, report: Report) -> str:
        os.ftruncate(self._out, 0)
        cloned = True
        try:
            fcntl.ioctl(self._out, FICLONE, source)
        except OSError:
            cloned = False
        digest, done = hashlib.sha256(), 0
        for block in _blocks(self._out if cloned else source):
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
    """The source itself: a second name of it, or on another file system a copy. The source goes once that is put."""

    def __init__(self, source: str, target: str, mode: int, report: Report) -> None:
        # Its directory may be another user's, who could put another one in its place until the source is removed.
        folder, self._name = os.path.split(source)
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._seen = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            self._prepare(source, target, mode, report)
        except BaseException:
            os.close(self._folder)
            raise

    def _prepare(self, source: str, target: str, mode: int, report: Report) -> None:
        self._new: Copied | HardLinked
        try:
            self._new = HardLinked(os.path.realpath(source), target)
        except OSError:  # another file system, or one without hard links
            self._new = Copied(source, target, mode, report)
        self.path = self._new.path
        if isinstance(self._new, HardLinked):
            try:
                self._new.sha256 = _sha256(self.path, report)
            except BaseException:
                self._new.close()
                raise
        self.sha256 = self._new.sha256

    def put(self, target: str) -> None:
        self._new.put(target)
        with contextlib.suppress(FileNotFoundError):
            now = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            if os.path.samestat(now, self._seen):
                os.unlink(self._name, dir_fd=self._folder)

    def close(self) -> None:
        self._new.close()
        os.close(self._folder)


def _sha256(path: str, report: Report) -> str:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(done)

    return sha256_of(path, count)


def _blocks(fd: int) -> Iterator[bytes]:
    return iter(lambda: os.read(fd, BLOCK), b"")
