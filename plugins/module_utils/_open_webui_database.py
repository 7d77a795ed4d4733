# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of Open WebUI's database in a directory of root's: one directory for each release, as that release left it.

The service owns the directory of its database and may have put anything there. So the database is opened with the
service's rights, as regular files that are no links, and only while the service is stopped. All errors are OSError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator

from ansible_collections.homelab.llamacpp.plugins.module_utils._as_user import User, acting_as
from ansible_collections.homelab.llamacpp.plugins.module_utils._files import (
    check_folder,
    folder_of,
    open_regular,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, component, printable

PARTS = ("", "-wal", "-shm", "-journal")  # of a database of SQLite
NEW, KEPT = ".new", ".kept-"
_FICLONE = 0x40049409  # ioctl: share the blocks of another file, where the file system can
_BLOCK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Copies:
    """`database` is a path that the service's user owns; `folder` is root's and gets mode 0700."""

    def __init__(self, database: str, folder: str, user: User) -> None:
        self.database = database
        self.folder = folder
        self._user = user
        self._home, self._name = os.path.split(database)

    def of(self, release: str) -> str:
        return os.path.join(self.folder, release)

    def prepare(self) -> None:
        """Create the folder, or check that no other user can change what it leads to."""
        with folder_of(self.folder, create_mode=0o755) as (above, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
        check_folder(self.folder)
        os.chmod(self.folder, 0o700)

    def take(self, release: str) -> None:
        """Copy the database. An earlier copy of this release is replaced once the new one is complete."""
        self._complete(self.of(release), self._sources())

    def set_aside(self, release: str) -> str:
        """Copy a database that is about to be replaced, to a place that `prune` keeps; returns it."""
        place = f"{self.of(release)}{KEPT}{time.strftime('%Y%m%dT%H%M%S')}"
        self._complete(place, self._sources())
        return place

    def put_back(self, release: str) -> None:
        """Replace the database. A copy without files is of a database that lies elsewhere, which its owner keeps."""
        with _opened(self.of(release)) as handle:
            sources = {part: open_regular(self._name + part, dir_fd=handle) for part in self._parts(handle)}
        try:
            if "" not in sources:
                return
            # Its own directory, with its own rights: this leads nowhere that the service does not get by itself.
            with acting_as(self._user), _opened(self._home) as home:
                for part in PARTS:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._name + part, dir_fd=home)
                targets = {part: os.open(self._name + part, _CREATE, 0o600, dir_fd=home) for part in sources}
            for part, target in targets.items():
                with _closing(target):
                    pour(sources[part], target)
        finally:
            for source in sources.values():
                os.close(source)

    def prune(self, releases: tuple[str, ...]) -> None:
        """Keep the copies of these releases, and those that were set aside."""
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else ():
            if name not in releases and KEPT not in name:
                shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)

    def _sources(self) -> dict[str, int]:
        """The database's files, opened with the service's rights; none where there is no database."""
        sources: dict[str, int] = {}
        try:
            with acting_as(self._user), _opened(self._home) as home:
                for part in PARTS:
                    with contextlib.suppress(FileNotFoundError):
                        sources[part] = _regular(self._name + part, home, self._home)
        except FileNotFoundError:
            pass  # nor is there a folder
        except BaseException:
            for source in sources.values():
                os.close(source)
            raise
        return sources

    def _complete(self, place: str, sources: dict[str, int]) -> None:
        """Write these files to `place`, which exists only once they are complete; closes them."""
        new = place + NEW
        try:
            shutil.rmtree(new, ignore_errors=True)
            os.mkdir(new, 0o700)
            for part, source in sources.items():
                target = os.open(os.path.join(new, self._name + part), _CREATE, 0o600)
                with _closing(target):
                    pour(source, target)
            sync(new)
            shutil.rmtree(place, ignore_errors=True)
            os.rename(new, place)
            sync(self.folder)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        finally:
            for source in sources.values():
                os.close(source)

    def _parts(self, handle: int) -> list[str]:
        there = set(os.listdir(handle))
        return [part for part in PARTS if self._name + part in there]

    # --- copies of an earlier version of this collection, in a directory that the service owns ---------------------

    def earlier(self, folder: str) -> tuple[list[str], list[str]]:
        """The releases with a copy in `folder`, and what is there and no copy of ours, as messages."""
        try:
            with _opened(folder) as handle:
                # The service can put another directory here, but none that is root's.
                if _only_roots(handle):
                    return self._judged(handle, folder)
        except FileNotFoundError:
            return [], []
        except OSError as error:
            return [], [f"{folder}: {error.strerror}"]
        return [], [f"{folder}: expected a directory that only root can write to"]

    def adopt(self, folder: str) -> None:
        """Move the copies here that `earlier` names. What is no copy of ours stays where it is."""
        if not self.earlier(folder)[0]:
            return
        with _opened(folder) as handle:
            if not _only_roots(handle):  # exchanged meanwhile
                return
            for release in self._judged(handle, folder)[0]:
                if not os.path.isdir(self.of(release)):  # else it was moved by a run that was broken off
                    self._complete(self.of(release), self._files(handle, release, folder))
                _empty(release, handle)
            for name in os.listdir(handle):
                if name.endswith(NEW):  # it was never complete
                    with contextlib.suppress(OSError):
                        _empty(name, handle)
            with contextlib.suppress(OSError):  # what is no copy of ours stays
                os.rmdir(folder)

    def _judged(self, handle: int, folder: str) -> tuple[list[str], list[str]]:
        releases: list[str] = []
        strange: list[str] = []
        for name in sorted(os.listdir(handle)):
            if name.endswith(NEW):
                continue
            try:
                files = self._files(handle, component(name, "a release"), folder)
            except (OSError, BadName) as error:
                strange.append(f"{folder}/{printable(name)}: {getattr(error, 'strerror', None) or error}")
                continue
            for source in files.values():
                os.close(source)
            releases.append(name)
        return releases, strange

    def _files(self, handle: int, release: str, folder: str) -> dict[str, int]:
        """The files of an earlier copy. Raises OSError for links, files of other users and what is no database's."""
        place = f"{folder}/{release}"
        files: dict[str, int] = {}
        inner = os.open(release, _FOLDER, dir_fd=handle)
        try:
            if not _only_roots(inner):
                raise OSError(errno.EPERM, "expected a directory that only root can write to", place)
            parts = self._parts(inner)
            if set(os.listdir(inner)) - {self._name + part for part in parts}:
                raise OSError(errno.EINVAL, f"expected the files of {self._name} alone, found others", place)
            for part in parts:
                files[part] = _regular(self._name + part, inner, place)
                status = os.fstat(files[part])
                if status.st_uid not in (0, os.geteuid(), self._user.uid) or status.st_nlink != 1:
                    raise OSError(errno.EPERM, f"expected files of {self._user.name} with one name each", place)
        except BaseException:
            for source in files.values():
                os.close(source)
            raise
        finally:
            os.close(inner)
        return files


