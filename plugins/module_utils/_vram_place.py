# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One model of the catalogue on the devices: what comes in, checked, and what it needs on each of them.

Sums are exact: bytes inside, MiB outside. Memory is a device's total, never what is free just now, so that a second
run plans the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_cost import check_facts, cost_of, unpack_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import (
    AUTO_SLOTS,
    CELL_PAD,
    MIB,
    Load,
    Part,
    Split,
    VramError,
    load_of,
    number,
    options_of,
    pad,
    split_of,
    whole,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_sizes import cost, row_of

OVERHEAD_MIB = 300  # a CUDA context on an RTX 3090 was 291; 107 on a 4060 Ti, 555 on a card of 96 GB
MARGIN_MIB = 1024  # what the server's own --fit keeps free on a device (--fit-target)
MAX_CTX_SIZE = 1 << 20  # tokens; where the search for the largest ctx-size ends
PLACING = ("device", "tensor-split", "split-mode", "main-gpu")  # with one of them a model stays where it is

# Options that move memory in ways that neither the facts nor the table know of, and those that the facts do know.
NOT_MODELLED = ("n-cpu-ffn", "override-tensor", "mmproj-url", "hf-repo-draft")
BY_FACTS_ALONE = ("n-cpu-moe", "cpu-moe", "mmproj", "model-draft")


class Device(NamedTuple):
    """One device; memory in bytes."""

    name: str  # as `--list-devices` and the preset key `device` write it: CUDA0
    total: int
    reserved: int  # taken by something else than the router
    margin: int  # kept free
    overhead: int  # of each model's process that uses the device: a CUDA context

    @property
    def usable(self) -> int:
        return self.total - self.reserved - self.margin


class Cost(NamedTuple):
    """What one model takes, in bytes; what only has a total has no parts."""

    parts: dict[int, Part] | None  # by device
    sizes: dict[int, int]  # by device, without the CUDA context
    host: Part | None = None
    exactness: str = "given"
    reasons: Mapping[str, str] = {}


class Placed(NamedTuple):
    """One model on the devices."""

    name: str
    split: Split
    cost: Cost
    needs: tuple[int, ...]  # bytes on each device, CUDA context included
    options: Mapping[str, Any]  # by canonical name
    shared: bool  # ctx-size, parallel and kv-unified were made from context_per_user
    reckon: Callable[[int, Split], Cost] | None  # for a ctx-size and a split; None when only a total was given
    step: int  # of ctx-size, that the server does not round
    most: int  # ctx-size that is of use
    max_ctx_size: int | None
    warnings: list[str]


# --- what comes in ----------------------------------------------------------------------------------------------


def to_bytes(value: Any, what: str) -> int:
    """MiB to whole bytes, rounded up."""
    return math.ceil(number(value, what) * MIB)


def to_mib(size: int) -> float:
    """Bytes to MiB with three decimals, as the server's own log rounds."""
    return round(size / MIB, 3)


def mib_text(size: int) -> str:
    """Bytes for an error's text."""
    return f"{math.ceil(size / MIB)} MiB"


def per_device(value: Any, count: int, what: str) -> list[int]:
    """Bytes for each device, from one number of MiB for all of them or a list with one for each."""
    if not isinstance(value, (list, tuple)):
        return [to_bytes(value, what)] * count
    if len(value) != count:
        raise VramError(
            f"`{what}` needs one number, or one for each of the {count} devices; found {len(value)}: {value!r}"
        )
    return [to_bytes(item, f"`{what}`[{index}]") for index, item in enumerate(value)]


def device_name(device: Any, index: int) -> str:
    """The backend's name of a device, CUDA and its place in the list unless it says otherwise."""
    if isinstance(device, Mapping):
        for key in ("device", "name"):
            if re.fullmatch(r"[A-Za-z]+[0-9]+", str(device.get(key, ""))):
                return str(device[key])
        index = device.get("index", index)
    return f"CUDA{index}"


def devices_of(devices: Any, overhead_mib: Any, margin_mib: Any, reserved_mib: Any) -> list[Device]:
    """The devices from a list of MiB or of `gpu_info`'s dicts; VramError when there is none or one has no room."""
    if not isinstance(devices, (list, tuple)):
        raise VramError(
            "the devices must be a list, each the MiB of its memory or a dict with `memory_total_mib`;"
            f" found: {devices!r}"
        )
    if not devices:
        raise VramError(
            "there is no device to plan for: on a machine that runs on its CPU alone no VRAM bounds the limit,"
            " so set it by hand (llama_router_models_max), by how many models its RAM holds"
        )
    totals, names = [], []
    for index, device in enumerate(devices):
        total = device
        if isinstance(device, Mapping):
            total = device.get("memory_total_mib", device.get("total_mib"))
            if total is None:
                raise VramError(f"the device {index} needs `memory_total_mib` or `total_mib`; found: {dict(device)!r}")
        totals.append(to_bytes(total, f"the memory of device {index} in MiB"))
        names.append(device_name(device, index))
    if len(set(names)) != len(names):
        raise VramError(
            f"two devices have the same name, found: {', '.join(names)}; give each its own `index` or `name`"
        )
    result = [
        Device(*fields)
        for fields in zip(
            names,
            totals,
            per_device(reserved_mib, len(totals), "reserved_mib"),
            per_device(margin_mib, len(totals), "margin_mib"),
            per_device(overhead_mib, len(totals), "overhead_mib"),
        )
    ]
    for device in result:
        if device.usable <= 0:
            raise VramError(
                f"{device.name} has {mib_text(device.total)}, of which {mib_text(device.reserved)} are reserved and"
                f" {mib_text(device.margin)} kept free: nothing is left for a model; lower reserved_mib or margin_mib,"
                " or take the device out of the list"
            )
    return result


# --- one model --------------------------------------------------------------------------------------------------


def needs_of(sizes: Mapping[int, int], devices: Sequence[Device]) -> tuple[int, ...]:
    """Bytes on each device, with a CUDA context on those that the model uses, for its bytes by device."""
    return tuple(sizes[index] + device.overhead if index in sizes else 0 for index, device in enumerate(devices))


def fits(needs: Sequence[int], devices: Sequence[Device]) -> bool:
    return all(need <= device.usable for need, device in zip(needs, devices))


def largest(step: int, most: int, fitting: Callable[[int], bool]) -> int:
    """The largest ctx-size up to `most`, in steps that the server does not round, that is fitting; 0 for none."""
    low, high = 0, most // step
    while low < high:
        middle = (low + high + 1) // 2
        if fitting(middle * step):
            low = middle
        else:
            high = middle - 1
    return low * step


def largest_ctx_size(model: Placed, devices: Sequence[Device], taken: Sequence[int] = ()) -> int:
    """The largest ctx-size with which a model fits beside what is `taken` on each device; 0 for none."""
    reckon = model.reckon
    if reckon is None:
        return 0
    room = [device.usable - used for device, used in zip(devices, taken or [0] * len(devices))]
    return largest(
        model.step,
        model.most,
        lambda size: all(n <= r for n, r in zip(needs_of(reckon(size, model.split).sizes, devices), room)),
    )


def share_context(model: Mapping[str, Any], options: dict[str, Any]) -> bool:
    """Turn context_per_user and users into ctx-size, parallel and kv-unified; whether there was something to turn."""
    if model.get("context_per_user") is None:
        if model.get("users") is not None:
            raise VramError(
                f"`users` = {model['users']!r} needs a `context_per_user`, the tokens that each of them gets"
            )
        return False
    context, users = (whole(model, key, 1) for key in ("context_per_user", "users"))
    if context < 1 or users < 1:
        raise VramError(f"context_per_user and users must be 1 or more; found: {context} and {users}")
    twice = [option for option in ("ctx-size", "parallel", "kv-unified") if option in options]
    if twice:
        raise VramError(
            f"context_per_user = {context} for {users} users makes its ctx-size, parallel and kv-unified;"
            f" take {', '.join(twice)} out of its options, or context_per_user"
        )
    # Each user has a stream of its own, so that none can take the context of another one.
    options.update({"ctx-size": pad(context, CELL_PAD) * users, "parallel": users, "kv-unified": False})
    return True


def reckoner(
    model: Mapping[str, Any], load: Load, options: Mapping[str, Any], sizes: Any
) -> Callable[[int, Split], Cost]:
    """What works out the model's cost for a ctx-size and a split."""
    facts, row = model.get("facts"), None if model.get("facts") is not None else row_of(str(model["size"]), sizes)

    def reckon(ctx_size: int, split: Split) -> Cost:
        one = load._replace(ctx_size=ctx_size)
        if row is not None:
            parts = dict(zip(split.order, cost(row, one, split.shares)))
            return Cost(parts, {index: sum(part) for index, part in parts.items()}, None, "table", TABLE_REASONS)
        found = cost_of(facts, one, split, not options.get("override-tensor"), options)
        taken = {index: sum(part) for index, part in found.parts.items()}
        return Cost(found.parts, taken, found.host, found.exactness, found.reasons)

    return reckon


TABLE_REASONS = {
    "weights": "assumed: those of the model that the table has for this size",
    "kv": "assumed: that of the model that the table has for this size",
    "compute": "modelled: from the table's model",
    "context": "assumed: what a CUDA process keeps on a device, which depends on the card",
}
GIVEN_REASONS = {"total": "given: vram_mib", "context": TABLE_REASONS["context"]}


def place(
    model: Any, index: int, devices: Sequence[Device], sizes: Mapping[str, Any] | None, common: Mapping[str, Any]
) -> Placed:
    """One entry of the catalogue on the devices; VramError when the entry is not clear."""
    if not isinstance(model, Mapping) or not model.get("name"):
        raise VramError(f"the model {index} needs a dict with a `name`; found: {model!r}")
    try:
        return place_named(str(model["name"]), model, devices, sizes, common)
    except VramError as error:
        raise VramError(f"the model {model['name']!r}: {error}") from None


def place_named(
    name: str,
    model: Mapping[str, Any],
    devices: Sequence[Device],
    sizes: Mapping[str, Any] | None,
    common: Mapping[str, Any],
) -> Placed:
    own = options_of(model.get("options") or {})
    shared = share_context(model, own)
    options = {**common, **own}
    each = whole(options, "kv-unified-per-slot", 0)
    if "ctx-size" not in options and each > 0:  # the server's own way to say so
        slots = whole(options, "parallel", -1)
        options["ctx-size"] = each * (slots if slots > 0 else AUTO_SLOTS)
    split = split_of(
        options, [device.name for device in devices], [device.total - device.reserved for device in devices]
    )
    warnings: list[str] = []
    if model.get("vram_mib") is not None:
        total = to_bytes(model["vram_mib"], "vram_mib")
        spread = {at: math.ceil(total * share / sum(split.shares)) for at, share in zip(*split)}
        if "ctx-size" not in options:
            warnings.append(f"{name}: vram_mib holds for one ctx-size only, and its options set none")
        given = Cost(None, spread, None, "given", GIVEN_REASONS)
        return Placed(name, split, given, needs_of(spread, devices), options, shared, None, 1, 0, None, warnings)
    facts = model.get("facts")
    if facts is None and model.get("size") is None:
        raise VramError(
            "it needs one of `vram_mib` (MiB in all, KV cache included), `facts` (from gguf_info) and `size` (a row of"
            f" the table); found: {', '.join(map(str, model))}"
        )
    slots = whole(options, "parallel", -1)
    step = CELL_PAD * (1 if slots < 1 or options.get("kv-unified", False) else slots)
    most = MAX_CTX_SIZE
    if facts is not None:
        train = check_facts(facts)["ctx_train"]
        most = train * max(1, slots) if train else MAX_CTX_SIZE
        if whole(options, "ctx-size", 0) < 1:
            reckon = reckoner(model, load_of({**options, "ctx-size": step}), options, sizes)
            best = largest(step, most, lambda size: fits(needs_of(reckon(size, split).sizes, devices), devices))
            raise VramError(
                "it needs a ctx-size of 1 or more in its options (or a context_per_user): without one the server takes"
                f" all the memory that is there; up to {best} fits with nothing else loaded"
            )
    load = load_of(options)
    reckon = reckoner(model, load, options, sizes)
    found = reckon(load.ctx_size, split)
    warnings += noted(name, model, options, load, devices, found)
    placed = Placed(
        name, split, found, needs_of(found.sizes, devices), options, shared, reckon, step, most, None, warnings
    )
    return placed._replace(max_ctx_size=largest_ctx_size(placed, devices) if split.order else None)


def noted(
    name: str,
    model: Mapping[str, Any],
    options: Mapping[str, Any],
    load: Load,
    devices: Sequence[Device],
    found: Cost,
) -> list[str]:
    """What the plan cannot know of a model, or the server would warn of."""
    facts = model.get("facts")
    beyond = [*NOT_MODELLED, *(BY_FACTS_ALONE if facts is None else ())]
    notes = [
        f"{name}: {key} = {options[key]} is not modelled: planned without it" for key in beyond if options.get(key)
    ]
    if options.get("split-mode") in ("row", "tensor"):
        notes.append(f"{name}: split-mode = {options['split-mode']} is not modelled: planned as split-mode = layer")
    if facts is None:
        if load.gpu_layers is not None and load.gpu_layers < 99:
            notes.append(
                f"{name}: n-gpu-layers = {load.gpu_layers} is not modelled:"
                " planned as if every layer were on the devices"
            )
        return notes
    for key, fact in (("mmproj", "projector"), ("model-draft", "draft")):
        if options.get(key) and not facts.get(fact):
            notes.append(f"{name}: {key} = {options[key]} is not in its facts: planned without it")
    if facts["ctx_train"] and load.cells > facts["ctx_train"]:
        notes.append(
            f"{name}: a context of {load.cells} tokens is beyond the {facts['ctx_train']} that it was trained for:"
            " the server gives a slot no more than those"
        )
    if found.exactness == "bound":
        notes.append(
            f"{name}: no test covers the architecture {facts['architecture']}: its weights are exact, its KV cache is"
            " an upper bound"
        )
    unpack = unpack_of(facts, load)
    tight = [devices[index] for index in sorted(found.sizes) if unpack > devices[index].margin]
    if tight and any(device.name.startswith("CUDA") for device in tight):
        notes.append(
            f"{name}: with a quantized cache CUDA may take up to {mib_text(unpack)} more to unpack a layer of it, and"
            f" {mib_text(min(device.margin for device in tight))} are kept free: raise margin_mib, or take f16"
        )
    return notes
