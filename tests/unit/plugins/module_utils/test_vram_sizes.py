# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import CACHE_TYPES, MIB, Load, VramError
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_sizes import SIZES, SizeRow, cost, row_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine with other work, too

TWO = (Fraction(1), Fraction(1))

# libllama's memory breakdown: ctx, type of K and V, micro-batch, streams, flash attention; weights, KV, compute in MiB.
ONE_DEVICE = [
    ("1.7b", Load(4096), 1050.432, 448.0, 56.014),
    ("1.7b", Load(8192, ubatch=64), 1050.432, 896.0, 7.502),
    ("1.7b", Load(32768, streams=4), 1050.432, 3584.0, 60.014),
    ("3b", Load(8192), 1918.354, 896.0, 80.014),
    ("3b", Load(32768, ubatch=2048), 1918.354, 3584.0, 416.055),
    ("8b", Load(8192), 4455.344, 1152.0, 112.014),
    ("8b", Load(32768), 4455.344, 4608.0, 136.014),
    ("8b", Load(131072), 4455.344, 18432.0, 232.014),
    ("14b", Load(8192), 8162, 1280, 150),
    ("30b-a3b", Load(32768), 17524.42, 3072.0, 116.014),
    ("32b", Load(8192), 18424, 2048, 198),
    ("70b", Load(8192), 39979.485, 2560.0, 240.014),
    ("70b", Load(4096, streams=4), 39979.485, 1280.0, 233.014),
]


@pytest.mark.parametrize(("size", "load", "weights", "kv", "compute"), ONE_DEVICE)
def test_one_device_is_what_libllama_says(size: str, load: Load, weights: float, kv: float, compute: float) -> None:
    (part,) = cost(row_of(size), load)
    assert part.weights / MIB == pytest.approx(weights, abs=0.001)
    assert part.kv / MIB == kv
    assert part.compute / MIB == pytest.approx(compute, abs=0.1)


# Weights, KV and compute of the first and of the second device, both of the same size.
TWO_DEVICES = [
    ("3b", Load(4096), (859.078, 240.0, 160.055), (1059.276, 208.0, 130.039)),
    ("3b", Load(4096, "q8_0", "q8_0"), (859.078, 127.5, 154.367), (1059.276, 110.5, 124.352)),
]


@pytest.mark.parametrize(("size", "load", "first", "second"), TWO_DEVICES)
def test_two_devices_are_near_what_libllama_says(
    size: str, load: Load, first: tuple[float, ...], second: tuple[float, ...]
) -> None:
    for part, (weights, kv, compute) in zip(cost(row_of(size), load, TWO), (first, second)):
        assert part.weights / MIB == pytest.approx(weights, rel=0.005)  # some layers have finer types than others
        assert part.kv / MIB == kv
        assert compute - 0.1 <= part.compute / MIB <= compute * 1.3  # the copies of the inputs are an upper bound


@pytest.mark.parametrize(
    ("cache_type", "kv"),
    [("f32", 2304), ("bf16", 1152), ("q8_0", 612), ("q5_1", 432), ("q5_0", 396), ("q4_1", 360), ("q4_0", 324)],
)
def test_kv_follows_the_cache_type(cache_type: str, kv: float) -> None:
    assert cost(row_of("8b"), Load(8192, cache_type, cache_type))[0].kv == kv * MIB


def test_k_and_v_each_have_their_type() -> None:
    mixed = cost(row_of("8b"), Load(8192, "q8_0", "f16"))[0].kv
    assert mixed == (612 + 1152) // 2 * MIB


def test_the_context_is_rounded_up_for_each_stream() -> None:
    row = row_of("8b")
    assert cost(row, Load(1))[0].kv == cost(row, Load(256))[0].kv
    assert cost(row, Load(257))[0].kv == cost(row, Load(512))[0].kv
    assert cost(row, Load(8192, streams=3))[0].kv == 3 * cost(row, Load(2816))[0].kv


def test_without_flash_attention_the_scores_are_kept() -> None:
    row = row_of("8b")
    apart = cost(row, Load(32768, flash_attn=False))[0].compute - cost(row, Load(32768))[0].compute
    assert apart == 4 * 512 * 32768 * 32


def test_every_row_is_in_the_order_of_its_weights() -> None:
    weights = [row.weights_mib for row in SIZES.values()]
    assert weights == sorted(weights)


