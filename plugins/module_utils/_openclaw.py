# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A provider in OpenClaw's configuration: our fields of it, with everything else of the file as its owner wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._json5 import Json5Error, Step, drop, get, put

# What its own prompts and tools take before a word is said.
CONTEXT_WANTED = 40_000
MAX_ANSWER = 8192
PRIMARY = ["agents", "defaults", "model"]
# llama-server compiles the tools' schemas into a grammar; some of OpenClaw's are too large for that.
_COMPAT = {"supportsTools": True, "toolSchemaProfile": "llamacpp"}


def model_entry(model: Mapping[str, Any]) -> dict[str, Any]:
    """`id`, `name`, `context` (tokens, or None) and `max_tokens` (or None) as OpenClaw names them."""
    entry = {"id": model["id"], "name": model.get("name") or model["id"]}
    context = model.get("context")
    if context:
        entry["contextWindow"] = context
        # An answer takes a part of the context that the question has, too.
        entry["maxTokens"] = model.get("max_tokens") or min(MAX_ANSWER, context // 4)
    elif model.get("max_tokens"):
        entry["maxTokens"] = model["max_tokens"]
    return {**entry, "compat": _COMPAT}


def with_provider(
    text: str, name: str, base_url: str, key: str, models: Sequence[Mapping[str, Any]], primary: str | None = None
) -> str:
    """The configuration with the provider and these models, each with what its owner added to it.

    Models that are there keep their places, new ones come after them. `key` stands there as it is given, so it names a
    variable (`${NAME}`). Raises Json5Error.
    """
    path = ["models", "providers", name]
    fields = {"baseUrl": base_url, "apiKey": key, "api": "openai-completions"}
    entries = [model_entry(model) for model in models]
    before = found(text, name).get("models")
    for field, value in fields.items():
        text = put(text, [*path, field], value)
    text = _with_models(text, [*path, "models"], before, entries)
    if primary:
        text = _with_primary(text, f"{name}/{primary}")
    return text


def without_provider(text: str, name: str) -> str:
    """The configuration without the provider. Raises Json5Error."""
    return drop(text, ["models", "providers", name])


def found(text: str, name: str) -> dict[str, Any]:
    """The provider as it stands there, empty when it does not. Raises Json5Error."""
    provider = get(text, ["models", "providers", name])
    if not isinstance(provider, (dict, type(None))):
        raise Json5Error(f"models.providers.{name}: an object was wanted, something else was found")
    return provider or {}


def primary_of(text: str) -> str:
    """The model that agents use by default, empty when none is named. Raises Json5Error."""
    model = get(text, PRIMARY)
    return str((model.get("primary") if isinstance(model, dict) else model) or "")


def _with_models(text: str, path: Sequence[Step], before: Any, entries: Sequence[Mapping[str, Any]]) -> str:
    """The text with these models in the list at `path`, which is `before`."""
    if not isinstance(before, list):
        return put(text, path, entries)
    wanted = {entry["id"]: entry for entry in entries}
    kept = 0
    for model in before:
        name = model.get("id") if isinstance(model, dict) else None
        entry = wanted.pop(name, None) if isinstance(name, str) else None
        if entry is None:
            text = drop(text, [*path, kept])
            continue
        for field, value in entry.items():
            at = [*path, kept, field]
            if field == "compat":
                text = _with_compat(text, at, model.get(field))
            elif model.get(field) != value:  # each put reads the whole text
                text = put(text, at, value)
        kept += 1
    for place, entry in enumerate(wanted.values(), kept):
        text = put(text, [*path, place], entry)
    return text


def _with_compat(text: str, path: Sequence[Step], said: Any) -> str:
    """The text with a model's `compat` at `path`; what its owner says there counts."""
    if not isinstance(said, dict):
        return put(text, path, _COMPAT)
    for name, value in _COMPAT.items():
        if name not in said:
            text = put(text, [*path, name], value)
    return text


def _with_primary(text: str, model: str) -> str:
    """The text with the model that agents use by default: a text, or an object with the ones to fall back to."""
    return put(text, PRIMARY if isinstance(get(text, PRIMARY), str) else [*PRIMARY, "primary"], model)
