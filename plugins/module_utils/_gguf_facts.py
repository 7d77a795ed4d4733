# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a model's memory follows from, taken out of its GGUF header: a few KiB of plain JSON.

A column of one value a layer is a list, or that one value when all layers have it. What libllama knows of an
architecture and its metadata does not say (which layers have a sliding window, which have no KV cache) stands in the
tables below, after the `load_arch_hparams` and `create_memory` of llama.cpp build 11434.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import Array, Model, Tensor
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable

FORMAT = 1  # of the facts; counted up when a change makes older ones useless
MAX_LAYERS = 1024

# Architectures whose KV cache and recurrent state tests hold against libllama's own numbers.
MEASURED = (
    "cohere2",
    "deepseek2",
    "falcon-h1",
    "gemma2",
    "gemma3",
    "gemma4",
    "glm4moe",
    "gpt-oss",
    "granite",
    "granitehybrid",
    "lfm2",
    "llama",
    "mamba2",
    "mistral3",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "qwen3next",
    "qwen35",
    "smollm3",
)

# They attend without a cache.
CACHELESS = (
    "bert",
    "clef",
    "dream",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "llada",
    "llada-moe",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "rnd1",
    "t5encoder",
    "wavtokenizer-dec",
)
# They have no output layer, so that a token embedding without one is not tied to it.
HEADLESS = (*(name for name in CACHELESS if "bert" in name), "t5encoder", "wavtokenizer-dec")

# Where a tensor outside of the layers lies: with the input, which stays on the host, with the first layer, or once on
# each device. All others are part of the output.
INPUT = ("token_embd", "position_embd", "token_types", "per_layer_token_embd", "masked_embd_centroids")
FIRST = ("token_embd_norm", "per_layer_model_proj", "per_layer_proj_norm")
EVERYWHERE = ("rope_freqs", "rope_factors_long", "rope_factors_short")

LAYER = re.compile(r"(?:enc\.|dec\.)?blk\.([0-9]{1,4})\.(.+)")
EXPERTS = re.compile(r"ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\b")
RECURRENT = re.compile(r"ssm_|shortconv\.|time_mix_")
SCAN = re.compile(r"ssm_d\b")
ATTENTION = re.compile(r"attn_(?:k|qkv|kv_a_mqa|kv_b|k_b)\b")


class Window(NamedTuple):
    """How an architecture's sliding window is laid out where the metadata does not say."""

    period: int = 0  # of so many layers the last one is full; 0: the metadata has to say
    first: bool = False  # the first one is full instead
    default: int = 0  # tokens, without the key
    fixed: int = 0  # tokens, whatever the key says


WINDOWS = {
    "afmoe": Window(4),
    "cohere2": Window(4),
    "cohere2moe": Window(4, first=True),
    "exaone-moe": Window(4, default=128),
    "exaone4": Window(4, default=4096),
    "gemma2": Window(2, default=4096),
    "gemma3": Window(6),
    "gemma3n": Window(5),
    "gemma4": Window(),
    "gpt-oss": Window(2),
    "granite_swa": Window(),
    "laguna": Window(4, first=True),
    "llama4": Window(4, default=8192, fixed=8192),
    "maple": Window(),
    "mellum": Window(4),
    "mimo2": Window(),
    "muse-glimmer": Window(4),
    "olmo2": Window(4),
    "plamo3": Window(8),
    "smallthinker": Window(4, first=True, fixed=4096),
    "spark2_5": Window(),
    "step35": Window(),
}


class _Keys:
    """The metadata, by keys without the architecture's name."""

    def __init__(self, model: Model, architecture: str) -> None:
        self._metadata = model.metadata
        self._prefix = architecture + "."

    def number(self, key: str, default: int = 0) -> int:
        """A whole number of 0 or more; the largest one of an array."""
        value = self._metadata.get(self._prefix + key)
        if isinstance(value, Array):
            return max((int(item) for item in value.items or () if self._sound(item)), default=default)
        return int(value) if isinstance(value, (int, float)) and self._sound(value) else default

    def column(self, key: str, layers: int, default: int = 0) -> list[int]:
        """One whole number a layer."""
        value = self._metadata.get(self._prefix + key)
        if isinstance(value, Array) and value.items is not None:
            items = [int(item) if self._sound(item) else default for item in value.items[:layers]]
            return items + [default] * (layers - len(items))
        return [self.number(key, default)] * layers

    def flags(self, key: str, layers: int) -> list[bool] | None:
        value = self._metadata.get(self._prefix + key)
        if not isinstance(value, Array) or value.items is None or len(value.items) < layers:
            return None
        return [bool(item) for item in value.items[:layers]]

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._metadata

    @staticmethod
    def _sound(value: Any) -> bool:
        return isinstance(value, (int, float)) and 0 <= value < 1 << 40


