# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files and directories of this user's (root's) with their content and mode, each replaced at once."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class State:
    """Of a path before or after. `content` is None where nothing is, or no regular file."""

    content: bytes | None
    attributes: str

    def described(self) -> str:
        """For a diff: the text, or what identifies a file that is none."""
        lines = f"{self.attributes}\n" if self.attributes else ""
        if self.content is None:
            return lines
        try:
            return lines + self.content.decode()
        except UnicodeDecodeError:
            return f"{lines}{len(self.content)} bytes, SHA-256 {hashlib.sha256(self.content).hexdigest()}\n"


@dataclass(frozen=True)
class Change:
    path: str
    before: State
    after: State

    def diff(self) -> dict[str, str]:
        return {
            "before_header": self.path,
            "after_header": self.path,
            "before": self.before.described(),
            "after": self.after.described(),
        }


def put_file(path: str, content: bytes, mode: int, check_mode: bool) -> Change | None:
    """Give a file this content, mode and owner; None when it has them. Raises UntrustedPath and other OSError."""
    owner = (os.geteuid(), os.getegid())
    before = _state_of_file(path)
    after = State(content, _attributes(owner, mode))
    if before == after:
        return None
    if not check_mode:
        _files.replace(path, content, mode, owner)
    return Change(path, before, after)


def put_folder(path: str, mode: int, check_mode: bool) -> Change | None:
    """The same for a directory. Those above it are created; a trusted user's link in its place is followed."""
    path = _place(path)
    owner = (os.geteuid(), os.getegid())
    after = State(None, _attributes(owner, mode))
    try:
        status = os.lstat(path)
        before = State(None, _attributes((status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)))
    except FileNotFoundError:
        before = State(None, "")
    if before == after:
        return None
    if not check_mode:
        with _files.folder_of(path, 0o755) as (folder, name):
            if not before.attributes:
                os.mkdir(name, mode, dir_fd=folder)
            handle = os.open(name, _FOLDER, dir_fd=folder)
            try:
                os.fchown(handle, *owner)
                os.fchmod(handle, mode)
            finally:
                os.close(handle)
    return Change(path, before, after)


def remove_files(paths: list[str], check_mode: bool) -> Iterator[Change]:
    """Remove these, in this order. Raises UntrustedPath and other OSError."""
    for path in paths:
        if not os.path.lexists(path):
            continue
        change = Change(path, _state_of_file(path), State(None, ""))
        if not check_mode:
            with _files.folder_of(path) as (folder, name):
                os.unlink(name, dir_fd=folder)
        yield change


def _place(path: str) -> str:
    """Where a path leads. Raises UntrustedPath where another user can change that."""
    path = os.path.abspath(path)
    above = os.path.dirname(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    _files.check_folder(above)
    if os.path.islink(path) and (owner := os.lstat(path).st_uid) not in (0, os.geteuid()):
        raise _files.UntrustedPath(path, f"is a link of the user {owner}", owner)
    return os.path.realpath(path)


def _state_of_file(path: str) -> State:
    """What is there. A link counts as no file: it is replaced."""
    try:
        handle = _files.open_regular(path)
    except FileNotFoundError:
        return State(None, "")
    except OSError:
        if not os.path.islink(path):
            raise
        return State(None, "link")
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        content = file.read(_files.LARGEST)
    return State(content, _attributes((status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)))


def _attributes(owner: tuple[int, int], mode: int) -> str:
    return f"owner {owner[0]}:{owner[1]}, mode 0{mode:o}"
