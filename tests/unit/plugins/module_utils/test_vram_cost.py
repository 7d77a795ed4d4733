# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cost of one model against libllama's own memory breakdown (0.7.0, build 11669) of nine models.

`vram_ground_truth.csv` has a row for each way that a model was loaded: weights/KV and state/compute in MiB on one or
two equal devices, weights/compute on the host. The headers are of real models, without their vocabularies.
"""

from __future__ import annotations

import copy
import csv
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import read_model
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import facts_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_cost import cost_of, unpack_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import (
    CACHE_TYPES,
    HOST,
    MIB,
    Load,
    Part,
    Split,
    VramError,
    layers_of,
    load_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine with other work, too

FIXTURES = Path(__file__).parents[3] / "fixtures"
ONE = Split((0,), (Fraction(1),))
TWO = Split((0, 1), (Fraction(1), Fraction(1)))
TRUTH = list(csv.DictReader((FIXTURES / "vram_ground_truth.csv").open(encoding="utf-8")))
MODELS = sorted({row["model"] for row in TRUTH})


@cache
def facts(model: str) -> dict[str, Any]:
    found = facts_of(read_model(str(FIXTURES / "gguf_headers" / f"{model}.gguf")))
    assert found is not None
    return found


def load_of_row(row: dict[str, str]) -> Load:
    slots = int(row["slots"])
    return Load(
        int(row["ctx"]),
        row["type_k"],
        row["type_v"],
        int(row["ubatch"]),
        1 if row["unified"] == "1" else slots,
        row["flash_attn"] == "1",
        slots,
        row["swa_full"] == "1",
    )


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split("/")]


def rounded(size: int) -> float:
    return round(size / MIB, 3)


@pytest.mark.parametrize("model", MODELS)
def test_every_row_of_the_truth(model: str) -> None:
    """Weights, KV and state to the third decimal, totals within 2 % on one device and 3 % on two."""
    rows = [row for row in TRUTH if row["model"] == model]
    assert len(rows) >= 130
    for row in rows:
        truth = [numbers(row[key]) for key in ("gpu0", "gpu1") if row[key]]
        cost = cost_of(facts(model), load_of_row(row), TWO if row["gpu1"] else ONE, row["pipeline"] == "1")
        assert sorted(cost.parts) == list(range(len(truth)))
        for index, (weights, cache_mib, _compute) in enumerate(truth):
            part = cost.parts[index]
            assert (rounded(part.weights), rounded(part.kv + part.state)) == (weights, cache_mib), row
        planned, wanted = sum(map(sum, cost.parts.values())) / MIB, sum(map(sum, truth))
        assert abs(planned / wanted - 1) <= (0.03 if row["gpu1"] else 0.02), (planned, row)
        for index, device in enumerate(truth):
            assert sum(cost.parts[index]) / MIB == pytest.approx(sum(device), rel=0.03), row
        weights, compute = numbers(row["host"])
        assert rounded(cost.host.weights) == weights
        if row["flash_attn"] == "1":
            assert cost.host.compute / MIB == pytest.approx(compute, abs=3)


def test_the_truth_has_windows_state_latent_and_mixed_caches() -> None:
    found = {model: facts(model) for model in MODELS}
    assert [model for model in MODELS if found[model]["window"]] == ["gemma-3-4b-Q4_K_M", "gpt-oss-20b-mxfp4"]
    assert [model for model in MODELS if found[model]["state"]] == ["Granite-4.0-H-Tiny-Q4_K_M"]
    assert [model for model in MODELS if found[model]["mla"]] == ["DeepSeek-V2-Lite-Q4_K_M"]
    assert len(TRUTH) == 1284


# --- what the truth has no row for --------------------------------------------------------------------------------


def test_layers_on_the_host_take_their_weights_and_cache_there() -> None:
    """The output layer counts first."""
    all_of_it, some = (cost_of(facts("Llama-3.2-3B-Q4_K_M"), Load(8192, gpu_layers=layers), ONE) for layers in (29, 9))
    none = cost_of(facts("Llama-3.2-3B-Q4_K_M"), Load(8192, gpu_layers=0), ONE)
    assert some.parts[0].kv == all_of_it.parts[0].kv * 8 // 28
    assert some.host.kv == all_of_it.parts[0].kv * 20 // 28
    assert some.parts[0].weights + some.host.weights == pytest.approx(
        all_of_it.parts[0].weights + all_of_it.host.weights, abs=256
    )
    assert none.parts == {}
    assert none.host.kv == all_of_it.parts[0].kv
    assert some.reasons["compute"].startswith("assumed")


def test_a_model_without_devices_is_on_the_host() -> None:
    cost = cost_of(facts("Qwen3-8B-Q4_K_M"), Load(8192), Split((), ()))
    assert cost.parts == {}
    assert cost.host.kv == 1152 * MIB


def test_experts_on_the_host() -> None:
    model = facts("Qwen3-30B-A3B-Q4_K_M")
    every = cost_of(model, Load(8192), ONE)
    some = cost_of(model, Load(8192, cpu_moe=12), ONE)
    most = cost_of(model, load_of({"ctx-size": 8192, "cpu-moe": True}), ONE)
    experts = model["weights"]["experts"]
    assert every.parts[0].weights - some.parts[0].weights == sum(experts[:12])
    assert every.parts[0].weights - most.parts[0].weights == sum(experts)
    assert most.host.weights == every.host.weights + sum(experts)


def test_a_cache_on_the_host() -> None:
    cost = cost_of(facts("Granite-4.0-H-Tiny-Q4_K_M"), load_of({"ctx-size": 8192, "kv-offload": False}), ONE)
    assert (cost.parts[0].kv, cost.parts[0].state) == (0, 0)
    assert cost.host.kv + cost.host.state == pytest.approx(285.484 * MIB, abs=600)


def test_a_projector_and_a_draft_come_to_the_model() -> None:
    model = facts("Qwen3-8B-Q4_K_M")
    draft = facts("Qwen3-1.7B-Q4_K_M")
    alone = sum(cost_of(model, Load(8192), ONE).parts[0])
    assert sum(cost_of({**model, "projector": 800 * MIB}, Load(8192), ONE).parts[0]) - alone == 1048 * MIB
    off = {"mmproj-offload": False}
    assert sum(cost_of({**model, "projector": 800 * MIB}, Load(8192), ONE, True, off).parts[0]) == alone
    with_draft = sum(cost_of({**model, "draft": draft}, Load(8192), ONE).parts[0]) - alone
    assert with_draft / MIB == pytest.approx(1050.432 + 896 + 190, abs=0.01)


@pytest.mark.parametrize(
    ("model", "load", "text"),
    [
        ("DeepSeek-V2-Lite-Q4_K_M", Load(4096, "q8_0", "f16"), "cache-type-k and cache-type-v must be the same"),
        ("Qwen3-8B-Q4_K_M", Load(4096, "f16", "q8_0", flash_attn=False), "needs flash attention"),
    ],
)
def test_what_the_server_refuses_is_refused(model: str, load: Load, text: str) -> None:
    with pytest.raises(VramError, match=text):
        cost_of(facts(model), load, ONE)


def test_heads_that_a_cache_type_does_not_divide_are_refused() -> None:
    odd = {**facts("Qwen3-8B-Q4_K_M"), "head_k": 80}
    with pytest.raises(VramError, match="cache-type-k = q8_0 packs 32 elements, which do not divide its heads of 80"):
        cost_of(odd, Load(4096, "q8_0", "f16"), ONE)


@pytest.mark.parametrize("wrong", [None, {}, {"format": 0}, "facts"])
def test_other_facts_are_refused(wrong: Any) -> None:
    with pytest.raises(VramError, match="must be what gguf_info returns"):
        cost_of(wrong, Load(4096), ONE)


def test_an_architecture_that_no_test_covers_is_a_bound() -> None:
    other = {**facts("Qwen3-8B-Q4_K_M"), "architecture": "qwen99", "measured": False}
    cost = cost_of(other, Load(8192), ONE)
    assert cost.exactness == "bound"
    assert cost.reasons["kv"].startswith("an upper bound: qwen99")
    assert cost_of(facts("Qwen3-8B-Q4_K_M"), Load(8192), ONE).exactness == "exact"


def test_a_quantized_cache_is_unpacked_by_cuda() -> None:
    assert unpack_of(facts("Qwen3-8B-Q4_K_M"), Load(32768, "q8_0", "q8_0")) == 2 * 32768 * 2048
    assert unpack_of(facts("Qwen3-8B-Q4_K_M"), Load(32768)) == 0


# --- layers and options -------------------------------------------------------------------------------------------


def test_layers_go_to_the_first_device_whose_share_exceeds_their_place() -> None:
    assert layers_of(28, TWO.shares) == (0,) * 15 + (1,) * 14
    assert layers_of(3, (Fraction(0), Fraction(3), Fraction(1))) == (1, 1, 1, 2)
    assert layers_of(29, (Fraction(1),) * 3) == (0,) * 10 + (1,) * 10 + (2,) * 10


def test_layers_that_are_not_offloaded_are_the_first_ones() -> None:
    assert layers_of(4, TWO.shares, 2) == (HOST, HOST, HOST, 0, 1)
    assert layers_of(4, TWO.shares, 99) == layers_of(4, TWO.shares)
    assert layers_of(4, ()) == (HOST,) * 5


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, Load(8192)),
        ({"parallel": 2}, Load(8192, streams=2, slots=2)),
        ({"parallel": 2, "kv-unified": True}, Load(8192, slots=2)),
        ({"parallel": -1}, Load(8192)),
        ({"n-gpu-layers": "all"}, Load(8192)),
        ({"n-gpu-layers": -1}, Load(8192)),
        ({"n-gpu-layers": 20}, Load(8192, gpu_layers=20)),
        ({"ubatch-size": 4096}, Load(8192, ubatch=2048)),  # not above the batch-size
        ({"flash-attn": "off"}, Load(8192, flash_attn=False)),
        ({"swa-full": True}, Load(8192, swa_full=True)),
    ],
)
def test_options_become_a_load(options: dict[str, Any], wanted: Load) -> None:
    assert load_of({"ctx-size": 8192, **options}) == wanted


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cache-type-k": "q9"}, "the cache type 'q9' is not one of"),
        ({"cache-type-v": "q8_0", "flash-attn": "off"}, "cache-type-v = q8_0 needs flash attention"),
        ({"n-gpu-layers": "most"}, "n-gpu-layers must be a whole number, auto or all; found: 'most'"),
        ({"ubatch-size": 0}, "ubatch-size and batch-size must be 1 or more"),
        ({"ctx-size": 0}, "needs a ctx-size of 1 or more"),
    ],
)
def test_options_that_are_not_clear_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(VramError, match=text):
        load_of({"ctx-size": 8192, **options})


# --- properties ---------------------------------------------------------------------------------------------------

# Models whose K and V may be of different types.
free_types = st.sampled_from([model for model in MODELS if "DeepSeek" not in model])
loads = st.builds(
    lambda ctx, k, v, ubatch, slots, unified, full: Load(ctx, k, v, ubatch, 1 if unified else slots, True, slots, full),
    st.integers(1, 1 << 18),
    st.sampled_from(sorted(CACHE_TYPES)),
    st.sampled_from(sorted(CACHE_TYPES)),
    st.integers(1, 4096),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
)
shares = st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any)


@STEADY
@given(free_types, loads, shares)
def test_a_split_loses_nothing(model: str, load: Load, parts: list[int]) -> None:
    alone = cost_of(facts(model), load, ONE)
    split = cost_of(facts(model), load, Split(tuple(range(len(parts))), tuple(map(Fraction, parts))))
    assert sum(part.kv for part in split.parts.values()) == alone.parts[0].kv
    assert sum(part.state for part in split.parts.values()) == alone.parts[0].state
    more = sum(part.weights for part in split.parts.values()) - alone.parts[0].weights
    # What every layer reads lies on each device that has a layer; one that has the output alone goes without.
    with_layers = sum(1 for part in split.parts.values() if part.kv or part.state)
    assert more == (with_layers - 1) * facts(model)["weights"]["every"]
    assert all(parts[index] for index in split.parts)
    assert all(value >= 0 for part in [*split.parts.values(), split.host] for value in part)


@STEADY
@given(free_types, loads, st.integers(0, 5000), shares)
def test_more_context_never_costs_less(model: str, load: Load, more: int, parts: list[int]) -> None:
    split = Split(tuple(range(len(parts))), tuple(map(Fraction, parts)))
    less, larger = (
        cost_of(facts(model), load._replace(ctx_size=size), split).parts
        for size in (load.ctx_size, load.ctx_size + more)
    )
    assert all(sum(less[index]) <= sum(larger[index]) for index in less)


@STEADY
@given(free_types, loads)
def test_reckoning_changes_nothing(model: str, load: Load) -> None:
    before = copy.deepcopy(facts(model))
    assert isinstance(cost_of(facts(model), load, TWO).parts[0], Part)
    assert facts(model) == before
