# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a model's preset options mean for its memory: how much context in which form, and where its layers go."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._options import meaning, to_text

MIB = 1 << 20

# ggml's block: the bytes of a block, and how many elements it holds. These are the types that the server takes for
# --cache-type-k and --cache-type-v (`llama-server --help`).
CACHE_TYPES = {
    "f32": (4, 1),
    "f16": (2, 1),
    "bf16": (2, 1),
    "q8_0": (34, 32),
    "q5_1": (24, 32),
    "q5_0": (22, 32),
    "q4_1": (20, 32),
    "q4_0": (18, 32),
    "iq4_nl": (18, 32),
}
FLOAT_TYPES = ("f32", "f16", "bf16")
DEFAULT_UBATCH = 512  # tokens
DEFAULT_BATCH = 2048  # tokens
AUTO_SLOTS = 4  # of the server when `parallel` is not given; they share one KV cache then
CELL_PAD = 256  # libllama rounds the context of a sequence up to this many cells
FALSE = ("off", "disabled", "false", "0")  # what switches flash-attn off
HOST = -1  # in place of a device's index


class VramError(ValueError):
    """Something about the models or the devices cannot be planned; the text says what was wanted and what mends it."""


class Load(NamedTuple):
    """The options of a model that its memory depends on, with the server's defaults."""

    ctx_size: int  # tokens, over all slots
    type_k: str = "f16"
    type_v: str = "f16"
    ubatch: int = DEFAULT_UBATCH  # tokens
    streams: int = 1  # 1 with a unified KV cache, else the number of slots
    flash_attn: bool = True
    slots: int = AUTO_SLOTS
    swa_full: bool = False  # sliding windows are given the whole context
    kv_offload: bool = True  # the KV cache is on the devices, not on the host
    gpu_layers: int | None = None  # layers on the devices, the output counted first; None: all
    cpu_moe: int = 0  # layers, from the first on, whose experts stay on the host

    @property
    def cells(self) -> int:
        """Cells of one stream of the KV cache."""
        return pad(-(-self.ctx_size // self.streams), CELL_PAD)

    @property
    def tokens(self) -> int:
        """Tokens of the largest batch that is computed at once."""
        return min(self.ubatch, self.ctx_size)

    @property
    def quantized(self) -> bool:
        return self.type_k not in FLOAT_TYPES or self.type_v not in FLOAT_TYPES


class Split(NamedTuple):
    """How one model is spread: the devices that it uses by their index, in its own order, and the share of each."""

    order: tuple[int, ...]  # empty for a model that stays on the CPU
    shares: tuple[Fraction, ...]  # in any scale, one of them above 0


class Part(NamedTuple):
    """What one device, or the host, holds of one model, in bytes, without the CUDA context."""

    weights: int = 0
    kv: int = 0  # of attention
    state: int = 0  # of recurrent layers
    compute: int = 0


def pad(size: int, step: int) -> int:
    return -(-size // step) * step


def number(value: Any, what: str) -> Fraction:
    """A number of 0 or more, exact, from a number or its text; VramError names `what` otherwise."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        result = Fraction(value)
        if result < 0:
            raise ValueError
    except (ValueError, OverflowError, ZeroDivisionError):
        raise VramError(f"{what} must be a number of 0 or more; found: {value!r}") from None
    return result


def options_of(options: Any) -> dict[str, Any]:
    """A model's options by their canonical names, as the server understands them; null takes an option away."""
    if not isinstance(options, Mapping):
        raise VramError(f"its options must be a dict of preset keys; found: {options!r}")
    result: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in options.items():
        if value is None:
            continue
        try:
            option, meant = meaning(str(key), to_text(str(key), value))
        except ValueError as error:
            raise VramError(str(error)) from None
        if option in spelled:
            raise VramError(f"{spelled[option]} and {key} are one option; keep one of them")
        spelled[option], result[option] = str(key), meant
    return result


def whole(options: Mapping[str, Any], option: str, default: int) -> int:
    """The value of an option that is a whole number."""
    value = options.get(option, default)
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]+", str(value)):
        raise VramError(f"{option} must be a whole number; found: {value!r}")
    return int(value)


def load_of(options: Mapping[str, Any]) -> Load:
    """The options that a model's memory depends on.

    Raises VramError without a ctx-size, and for what the server refuses whatever the model is.
    """
    ctx_size = whole(options, "ctx-size", 0)
    if ctx_size < 1:
        raise VramError(
            "it needs a ctx-size of 1 or more in its options, since its KV cache grows with that and without one the"
            " server takes all the memory that is there"
        )
    slots = whole(options, "parallel", -1)
    unified = slots < 1 or options.get("kv-unified", False)
    ubatch = min(whole(options, "ubatch-size", DEFAULT_UBATCH), whole(options, "batch-size", DEFAULT_BATCH))
    if ubatch < 1:
        raise VramError(f"ubatch-size and batch-size must be 1 or more; found: {ubatch}")
    layers = str(options.get("n-gpu-layers", "auto"))
    if layers not in ("auto", "all") and not re.fullmatch(r"[+-]?[0-9]+", layers):
        raise VramError(f"n-gpu-layers must be a whole number, auto or all; found: {layers!r}")
    load = Load(
        ctx_size=ctx_size,
        type_k=str(options.get("cache-type-k", "f16")),
        type_v=str(options.get("cache-type-v", "f16")),
        ubatch=ubatch,
        streams=1 if unified else slots,
        flash_attn=str(options.get("flash-attn", "auto")) not in FALSE,
        slots=slots if slots > 0 else AUTO_SLOTS,
        swa_full=bool(options.get("swa-full", False)),
        kv_offload=bool(options.get("kv-offload", True)),
        gpu_layers=None if layers in ("auto", "all") or int(layers) < 0 else int(layers),
        cpu_moe=1 << 16 if options.get("cpu-moe") else max(0, whole(options, "n-cpu-moe", 0)),
    )
    check_cache_types(load)
    return load


def check_cache_types(load: Load) -> None:
    """Raise VramError for cache types that the server refuses for every model."""
    for cache_type in (load.type_k, load.type_v):
        if cache_type not in CACHE_TYPES:
            raise VramError(f"the cache type {cache_type!r} is not one of {', '.join(CACHE_TYPES)}")
    if load.type_v not in FLOAT_TYPES and not load.flash_attn:
        raise VramError(
            f"cache-type-v = {load.type_v} needs flash attention, which is off here:"
            " set flash-attn to on, or cache-type-v to f16"
        )


def split_of(options: Mapping[str, Any], names: Sequence[str], shares: Sequence[int]) -> Split:
    """How a model is split over the devices with these names.

    As llama.cpp does it: over the devices of `device` (all of them when it is absent) by `tensor-split`, else by
    `shares` (their memory); with `split-mode = none` all of it on `main-gpu`.
    """
    wanted = [item.strip() for item in str(options.get("device", "")).split(",") if item.strip()]
    if wanted == ["none"]:
        return Split((), ())
    unknown = [item for item in wanted if item not in names or wanted.count(item) > 1]
    if unknown:
        raise VramError(f"`device` must name devices out of {', '.join(names)}, each once; found: {unknown[0]!r}")
    order = tuple(names.index(item) for item in wanted) or tuple(range(len(names)))
    if str(options.get("split-mode", "layer")) == "none":
        main = whole(options, "main-gpu", 0)
        if not 0 <= main < len(order):
            raise VramError(f"main-gpu must be 0 to {len(order) - 1}; found: {main}")
        return Split((order[main],), (Fraction(1),))
    if "tensor-split" not in options:
        return Split(order, tuple(Fraction(shares[index]) for index in order))
    text = str(options["tensor-split"])
    given = [number(item.strip(), "tensor-split") for item in re.split(r"[,/]", text)]
    if len(given) > len(order) or not any(given):
        raise VramError(f"tensor-split needs up to {len(order)} numbers, one of them above 0; found: {text!r}")
    return Split(order, (*given, *[Fraction(0)] * (len(order) - len(given))))


def _float(value: Fraction | float) -> float:
    """A number as C's float has it, in which libllama reckons where a layer goes."""
    result: float = struct.unpack("f", struct.pack("f", float(value)))[0]
    return result


@cache
def layers_of(layers: int, shares: tuple[Fraction, ...], gpu_layers: int | None = None) -> tuple[int, ...]:
    """For each of the layers and then for the output, the index of the device that libllama puts it on, or HOST.

    Of the layers on devices each goes to the first one whose cumulative share exceeds the layer's position among them.
    The shares need not add up to 1, one of them must be above 0.
    """
    offloaded = layers + 1 if gpu_layers is None else min(gpu_layers, layers + 1)
    start = layers + 1 - offloaded
    sums = [0.0]
    for share in shares:
        sums.append(_float(sums[-1] + _float(share)))
    bounds = [_float(bound / sums[-1]) for bound in sums[1:]] if shares else []
    placed = [HOST] * start
    for layer in range(offloaded if shares else 0):
        place = _float(Fraction(layer, offloaded))
        placed.append(next(index for index, bound in enumerate(bounds) if bound > place))
    return tuple(placed) if shares else (HOST,) * (layers + 1)
