# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one model costs on its devices, from the facts of its file and its options.

Weights, KV cache and recurrent state are what libllama allocates. The compute buffer is a model of ggml's allocator
that was fitted to libllama's memory breakdown (0.7.0, build 11669): the tensors that live at once at the widest place
of the graph. All in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import FORMAT
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import (
    CACHE_TYPES,
    CELL_PAD,
    FLOAT_TYPES,
    HOST,
    MIB,
    Load,
    Part,
    Split,
    VramError,
    layers_of,
    pad,
)

PROJECTOR = 1.31  # what a projector takes at the worst, by its file's size
DRAFT_COMPUTE = 190 * MIB  # what a draft model computes in
NO_FLASH_ATTENTION = ("grok",)  # libllama switches it off for them


class Cost(NamedTuple):
    """What a model takes; `reasons` says of each part whether it is exact, modelled or assumed, and why."""

    parts: dict[int, Part]  # by device
    host: Part
    exactness: str  # exact, but for the compute buffer; or bound
    reasons: dict[str, str]


def check_facts(facts: Any) -> Mapping[str, Any]:
    """Raise VramError for what is not gguf_info's facts of this version."""
    if not isinstance(facts, Mapping) or facts.get("format") != FORMAT:
        raise VramError(
            f"its `facts` must be what gguf_info returns for it (format {FORMAT}); found:"
            f" {facts.get('format') if isinstance(facts, Mapping) else facts!r}; run gguf_info again"
        )
    return facts


def per_layer(facts: Mapping[str, Any], key: str) -> list[int]:
    """A column of the facts, or of its weights, one value for each loaded layer."""
    value = facts[key] if key in facts else facts["weights"][key]
    return list(value) if isinstance(value, list) else [value] * facts["loaded"]


def check_load(facts: Mapping[str, Any], load: Load) -> Load:
    """The load as the server takes it for this model; VramError for what it refuses."""
    if facts["architecture"] in NO_FLASH_ATTENTION:
        load = load._replace(flash_attn=False)
    if load.type_v not in FLOAT_TYPES and not load.flash_attn:
        raise VramError(f"cache-type-v = {load.type_v} needs flash attention, which {facts['architecture']} cannot use")
    if facts["mla"] and load.type_k != load.type_v:
        raise VramError(
            f"{facts['architecture']} keeps K and V in one cache: cache-type-k and cache-type-v must be the same;"
            f" found: {load.type_k} and {load.type_v}"
        )
    for name, kind, width in (("k", load.type_k, facts["head_k"]), ("v", load.type_v, facts["head_v"])):
        if load.flash_attn and width and width % CACHE_TYPES[kind][1]:
            raise VramError(
                f"cache-type-{name} = {kind} packs {CACHE_TYPES[kind][1]} elements, which do not divide its heads of"
                f" {width}: take f16"
            )
    return load


def cells_of(facts: Mapping[str, Any], load: Load) -> tuple[int, int]:
    """Cells of one stream of the KV cache, and of a windowed layer's."""
    if not facts["window"] or load.swa_full:
        return load.cells, load.cells
    window = facts["window"] * (load.slots if load.streams == 1 else 1) + load.tokens
    return load.cells, pad(min(load.cells, window), CELL_PAD)