def pour(source: int, target: int) -> None:
    """Copy one file to another that is empty, with its mode; without taking room where the file system can."""
    status = os.fstat(source)
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        room = os.fstatvfs(target)
        if status.st_size > room.f_bavail * room.f_frsize:
            raise OSError(
                errno.ENOSPC,
                f"expected {status.st_size >> 20} MiB of free disk for the database,"
                f" found {room.f_bavail * room.f_frsize >> 20} MiB",
            ) from None
        left = status.st_size
        while left > 0:
            block = os.pread(source, min(_BLOCK, left), status.st_size - left)
            if not block:
                break
            left -= len(block)
            while block:
                block = block[os.write(target, block) :]
    os.fchmod(target, stat.S_IMODE(status.st_mode) & 0o666)
    os.fsync(target)


def sync(folder: str) -> None:
    """Bring the names in a directory to the disk."""
    handle = os.open(folder, _FOLDER)
    with _closing(handle):
        os.fsync(handle)


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    try:
        handle = os.open(folder, _FOLDER)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OSError(error.errno, "expected a directory, found something else; remove it", folder) from None
        raise
    with _closing(handle):
        yield handle


def _regular(name: str, folder: int, shown: str) -> int:
    try:
        return open_regular(name, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "expected a regular file, found a link" if error.errno == errno.ELOOP else error.strerror
        raise OSError(error.errno, f"{reason}; remove it", f"{shown}/{name}") from None


def _only_roots(handle: int) -> bool:
    status = os.fstat(handle)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _empty(name: str, folder: int) -> None:
    """Remove a directory of root's with the files in it."""
    inner = os.open(name, _FOLDER, dir_fd=folder)
    with _closing(inner):
        for file in os.listdir(inner):
            os.unlink(file, dir_fd=inner)
    os.rmdir(name, dir_fd=folder)


@contextlib.contextmanager
def _closing(handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(handle)
