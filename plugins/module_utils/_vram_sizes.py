# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VRAM table: what a model of a size class costs while its file is not there to be read.

Each row stands on one dense model (or, for ``30b-a3b``, a mixture of experts) at Q4_K_M, chosen as the heavier of
the models that operators run in that class. The numbers are those of libllama's own memory breakdown (0.7.0, build
11669, flash attention on, 512 tokens a micro-batch); ``docs/vram-table.md`` lays them beside the older table that
operators know. The unit is MiB in the table and bytes in what is computed from it, so that sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import (
    CACHE_TYPES,
    DEFAULT_UBATCH,
    MIB,
    Load,
    Part,
    VramError,
    check_cache_types,
    layers_of,
)

KIB = 1 << 10


class SizeRow(NamedTuple):
    """One size class. All memory in MiB, at Q4_K_M, everything offloaded to one device."""

    weights_mib: float  # on the device: the file without an untied token embedding, which stays on the host
    output_mib: float  # the part of weights_mib that is the output layer, which sits on the last device
    layers: int  # without the output layer
    kv_kib_per_token: float  # all layers, K and V, f16
    compute_mib: float  # at 512 tokens a micro-batch, without the attention mask
    embd: int  # elements of a hidden state
    heads: int  # of attention; they cost memory only without flash attention


# weights_mib: libllama's breakdown on one device, in whole MiB for 14b and 32b.
# output_mib: n_vocab x n_embd at Q6_K (210 bytes for 256 elements), llama-quantize's type for the output at Q4_K_M.
# kv_kib_per_token: layers x n_head_kv x (key_length + value_length) x 2 bytes.
# compute_mib: 2048 x (3 n_ff + 4 n_embd) bytes, for 30b-a3b 2048 x (2 n_embd n_expert_used + 5 n_embd).
SIZES: dict[str, SizeRow] = {
    # Qwen3-1.7B: 28 layers, 8 KV heads of 128, n_ff 6144, vocabulary of 151936, tied output
    "1.7b": SizeRow(1050.432, 243.457, 28, 112, 52, 2048, 16),
    # Llama-3.2-3B: 28 layers, 8 KV heads of 128, n_ff 8192, vocabulary of 128256, tied output
    "3b": SizeRow(1918.354, 308.232, 28, 112, 72, 3072, 24),
    # Qwen3-8B: 36 layers, 8 KV heads of 128, n_ff 12288; a Llama 8B has 32 layers and is a little lighter
    "8b": SizeRow(4455.344, 486.914, 36, 144, 104, 4096, 32),
    # Qwen3-14B: 40 layers, 8 KV heads of 128, n_ff 17408
    "14b": SizeRow(8162, 608.643, 40, 160, 142, 5120, 40),
    # Qwen3-30B-A3B: 48 layers, 4 KV heads of 128, 8 of 128 experts used
    "30b-a3b": SizeRow(17524.420, 243.457, 48, 96, 84, 2048, 32),
    # Qwen3-32B: 64 layers, 8 KV heads of 128, n_ff 25600
    "32b": SizeRow(18424, 608.643, 64, 256, 190, 5120, 64),
    # Llama-3.1-70B: 80 layers, 8 KV heads of 128, n_ff 28672, vocabulary of 128256
    "70b": SizeRow(39979.485, 821.953, 80, 320, 232, 8192, 64),
}


def row_of(size: str, sizes: Mapping[str, Any] | None = None) -> SizeRow:
    """The row for a size class, upper or lower case.

    `sizes` adds rows or replaces them: the class's name, then a dict with every field of :class:`SizeRow`.
    Raises VramError for a class that is in neither, and for a row with missing, unknown or negative fields.
    """
    table: dict[str, Any] = {**SIZES, **{str(name).lower(): row for name, row in (sizes or {}).items()}}
    row = table.get(str(size).lower())
    if row is None:
        raise VramError(
            f"the size {size!r} is not in the table, which has {', '.join(table)};"
            " take the next larger one, add a row with `sizes`, or give the model's `vram_mib`"
        )
    if isinstance(row, SizeRow):
        return row
    fields = set(SizeRow._fields)
    if not isinstance(row, Mapping) or set(row) != fields:
        raise VramError(
            f"the row {size!r} of `sizes` needs exactly these keys: {', '.join(SizeRow._fields)}; found: {row!r}"
        )
    for field, value in row.items():
        whole = field in ("layers", "embd", "heads")
        if (
            isinstance(value, bool)
            or not isinstance(value, int if whole else (int, float))
            or not whole <= value < math.inf
        ):
            wanted = "a whole number of 1 or more" if whole else "a number of 0 or more"
            raise VramError(f"`{field}` of the row {size!r} of `sizes` must be {wanted}; found: {value!r}")
    return SizeRow(**row)


ALONE = (Fraction(1),)  # the shares of a model that one device holds whole


def cost(row: SizeRow, load: Load, shares: tuple[Fraction, ...] = ALONE) -> list[Part]:
    """What a model of this class takes on each device, for the shares that the devices have of it.

    Raises VramError for an unknown cache type and a quantized V cache without flash attention.
    """
    check_cache_types(load)
    if not shares:
        return []  # it stays on the CPU
    cells = load.cells
    placed = layers_of(row.layers, shares)
    layer = (row.weights_mib - row.output_mib) * MIB / row.layers
    width = row.kv_kib_per_token * KIB / 2 / 2 / row.layers  # elements of K, and as many of V, in one layer
    kv_layer = (
        sum(width * CACHE_TYPES[t][0] / CACHE_TYPES[t][1] for t in (load.type_k, load.type_v)) * cells * load.streams
    )
    mask = 2 * load.tokens * cells
    hidden = 4 * load.tokens * row.embd
    compute = row.compute_mib * MIB * load.tokens / DEFAULT_UBATCH + mask
    if not load.flash_attn:
        compute += 4 * load.tokens * cells * row.heads
    elif load.quantized:
        compute += 2 * cells * load.streams * 2 * width  # CUDA unpacks one layer's cache to f16; an upper bound
    pipelined = len(set(placed)) > 1
    parts = []
    for device in range(len(shares)):
        held = placed[:-1].count(device)
        weights = held * layer + (row.output_mib * MIB if placed[-1] == device else 0)
        copies = 3 * (mask + (4 if device == placed[0] else 3) * hidden) if pipelined else 0
        parts.append(
            Part(round(weights), round(held * kv_layer), 0, round(compute + copies) if device in placed else 0)
        )
    return parts
