# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which models fit on the devices together, and how many at once.

llama.cpp's router counts models, and its clients choose which ones are loaded. So the limit is the largest k such
that every k of the models fit on every device: on each device the k heaviest there. Sums are exact: bytes inside,
MiB outside. Memory is a device's total, never what is free just now, so that a second run plans the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import (
    Part,
    Split,
    VramError,
    options_of,
    whole,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_place import (
    MARGIN_MIB,
    OVERHEAD_MIB,
    PLACING,
    Device,
    Placed,
    devices_of,
    fits,
    largest_ctx_size,
    mib_text,
    needs_of,
    place,
    to_bytes,
    to_mib,
)

PROMPT_CACHE_MIB = 8192  # of host memory, that each model's process may fill (--cache-ram)
CONFLICTS = 20  # sets listed; there can be more of them than atoms
SEARCH_STEPS = 20_000  # sets looked at to find them
LEAST_CTX_SIZE = 4096  # tokens; a smaller ctx-size is no advice


# --- sets of models ---------------------------------------------------------------------------------------------


def limit_of(placed: Sequence[Placed], devices: Sequence[Device]) -> int:
    """The largest k such that every k of the models fit on every device.

    Every set of k fits exactly when, device by device, the k that are heaviest there fit.
    """
    limit = len(placed)
    for index, device in enumerate(devices):
        used = 0
        for count, need in enumerate(sorted((model.needs[index] for model in placed), reverse=True)):
            used += need
            if used > device.usable:
                limit = min(limit, count)
                break
    return limit


def heavy_sets(needs: Sequence[int], usable: int, size: int) -> Iterator[tuple[int, ...] | None]:
    """Sets of `size` models that do not fit on one device though each fits without any one of its models.

    Heaviest first. A None is yielded for each set looked at on the way, for the caller to bound the search by.
    """
    order = sorted((index for index, need in enumerate(needs) if need), key=lambda index: (-needs[index], index))
    sums = [0]
    for index in order:
        sums.append(sums[-1] + needs[index])

    def extend(chosen: tuple[int, ...], used: int, start: int) -> Iterator[tuple[int, ...] | None]:
        missing = size - len(chosen)
        for at in range(start, len(order) - missing + 1):
            yield None
            if used + sums[at + missing] - sums[at] <= usable:
                return  # the heaviest that are left fit, and so do all others
            total = used + needs[order[at]]
            if missing == 1:
                yield (*chosen, order[at])
            elif total <= usable:
                yield from extend((*chosen, order[at]), total, at + 1)

    return extend((), 0, 0)


