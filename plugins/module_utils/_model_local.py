# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Models that are on the target already: at a path, or in a cache of llama.cpp or of huggingface_hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _gguf
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._hub import RepoFile, choose
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import is_draft, is_projector
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import below, component


class Found(NamedTuple):
    """A file of a source, before it is known where it goes."""

    name: str
    size: int
    sha256: str
    url: str = ""
    path: str = ""
    method: str = ""


def loaded_of(path: str) -> str:
    """The file that a router would load: the path itself, or what is in a folder."""
    if not os.path.isdir(path):
        return path
    models = [name for name in _ggufs(path) if not is_projector(name) and not is_draft(name)]
    stems = {_gguf.SHARD.sub(r"\g<stem>", name) for name in models}
    if len(stems) != 1:
        raise FetchError(
            f"the folder {path} was expected to hold one model, it has {', '.join(models) or 'none'}; name its file"
        )
    return os.path.join(path, models[0])


def _ggufs(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".gguf"))
    except OSError as error:
        raise FetchError(f"the folder {folder} cannot be read: {error.strerror}") from None


def at_path(path: str, method: str) -> list[Found]:
    """Files on the target, whole. A folder that is linked counts as one file."""
    if not os.path.exists(path):
        raise FetchError(f"path must be a GGUF file or a folder; nothing is at {path}. Is its storage mounted?")
    loaded = loaded_of(path)
    try:
        model = _gguf.read_model(loaded)
    except _gguf.GGUFError as error:
        raise FetchError(str(error)) from None
    if not model.complete:
        lacks = ", ".join(model.missing) or "its end"
        raise FetchError(f"the model at {loaded} must be whole; it lacks {lacks}. Bring it, or name another source")
    files = list(model.files)
    if os.path.isdir(path):
        files += [os.path.join(path, name) for name in _ggufs(path) if is_projector(name) or is_draft(name)]
        if method == "link":
            return [Found("", sum(map(os.path.getsize, files)), "", path=path, method=method)]
    return [Found(os.path.basename(file), os.path.getsize(file), "", path=file, method=method) for file in files]


def cached(source: Mapping[str, Any], role: str) -> list[Found]:
    """Files of a repository that a cache of llama.cpp or of huggingface_hub has."""
    owner, name = source["repo"].split("/")
    base = os.path.join(source["cache"], f"models--{owner}--{name}")
    flat = f"{owner}_{name}_"  # as llama.cpp did before it took over the hub's layout
    revision = below(source["revision"], "a revision", deepest=8)
    try:
        said = _files.read(os.path.join(base, "refs", revision), most=4096).decode("ascii", "replace").strip()
        commit = component(said, "a commit in the cache's refs")
    except OSError:
        commit = revision
    snapshot = os.path.join(base, "snapshots", commit)
    paths = {
        os.path.relpath(os.path.join(folder, file), snapshot): os.path.join(folder, file)
        for folder, _folders, files in os.walk(snapshot)
        for file in files
    }
    if not paths and os.path.isdir(source["cache"]):
        paths = {
            entry.name[len(flat) :]: entry.path for entry in os.scandir(source["cache"]) if entry.name.startswith(flat)
        }
    files = [
        RepoFile(inner, os.path.getsize(path), "") for inner, path in sorted(paths.items()) if os.path.isfile(path)
    ]
    chosen = choose(
        files, f"the cache {source['cache']} of {source['repo']}", role, source.get("file"), source.get("quant")
    )
    # A snapshot's files are links into the cache's own store: the link is to lead to the content.
    return [
        Found(os.path.basename(one.path), one.size, "", path=os.path.realpath(paths[one.path]), method=source["method"])
        for one in chosen.files
    ]
