# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the router's host knows without asking the router: its two records and its folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    """The record of what the running process started with, path to digest; None when there is none."""
    try:
        # Its folder belongs to the service's user, who is not to lead root to other files by it.
        with open(path, encoding="utf-8", errors="surrogateescape", opener=_open_no_link) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RouterError(f"applied: {path} was wanted readable: {error.strerror}; run as root (become)") from None
    found = (_LINE.fullmatch(line) for line in lines)
    return {line["name"]: line["digest"] for line in found if line}


def amend_applied(path: str, changed: Digests) -> None:
    """Put these digests in the place of the record's own; its owner and mode stay."""
    record = {**(read_applied(path) or {}), **changed}
    lines = [f"{digest}  {name}\n" for name, digest in record.items() if digest]
    _replace(path, "".join(lines))


def read_pending(path: str) -> list[str]:
    """The models that an earlier run stopped and has not loaded again."""
    try:
        with open(path, encoding="utf-8") as file:
            names = json.load(file)
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RouterError(f"pending: a JSON list of model names was wanted in {path}; remove that file")
    return names


def write_pending(path: str, names: list[str]) -> None:
    """Remember these; an empty list takes the file away."""
    if names:
        _replace(path, json.dumps(names) + "\n")
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


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
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RouterError(f"{path} was wanted readable: {error.strerror}; run the task as root (become)") from None
    return digest.hexdigest()


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _is_model(name: str) -> bool:
    side_file = "mmproj" in name or name.startswith(("mtp-", "dspark-", "dflash-"))
    return name.endswith(".gguf") and not side_file


def _replace(path: str, text: str) -> None:
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=".new-", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                _keep_owner_and_mode(path, file.fileno())
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        raise RouterError(f"{path} was wanted written, {error.strerror}; mend that, then run again") from None


def _keep_owner_and_mode(path: str, handle: int) -> None:
    try:
        old = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        os.fchmod(handle, 0o644)
    else:
        os.fchown(handle, old.st_uid, old.st_gid)
        os.fchmod(handle, old.st_mode & 0o777)
