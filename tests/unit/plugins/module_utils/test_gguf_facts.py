# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import Array, Model, Tensor, read_model
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import facts_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine with other work, too

HEADERS = sorted((Path(__file__).parents[3] / "fixtures" / "gguf_headers").glob("*.gguf"))
ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
BASE = {
    "block_count": 6,
    "embedding_length": 1024,
    "context_length": 4096,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
}


def model(architecture: str, keys: dict[str, Any], layers: list[tuple[str, ...]] | None = None, *more: str) -> Model:
    """A model whose layers have tensors of these names, 1024 x 256 of f16, besides an embedding of 1000 words."""
    found = [Tensor("token_embd.weight", "f16", (1024, 1000), 2048000, 0)]
    layers = [ATTENTION] * 6 if layers is None else layers
    names = [f"blk.{at}.{name}.weight" for at, layer in enumerate(layers) for name in layer]
    found += [Tensor(name, "f16", (1024, 256), 524288, 0) for name in (*names, *more)]
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in keys.items()}}
    return Model(metadata, found, ["m.gguf"], [], 1 << 30, True)


def array(*items: Any) -> Array:
    return Array("i32", len(items), items)


def facts(*arguments: Any) -> dict[str, Any]:
    found = facts_of(model(*arguments))
    assert found is not None
    return found


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.stem)
def test_facts_are_a_few_kib_of_json(path: Path) -> None:
    found = facts_of(read_model(str(path)))
    assert found is not None
    text = json.dumps(found)
    assert json.loads(text) == found
    assert len(text) < 2048
    assert found["measured"]


def test_a_plain_model() -> None:
    found = facts("newcomer", BASE)
    assert (found["k"], found["v"], found["window"], found["windowed"], found["state"]) == (256, 256, 0, False, 0)
    assert not found["measured"]
    assert found["weights"] == {
        "input": 2048000,
        "first": 0,
        "every": 0,
        "output": 2048000,  # the embedding once more, since there is no output.weight
        "dense": 4 * 524288,
        "experts": 0,
    }


def test_an_output_of_its_own_is_not_tied() -> None:
    found = facts(
        "llama", BASE, None, "output.weight", "output_norm.weight", "rope_freqs.weight", "token_embd_norm.weight"
    )
    assert found["weights"]["output"] == 2 * 524288
    assert found["weights"]["every"] == found["weights"]["first"] == 524288


def test_heads_may_differ_by_layer() -> None:
    found = facts("llama", {**BASE, "attention.head_count_kv": array(1, 2, 4, 4, 4, 4)})
    assert found["k"] == [128, 256, 512, 512, 512, 512]
    assert facts("llama", {key: value for key, value in BASE.items() if "kv" not in key})["k"] == 1024


def test_key_and_value_lengths_may_differ() -> None:
    found = facts("llama", {**BASE, "attention.key_length": 192, "attention.value_length": 128})
    assert (found["k"], found["v"], found["head_k"], found["head_v"]) == (384, 256, 192, 128)


@pytest.mark.parametrize(
    ("architecture", "keys", "window", "windowed"),
    [
        ("gemma3", {"attention.sliding_window": 512}, 512, [True, True, True, True, True, False]),
        ("gemma2", {}, 4096, [True, False] * 3),
        ("cohere2moe", {"attention.sliding_window": 512}, 512, [False, True, True, True, False, True]),
        ("gemma3", {"attention.sliding_window": 512, "attention.sliding_window_pattern": 2}, 512, [True, False] * 3),
        (
            "gemma4",
            {"attention.sliding_window": 512, "attention.sliding_window_pattern": array(0, 1, 1, 0, 1, 1)},
            512,
            [False, True, True, False, True, True],
        ),
        ("llama4", {}, 8192, [True, True, True, False, True, True]),
        ("llama4", {"attention.sliding_window": 0}, 0, False),
        ("gemma3", {}, 0, False),
        ("phi3", {"attention.sliding_window": 2048}, 0, False),  # llama.cpp does not use it
        ("llama", {"attention.sliding_window": 4096}, 0, False),
        ("exaone4", {"attention.sliding_window": 4096}, 0, False),  # only the one with 64 layers
    ],
)
def test_windows(architecture: str, keys: dict[str, Any], window: int, windowed: Any) -> None:
    found = facts(architecture, {**BASE, **keys})
    assert (found["window"], found["windowed"]) == (window, windowed)


def test_windowed_layers_may_have_other_heads() -> None:
    keys = {"attention.sliding_window": 512, "attention.key_length": 512, "attention.value_length": 512}
    pattern = {"attention.sliding_window_pattern": array(1, 1, 0, 1, 1, 0)}
    own = {"attention.key_length_swa": 256, "attention.value_length_swa": 256, "attention.shared_kv_layers": 2}
    found = facts("gemma4", {**BASE, **keys, **pattern, **own})
    assert found["k"] == found["v"] == [512, 512, 1024, 512, 0, 0]


