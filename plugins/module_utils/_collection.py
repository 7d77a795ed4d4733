# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator has already: GGUF files in whatever folders, and the store of an Ollama.

Shards are one model. A projector goes with the only model of its folder. Ollama keeps every layer of a model as a blob
named by its SHA-256, the weights being a GGUF, and a manifest for each name that says which layers belong together.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _json
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import SHARD, is_draft, is_projector
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, component, printable

DEEPEST = 64  # folders below one that is looked through
LARGEST_MANIFEST = 1 << 20  # bytes
LAYER = "application/vnd.ollama.image."
_FIRST_SHARD = re.compile(r"-00001-of-[0-9]{5}\.gguf\Z")
_LONGEST = 200  # characters of a name
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Found(NamedTuple):
    """One model, under the name that suits a models directory. All paths."""

    name: str
    path: str  # of several shards the first
    projector: str | None
    size: int  # bytes, the projector included
    origin: str  # where the name is from: a file, or `ollama:` and Ollama's name for it


class Collection:
    """All models below some folders. `problems` tells what cannot be taken, and why."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._found: dict[str, Found] = {}

    @property
    def models(self) -> list[Found]:
        return [self._found[name] for name in sorted(self._found)]

    def add(self, path: str) -> None:
        """Look through a folder and all below it. OSError when it cannot be read itself."""
        os.listdir(path)
        walk = os.walk(
            path, onerror=lambda error: self.problems.append(f"{printable(error.filename)}: {error.strerror}")
        )
        for folder, folders, files in walk:
            folders[:] = sorted(name for name in folders if self._usable(folder, name))
            if folder.count(os.sep) - path.count(os.sep) > DEEPEST:
                self.problems.append(f"{folder} lies too deep below {path}: name it itself")
                folders.clear()
                continue
            if {"manifests", "blobs"} <= set(folders):
                folders[:] = [name for name in folders if name not in ("manifests", "blobs")]
                found = list(self._ollama(folder))
            else:
                names = [name for name in files if name.endswith(".gguf") and self._usable(folder, name)]
                found = list(self._files(folder, names))
            for model in found:
                self._take(model)

    def _usable(self, folder: str, name: str) -> bool:
        """Whether a name can be a model's or its folder's."""
        try:
            component(name)
        except BadName as error:
            self.problems.append(f"{printable(os.path.join(folder, name))} cannot be taken: {error}; rename it")
            return False
        return True

    def _take(self, model: Found) -> None:
        known = self._found.setdefault(model.name, model)
        if os.path.realpath(known.path) != os.path.realpath(model.path):
            self.problems.append(
                f"{model.origin} would be {model.name} as well as {known.origin}, which is taken: name it with its path"
                f" ({model.path})"
            )

    # --- loose files ------------------------------------------------------------------------------------------------

    def _files(self, folder: str, names: list[str]) -> Iterator[Found]:
        sizes = self._sizes(folder, names)
        projectors = sorted(name for name in sizes if is_projector(name))
        weights = [name for name in sorted(sizes) if not is_projector(name) and not is_draft(name)]
        firsts = [name for name in weights if not SHARD.search(name) or _FIRST_SHARD.search(name)]
        projector = projectors[0] if len(projectors) == 1 and len(firsts) == 1 else None
        if projectors and not projector:
            self.problems.append(
                f"{folder} has {len(projectors)} projectors and {len(firsts)} models, so which goes with which is not"
                f" clear: name it in the inventory ({', '.join(projectors)})"
            )
        for first in firsts:
            stem = SHARD.sub("", first)
            parts = [name for name in weights if name == first or SHARD.sub("", name) == stem]
            yield Found(
                _name(stem[: -len(".gguf")] if stem.endswith(".gguf") else stem),
                os.path.join(folder, first),
                os.path.join(folder, projector) if projector else None,
                sum(sizes[name] for name in [*parts, *([projector] if projector else [])]),
                os.path.join(folder, first),
            )

    def _sizes(self, folder: str, names: list[str]) -> dict[str, int]:
        sizes = {}
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError as error:
                self.problems.append(f"{path}: {error.strerror}")
                continue
            if stat.S_ISREG(status.st_mode):
                sizes[name] = status.st_size
            else:
                self.problems.append(f"{path} cannot be taken: it is not a regular file")
        return sizes

    # --- Ollama -----------------------------------------------------------------------------------------------------

    def _ollama(self, store: str) -> Iterator[Found]:
        manifests = os.path.join(store, "manifests")
        for folder, folders, files in os.walk(manifests):
            folders.sort()
            folders[:] = [name for name in folders if self._usable(folder, name)]
            for file in sorted(name for name in files if self._usable(folder, name)):
                path = os.path.join(folder, file)
                name = _ollama_name(os.path.relpath(path, manifests))
                try:
                    yield self._of_manifest(store, path, name)
                except (OSError, ValueError) as error:
                    self.problems.append(f"ollama:{name} cannot be taken: {error}")

    def _of_manifest(self, store: str, path: str, name: str) -> Found:
        manifest = _json.parse(_files.read(path, LARGEST_MANIFEST))
        layers = manifest.get("layers") if isinstance(manifest, dict) else None
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise ValueError(f"{path} is no manifest of Ollama's")
        blobs: dict[str, list[str]] = {}
        for layer in layers:
            blobs.setdefault(str(layer.get("mediaType")), []).append(_blob(store, layer))
        models, projectors = (blobs.get(LAYER + kind, []) for kind in ("model", "projector"))
        if LAYER + "adapter" in blobs:
            raise ValueError("it is a model with an adapter, which no preset can join from here; take its base model")
        if len(models) != 1 or len(projectors) > 1:
            raise ValueError(f"one GGUF was wanted, it has {len(models)}, and {len(projectors)} projectors")
        for blob in [*models, *projectors]:
            with os.fdopen(_files.open_regular(os.path.realpath(blob)), "rb") as weights:
                if weights.read(4) != b"GGUF":
                    raise ValueError(f"{blob} is no GGUF")
        return Found(
            _name(name.rpartition("/")[2].removesuffix(":latest").replace(":", "-")),
            models[0],
            projectors[0] if projectors else None,
            sum(os.stat(blob).st_size for blob in [*models, *projectors]),
            f"ollama:{name}",
        )


def _blob(store: str, layer: Any) -> str:
    digest = _DIGEST.fullmatch(str(layer.get("digest")))
    if not digest:
        raise ValueError(f"a layer's digest was wanted, {printable(layer.get('digest'))!r} was found")
    return os.path.join(store, "blobs", f"sha256-{digest[1]}")


def _ollama_name(path: str) -> str:
    """HOST/USER/NAME/TAG as people write it: without Ollama's own host and user."""
    parts = path.split(os.sep)
    head = [part for part in parts[:-2] if part not in ("registry.ollama.ai", "library")]
    return "/".join([*head, ":".join(parts[-2:])])


def _name(text: str) -> str:
    """A name that a models directory and a preset can carry."""
    return re.sub(r"[^A-Za-z0-9._+@-]", "-", text).lstrip("._+@-")[:_LONGEST] or "model"
