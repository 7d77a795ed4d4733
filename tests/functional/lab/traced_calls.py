# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of root's accesses to files another user could lead elsewhere, by the output of `strace -f -y`.

Independent of the collection's own checks: it needs only what was called, and who owns which directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")  # with a sticky bit: whose name it is, keeps it
OPENS = ("open", "openat", "openat2", "creat")
CHANGES = (
    *("mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2", "link", "linkat", "symlink"),
    *("symlinkat", "unlink", "unlinkat", "rmdir", "truncate", "chmod", "fchmodat", "fchmodat2", "chown", "lchown"),
    *("fchownat", "utime", "utimes", "utimensat", "futimesat"),
)
RUNS = ("execve", "execveat")
_LINE = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<words>.*)\) += (?P<result>-?\d+|\?)")
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(?P<rest>.*)$")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>(?:[^<>\\]|\\.)*)>, )?"(?P<path>(?:[^"\\]|\\.)*)"')
_IDS = re.compile(r"^(\d+)")
_USER = {"setuid": 0, "setreuid": 1, "setresuid": 1, "setfsuid": 0}  # which word is the effective user


@dataclass(frozen=True)
class Access:
    call: str
    path: str
    flags: str

    @property
    def changes(self) -> bool:
        return self.call in CHANGES or any(flag in self.flags for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"))

    @property
    def creates_anew(self) -> bool:
        return self.call in ("mkdir", "mkdirat") or "O_EXCL" in self.flags

    def __str__(self) -> str:
        return f"{self.call} {self.path} {self.flags}".rstrip()


def of_root(trace: str) -> Iterator[Access]:
    """The accesses in one trace while the process was root. Calls that failed count: the next time they may not."""
    left: dict[str, bool] = {}  # by process: it runs as another user now
    unfinished: dict[str, str] = {}
    for line in _with_parents_first(trace.splitlines()):
        found = _LINE.match(line)
        if not found:
            continue
        pid, rest = found["pid"], found["rest"]
        if rest.endswith("<unfinished ...>"):
            unfinished[pid] = rest.removesuffix("<unfinished ...>")
            continue
        resumed = _RESUMED.match(rest)
        if resumed:
            rest = unfinished.pop(pid, "") + resumed["rest"]
        call = _CALL.match(rest)
        if not call:
            continue
        name, words, result = call["name"], call["words"], call["result"]
        if name in ("clone", "clone3", "fork", "vfork"):
            left[result] = left.get(pid, False)
        elif name in _USER and result == "0":
            user = words.split(", ")[_USER[name]]
            if user != "-1":
                left[pid] = user != "0"
        elif not left.get(pid):
            yield from _accesses(name, words)


def _with_parents_first(lines: list[str]) -> Iterator[str]:
    """A child's first lines may come before the line that says whose child it is: those lines wait."""
    known: set[str] = set()
    waiting: dict[str, list[str]] = {}
    births = re.compile(r"^\d+ +(?:<\.\.\. )?(?:clone3?|v?fork)\b.* = (\d+)$")
    children = {found[1] for line in lines if (found := births.match(line))}
    for line in lines:
        pid = line.partition(" ")[0]
        if pid in children and pid not in known:
            waiting.setdefault(pid, []).append(line)
            continue
        yield line
        found = births.match(line)
        if found:
            known.add(found[1])
            yield from waiting.pop(found[1], [])
    for rest in waiting.values():
        yield from rest


def _accesses(name: str, words: str) -> Iterator[Access]:
    if name not in (*OPENS, *CHANGES, *RUNS):
        return
    paths = [(found["folder"], found["path"]) for found in _PATH.finditer(words)]
    if name.startswith("symlink"):
        paths = paths[-1:]  # the first is a text
    if name in RUNS:
        paths = paths[:1]
    flags = "|".join(re.findall(r"O_[A-Z]+", words)) if name in OPENS else ""
    for folder, path in paths:
        if path:
            yield Access(name, os.path.normpath(os.path.join(folder or "/", path)), flags)


def misled(accesses: Iterable[Access], foreign: set[str]) -> set[str]:
    """Which of them another user could have led elsewhere or stopped. `foreign`: directories that others can change.

    Allowed below a foreign directory: to open a file in it for reading without following a link and without waiting
    for a FIFO. In a shared directory: what this trace has made itself, by a call that fails when the name is taken.
    """
    found, made = set(), set()
    for access in accesses:
        top = _below_shared(access.path)
        if top:
            if access.creates_anew and access.path == top:
                made.add(top)
            elif top not in made and (access.changes or access.call in RUNS):
                found.add(f"in a shared directory: {access}")
            continue
        above = [folder for folder in _parents(access.path) if folder in foreign]
        if not above:
            continue
        if access.changes or access.call in RUNS:
            found.add(f"below {above[0]}: {access}")
        elif above != [os.path.dirname(access.path)] or "O_NOFOLLOW" not in access.flags:
            found.add(f"follows a link below {above[0]}: {access}")
        elif not {"O_NONBLOCK", "O_PATH", "O_DIRECTORY"} & set(access.flags.split("|")):
            found.add(f"waits for a FIFO in {above[0]}: {access}")
    return found


def _below_shared(path: str) -> str | None:
    """The name directly in a shared directory that a path begins with."""
    for folder in SHARED:
        if path.startswith(f"{folder}/"):
            return f"{folder}/{path[len(folder) + 1 :].partition('/')[0]}"
    return None


def _parents(path: str) -> Iterator[str]:
    while path != "/":
        path = os.path.dirname(path)
        yield path