def row(kind: str, width: int) -> int:
    size, elements = CACHE_TYPES[kind]
    return -(-width // elements) * size


def kv_of(facts: Mapping[str, Any], load: Load) -> list[int]:
    """Bytes of each layer's KV cache."""
    cells = cells_of(facts, load)
    return [
        (row(load.type_k, k) + row(load.type_v, v)) * cells[bool(windowed)] * load.streams
        for k, v, windowed in zip(per_layer(facts, "k"), per_layer(facts, "v"), per_layer(facts, "windowed"))
    ]


def widest(facts: Mapping[str, Any]) -> int:
    """Elements of K and V of the widest layer, for one cell."""
    return max(k + v for k, v in zip(per_layer(facts, "k"), per_layer(facts, "v")))


def masks_of(facts: Mapping[str, Any], load: Load) -> int:
    """Bytes of the attention masks, one for full and one for windowed layers."""
    if not any(per_layer(facts, "k")):
        return 0
    cells, windowed = cells_of(facts, load)
    return (2 if load.flash_attn else 4) * load.tokens * (cells + (windowed if facts["window"] else 0))


def states_of(facts: Mapping[str, Any], load: Load) -> int:
    """Bytes of the states that a recurrent layer copies: all slots', twice where they outweigh what it computes."""
    if load.slots == 1:
        return 0
    states: int = load.slots * max(per_layer(facts, "state"))
    return states * (2 if 4 * load.tokens * facts["scan"] < 7 * states else 1)


def compute_of(facts: Mapping[str, Any], load: Load) -> int:
    """Bytes of the compute buffer of a device that holds the whole model, the masks included."""
    unit = 4 * load.tokens  # a row of 32-bit floats for each token
    embd: int = facts["embd"]
    used: int = facts["experts_used"]
    tail = 4 if facts["scan"] and any(per_layer(facts, "k")) else 5
    peaks: list[int] = [
        unit * (3 * facts["ff"] + 4 * embd),
        unit * 4 * embd + 4 * load.slots * facts["vocab"],
    ]
    if facts["ff_exp"]:
        peaks += [unit * (3 * facts["ff_exp"] * used + 4 * embd), unit * (2 * used + tail) * embd]
    if facts["scan"]:
        both = any(k and one for k, one in zip(per_layer(facts, "k"), per_layer(facts, "state")))
        peaks.append(unit * (facts["scan"] + both * embd) + states_of(facts, load))
    if not load.flash_attn and any(per_layer(facts, "k")):
        scores = unit * load.cells * facts["heads"]
        peaks.append(scores + unit * (2 * embd + 3 * facts["q"] + widest(facts)))
    return max(peaks) + masks_of(facts, load)


def spread(facts: Mapping[str, Any], load: Load, split: Split, pipeline: bool) -> tuple[dict[int, Part], Part]:
    """What each device and the host hold of the model's own file.

    `pipeline` says whether the devices can run one: then each holds the inputs four times.
    """
    weights = facts["weights"]
    dense, experts = per_layer(facts, "dense"), per_layer(facts, "experts")
    placed = layers_of(facts["layers"], split.shares, load.gpu_layers)
    sums = {index: [0, 0, 0] for index in {*placed, HOST}}
    kv, state = kv_of(facts, load), per_layer(facts, "state")
    for layer in range(facts["loaded"]):
        at = placed[layer]
        sums[at][0] += dense[layer]
        sums[HOST if layer < load.cpu_moe else at][0] += experts[layer]
        at = at if load.kv_offload else HOST
        sums[at][1] += kv[layer]
        sums[at][2] += state[layer] * load.slots
    sums[HOST][0] += weights["input"]
    sums[placed[0]][0] += weights["first"]
    sums[placed[-1]][0] += weights["output"]
    for index in set(placed[: facts["loaded"]]):
        sums[index][0] += weights["every"]

    unit = 4 * load.tokens * facts["embd"]
    masks, compute = masks_of(facts, load), compute_of(facts, load)
    used = sorted({*placed} - {HOST})
    whole = HOST not in placed and not (load.cpu_moe and any(experts)) and load.kv_offload
    copies = 3 if pipeline and len(used) > 1 and whole else 0
    inputs = masks + 4 * unit + (0 if load.flash_attn else 4 * load.tokens * widest(facts))
    parts = {}
    for index in used:
        own = compute + copies * inputs
        if index != used[0]:
            own -= unit * (5 if copies else 2)
        parts[split.order[index]] = Part(sums[index][0], sums[index][1], sums[index][2], own)
    host = unit * (10 if copies else 4) + masks * (1 + copies)
    if HOST in placed:
        host = max(host, compute)
    return parts, Part(sums[HOST][0], sums[HOST][1], sums[HOST][2], host)


def cost_of(
    facts: Any, load: Load, split: Split, pipeline: bool = True, options: Mapping[str, Any] | None = None
) -> Cost:
    """What a model takes on its devices, its projector and draft model included when its facts have them.

    A projector that the options, by their canonical names, switch off or leave on the host does not count.
    Raises VramError for facts that are not gguf_info's, and for what the server would refuse.
    """
    facts = check_facts(facts)
    load = check_load(facts, load)
    parts, host = spread(facts, load, split, pipeline)
    reasons = {
        "weights": "exact: the sizes of the file's tensors",
        "kv": "exact: the cache's layout follows from the metadata",
        "state": "exact: its size follows from the metadata",
        "compute": "modelled: fitted to libllama's own memory breakdown, within 2 % of the total (3 % on two devices)",
        "context": "assumed: what a CUDA process keeps on a device, which depends on the card",
    }
    exactness = "exact"
    if not facts["measured"]:
        exactness = "bound"
        reasons["kv"] = (
            f"an upper bound: {facts['architecture']} is not among the architectures that were held against libllama"
        )
        reasons["compute"] = "modelled: by the formula for other architectures"
    if load.gpu_layers is not None and HOST in layers_of(facts["layers"], split.shares, load.gpu_layers):
        reasons["compute"] = "assumed: as with every layer on the devices, since some are on the host"
    offloaded = all((options or {}).get(key, True) for key in ("mmproj-offload", "mmproj-auto"))
    if facts.get("projector") and parts and offloaded:
        first = split.order[0] if split.order[0] in parts else min(parts)
        file = int(facts["projector"])
        parts[first] = parts[first]._replace(
            weights=parts[first].weights + file, compute=parts[first].compute + int((PROJECTOR - 1) * file)
        )
        reasons["projector"] = "assumed: 1.31 times its file, all of it on the first device"
    if facts.get("draft"):
        draft, _host = spread(check_facts(facts["draft"]), load, split, pipeline)
        for index, part in draft.items():
            own = parts.get(index, Part())
            parts[index] = Part(
                own.weights + part.weights, own.kv + part.kv, own.state + part.state, own.compute + DRAFT_COMPUTE
            )
        reasons["draft"] = "assumed: its weights and cache, and 190 MiB to compute in"
    return Cost(parts, host, exactness, reasons)


def unpack_of(facts: Mapping[str, Any], load: Load) -> int:
    """What CUDA may need besides, outside of libllama's count: one layer of a quantized cache, unpacked to f16."""
    if not load.quantized or not load.flash_attn:
        return 0
    return 2 * load.cells * load.streams * widest(facts)
