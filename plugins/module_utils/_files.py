# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open, read, replace and lock files that no other user can exchange meanwhile.

A path is trusted when every directory on it belongs to root or to this user and no other user can write to it (a sticky
directory such as /tmp is trusted for what this user owns there). All errors are OSError; `strerror` has the reason.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator

LARGEST = 16 << 20  # bytes of a file that is read at once
LOCK_SECONDS = 60.0
_LOCK_INTERVAL = 0.1  # seconds
_LINKS = 40  # as many as the kernel follows
_SEARCH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UntrustedPath(PermissionError):
    """Another user can change what a path leads to: `owner`, or None where that are several."""

    def __init__(self, path: str, reason: str, owner: int | None = None) -> None:
        super().__init__(
            errno.EPERM,
            f"{path} {reason}, who could lead this task to another file; make it root's, with mode 0755",
            path,
        )
        self.owner = owner


def open_folder(path: str, create_mode: int | None = None) -> int:
    """Return a descriptor (O_PATH) of a directory on a trusted path. Links are followed where their owner is trusted.

    With `create_mode`, directories that are missing are created. Raises UntrustedPath and other OSError.
    """
    names = [name for name in os.path.abspath(path).split("/") if name]
    folder, shown, links = os.open("/", _SEARCH), "", 0
    try:
        _check_folder(folder, "/")
        while names:
            name = names.pop(0)
            shown = f"{shown}/{name}"
            target = _link(folder, name, shown)
            if target is not None:
                links += 1
                if links > _LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    folder, shown = _step(folder, "/"), ""
                else:
                    shown = os.path.dirname(shown)
                names = [part for part in target.split("/") if part not in ("", ".")] + names
                continue
            if create_mode is not None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, create_mode, dir_fd=folder)
            folder = _step(folder, name)
            _check_folder(folder, shown)
    except BaseException as error:
        os.close(folder)
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = path if isinstance(error, UntrustedPath) else shown
        raise
    return folder


def _step(folder: int, name: str) -> int:
    """Open a directory below another one, which is closed."""
    below = os.open(name, _SEARCH, dir_fd=folder)
    os.close(folder)
    return below


def _link(folder: int, name: str, shown: str) -> str | None:
    """Where a link leads, None for what is none. In a sticky directory a link may belong to anybody."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(status.st_mode):
        return None
    if status.st_uid not in _trusted_users():
        raise UntrustedPath(shown, f"is a link of user {status.st_uid}", status.st_uid)
    return os.readlink(name, dir_fd=folder)


def _check_folder(folder: int, shown: str) -> None:
    status = os.fstat(folder)
    if status.st_uid not in _trusted_users():
        raise UntrustedPath(shown, f"belongs to user {status.st_uid}", status.st_uid)
    if status.st_mode & stat.S_ISVTX:
        return
    if status.st_mode & stat.S_IWOTH:
        raise UntrustedPath(shown, "can be written to by every user")
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        raise UntrustedPath(shown, f"can be written to by group {status.st_gid}")


def _trusted_users() -> tuple[int, int]:
    return 0, os.geteuid()


def check_folder(path: str) -> None:
    """Check that a directory is on a trusted path. Raises UntrustedPath and other OSError."""
    os.close(open_folder(path))


@contextlib.contextmanager
def folder_of(path: str, create_mode: int | None = None) -> Iterator[tuple[int, str]]:
    """The trusted directory that a path is in, as a descriptor, and the path's last component."""
    folder = open_folder(os.path.dirname(os.path.abspath(path)), create_mode)
    try:
        yield folder, os.path.basename(path)
    finally:
        os.close(folder)


def open_regular(path: str, flags: int = os.O_RDONLY, dir_fd: int | None = None, mode: int = 0o666) -> int:
    """Open a regular file. Follows no link in its last component and does not wait for the other end of a FIFO.

    `mode`: of a file that O_CREAT makes.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, mode, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "expected a regular file, found a link; symbolic links are not followed, remove it"
        elif error.errno in (errno.ENXIO, errno.EISDIR):
            error.strerror = "expected a regular file, found a FIFO, a socket or a directory; remove it"
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "expected a regular file, found something else; remove it", path)
    return handle


def read(path: str, most: int = LARGEST) -> bytes:
    """Return a regular file's content. Raises OSError for anything else, and for more than `most` bytes."""
    with os.fdopen(open_regular(path), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"expected at most {most} bytes", path)
    return content


def replace(
    path: str, content: str | bytes, mode: int | None = None, owner: tuple[int, int] | None = None,
    create_mode: int | None = None,
) -> None:  # fmt: skip
    """Write a file beside its place on a trusted path, bring it to the disk, and rename it.

    `mode` and `owner` (user and group id): by default those of the file that is replaced, else 0644 and this user's.
    `create_mode`: of missing directories. Raises UntrustedPath and other OSError; the file is then as before.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with folder_of(path, create_mode) as (folder, name):
        with contextlib.suppress(FileNotFoundError):
            old = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(old.st_mode):
                mode = stat.S_IMODE(old.st_mode) if mode is None else mode
                owner = (old.st_uid, old.st_gid) if owner is None else owner
        beside = f".{name[:200]}.{secrets.token_hex(8)}"
        handle = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                if owner is not None:
                    os.fchown(handle, *owner)
                os.fchmod(handle, 0o644 if mode is None else mode)
                file.flush()
                os.fsync(handle)
            os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=folder)
            raise


@contextlib.contextmanager
def locked(
    path: str, seconds: float = LOCK_SECONDS, create_mode: int | None = None, keep: bool = True,
    progress: Callable[[], object] = lambda: None,
) -> Iterator[None]:  # fmt: skip
    """Hold a lock against other runs. Its file has mode 0600, as whoever can open a file can lock it.

    `keep`: whether the file stays. `progress` is called while another run has the lock; whenever its result changes,
    the time begins anew. Raises TimeoutError after `seconds`, UntrustedPath and other OSError.
    """
    with folder_of(path, create_mode) as (folder, name):
        handle = _lock(folder, name, path, seconds, progress)
        try:
            yield
        finally:
            if not keep:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
            os.close(handle)


def _lock(folder: int, name: str, path: str, seconds: float, progress: Callable[[], object]) -> int:
    """The locked file. One that its last holder has removed meanwhile is opened anew."""
    deadline, seen = time.monotonic() + seconds, None
    while True:
        try:
            handle = open_regular(name, os.O_RDWR | os.O_CREAT, folder, 0o600)
        except OSError as error:
            error.filename = path
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(handle, 0o600)
            if os.path.samestat(os.fstat(handle), os.stat(name, dir_fd=folder, follow_symlinks=False)):
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError:
            found = progress()
            if found != seen:
                deadline, seen = time.monotonic() + seconds, found
            if time.monotonic() >= deadline:
                reason = f"another run has held it for {seconds:g} seconds; wait for that run or end it"
                os.close(handle)
                raise TimeoutError(errno.ETIMEDOUT, reason, path) from None
            time.sleep(_LOCK_INTERVAL)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
