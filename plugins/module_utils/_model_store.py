# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A models directory and the record of what was placed in it: when, sizes, times of change, checksums."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._model_source import Resolved

FORMAT = 1
RECORD = ".model_file.json"
PART = ".part"
PARTS = re.compile(r"\.gguf(?:\.[0-9]+)?\.part(?:\.journal(?:\.new)?)?\Z")
BLOCK = 1 << 20  # bytes

Entry = dict[
    str, Any
]  # of the record: identity, commit, files by place, placed (seconds since the epoch, 0 for found there)


class Store:
    def __init__(self, root: str, record: str | None) -> None:
        self.root = root
        self.record_path = record or os.path.join(root, RECORD)
        self.record: dict[str, Entry] = {}
        self.damaged: set[str] = set()  # places whose content is not what it was
        self.read()

    def path(self, place: str) -> str:
        return os.path.join(self.root, place)

    # --- the record ---------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """The record as it is now. One that cannot be read is none: what is in place is then looked at again."""
        self.record = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            with open(self.record_path, encoding="utf-8") as file:
                found = json.load(file)
            if found["format"] == FORMAT:
                self.record = dict(found["models"])

    def write(self, name: str, entry: Entry | None) -> None:
        """Amend the record by one model, beside other runs that may do so too."""
        folder = os.path.dirname(self.record_path)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        with open(f"{self.record_path}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.read()
            if entry is None:
                self.record.pop(name, None)
            else:
                self.record[name] = entry
            handle, beside = tempfile.mkstemp(dir=folder, prefix=".model_file-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    os.fchmod(file.fileno(), 0o644)
                    json.dump({"format": FORMAT, "models": self.record}, file, indent=1, sort_keys=True)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(beside, self.record_path)
            except BaseException:
                os.unlink(beside)
                raise

    def entry_of(self, identity: str, resolved: Resolved, sums: Mapping[str, str]) -> Entry:
        """What the record says of a model that is in its place now."""
        files: dict[str, Any] = {}
        for item in resolved.items:
            status = os.lstat(self.path(item.place))
            if item.method == "link":
                files[item.place] = {"role": item.role, "size": item.size, "link": item.path}
            else:
                files[item.place] = {"role": item.role, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
                files[item.place]["sha256"] = sums[item.place]
        return {"identity": identity, "commit": resolved.commit, "files": files}

    def as_recorded(self, place: str, found: Mapping[str, Any]) -> bool:
        """Whether a file is as the record says, by a look at it and without reading it."""
        path = self.path(place)
        try:
            if "link" in found:
                return os.readlink(path) == found["link"] and os.path.exists(path)
            status = os.lstat(path)
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (found["size"], found["mtime_ns"])

    def in_place(self, entry: Entry) -> bool:
        files: dict[str, Any] = entry["files"]
        return all(place not in self.damaged and self.as_recorded(place, found) for place, found in files.items())

    def verify(self, report: Callable[[int], None]) -> None:
        """Find what is damaged. Reads every file, and tells how many bytes it has read more."""
        files = {place: found for entry in self.record.values() for place, found in entry["files"].items()}
        here = [place for place, found in files.items() if "sha256" in found and self.as_recorded(place, found)]
        self.damaged = {place for place in here if sha256_of(self.path(place), report) != files[place]["sha256"]}

    def recorded_size(self) -> int:
        """Bytes of all that was placed."""
        return sum(found["size"] for entry in self.record.values() for found in entry["files"].values())

    def twin(self, sha256: str, place: str) -> str | None:
        """Another place with the same content."""
        for entry in self.record.values():
            files: dict[str, Any] = entry["files"]
            for other, found in files.items():
                usable = other != place and other not in self.damaged and found.get("sha256") == sha256
                if usable and self.as_recorded(other, found):
                    return other
        return None

    # --- what is in the directory -------------------------------------------------------------------------------------

    def of_model(self, name: str) -> list[str]:
        """All places of a model: what the record names, its file, its folder's models, and their part files."""
        places = set(self.record.get(name, {"files": ()})["files"])
        places |= {place for place in self._files() if self.model_of(place) == name}
        if os.path.islink(self.path(name)):
            places.add(name)
        return sorted(place for place in places if os.path.lexists(self.path(place)))

    def parts(self, names: Iterable[str]) -> list[str]:
        """Part files and journals of models that are not named."""
        kept = set(names)
        return sorted(place for place in self._files() if PARTS.search(place) and self.model_of(place) not in kept)

    def model_of(self, place: str) -> str:
        """The model that a place belongs to, by its name."""
        return place.split(os.sep, maxsplit=1)[0].partition(".gguf")[0]

    def _files(self) -> Iterator[str]:
        """Models and part files, down to the folder of a draft model; not what is behind links to folders."""
        for base, folders, files in os.walk(self.root):
            inner = os.path.relpath(base, self.root)
            if inner.count(os.sep):
                folders.clear()
            for file in files:
                if file.endswith(".gguf") or PARTS.search(file):
                    yield os.path.normpath(os.path.join(inner, file))

    def remove(self, places: Iterable[str]) -> None:
        """These, and the folders that are empty then."""
        folders = set()
        for place in places:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(place))
            while os.path.dirname(place):
                place = os.path.dirname(place)
                folders.add(place)
        for folder in sorted(folders, key=len, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(self.path(folder))

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


def sha256_of(path: str, report: Callable[[int], None] = lambda count: None) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
            report(len(block))
    return digest.hexdigest()
