# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A models directory as llama-server's --models-dir reads it.

A file is a model by its name without .gguf, a folder one by its own name, one level deep. What the router lists
wrongly, passes over, or cannot start with is told in words.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, component, printable

DRAFTS = ("mtp-", "dspark-", "dflash-")
SHARD = re.compile(r"-([0-9]{5})-of-([0-9]{5})\.gguf\Z")


class Entry(NamedTuple):
    """One model that the router lists. All paths; the projector and the draft model come out of its folder."""

    id: str
    path: str  # the file that the router loads: of several shards the first
    projector: str | None = None
    draft: str | None = None


class View(NamedTuple):
    entries: list[Entry]  # by id
    problems: list[str]
    blocking: list[str]  # those problems with which the router does not start


class Reader(NamedTuple):
    """The user that the server runs as; root reads everything."""

    uid: int
    groups: frozenset[int]

    def may(self, status: os.stat_result, bits: int) -> bool:
        """Whether this user has these permission bits (4 to read, 1 to look into) by a file's mode."""
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self.groups else 0
        return self.uid == 0 or (status.st_mode >> shift) & bits == bits

    def reaches(self, path: str) -> bool:
        """Whether this user may go through every folder above what a path leads to, if there is such a thing."""
        folder = os.path.realpath(path)
        while os.path.exists(folder) and folder != "/":
            folder = os.path.dirname(folder)
            if not self.may(os.stat(folder), 1):
                return False
        return True


def is_projector(name: str) -> bool:
    return "mmproj" in name


def is_draft(name: str) -> bool:
    return name.startswith(DRAFTS)


class _Folder:
    """One look at a folder, in the order that the file system tells, which is the router's."""

    def __init__(self, path: str, shown: str, problems: list[str], reader: Reader | None) -> None:
        self.files: list[str] = []
        self.folders: list[str] = []
        with os.scandir(path) as entries:
            for entry in entries:
                self._sort(entry, f"{shown}{entry.name}", problems, reader)

    def _sort(self, entry: os.DirEntry[str], shown: str, problems: list[str], reader: Reader | None) -> None:
        try:
            component(entry.name)
        except BadName as error:
            if entry.name.endswith(".gguf") or entry.is_dir():
                problems.append(f"{printable(shown)} has a name that no preset can have: {error}; rename it")
            return
        if reader and entry.is_symlink() and not reader.reaches(entry.path):
            problems.append(
                f"{shown} leads to {os.path.realpath(entry.path)}, where the server's user may not go, and the router"
                " passes over it: open the folders above it to that user, or copy the model"
            )
            return
        try:
            if entry.is_dir():
                self.folders.append(entry.name)
                return
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink():
                problems.append(
                    f"{shown} is a link that leads nowhere, and the router passes over it: mend or remove it"
                )
            else:
                problems.append(f"{shown} cannot be looked at ({error.strerror})")
            return
        if entry.name.endswith(".gguf"):
            if not stat.S_ISREG(status.st_mode):
                problems.append(f"{shown} is not a regular file, and the router passes over it")
                return
            self.files.append(entry.name)
            if reader and not reader.may(status, 4):
                problems.append(f"{shown} cannot be read by the server's user: loading its model will fail")
        elif entry.name.lower().endswith(".gguf"):
            problems.append(f"{shown} is passed over: the router wants its name to end in .gguf, in small letters")


def _in_folder(path: str, name: str, problems: list[str], blocking: list[str], reader: Reader | None) -> Entry | None:
    """The model of a folder, chosen as the router chooses."""
    own = os.path.join(path, name)
    status = os.stat(own)
    try:
        if reader and not reader.may(status, 5):
            raise PermissionError(13, "the server's user may not")
        folder = _Folder(own, f"{name}/", problems, reader)
    except OSError as error:
        blocking.append(
            f"the folder {name} cannot be read ({error.strerror}), and with such a folder the router does not start:"
            " give the server's user the right to, or take it out of the models directory"
        )
        return None
    first = last = projector = draft = None
    plain = []
    for file in folder.files:
        if is_projector(file):
            projector = file
        elif is_draft(file):
            draft = draft or file
        elif "-00001-of-" in file:
            plain.append(file)
            first = file
        else:
            if not SHARD.search(file):
                plain.append(file)
            last = file
    chosen = first or last
    if chosen is None:
        if folder.files:
            problems.append(f"the folder {name} has {', '.join(sorted(folder.files))} and no model to go with it")
        return None
    if len(plain) > 1:
        problems.append(
            f"the folder {name} has {len(plain)} models ({', '.join(sorted(plain))}), of which the router serves one,"
            f" now {chosen}: give each its own folder"
        )
    if len([file for file in folder.files if is_projector(file)]) > 1:
        problems.append(f"the folder {name} has several projectors, of which the router takes one, now {projector}")
    return Entry(
        name,
        os.path.join(own, chosen),
        os.path.join(own, projector) if projector else None,
        os.path.join(own, draft) if draft else None,
    )


def view(path: str, reader: Reader | None = None) -> View:
    """What the router makes of a models directory. Raises OSError when that cannot be read itself.

    `reader` is the user that the server runs as, whose rights are looked at; None: only our own.
    """
    problems: list[str] = []
    blocking: list[str] = []
    folder = _Folder(path, "", problems, reader)
    found: dict[str, Entry] = {}

    def add(entry: Entry) -> None:
        if entry.id in found:
            problems.append(
                f"{os.path.basename(found[entry.id].path)} and {os.path.relpath(entry.path, path)} both are the model"
                f" {entry.id}, of which the router serves one: rename one of them"
            )
        found[entry.id] = entry

    for name in folder.folders:
        model = _in_folder(path, name, problems, blocking, reader)
        if model:
            add(model)
    loose: dict[str, list[str]] = {}
    for name in folder.files:
        if is_projector(name) or is_draft(name):
            kind = "projector" if is_projector(name) else "draft model"
            problems.append(f"{name} is a {kind} on its own, and the router passes over it: it belongs into the folder"
                            " of its model")  # fmt: skip
            continue
        add(Entry(name.replace(".gguf", ""), os.path.join(path, name)))
        if SHARD.search(name):
            loose.setdefault(SHARD.sub("", name), []).append(name)
    for stem, names in sorted(loose.items()):
        problems.append(
            f"{', '.join(sorted(names))} lie loose, and the router lists each as a model: put them into a folder {stem}"
        )
    return View([found[name] for name in sorted(found)], sorted(problems + blocking), sorted(blocking))
