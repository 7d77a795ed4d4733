# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Releases of llama-server side by side, and the link that says which one is current.

A release is a folder `<root>/releases/<name>` with `bin/llama-server` and a `stamp.json`; `<root>/current` and
`<root>/previous` are links to releases, and so is `<root>/fallback` while an update is not confirmed. A release appears
whole, by a rename, and never changes afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _foreign
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run

STAMP = "stamp.json"
SERVER = "llama-server"
FALLBACK = "fallback"
LOCK = ".lock"
LOCK_SECONDS = 600.0  # a handover waits for answers that are streaming
STAMP_BYTES = 1 << 20

# `version: 0.6.0-dev (build 11434, commit …)`, and before that `version: 8736 (c8ac02fa1)`.
_BUILD = re.compile(r"^version: (?:.*\(build (\d+)\b|(\d+) \()", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


class ReleaseError(Exception):
    """What was wanted, what was found, what mends it, in one message for the operator."""


@dataclass(frozen=True)
class Release:
    """`stamp` is what was written beside the binary when it was made; `running` says that a process runs its binary."""

    name: str
    path: str
    stamp: Mapping[str, Any]
    running: bool = False
    current: bool = False
    previous: bool = False

    @property
    def server(self) -> str:
        return os.path.join(self.path, "bin", SERVER)

    @property
    def in_use(self) -> bool:
        """Whether something would be missed: a process misses no name of a binary outside, which stays."""
        outside = not os.path.realpath(self.server).startswith(os.path.realpath(self.path) + os.sep)
        return self.current or (self.running and not outside)


def prove(run: Run, server: str, build: int | None = None) -> str:
    """What llama-server says of its version: it finds its libraries, starts, and is the build that was wanted.

    Raises ReleaseError for one that does not.
    """
    if not os.path.isfile(server):
        raise ReleaseError(f"An executable {server} was wanted, there is none")
    # Of a script or a static binary ldd says nothing of interest, and neither of what only the loader sees: hence both.
    _status, output, _errors = run(["ldd", server])
    missing = [line.split()[0] for line in output.splitlines() if line.rstrip().endswith("not found")]
    if missing:
        hint = ""
        if any(name.startswith("libcuda.so") for name in missing):
            hint = "; libcuda.so.1 is a part of the NVIDIA driver, which the role nvidia_driver puts into the guest"
        raise ReleaseError(f"{server} needs {', '.join(missing)}, which this machine does not have{hint}")
    status, output, errors = run(["timeout", "-k", "5", "30", server, "--version"])
    said = "\n".join(text.strip() for text in (output, errors) if text.strip())
    if status != 0:
        why = "did not end within 30 s" if status in (124, 137) else f"ended with status {status}"
        raise ReleaseError(f"{server} --version {why}: {_last_words(said)}")
    found = _BUILD.search(said)
    if build is not None and (not found or int(found[1] or found[2]) != build):
        raise ReleaseError(f"Build {build} was wanted of {server}, it says: {_last_words(said)}; correct the version")
    line = next((line for line in said.splitlines() if line.startswith("version:")), said.partition("\n")[0])
    return line.partition("version:")[2].strip() or line


class Releases:
    """Those below one root. What changes something is atomic: a call that was interrupted can be made again."""

    def __init__(self, run: Run, root: str) -> None:
        self._run = run
        self.root = root
        self.folder = os.path.join(root, "releases")

    def path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ReleaseError(f"A release's name of letters, digits and ._+~- was wanted, not {name!r}")
        return os.path.join(self.folder, name)

    def all(self) -> list[Release]:
        """Newest first."""
        current, previous = self.linked("current"), self.linked("previous")
        executables = set(_executables())
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                stamp = os.path.join(entry.path, STAMP)
                if _NAME.fullmatch(entry.name) and not entry.is_symlink() and os.path.isfile(stamp):
                    release = Release(
                        entry.name,
                        entry.path,
                        _read_stamp(stamp),
                        current=entry.name == current,
                        previous=entry.name == previous,
                    )
                    running = os.path.realpath(release.server) in executables
                    found.append((entry.stat().st_mtime, replace(release, running=running)))
        return [release for _time, release in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def find(self, name: str) -> Release | None:
        return next((release for release in self.all() if release.name == name), None)

    def current(self) -> Release | None:
        return next((release for release in self.all() if release.current), None)

    def stage(self, name: str) -> str:
        """A new, empty folder in which to make a release."""
        staged = os.path.join(self.folder, f".new-{os.path.basename(self.path(name))}")
        os.close(_files.open_folder(self.folder, 0o755))  # root's, on the whole way there
        shutil.rmtree(staged, ignore_errors=True)
        os.makedirs(os.path.join(staged, "bin"), mode=0o755)
        for folder in (self.root, self.folder, staged, os.path.join(staged, "bin")):
            os.chmod(folder, 0o755)
        return staged

    def add(self, name: str, staged: str, stamp: Mapping[str, Any], build: int | None = None) -> Release:
        """Make a release of a staged folder: proved, stamped, renamed. A folder that fails is taken away."""
        try:
            version = prove(self._run, os.path.join(staged, "bin", SERVER), build)
            text = json.dumps({"name": name, "version": version, **stamp}, indent=2) + "\n"
            _files.replace(os.path.join(staged, STAMP), text, mode=0o644)
            _to_disk(staged)
            target = self.path(name)
            if os.path.isdir(target):
                shutil.rmtree(target)
            os.rename(staged, target)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return self._need(name)

    def switch(self, name: str) -> None:
        """Make a release the current one, and the one that was current the previous one."""
        release, old = self._need(name), self.current()
        prove(self._run, release.server)
        # A package's releases are names for one and the same binary: the older name leads nowhere that is not here.
        if old and old.name != name and os.path.realpath(old.server) != os.path.realpath(release.server):
            self.link("previous", old.name)
        self.link("current", name)

    def doomed(self, keep: int, spare: str | None = None) -> list[Release]:
        """The releases beyond the newest `keep`; never one that is current, previous, the fallback, running or `spare`.

        Of releases that are names for one binary outside, only the one in use counts.
        """
        releases = self.all()
        current = next((release for release in releases if release.current), None)
        spared = (spare, self.linked(FALLBACK))
        held = [r for r in releases if r.current or r.previous or r.name in spared]
        aliases = [r for r in releases if current and r not in held and _same_binary(r, current)]
        others = [r for r in releases if r not in held and r not in aliases]
        room = max(keep - len(held), 0)
        return aliases + [r for r in others[room:] if not r.running]

    def remove(self, release: Release) -> None:
        """Take a release away; ReleaseError for one in use."""
        if release.in_use:
            state = "is the current one" if release.current else "is running"
            raise ReleaseError(f"Release {release.name} {state}; switch to another one first")
        if release.name == self.linked(FALLBACK):
            raise ReleaseError(
                f"Release {release.name} is what an interrupted update goes back to; run update.yml first"
            )
        if release.previous:
            os.unlink(os.path.join(self.root, "previous"))
        gone = os.path.join(self.folder, f".old-{release.name}")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(release.path, gone)
        for entry in os.listdir(self.folder):
            if entry.startswith(".old-"):  # also what an interrupted call has left
                shutil.rmtree(os.path.join(self.folder, entry))

    def _need(self, name: str) -> Release:
        release = self.find(name)
        if release is None:
            there = ", ".join(other.name for other in self.all()) or "none"
            raise ReleaseError(f"Release {name} was wanted in {self.folder}; there are: {there}")
        return release

    def linked(self, link: str) -> str | None:
        try:
            return os.path.basename(os.readlink(os.path.join(self.root, link)).rstrip("/"))
        except OSError:
            return None

    def link(self, link: str, name: str) -> None:
        target = os.path.join("releases", name)
        beside = os.path.join(self.root, f".{link}.new")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        os.symlink(target, beside)
        os.replace(beside, os.path.join(self.root, link))


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Wait until no other run works in this directory: one that lost its controller goes on to its end.

    The lock is a file that root alone can open. The directory itself can be opened, and locked, by every user.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_files.locked(os.path.join(folder, LOCK), LOCK_SECONDS))
        except OSError as error:
            raise ReleaseError(f"expected to work alone in the directory {folder}: {error.strerror}") from None
        yield


def _same_binary(one: Release, other: Release) -> bool:
    return os.path.realpath(one.server) == os.path.realpath(other.server)


def _read_stamp(path: str) -> dict[str, Any]:
    """The stamp as plain data; an empty one for a file that is none, a link for instance."""
    try:
        stamp = json.loads(_files.read(path, STAMP_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    found: dict[str, Any] = _foreign.data(stamp) if isinstance(stamp, dict) else {}
    for name in ("name", "version", "commit"):
        if not isinstance(found.get(name, ""), str):
            del found[name]
    return found


def _to_disk(folder: str) -> None:
    """All files in it: a release of empty ones, after a crash of the machine, would be there for good."""
    for base, _folders, files in os.walk(folder):
        for path in (os.path.join(base, name) for name in files):
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    os.fsync(file.fileno())


def _executables() -> Iterator[str]:
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{entry}/exe")


def _last_words(text: str, lines: int = 3) -> str:
    return " / ".join(line.strip() for line in text.splitlines()[-lines:]) or "it printed nothing"