SSM = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 2048,
    "ssm.state_size": 16,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 8,
}
MAMBA = 4 * (3 * (2048 + 2 * 2 * 16) + 16 * 2048)


def test_a_recurrent_model_has_no_cache() -> None:
    found = facts("mamba2", {**BASE, **SSM}, [("ssm_in", "ssm_out")] * 6)
    assert (found["k"], found["v"], found["state"]) == (0, 0, MAMBA)


def test_a_hybrid_has_one_or_the_other() -> None:
    """The linear attention of Qwen3-Next has a fused attn_qkv; its head counts are one number for all layers."""
    layers = [("attn_qkv", "ssm_conv1d")] * 3 + [ATTENTION] + [("attn_qkv", "ssm_conv1d")] * 2
    found = facts("qwen3next", {**BASE, **SSM}, layers)
    assert found["k"] == [0, 0, 0, 256, 0, 0]
    assert found["state"] == [MAMBA] * 3 + [0] + [MAMBA] * 2


def test_a_hybrid_may_have_both_in_each_layer() -> None:
    found = facts("falcon-h1", {**BASE, **SSM}, [(*ATTENTION, "ssm_in")] * 6)
    assert (found["k"], found["state"]) == (256, MAMBA)


@pytest.mark.parametrize(
    ("architecture", "keys", "tensor", "state"),
    [
        ("lfm2", {"shortconv.l_cache": 3}, "shortconv.conv", 4 * 1024 * 2),
        ("rwkv7", {"wkv.head_size": 64, "token_shift_count": 2}, "time_mix_key", 4 * (2 * 1024 + 1024 * 64)),
        ("kimi-linear", {"kda.head_dim": 128, "ssm.conv_kernel": 4}, "ssm_conv1d_q", 4 * (9 * 8 * 128 + 8 * 128 * 128)),
    ],
)
def test_other_kinds_of_state(architecture: str, keys: dict[str, Any], tensor: str, state: int) -> None:
    found = facts(architecture, {**BASE, **keys}, [(tensor,)] * 4 + [ATTENTION] * 2)
    assert found["state"] == [state] * 4 + [0, 0]
    assert found["k"] == [0, 0, 0, 0, 256, 256]


def test_latent_attention_has_one_cache() -> None:
    keys = {"attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192}
    found = facts("deepseek2", {**BASE, **keys, "attention.head_count_kv": 1}, [("attn_kv_a_mqa",)] * 6)
    assert (found["k"], found["v"], found["mla"]) == (576, 0, True)


@pytest.mark.parametrize("architecture", ["bert", "nomic-bert-moe", "modern-bert"])
def test_an_embedding_model_has_neither_cache_nor_output(architecture: str) -> None:
    found = facts(architecture, BASE, [("attn_qkv",)] * 6)
    assert (found["k"], found["v"], found["weights"]["output"]) == (0, 0, 0)


def test_a_draft_head_is_not_loaded() -> None:
    found = facts("glm4moe", {**BASE, "nextn_predict_layers": 1})
    assert (found["layers"], found["loaded"]) == (6, 5)
    assert found["weights"]["dense"] == 4 * 524288


def test_experts_are_apart() -> None:
    found = facts("qwen3moe", BASE, [(*ATTENTION, "ffn_up_exps", "ffn_down_exps", "ffn_up_shexp")] * 6)
    assert (found["weights"]["dense"], found["weights"]["experts"]) == (5 * 524288, 2 * 524288)
    assert found["ff_exp"] == 1024


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"general.architecture": 7},
        {"general.architecture": "clip", "clip.block_count": 2},
        {"general.architecture": "llama"},
        {"general.architecture": "llama", "llama.block_count": "many"},
        {"general.architecture": "llama", "llama.block_count": 1 << 40},
    ],
)
def test_what_is_no_model_of_language_has_none(metadata: dict[str, Any]) -> None:
    assert facts_of(Model(metadata, [], [], [], 0, True)) is None


values = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.booleans(),
    st.text(max_size=5),
    st.lists(st.integers(-5, 500) | st.floats() | st.booleans(), max_size=9).map(lambda items: array(*items)),
    st.just(Array("i32", 99999, None)),
)


@STEADY
@given(
    st.sampled_from(["llama", "gemma3", "granitehybrid", "deepseek2", "lfm2", "rwkv7", "bert", "x"]),
    st.dictionaries(st.sampled_from([*BASE, *SSM, "attention.sliding_window", "nextn_predict_layers"]), values),
    st.lists(st.sampled_from([ATTENTION, ("ssm_in",), ("ffn_down_exps",), ()]), max_size=8),
)
def test_strange_metadata_makes_no_error(
    architecture: str, keys: dict[str, Any], layers: list[tuple[str, ...]]
) -> None:
    found = facts_of(model(architecture, keys, layers))
    assert found is None or json.loads(json.dumps(found, allow_nan=False)) == found