def column(values: Sequence[Any]) -> Any:
    """A list of one value a layer, as short as it can be."""
    return values[0] if values and all(value == values[0] for value in values) else list(values)


def _base(name: str) -> str:
    return name.partition(".")[0]


def weights_of(model: Model, layers: int, tied: bool) -> dict[str, Any]:
    """Bytes of the weights by the place where libllama puts them; a layer's experts apart from the others."""
    by_layer, experts = [0] * layers, [0] * layers
    # LFM2 has its last norm under the name of another one.
    first = FIRST[1:] if str(model.metadata.get("general.architecture")).startswith("lfm2") else FIRST
    sizes = {"input": 0, "first": 0, "every": 0, "output": 0}
    for tensor in model.tensors:
        match = LAYER.fullmatch(tensor.name)
        if match:
            layer = int(match[1])
            if layer < layers:  # others belong to a draft head that is not loaded with the model
                (experts if EXPERTS.match(match[2]) else by_layer)[layer] += tensor.size
            continue
        name = _base(tensor.name)
        place = "input" if name in INPUT else "first" if name in first else "every" if name in EVERYWHERE else "output"
        sizes[place] += tensor.size
        if tied and name == "token_embd":
            sizes["output"] += tensor.size
    return {**sizes, "dense": column(by_layer), "experts": column(experts)}


def windows_of(architecture: str, keys: _Keys, layers: int, recurrent: Sequence[bool]) -> tuple[int, list[bool]]:
    """The sliding window in tokens, 0 for none, and which layers have it."""
    none = [False] * layers
    window = keys.number("attention.sliding_window")
    if architecture in ("lfm2", "lfm2moe"):
        return (window, [not one for one in recurrent]) if window else (0, none)
    rule = WINDOWS.get(architecture)
    if rule is None or (architecture == "exaone4" and layers != 64):
        return 0, none
    if rule.default and "attention.sliding_window" not in keys:
        window = rule.default
    if not window:
        return 0, none
    flags = keys.flags("attention.sliding_window_pattern", layers)
    if flags is None:
        period = keys.number("attention.sliding_window_pattern", rule.period)
        full = 0 if rule.first else period - 1
        flags = [period == 0 or layer % period != full for layer in range(layers)]
    return (rule.fixed or window, flags) if any(flags) else (0, none)


def state_of(keys: _Keys, embd: int, heads: int) -> int:
    """Bytes that one recurrent layer keeps for a slot."""
    conv, state, inner = (keys.number(f"ssm.{key}") for key in ("conv_kernel", "state_size", "inner_size"))
    if "wkv.head_size" in keys:
        row, matrix = keys.number("token_shift_count", 2) * embd, embd * keys.number("wkv.head_size")
    elif "shortconv.l_cache" in keys:
        row, matrix = embd * max(0, keys.number("shortconv.l_cache") - 1), 0
    elif "kda.head_dim" in keys:
        head = keys.number("kda.head_dim")
        row, matrix = 3 * (conv - 1 if conv else 3) * heads * head, head * head * heads
    else:
        row = max(0, conv - 1) * (inner + 2 * keys.number("ssm.group_count") * state)
        matrix = state * inner
    return 4 * (row + matrix)


def scan_of(keys: _Keys, selective: bool) -> int:
    """Elements that a recurrent layer computes in for each token: of a selective scan (Mamba), or of a delta rule."""
    inner = keys.number("ssm.inner_size")
    if not selective:
        return round(6.2 * inner)
    mixed = inner + 2 * keys.number("ssm.group_count") * keys.number("ssm.state_size")
    return 4 * inner + 3 * mixed + keys.number("ssm.time_step_rank")


