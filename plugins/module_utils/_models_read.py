# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A models directory, or one GGUF file, as modules return it."""

from __future__ import annotations

import grp
import os
import pathlib
import pwd
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_info import Cache, model_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import Entry, Reader, View, view


class ReadError(Exception):
    """What was expected and what was found, in one message for the operator."""


def read_models(path: str, user: str | None = None, cache: str | None = None) -> dict[str, Any]:
    """What the module gguf_info returns. `user`: whose rights are looked at. `cache`: its file, "" for none.

    Raises ReadError.
    """
    if not os.path.exists(path):
        raise ReadError(f"path must be a GGUF file or a directory of them; nothing is at {path}")
    seen = _view(path, user)
    known = _cache(cache)
    models = [model_of(entry, known) for entry in seen.entries]
    known.save()
    if not os.path.isdir(path) and models[0]["error"]:
        raise ReadError(models[0]["error"])
    return {"models": models, "problems": seen.problems, "blocking": seen.blocking}


def _view(path: str, user: str | None) -> View:
    if not os.path.isdir(path):
        return View([Entry(os.path.basename(path).replace(".gguf", ""), path)], [], [])
    try:
        return view(path, _reader(user) if user else None)
    except OSError as error:
        raise ReadError(f"the directory {path} cannot be read: {error.strerror}") from None


def _reader(name: str) -> Reader:
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return Reader(-1, frozenset())
    groups = {group.gr_gid for group in grp.getgrall() if name in group.gr_mem}
    return Reader(user.pw_uid, frozenset({user.pw_gid, *groups}))


def _cache(path: str | None) -> Cache:
    if path is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(pathlib.Path.home(), ".cache")
        path = os.path.join(home, "homelab.llamacpp", "gguf_info.json")
    return Cache(path or None)
