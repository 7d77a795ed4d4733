# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a GGUF model is, in a few words and the planner's facts, and a cache of that by path, size and mtime."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _json
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import Array, GGUFError, Model, read_model
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import FORMAT, facts_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import Entry
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable

# llama_ftype of llama.cpp's llama.h, as general.file_type has it (the LlamaFileType of PyPI's gguf 0.19).
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0",
}  # fmt: skip
LARGEST_CACHE = 64 << 20  # bytes; some KiB a model
SENSES = {"clip.has_vision_encoder": "vision", "clip.has_audio_encoder": "audio"}


def quantization_of(model: Model) -> str | None:
    """The name of the file's quantization, else the type of most of its weights in lower case."""
    kind = model.metadata.get("general.file_type")
    if isinstance(kind, int) and kind in FILE_TYPES:
        return FILE_TYPES[kind]
    sizes: Counter[str] = Counter()
    for tensor in model.tensors:
        sizes[tensor.type] += tensor.size
    return sizes.most_common(1)[0][0] if sizes else None


def _elements(shape: Iterable[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def described(model: Model) -> dict[str, Any]:
    """One file or set of shards as plain JSON. Sizes in bytes."""
    text = {key: printable(value) for key, value in model.metadata.items() if isinstance(value, str)}
    facts = facts_of(model)
    return {
        "files": model.files,
        "missing": model.missing,
        "size": model.size,
        "complete": model.complete,
        "architecture": text.get("general.architecture"),
        "name": text.get("general.name"),
        "quantization": quantization_of(model),
        "parameters": sum(_elements(tensor.shape) for tensor in model.tensors),
        "layers": facts["layers"] if facts else None,
        "ctx_train": facts["ctx_train"] if facts else None,
        "chat_template": bool(text.get("tokenizer.chat_template"))
        or isinstance(model.metadata.get("tokenizer.chat_template"), Array),
        "senses": [sense for key, sense in SENSES.items() if model.metadata.get(key) is True],
        "facts": facts,
    }


def _signature(paths: Iterable[str]) -> list[list[Any]]:
    """Path, size and mtime of each file; what is not there has neither."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
            found.append([path, status.st_size, status.st_mtime_ns])
        except OSError:
            found.append([path, None, None])
    return found


class Cache:
    """What was read before, by path. A file that is not as it was then is read again."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        self._changed = False
        if path:
            with contextlib.suppress(OSError, ValueError):
                _files.check_folder(os.path.dirname(path))
                known = _json.parse(_files.read(path, LARGEST_CACHE))
                if isinstance(known, dict) and known.get("format") == FORMAT and isinstance(known.get("files"), dict):
                    self._known = known["files"]

    def read(self, path: str) -> dict[str, Any]:
        """The description of a model; GGUFError when it cannot be read."""
        path = os.path.abspath(path)
        known = self._known.get(path)
        if isinstance(known, dict) and isinstance(known.get("seen"), list) and isinstance(known.get("model"), dict):
            paths = [one[0] for one in known["seen"] if isinstance(one, list) and one and isinstance(one[0], str)]
            if paths and _signature(paths) == known["seen"]:
                found: dict[str, Any] = known["model"]
                return dict(found)
        model = read_model(path)
        description = described(model)
        self._known[path] = {"seen": _signature([*model.files, *model.missing]), "model": description}
        self._changed = True
        return dict(description)

    def save(self) -> None:
        """Keep what was read, for files that are still there. It is left out where it cannot be written."""
        if not self._path or not self._changed:
            return
        files = {path: known for path, known in self._known.items() if os.path.exists(path)}
        with contextlib.suppress(OSError):
            _files.replace(self._path, json.dumps({"format": FORMAT, "files": files}), mode=0o600, create_mode=0o755)


def model_of(entry: Entry, cache: Cache) -> dict[str, Any]:
    """One model with its projector and draft model; `error` says why one of them cannot be read."""
    result: dict[str, Any] = {"id": entry.id, "path": entry.path, "projector": entry.projector, "draft": entry.draft}
    errors = []
    parts: dict[str, Mapping[str, Any]] = {}
    for kind, path in (("model", entry.path), ("projector", entry.projector), ("draft", entry.draft)):
        if path:
            try:
                parts[kind] = cache.read(path)
            except GGUFError as error:
                errors.append(str(error))
    model = parts.get("model", {})
    for key in ("architecture", "name", "quantization", "parameters", "layers", "ctx_train", "chat_template"):
        result[key] = model.get(key)
    result["files"] = list(model.get("files", [entry.path]))
    result["missing"] = list(model.get("missing", []))
    result["size"] = sum(part["size"] for part in parts.values())
    result["complete"] = not errors and all(part["complete"] for part in parts.values())
    result["modalities"] = ["text", *parts.get("projector", {}).get("senses", [])]
    result["error"] = "; ".join(errors) or None
    facts = model.get("facts")
    if facts:
        facts = dict(facts)
        if "projector" in parts:
            facts["projector"] = parts["projector"]["size"]
        if parts.get("draft", {}).get("facts"):
            facts["draft"] = parts["draft"]["facts"]
    result["facts"] = facts
    return result
