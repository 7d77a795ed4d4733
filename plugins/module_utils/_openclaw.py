# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A provider in OpenClaw's configuration: our fields of it, with everything else of the file as its owner wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._json5 import Json5Error, drop, loads, put

# What its own prompts and tools take before a word is said.
CONTEXT_WANTED = 40_000
MAX_ANSWER = 8192
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
    """The configuration with the provider: these models in this order, each with what its owner added to it.

    `key` stands there as it is given, so it names a variable (`${NAME}`). Raises Json5Error.
    """
    text = text if text.strip() else "{}\n"
    path = ["models", "providers", name]
    before = found(text, name)
    fields = {
        "baseUrl": base_url,
        "apiKey": key,
        "api": "openai-completions",
        "models": [_merged(model_entry(model), before.get("models")) for model in models],
    }
    if not before:
        text = put(text, path, fields)
    for field, value in fields.items():
        text = put(text, [*path, field], value)
    if primary:
        text = put(text, ["agents", "defaults", "model", "primary"], f"{name}/{primary}")
    return text


def without_provider(text: str, name: str) -> str:
    """The configuration without the provider. Raises Json5Error."""
    return drop(text, ["models", "providers", name]) if found(text, name) else text


def found(text: str, name: str) -> dict[str, Any]:
    """The provider as it stands there, empty when it does not. Raises Json5Error."""
    data: Any = loads(text) if text.strip() else {}
    for step in ("models", "providers", name):
        if not isinstance(data, dict):
            raise Json5Error(f"an object with {step!r} was wanted, something else was found")
        data = data.get(step, {})
    if not isinstance(data, dict):
        raise Json5Error(f"models.providers.{name}: an object was wanted, something else was found")
    return data


def primary_of(text: str) -> str:
    """The model that agents use by default, empty when none is named."""
    data: Any = loads(text) if text.strip() else {}
    for step in ("agents", "defaults", "model"):
        data = data.get(step, {}) if isinstance(data, dict) else {}
    return str(data.get("primary", "")) if isinstance(data, dict) else str(data)


def _merged(entry: dict[str, Any], before: Any) -> dict[str, Any]:
    """A model's entry with what its owner added: further fields, and other ones of `compat`."""
    same = [item for item in before or [] if isinstance(item, dict) and item.get("id") == entry["id"]]
    if not same:
        return entry
    compat = same[0].get("compat")
    return {**same[0], **entry, "compat": {**entry["compat"], **(compat if isinstance(compat, dict) else {})}}
