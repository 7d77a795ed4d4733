# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the router's host knows without asking the router: its two records and its folder.

Both records lie in directories of root's. One in a directory that another user can write to is not believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model, RouterError

# Models with one of these options answer with vectors or scores, not with text.
_NO_TEXT = frozenset({"embedding", "embeddings", "rerank", "reranking"})

Digests = Mapping[str, "str | None"]

# As sha256sum writes it.
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>/.*)")


@dataclass(frozen=True)
class Sized:
    """A model with its file (the first one of several) and that one's `size` in bytes."""

    model: Model
    path: str
    size: int

    @property
    def writes(self) -> bool:
        return writes(self.model)


def writes(model: Model) -> bool:
    """Whether it answers with text."""
    return not _NO_TEXT & model.options.keys()


def by_size(models: Iterable[Model]) -> list[Sized]:
    """Those whose file is there: first the ones that answer with text, the smallest first."""
    found = []
    for model in models:
        if "--model" in model.args[:-1]:
            path = model.args[model.args.index("--model") + 1]
            with contextlib.suppress(OSError):
                found.append(Sized(model, path, os.path.getsize(path)))
    return sorted(found, key=lambda entry: (not entry.writes, entry.size))


def digests(paths: Iterable[str]) -> dict[str, str | None]:
    """The SHA-256 of each file, None for one that is not there."""
    return {path: _digest(path) for path in paths}


def read_applied(path: str) -> dict[str, str] | None:
    """The record of what the running process started with, path to digest.

    None when there is none, and when another user could have written it. RouterError when it cannot be read.
    """
    try:
        text = _read(path)
    except (FileNotFoundError, _files.UntrustedPath):
        return None
    except OSError as error:
        raise RouterError(
            f"applied: expected a readable record at {path}, found: {error.strerror}; run as root (become)"
        ) from None
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {line["name"]: line["digest"] for line in found if line}


def amend_applied(path: str, changed: Digests) -> None:
    """Put these digests in the place of the record's own; its owner and mode stay."""
    record = {**(read_applied(path) or {}), **changed}
    lines = [f"{digest}  {name}\n" for name, digest in record.items() if digest]
    _replace(path, "".join(lines))


def read_pending(path: str) -> list[str]:
    """The models that an earlier run stopped and has not loaded again."""
    try:
        names = json.loads(_read(path))
    except FileNotFoundError:
        return []
    except _files.UntrustedPath as error:
        raise RouterError(f"pending: {error.strerror}") from None
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RouterError(f"pending: a JSON list of model names was wanted in {path}; remove that file")
    return names


def write_pending(path: str, names: list[str]) -> None:
    """Remember these; an empty list takes the file away."""
    if names:
        _replace(path, json.dumps(names) + "\n")
        return
    with contextlib.suppress(FileNotFoundError), _files.folder_of(path) as (folder, name):
        os.unlink(name, dir_fd=folder)


def folder_ids(folder: str) -> set[str]:
    """The ids under which a router serves a models folder, by its own rules; OSError when it cannot read it."""
    ids = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                files = (name for name in os.listdir(entry) if os.path.isfile(os.path.join(entry.path, name)))
                if any(map(_is_model, files)):
                    ids.add(entry.name)
            elif entry.is_file() and _is_model(entry.name):
                ids.add(entry.name.replace(".gguf", ""))
    return ids


def _digest(path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        # Not to wait for the other end of a FIFO.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise RouterError(f"{path}: expected a regular file, found something else; remove it")
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RouterError(f"{path} was wanted readable: {error.strerror}; run the task as root (become)") from None
    return digest.hexdigest()


def _is_model(name: str) -> bool:
    side_file = "mmproj" in name or name.startswith(("mtp-", "dspark-", "dflash-"))
    return name.endswith(".gguf") and not side_file


def _read(path: str) -> str:
    _files.check_folder(os.path.dirname(path))
    return _files.read(path).decode("utf-8", "surrogateescape")


def _replace(path: str, text: str) -> None:
    try:
        _files.replace(path, text, create_mode=0o755)
    except OSError as error:
        raise RouterError(f"{path} was wanted written, {error.strerror}; mend that, then run again") from None
