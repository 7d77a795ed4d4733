# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Takes away files and folders by name, and nothing else.

Links are not followed; mount points and what is to be kept stay, with the folders above them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Iterable, Iterator


class RemovalError(Exception):
    """A path that nobody can mean."""


def found(patterns: Iterable[str], keep: Iterable[str] = ()) -> list[str]:
    """What there is of these (shell patterns), as the topmost paths that go whole. RemovalError for `/` and such."""
    kept = [os.path.normpath(path) for path in keep]
    paths: list[str] = []
    for pattern in patterns:
        if not os.path.isabs(pattern) or os.path.normpath(pattern).lstrip("/").count("/") < 1:
            raise RemovalError(
                f"paths: an absolute path below the first level was wanted, found {pattern!r}; correct it"
            )
        for path in sorted(glob.glob(os.path.normpath(pattern))):
            paths += _whole(path, kept)
    return paths


def _whole(path: str, kept: list[str]) -> Iterator[str]:
    """The path, or what is in it where something below it stays."""
    if path in kept or os.path.ismount(path):
        return
    if os.path.islink(path) or not os.path.isdir(path) or not _holds(path, kept):
        yield path
        return
    for name in sorted(os.listdir(path)):
        yield from _whole(os.path.join(path, name), kept)


def _holds(path: str, kept: list[str]) -> bool:
    if any(one.startswith(f"{path}/") for one in kept):
        return True
    return any(os.path.ismount(os.path.join(base, name)) for base, names, _files in os.walk(path) for name in names)


def empty(folders: Iterable[str], without: Iterable[str]) -> list[str]:
    """Those of the folders that are there, and empty once `without` are gone. Each may lie in the one after it."""
    gone = set(without)
    result = []
    for folder in folders:
        with contextlib.suppress(OSError):
            inside = {os.path.join(folder, name) for name in os.listdir(folder)}
            if inside <= gone and not os.path.ismount(folder) and not os.path.islink(folder):
                gone.add(folder)
                result.append(folder)
    return result


def remove(path: str) -> None:
    """A file, a link, or a folder with all that is in it. What its owner exchanges meanwhile is not followed."""
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    else:
        shutil.rmtree(path)


def running_as(uid: int, proc: str = "/proc") -> list[str]:
    """The processes of a user, who could exchange what is removed: `PID (name)` each."""
    found = []
    for pid in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError):  # it has ended
            if os.stat(f"{proc}/{pid}").st_uid == uid:
                with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    found.append(f"{pid} ({file.read().strip()})")
    return found