def conflicts_of(placed: Sequence[Placed], devices: Sequence[Device], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """The smallest sets of models that do not fit together, and whether these are all of them.

    Smallest sets first. At most CONFLICTS of them: their number can grow as 2 to the power of the models'.
    """
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    steps = 0
    for size in range(limit + 1, len(placed) + 1):
        for index, device in enumerate(devices):
            needs = [model.needs[index] for model in placed]
            for chosen in heavy_sets(needs, device.usable, size):
                steps += chosen is None
                if steps > SEARCH_STEPS or len(found) >= CONFLICTS:
                    return list(found.values()), False
                key = tuple(sorted(chosen or ()))
                if chosen is None or key in found or not minimal(key, placed, devices):
                    continue
                over, worst = max(
                    (sum(placed[model].needs[at] for model in key) - one.usable, -at) for at, one in enumerate(devices)
                )
                found[key] = {
                    "models": [placed[model].name for model in key],
                    "device": devices[-worst].name,
                    "needed_mib": to_mib(over + devices[-worst].usable),
                    "available_mib": to_mib(devices[-worst].usable),
                    "shortfall_mib": to_mib(over),
                    "fits_with": advice([placed[model] for model in key], devices),
                }
    return list(found.values()), True


def advice(models: Sequence[Placed], devices: Sequence[Device]) -> dict[str, Any] | None:
    """The one model of a set whose ctx-size, made smaller, lets all of them fit, and that size; None when none does.

    Of several that keeps the largest part of its context.
    """
    best: tuple[float, dict[str, Any]] | None = None
    for model in models:
        if model.reckon is None:
            continue
        taken = [sum(one.needs[index] for one in models if one is not model) for index in range(len(devices))]
        size = largest_ctx_size(model, devices, taken)
        kept = size / whole(model.options, "ctx-size", 1)
        if size >= LEAST_CTX_SIZE and (best is None or kept > best[0]):
            best = kept, {"model": model.name, "ctx_size": size}
    return best[1] if best else None


def minimal(chosen: Sequence[int], placed: Sequence[Placed], devices: Sequence[Device]) -> bool:
    """Whether the set fits on every device as soon as any one of its models is gone."""
    used = [sum(placed[model].needs[index] for model in chosen) for index in range(len(devices))]
    return all(fits([total - need for total, need in zip(used, placed[model].needs)], devices) for model in chosen)


def check_alone(placed: Sequence[Placed], devices: Sequence[Device]) -> None:
    """Raise VramError for the first model that does not fit on its devices with nothing else there."""
    for model in placed:
        for need, device in zip(model.needs, devices):
            if need <= device.usable:
                continue
            advice = "give it a smaller quantization or more devices"
            if model.max_ctx_size:
                advice = f"with ctx-size = {model.max_ctx_size} it fits; or {advice}"
            elif model.cost.parts is None:
                advice = f"lower its ctx-size (and vram_mib with it), or {advice}"
            room = (
                f"{mib_text(device.usable)} can be used ({mib_text(device.total)} less"
                f" {mib_text(device.reserved)} reserved and {mib_text(device.margin)} kept free)"
            )
            raise VramError(
                f"the model {model.name!r} does not fit alone: it needs {mib_text(need)} on {device.name}, where"
                f" {room}: {mib_text(need - device.usable)} short; {advice}"
            )


def check_start(placed: Sequence[Placed], limit: int) -> None:
    """Raise VramError when more models load at start than the limit: the router would refuse to start."""
    started = [model.name for model in placed if model.options.get("load-on-startup", False)]
    if len(started) > limit:
        raise VramError(
            f"{len(started)} models have load-on-startup ({', '.join(started)}), but only any {limit} of the models fit"
            " at once, and the router does not start with more of them than its limit: take load-on-startup from"
            f" {len(started) - limit} of them, or make the models smaller (ctx-size, cache-type-k and -v)"
        )


# --- a device for each ------------------------------------------------------------------------------------------


def packed(placed: Sequence[Placed], devices: Sequence[Device]) -> list[Placed]:
    """The models with each one on a device of its own where it fits, the heaviest first on the emptiest one.

    A model whose options say where it lies stays there, and so does one that only fits when it is split.
    """
    room = [device.usable for device in devices]
    result: dict[str, Placed] = {}
    movable = []
    for model in placed:
        if any(option in model.options for option in PLACING) or len(model.split.order) < 2:
            result[model.name] = model
        else:
            movable.append(model)
    for model in sorted(movable, key=lambda one: -sum(one.needs)):
        result[model.name] = model
        for index in sorted(range(len(devices)), key=lambda at: (-room[at], at)):
            alone = Split((index,), (Fraction(1),))
            if model.reckon is None:
                found = model.cost._replace(sizes={index: sum(model.cost.sizes.values())})
            else:
                found = model.reckon(whole(model.options, "ctx-size", 0), alone)
            needs = needs_of(found.sizes, devices)
            if needs[index] <= devices[index].usable:
                one = model._replace(split=alone, cost=found, needs=needs)
                size = largest_ctx_size(one, devices) if model.reckon else None
                result[model.name] = one._replace(max_ctx_size=size)
                break
        room = [left - need for left, need in zip(room, result[model.name].needs)]
    return [result[model.name] for model in placed]


# --- the plan ---------------------------------------------------------------------------------------------------


def presets_of(model: Placed, devices: Sequence[Device]) -> dict[str, str]:
    """The options that make the plan true for one model.

    ctx-size, which the server would else choose by the memory that is free; and the split, which it would else make by
    what the devices have free when the model loads, so that it would depend on the models loaded before.
    """
    preset = {}
    if "ctx-size" in model.options:
        preset["ctx-size"] = str(model.options["ctx-size"])
    if model.shared:
        preset["parallel"] = str(model.options["parallel"])
        preset["kv-unified"] = "false"
    if any(option in model.options for option in PLACING if option != "device"):
        return preset
    if len(model.split.order) > 1:
        sizes = [int(share) for share in model.split.shares]  # whole bytes, made by split_of
        preset["tensor-split"] = ",".join(str(size // math.gcd(*sizes)) for size in sizes)
    elif len(model.split.order) == 1 and len(devices) > 1 and "device" not in model.options:
        preset["device"] = devices[model.split.order[0]].name
    return preset


def described(model: Placed, devices: Sequence[Device]) -> dict[str, Any]:
    """One model of the plan as data, in MiB; null is what is not known apart."""
    parts, host = model.cost.parts, model.cost.host
    rows = []
    for index, (device, need) in enumerate(zip(devices, model.needs)):
        part = None if parts is None else parts.get(index, Part())
        rows.append(
            {
                "device": device.name,
                "weights_mib": to_mib(part.weights) if part else None,
                "kv_mib": to_mib(part.kv) if part else None,
                "state_mib": to_mib(part.state) if part else None,
                "compute_mib": to_mib(part.compute) if part else None,
                "context_mib": to_mib(device.overhead) if index in model.cost.sizes else 0.0,
                "total_mib": to_mib(need),
            }
        )
    return {
        "name": model.name,
        "devices": rows,
        "total_mib": to_mib(sum(model.needs)),
        "host_mib": to_mib(sum(host)) if host else None,
        "prompt_cache_mib": max(0, whole(model.options, "cache-ram", PROMPT_CACHE_MIB)),
        "exactness": model.cost.exactness,
        "reasons": dict(model.cost.reasons),
        "max_ctx_size": model.max_ctx_size,
    }


def others_on(devices: Sequence[Any], room: Sequence[Device], placed: Sequence[Placed], limit: int) -> Iterator[str]:
    """A warning for each device that has more in use than is reserved and than any `limit` of the models take.

    What is in use just now only warns: a plan made by it would be another one as soon as a model is loaded.
    """
    for index, (given, device) in enumerate(zip(devices, room)):
        used = given.get("memory_used_mib") if isinstance(given, Mapping) else None
        if used is None:
            continue
        ours = sum(sorted((model.needs[index] for model in placed), reverse=True)[:limit])
        more = to_bytes(used, f"what is in use of {device.name} in MiB") - device.reserved - ours
        if more > 0:
            yield (
                f"{device.name} has {mib_text(more)} more in use than is reserved and than any {limit} of the models"
                " take: something else is on it; stop that, or raise reserved_mib by as much"
            )


def vram_plan(
    models: Any,
    devices: Any,
    sizes: Mapping[str, Any] | None = None,
    overhead_mib: Any = OVERHEAD_MIB,
    margin_mib: Any = MARGIN_MIB,
    reserved_mib: Any = 0,
    common: Mapping[str, Any] | None = None,
    pack: bool = False,
) -> dict[str, Any]:
    """Plan the models on the devices. Memory in MiB.

    `models` is a list of dicts with `name`, `options` (preset keys), maybe `context_per_user` and `users`, and one of
    `vram_mib`, `facts` and `size`; the first of them counts. `devices` is a list of total MiB, or of dicts with
    `memory_total_mib` and maybe `memory_used_mib`, which only warns. `overhead_mib`, `margin_mib` and `reserved_mib`
    are one number or one for each device. `common` are the options of the models that do not set them themselves. With
    `pack` models go onto single devices if that raises the limit; without it `packing` tells what that would do.

    Returns `models_max`, `models`, `devices`, `conflicts`, `warnings`, `presets` and `packing`. Without models the
    limit is 1. Raises VramError when something is not clear, a model cannot fit alone, or more load at start than may.
    """
    if not isinstance(models, (list, tuple)):
        raise VramError(f"the models must be a list of dicts, each with a `name`; found: {models!r}")
    if sizes is not None and not isinstance(sizes, Mapping):
        raise VramError(f"`sizes` must be a dict of rows; found: {sizes!r}")
    room = devices_of(devices, overhead_mib, margin_mib, reserved_mib)
    try:
        every = options_of(common or {})
    except VramError as error:
        raise VramError(f"the common options: {error}") from None
    placed = [place(model, index, room, sizes, every) for index, model in enumerate(models)]
    seen: set[str] = set()
    for model in placed:
        if model.name in seen:
            raise VramError(f"two models have the name {model.name!r}: the router would serve one of them only")
        seen.add(model.name)
    check_alone(placed, room)
    limit = limit_of(placed, room)
    packing = None
    if len(room) > 1 and limit < len(placed):
        other = packed(placed, room)
        more = limit_of(other, room)
        if more > limit:
            packing = {
                "models_max": more,
                "devices": {
                    new.name: room[new.split.order[0]].name for old, new in zip(placed, other) if new.split != old.split
                },
            }
            if pack:
                placed, limit = other, more
    check_start(placed, max(limit, 1))
    conflicts, complete = conflicts_of(placed, room, limit)
    warnings = [text for model in placed for text in model.warnings]
    warnings += others_on(devices, room, placed, max(limit, 1))
    if not complete:
        warnings.append(f"more sets do not fit together than the {len(conflicts)} that are listed")
    return {
        "models_max": max(limit, 1),
        "models": [described(model, room) for model in placed],
        "devices": [
            {
                "name": device.name,
                "total_mib": to_mib(device.total),
                "reserved_mib": to_mib(device.reserved),
                "margin_mib": to_mib(device.margin),
                "usable_mib": to_mib(device.usable),
            }
            for device in room
        ],
        "conflicts": conflicts,
        "warnings": warnings,
        "presets": {model.name: presets_of(model, room) for model in placed},
        "packing": packing,
    }
