# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open files of another user with that user's rights.

Root that follows a path below a directory of another user can be led anywhere. With the user's own rights the path
leads only where that user gets without root. Descriptors that are opened this way stay usable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.homelab.llamacpp.plugins.module_utils._files import UntrustedPath, check_folder


@dataclass(frozen=True)
class User:
    uid: int
    gid: int
    name: str


def user_named(name: str) -> User:
    """The user of this name. Raises OSError."""
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise OSError(errno.ENOENT, f"expected the user {name}, found none on this host") from None
    return User(entry.pw_uid, entry.pw_gid, name)


def owner_of(folder: str) -> User:
    """Whose rights lead to a directory: those of the first other user on its path, else this process's own.

    A directory that does not exist is judged by those above it. Only root has a choice. Raises OSError.
    """
    own = User(os.geteuid(), os.getegid(), str(os.geteuid()))
    if own.uid != 0:
        return own
    try:
        check_folder(folder)
    except FileNotFoundError:
        return own
    except UntrustedPath as error:
        if error.owner is None:
            raise
        try:
            entry = pwd.getpwuid(error.owner)
        except KeyError:
            raise error from None
        return User(entry.pw_uid, entry.pw_gid, entry.pw_name)
    return own


@contextlib.contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Have this user's rights to files meanwhile, and no others. Only root can act as another user; raises OSError.

    The real and the saved user id stay root's, so the user can neither signal nor trace this process.
    """
    own = os.geteuid()
    if user.uid == own:
        yield
        return
    if own != 0:
        raise PermissionError(errno.EPERM, f"expected root or {user.name}, found user {own}; run as root (become)")
    group, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups([])
        os.setegid(user.gid)
        os.seteuid(user.uid)
        yield
    finally:
        os.seteuid(own)
        os.setegid(group)
        os.setgroups(groups)