def _shape(tensors: Sequence[Tensor], pattern: str, axis: int) -> int:
    """The largest length of this axis of the tensors with such a name in their layer, 0 when there is none."""
    lengths = (
        tensor.shape[axis]
        for tensor in tensors
        for match in [LAYER.fullmatch(tensor.name)]
        if match and re.fullmatch(pattern, match[2]) and len(tensor.shape) > axis
    )
    return max(lengths, default=0)


def _layers_with(model: Model, layers: int, pattern: re.Pattern[str]) -> list[bool]:
    found = [False] * layers
    for tensor in model.tensors:
        match = LAYER.fullmatch(tensor.name)
        if match and int(match[1]) < layers and pattern.match(match[2]):
            found[int(match[1])] = True
    return found


def facts_of(model: Model) -> dict[str, Any] | None:
    """The facts that the planner needs; None for a file that is no model of language (a projector, an adapter).

    Widths are in elements, weights and state in bytes.
    """
    architecture = model.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture in ("", "clip") or architecture != printable(architecture):
        return None
    keys = _Keys(model, architecture)
    total = keys.number("block_count")
    if not 0 < total <= MAX_LAYERS:
        return None
    # The layers of a draft head count where layers are spread over devices, but neither they nor a cache are loaded.
    loaded = max(0, total - keys.number("nextn_predict_layers")) or total
    embd = keys.number("embedding_length")
    heads = keys.column("attention.head_count", loaded)
    heads_kv = keys.column("attention.head_count_kv", loaded, 0)
    if "attention.head_count_kv" not in keys:
        heads_kv = list(heads)
    recurrent, attention = _layers_with(model, loaded, RECURRENT), _layers_with(model, loaded, ATTENTION)
    if not any(attention):
        attention = [not one for one in recurrent]
    # A linear attention has a fused attn_qkv, too; only where K has a tensor of its own both caches are kept.
    separate = _layers_with(model, loaded, re.compile(r"attn_k\."))
    attention = [has and (not recur or own) for has, recur, own in zip(attention, recurrent, separate)]
    window, windowed = windows_of(architecture, keys, loaded, recurrent)
    mla = "attention.key_length_mla" in keys
    default = embd // heads[0] if heads and heads[0] else 0
    length: Callable[[str], int] = lambda key: keys.number(f"attention.{key}_length", default)  # noqa: E731
    key, value = length("key"), length("value")
    key_swa = keys.number("attention.key_length_swa", key)
    value_swa = keys.number("attention.value_length_swa", value)
    shared_from = loaded - keys.number("attention.shared_kv_layers")
    if architecture == "gemma3n":
        shared_from = min(20, loaded)
    cached = [has and architecture not in CACHELESS and layer < shared_from for layer, has in enumerate(attention)]
    indexer = keys.number("attention.indexer.key_length")  # a second K cache of one head, for sparse attention
    k = [has * (count * (key_swa if swa else key) + indexer) for has, count, swa in zip(cached, heads_kv, windowed)]
    v = [has * count * (value_swa if swa else value) for has, count, swa in zip(cached, heads_kv, windowed)]
    state = state_of(keys, embd, max(heads, default=0))
    names = {tensor.name for tensor in model.tensors}
    tied = "output.weight" not in names and architecture not in HEADLESS
    projected = _shape(model.tensors, r"attn_q\.weight", 1)
    vocabulary = next((tensor.shape[1] for tensor in model.tensors if tensor.name == "token_embd.weight"), 0)
    return {
        "format": FORMAT,
        "architecture": architecture,
        "measured": architecture in MEASURED,
        "ctx_train": keys.number("context_length"),
        "layers": total,
        "loaded": loaded,
        "embd": embd,
        "heads": max(heads, default=0),
        "q": max(projected, max(heads, default=0) * key),
        "head_k": key,
        "head_v": value,
        "vocab": vocabulary,
        "ff": _shape(model.tensors, r"ffn_down\.weight", 0),
        "ff_exp": _shape(model.tensors, r"ffn_down_exps\.weight", 0),
        "experts_used": keys.number("expert_used_count"),
        "scan": scan_of(keys, bool(_layers_with(model, loaded, SCAN).count(True))),
        "mla": mla,
        "window": window,
        "windowed": column(windowed),
        "k": column(k),
        "v": 0 if mla else column(v),
        "state": column([state * one for one in recurrent]),
        "weights": weights_of(model, loaded, tied),
    }
