# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A models directory, the record of what was placed in it, and the lock of each model against other runs.

What is written below the directory relies on `check`: nobody else can change it. Names in it may still be anything, as
the directory may have belonged to another user before: no link is followed, and no FIFO is waited for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _model_record
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_record import Entry
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_source import NAME, Resolved
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, below

RECORD = ".model_file.json"
PART = ".part"
PARTS = re.compile(r"\.gguf(?:\.[0-9]+)?\.part(?:\.journal(?:\.new)?)?\Z")
# A model's file or part file: the name before it is the model's.
_OWN = re.compile(r"(?P<name>.+?)\.gguf(?:(?:\.[0-9]+)?\.part(?:\.journal(?:\.new)?)?)?", re.DOTALL)
BLOCK = 1 << 20  # bytes
# Seconds in which another run that has a model must have written something of it. Longer than a server may ask for a
# pause; reading a file of 180 GiB at 100 MiB/s takes as long.
WAIT_SECONDS = 1800.0


class Store:
    def __init__(self, root: str, record: str | None) -> None:
        self.root = root
        self.record_path = record or os.path.join(root, RECORD)
        self.record: dict[str, Entry] = {}
        self._read: tuple[int, ...] | None = None  # which state of the record's file that is
        self._mutex = threading.Lock()  # of the record here
        self._writing = threading.Lock()
        self._unwritten: dict[str, Entry | None] = {}
        self.damaged: set[str] = set()  # places whose content is not what it was
        self.read()

    def path(self, place: str) -> str:
        """The path of a place. Raises BadName for one that is not below the directory."""
        return os.path.join(self.root, below(place))

    def check(self, names: Iterable[str]) -> None:
        """Refuse to work where another user can change the directory, its record or these models' folders.

        Raises UntrustedPath and other OSError.
        """
        _files.check_folder(self.root)
        with contextlib.suppress(FileNotFoundError):
            _files.check_folder(os.path.dirname(self.record_path))
        for name in names:
            for folder in (name, f"{name}/draft"):
                if self._is_folder(folder):
                    _files.check_folder(self.path(folder))

    def _is_folder(self, place: str) -> bool:
        """Whether a place is a real folder, also all above it."""
        return self._inside(place) and not os.path.islink(self.path(place)) and os.path.isdir(self.path(place))

    def _inside(self, place: str) -> bool:
        """Whether no folder above a place is a link."""
        parts = place.split("/")
        return not any(os.path.islink(self.path("/".join(parts[:count]))) for count in range(1, len(parts)))

    @contextlib.contextmanager
    def alone(
        self, name: str, waits: Callable[[str], object] = lambda name: None, seconds: float = WAIT_SECONDS
    ) -> Iterator[None]:
        """Have a model for this run alone, and the record as it is then. `waits` is told while another run has it.

        Raises TimeoutError when that run has written nothing of the model for so many seconds, and other OSError.
        """

        def progress() -> list[tuple[str, int, int]]:
            waits(name)
            return self._signs(name)

        if not NAME.fullmatch(name):
            yield  # no run places such a model
            return
        with _files.locked(self._lock_path(name), seconds, keep=False, progress=progress):
            self.read()
            yield

    def _lock_path(self, name: str) -> str:
        return self.path(f".model_file.{name}.lock")

    def _signs(self, name: str) -> list[tuple[str, int, int]]:
        """By which one sees that another run gets on with a model."""
        signs = []
        for place in self._files(name):
            if PARTS.search(place) and self.model_of(place) == name:
                with contextlib.suppress(OSError):
                    status = os.lstat(self.path(place))
                    signs.append((place, status.st_blocks, status.st_mtime_ns))
        return signs

    def busy(self, name: str) -> bool:
        """Whether another run has a model now."""
        if not NAME.fullmatch(name):
            return False
        try:
            handle = _files.open_regular(self._lock_path(name))
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    # --- the record ---------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """The record as it is now. One that cannot be read is none: what is in place is then looked at again."""
        with self._mutex:
            record: dict[str, Entry] = {}
            state = None
            with contextlib.suppress(OSError):
                state = self._state()
                if state == self._read:
                    return
                record = _model_record.parse(_files.read(self.record_path))
            self.record, self._read = record, state

    def _state(self) -> tuple[int, ...]:
        """What differs after any run has written the record, as each makes a new file of it."""
        status = os.lstat(self.record_path)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def write(self, name: str, entry: Entry | None) -> None:
        """Amend the record by one model, beside other runs that may do so too.

        Threads that come while another one writes are written for together, by the next of them.
        """
        with self._mutex:
            self._unwritten[name] = entry
        with self._writing:
            with self._mutex:
                amended, self._unwritten = self._unwritten, {}
            if not amended:
                return
            try:
                self._amend(amended)
            except BaseException:
                with self._mutex:  # the others try themselves
                    self._unwritten = {**amended, **self._unwritten}
                raise

    def _amend(self, amended: Mapping[str, Entry | None]) -> None:
        with _files.locked(f"{self.record_path}.lock", create_mode=0o755):
            self.read()
            entries = {**self.record, **amended}
            record = {name: entry for name, entry in entries.items() if entry is not None}
            with self._mutex:
                _files.replace(self.record_path, _model_record.text_of(record), mode=0o644, owner=_own())
                self.record, self._read = record, self._state()

    def entry_of(self, identity: str, resolved: Resolved, sums: Mapping[str, str], shared: set[str]) -> Entry:
        """What the record says of a model that is in its place now. `shared`: places that are the operator's files."""
        files: dict[str, Any] = {}
        for item in resolved.items:
            status = os.lstat(self.path(item.place))
            if item.method == "link":
                files[item.place] = {"role": item.role, "size": item.size, "link": item.path}
            else:
                files[item.place] = {"role": item.role, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
                files[item.place]["sha256"] = sums[item.place]
                if item.place in shared:
                    files[item.place]["shared"] = True
        return {"identity": identity, "commit": resolved.commit, "files": files}

    def placed(self, name: str) -> float:
        """When a model was placed, see `_model_record.placed`; 0 for one that is not known."""
        return _model_record.placed(self.record.get(name, {}))

    def is_regular(self, place: str) -> bool:
        """Whether a regular file is at a place, and not a link to one."""
        with contextlib.suppress(OSError):
            return self._inside(place) and stat.S_ISREG(os.lstat(self.path(place)).st_mode)
        return False

    def as_recorded(self, place: str, found: Mapping[str, Any]) -> bool:
        """Whether a file is as the record says, by a look at it and without reading it."""
        path = self.path(place)
        try:
            if not self._inside(place):
                return False
            if "link" in found:
                return os.readlink(path) == found["link"] and os.path.exists(path)
            status = os.lstat(path)
        except OSError:
            return False
        known = (found["size"], found["mtime_ns"])
        return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == known

    def in_place(self, entry: Entry) -> bool:
        files: dict[str, Any] = entry["files"]
        there = all(place not in self.damaged and self.as_recorded(place, found) for place, found in files.items())
        return there and any(found["role"] == "model" for found in files.values())

    def verify(self, report: Callable[[int], None]) -> None:
        """Find what is damaged. Reads every file, and tells how many bytes it has read more."""
        files = {place: found for entry in self.record.values() for place, found in entry["files"].items()}
        here = [place for place, found in files.items() if "sha256" in found and self.as_recorded(place, found)]
        self.damaged = {place for place in here if sha256_of(self.path(place), report) != files[place]["sha256"]}

    def recorded_size(self) -> int:
        """Bytes of all that was placed."""
        return sum(found["size"] for entry in self.record.values() for found in entry["files"].values())

    def twin(self, sha256: str, place: str) -> tuple[str, Mapping[str, Any]] | None:
        """Another place with the same content, and what is recorded of it."""
        for entry in self.record.values():
            files: dict[str, Any] = entry["files"]
            for other, found in files.items():
                usable = other != place and other not in self.damaged and found.get("sha256") == sha256
                if usable and self.as_recorded(other, found):
                    return other, found
        return None

    # --- what is in the directory -------------------------------------------------------------------------------------

    def of_model(self, name: str) -> list[str]:
        """All places of a model: what the record names, its file, its folder's models, and their part files."""
        places = set(self.record.get(name, {"files": ()})["files"])
        places |= {place for place in self._files(name) if self.model_of(place) == name}
        if os.path.islink(self.path(name)):
            places.add(name)
        return sorted(place for place in places if self._is_file(place))

    def _is_file(self, place: str) -> bool:
        """Whether something is at a place that is no folder."""
        path = self.path(place)
        return self._inside(place) and os.path.lexists(path) and not self._is_folder(place)

    def parts(self, names: Iterable[str]) -> list[str]:
        """Part files and journals of models that are not named, but for those that another run fetches now."""
        kept = set(names)
        places = [place for place in self._files() if PARTS.search(place) and self.model_of(place) not in kept]
        busy = {name for name in {self.model_of(place) for place in places} if self.busy(name)}
        return sorted(place for place in places if self.model_of(place) not in busy)

    def model_of(self, place: str) -> str:
        """The model that a place belongs to, by its name: of NAME.gguf, of its part files, and of all in a folder."""
        first, folder, _rest = place.partition("/")
        match = None if folder else _OWN.fullmatch(first)
        return match["name"] if match else first

    def _files(self, begin: str = "") -> Iterator[str]:
        """Models and part files, down to the folder of a draft model; not what is behind links to folders.

        Of what is in the directory itself, only what begins so.
        """
        for base, folders, files in os.walk(self.root):
            inner = os.path.relpath(base, self.root)
            if base == self.root:
                folders[:] = [one for one in folders if one.startswith(begin)]
                files = [one for one in files if one.startswith(begin)]
            if inner.count(os.sep):
                folders.clear()
            for file in files:
                if file.endswith(".gguf") or PARTS.search(file):
                    with contextlib.suppress(BadName):  # a name that no run has made
                        yield below(os.path.normpath(os.path.join(inner, file)))

    def remove(self, places: Iterable[str]) -> None:
        """These, and the folders that are empty then."""
        folders = set()
        for place in places:
            if not self._inside(place):
                continue
            gone = contextlib.suppress(FileNotFoundError, IsADirectoryError)
            with gone, _files.folder_of(self.path(place)) as (folder, name):
                os.unlink(name, dir_fd=folder)
            parts = place.split("/")
            folders |= {"/".join(parts[:count]) for count in range(1, len(parts))}
        for one in sorted(folders, key=len, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(self.path(one))

    def size(self, places: Iterable[str]) -> int:
        """Bytes that come free when these are removed."""
        size = 0
        for place in places:
            with contextlib.suppress(OSError):
                status = os.lstat(self.path(place))
                size += 512 * status.st_blocks if status.st_nlink == 1 else 0
        return size

    def free(self) -> int:
        """Bytes that this user may still write."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize


def _own() -> tuple[int, int]:
    return os.geteuid(), os.getegid()


def open_source(path: str) -> int:
    """Open a file of the operator's, which may be behind links. Raises OSError for what is no regular file."""
    try:
        return _files.open_regular(os.path.realpath(path))
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.EINVAL, "it was exchanged for a link meanwhile", path) from None


def sha256_of(path: str, report: Callable[[int], None] = lambda count: None) -> str:
    digest = hashlib.sha256()
    with os.fdopen(open_source(path), "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
            report(len(block))
    return digest.hexdigest()