@pytest.mark.parametrize("size", ["8b", "8B", "30B-A3B"])
def test_a_size_in_any_case(size: str) -> None:
    assert row_of(size) is SIZES[size.lower()]


def test_own_rows_are_added_and_replace() -> None:
    own = SIZES["8b"]._replace(weights_mib=6000)._asdict()
    assert row_of("8b", {"8B": own}) == SizeRow(**own)
    assert row_of("9b", {"9b": own}).weights_mib == 6000
    assert row_of("3b", {"9b": own}) is SIZES["3b"]


@pytest.mark.parametrize(
    ("size", "sizes", "text"),
    [
        ("7b", None, "the size '7b' is not in the table, which has 1.7b, 3b, 8b, 14b, 30b-a3b, 32b, 70b"),
        ("x", {"x": {"weights_mib": 1}}, "the row 'x' of `sizes` needs exactly these keys: weights_mib, output_mib"),
        ("x", {"x": SIZES["8b"]._replace(layers=0)._asdict()}, "`layers` of the row 'x' .* 1 or more; found: 0"),
        ("x", {"x": SIZES["8b"]._replace(compute_mib=-1)._asdict()}, "`compute_mib` .* 0 or more; found: -1"),
        ("x", {"x": {**SIZES["8b"]._asdict(), "embd": "many"}}, "`embd` .*whole number.*found: 'many'"),
        ("x", {"x": SIZES["8b"]._replace(weights_mib=float("nan"))._asdict()}, "`weights_mib` .*found: nan"),
    ],
)
def test_a_wrong_row_is_named(size: str, sizes: dict[str, object] | None, text: str) -> None:
    with pytest.raises(VramError, match=text):
        row_of(size, sizes)


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (Load(8192, "q9"), "the cache type 'q9' is not one of f32, f16"),
        (Load(8192, "f16", "q8_0", flash_attn=False), "cache-type-v = q8_0 needs flash attention"),
    ],
)
def test_what_the_server_would_refuse_is_refused(load: Load, text: str) -> None:
    with pytest.raises(VramError, match=text):
        cost(row_of("8b"), load)


loads = st.builds(
    Load,
    st.integers(1, 1 << 18),
    st.sampled_from(sorted(CACHE_TYPES)),
    st.sampled_from(sorted(CACHE_TYPES)),
    st.integers(1, 4096),
    st.integers(1, 16),
    st.just(True),
)


@STEADY
@given(st.sampled_from(sorted(SIZES)), loads, st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any))
def test_a_split_loses_nothing(size: str, load: Load, shares: list[int]) -> None:
    alone, parts = cost(row_of(size), load)[0], cost(row_of(size), load, tuple(map(Fraction, shares)))
    assert abs(sum(part.weights for part in parts) - alone.weights) <= len(parts)
    assert abs(sum(part.kv for part in parts) - alone.kv) <= len(parts)
    assert sum(part.compute for part in parts) >= alone.compute
    assert all(part == (0, 0, 0, 0) for part, share in zip(parts, shares) if not share)


@STEADY
@given(st.sampled_from(sorted(SIZES)), loads, st.integers(0, 5000))
def test_more_context_never_costs_less(size: str, load: Load, more: int) -> None:
    less, larger = cost(row_of(size), load)[0], cost(row_of(size), load._replace(ctx_size=load.ctx_size + more))[0]
    assert all(a <= b for a, b in zip(less, larger))


def test_the_documented_table_is_what_is_computed() -> None:
    text = (Path(__file__).parents[4] / "docs" / "vram-table.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([^`]+)` \| [A-Za-z][^|]+ \| ([0-9 |]+) \|$", text, re.MULTILINE)
    assert [size for size, _numbers in table] == list(SIZES)
    for size, numbers in table:
        row = SIZES[size]
        at_8k, at_32k, quantized = (
            cost(row, load)[0] for load in (Load(8192), Load(32768), Load(32768, "q8_0", "q8_0"))
        )
        computed = [at_8k.weights, at_8k.kv, at_8k.compute, sum(at_8k), sum(at_32k), sum(quantized)]
        wanted = [round(number / MIB) for number in computed]
        wanted.insert(1, round(row.kv_kib_per_token))
        assert [int(number) for number in numbers.split("|")] == wanted, size
