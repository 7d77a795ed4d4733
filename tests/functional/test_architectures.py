# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Architectures that no header in the fixtures has: small models of them, as sparse files, in the real llama-server.

It loads them onto an RPC server in place of a GPU; its log says what it allocates, and the plan has to say the same.
What is here may stand among the architectures that _gguf_facts calls measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import read_model
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import MEASURED, facts_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import vram_plan
from rpc_devices import TESTS, buffers, cards, free_port

LAYERS, EMBD, HEADS, HEAD, KV, FF, WORDS = 6, 1024, 16, 64, 4, 2816, 32000
Q, K = HEADS * HEAD, KV * HEAD
EXPERTS, USED, FF_EXP = 16, 4, 256
CONV, INNER, STATE, GROUPS, RANK = 4, 2048, 64, 2, 32
MIXED = INNER + 2 * GROUPS * STATE  # what the convolution of a recurrent layer sees

Shapes = dict[str, tuple[int, ...]]

ATTENTION: Shapes = {"attn_q": (EMBD, Q), "attn_k": (EMBD, K), "attn_v": (EMBD, K), "attn_output": (Q, EMBD)}
NORMS: Shapes = {"attn_norm": (EMBD,), "ffn_norm": (EMBD,)}
DENSE: Shapes = {"ffn_gate": (EMBD, FF), "ffn_up": (EMBD, FF), "ffn_down": (FF, EMBD)}
MOE: Shapes = {
    "ffn_gate_inp": (EMBD, EXPERTS),
    "ffn_gate_exps": (EMBD, FF_EXP, EXPERTS),
    "ffn_up_exps": (EMBD, FF_EXP, EXPERTS),
    "ffn_down_exps": (FF_EXP, EMBD, EXPERTS),
}
FEW: Shapes = {
    "ffn_gate_inp": (EMBD, 4),
    "ffn_gate_exps": (EMBD, FF, 4),
    "ffn_up_exps": (EMBD, FF, 4),
    "ffn_down_exps": (FF, EMBD, 4),
}
SHARED: Shapes = {"ffn_gate_shexp": (EMBD, FF_EXP), "ffn_up_shexp": (EMBD, FF_EXP), "ffn_down_shexp": (FF_EXP, EMBD)}
HEAD_NORMS: Shapes = {"attn_q_norm": (HEAD,), "attn_k_norm": (HEAD,)}
POST: Shapes = {"post_attention_norm": (EMBD,), "post_ffw_norm": (EMBD,)}
SCAN: Shapes = {
    "ssm_in": (EMBD, INNER + MIXED + RANK),
    "ssm_conv1d": (CONV, MIXED),
    "ssm_conv1d.bias": (MIXED,),
    "ssm_dt.bias": (RANK,),
    "ssm_a!": (1, RANK),
    "ssm_d!": (1, RANK),
    "ssm_norm": (INNER // GROUPS, GROUPS),
    "ssm_out": (INNER, EMBD),
}
SHORT: Shapes = {"shortconv.conv": (3, EMBD), "shortconv.in_proj": (EMBD, 3 * EMBD), "shortconv.out_proj": (EMBD, EMBD)}
DELTA: Shapes = {
    "attn_qkv": (EMBD, MIXED),
    "attn_gate": (EMBD, INNER),
    "ssm_conv1d": (CONV, MIXED),
    "ssm_dt.bias": (RANK,),
    "ssm_a!": (RANK,),
    "ssm_ba": (EMBD, 2 * RANK),
    "ssm_norm": (STATE,),
    "ssm_out": (INNER, EMBD),
}
SPLIT_DELTA: Shapes = {
    **{name: shape for name, shape in DELTA.items() if name != "ssm_ba"},
    **{"ssm_beta": (EMBD, RANK), "ssm_alpha": (EMBD, RANK)},
}
SSM = {"conv_kernel": CONV, "inner_size": INNER, "state_size": STATE, "group_count": GROUPS, "time_step_rank": RANK}
SSM = {f"ssm.{key}": value for key, value in SSM.items()}
MOE_KEYS = {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": FF_EXP}
GATED: Shapes = {**ATTENTION, "attn_q": (EMBD, 2 * Q)}

# By architecture: keys beside the common ones, the tensors of each layer, and those outside of the layers.
MODELS: dict[str, tuple[dict[str, Any], list[Shapes], Shapes]] = {
    "qwen2": ({}, [{**NORMS, **ATTENTION, **DENSE}] * LAYERS, {"output": (EMBD, WORDS)}),
    "llama": (
        {"expert_count": 4, "expert_used_count": 2},
        [{**NORMS, **ATTENTION, **FEW}] * LAYERS,
        {"output": (EMBD, WORDS)},
    ),
    "phi3": (
        {},
        [
            {
                **NORMS,
                "attn_qkv": (EMBD, Q + 2 * K),
                "attn_output": (Q, EMBD),
                "ffn_up": (EMBD, 2 * FF),
                "ffn_down": (FF, EMBD),
            }
        ]
        * LAYERS,
        {"output": (EMBD, WORDS), "rope_factors_long": (HEAD // 2,), "rope_factors_short": (HEAD // 2,)},
    ),
    "gemma2": ({"attention.sliding_window": 1024}, [{**NORMS, **POST, **ATTENTION, **DENSE}] * LAYERS, {}),
    "cohere2": (
        {"attention.sliding_window": 1024, "logit_scale": 0.25},
        [{"attn_norm": (EMBD,), **ATTENTION, **DENSE}] * LAYERS,
        {},
    ),
    "olmo2": (
        {"attention.sliding_window": 1024},
        [{**POST, "attn_q_norm": (Q,), "attn_k_norm": (K,), **ATTENTION, **DENSE}] * LAYERS,
        {"output": (EMBD, WORDS)},
    ),
    "glm4moe": (
        {
            **MOE_KEYS,
            "expert_shared_count": 1,
            "expert_gating_func": 2,
            "leading_dense_block_count": 1,
            "nextn_predict_layers": 1,
        },
        [{"attn_norm": (EMBD,), "post_attention_norm": (EMBD,), **ATTENTION, **DENSE}]
        + [
            {
                "attn_norm": (EMBD,),
                "post_attention_norm": (EMBD,),
                **ATTENTION,
                **MOE,
                **SHARED,
                "exp_probs_b.bias": (EXPERTS,),
            }
        ]
        * 4
        + [
            {
                **{
                    "attn_norm": (EMBD,),
                    "post_attention_norm": (EMBD,),
                    **ATTENTION,
                    **MOE,
                    **SHARED,
                    "exp_probs_b.bias": (EXPERTS,),
                },
                **{"nextn.eh_proj": (2 * EMBD, EMBD), "nextn.enorm": (EMBD,), "nextn.hnorm": (EMBD,)},
            }
        ],
        {"output": (EMBD, WORDS)},
    ),
    "smollm3": ({}, [{**NORMS, **ATTENTION, **DENSE}] * LAYERS, {}),
    "mistral3": ({}, [{**NORMS, **ATTENTION, **DENSE}] * LAYERS, {"output": (EMBD, WORDS)}),
    "granite": ({"logit_scale": 8.0}, [{**NORMS, **ATTENTION, **DENSE}] * LAYERS, {}),
    "qwen2moe": (
        {**MOE_KEYS, "expert_shared_feed_forward_length": FF_EXP},
        [{**NORMS, **ATTENTION, **MOE, **SHARED, "ffn_gate_inp_shexp": (EMBD,)}] * LAYERS,
        {"output": (EMBD, WORDS)},
    ),
    "qwen35": (
        {**SSM, "rope.dimension_sections": [8, 12, 12, 0], "full_attention_interval": 3},
        [
            {
                **{"attn_norm": (EMBD,), "post_attention_norm": (EMBD,), **DENSE},
                **({**GATED, **HEAD_NORMS} if at % 3 == 2 else SPLIT_DELTA),
            }
            for at in range(LAYERS)
        ],
        {"output": (EMBD, WORDS)},
    ),
    "gemma4": (
        {
            **{"attention.sliding_window": 512, "attention.sliding_window_pattern": [True, True, False] * 2},
            **{"attention.key_length_swa": HEAD, "attention.value_length_swa": HEAD, "attention.shared_kv_layers": 3},
            **{
                "attention.key_length": 2 * HEAD,
                "attention.value_length": 2 * HEAD,
                "embedding_length_per_layer_input": 64,
            },
            **{"rope.dimension_count": 2 * HEAD, "rope.dimension_count_swa": HEAD},
        },
        [
            {
                **NORMS,
                **POST,
                **DENSE,
                **{"attn_q": (EMBD, size * Q), "attn_k": (EMBD, size * K), "attn_v": (EMBD, size * K)},
                **{"attn_output": (size * Q, EMBD), "attn_q_norm": (size * HEAD,), "attn_k_norm": (size * HEAD,)},
                **{"inp_gate": (EMBD, 64), "proj": (64, EMBD), "post_norm": (EMBD,)},
            }
            for size in (1, 1, 2, 1, 1, 2)
        ],
        {
            "per_layer_token_embd": (64 * LAYERS, WORDS),
            "per_layer_model_proj": (EMBD, 64 * LAYERS),
            "per_layer_proj_norm": (64,),
            "rope_freqs": (HEAD,),
        },
    ),
    "mamba2": (SSM, [{"attn_norm": (EMBD,), **SCAN}] * LAYERS, {}),
    "falcon-h1": (SSM, [{"attn_norm": (EMBD,), "ffn_norm!": (EMBD,), **SCAN, **ATTENTION, **DENSE}] * LAYERS, {}),
    "lfm2": (
        {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 0, KV, 0, KV, 0]},
        [{**NORMS, **DENSE, **({**ATTENTION, **HEAD_NORMS} if at in (2, 4) else SHORT)} for at in range(LAYERS)],
        {"token_embd_norm": (EMBD,)},
    ),
    "qwen3next": (
        {**SSM, **MOE_KEYS, "expert_shared_feed_forward_length": FF_EXP, "full_attention_interval": 3},
        [
            {
                **{
                    "attn_norm": (EMBD,),
                    "post_attention_norm": (EMBD,),
                    **MOE,
                    **SHARED,
                    "ffn_gate_inp_shexp": (EMBD,),
                },
                **({**GATED, **HEAD_NORMS} if at % 3 == 2 else DELTA),
            }
            for at in range(LAYERS)
        ],
        {"output": (EMBD, WORDS)},
    ),
}


def write(path: Path, architecture: str) -> None:
    """The header, and a hole where the weights would be."""
    keys, layers, outside = MODELS[architecture]
    common: dict[str, Any] = {
        "context_length": 32768,
        "embedding_length": EMBD,
        "block_count": len(layers),
        "feed_forward_length": FF,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "rope.dimension_count": HEAD,
        "vocab_size": WORDS,
    }
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in {**common, **keys}.items():
        add = {int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}[type(value)]
        add(f"{architecture}.{key}", value)
    writer.add_string("tokenizer.ggml.model", "none")
    tensors = {"token_embd.weight": (EMBD, WORDS), "output_norm.weight": (EMBD,)}
    if "token_embd_norm" in outside:
        del tensors["output_norm.weight"]
    tensors |= {f"{name}.weight": shape for name, shape in outside.items()}
    for at, layer in enumerate(layers):
        for name, shape in layer.items():
            tensors[f"blk.{at}.{named(name)}"] = shape
    for name, shape in tensors.items():
        small = len(shape) == 1 or "ssm_conv" in name or "shortconv.conv" in name or name.endswith(("ssm_a", "ssm_d"))
        kind = np.dtype(np.float32 if small or "ssm_norm" in name or "gate_inp" in name else np.float16)
        writer.add_tensor_info(name, shape[::-1], kind, int(np.prod(shape)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = path.stat().st_size
    last = read_model(str(path)).tensors[-1]
    os.truncate(path, -(-header // 32) * 32 + last.offset + last.size)


def named(name: str) -> str:
    return name[:-1] if name.endswith("!") else name if name.endswith(".bias") else f"{name}.weight"


@pytest.fixture(scope="module")
def device() -> Iterator[int]:
    """The port of a device."""
    port = free_port()
    with cards([port], [16384]):
        yield port


@pytest.mark.parametrize("architecture", sorted(MODELS))
def test_the_plan_is_what_the_server_allocates(architecture: str, tmp_path: Path, device: int) -> None:
    """Weights, KV cache and state to the log's two decimals, the total within 2 %."""
    path = tmp_path / f"{architecture}.gguf"
    write(path, architecture)
    facts = facts_of(read_model(str(path)))
    for options in ({"ctx-size": "16384"}, {"ctx-size": "8192", "parallel": "2"}):
        plan = vram_plan(
            [{"name": "m", "facts": facts, "options": options}],
            [{"name": "RPC0", "total_mib": 24576}],
            overhead_mib=0,
        )
        (row,) = plan["models"][0]["devices"]
        truth = buffers(path, [device], options)
        assert row["weights_mib"] == pytest.approx(truth["RPC0", "model"], abs=0.0051)
        assert row["kv_mib"] == pytest.approx(truth.get(("RPC0", "KV"), 0), abs=0.0051)
        assert row["state_mib"] == pytest.approx(truth.get(("RPC0", "RS"), 0), abs=0.0051)
        seen = sum(size for (where, _kind), size in truth.items() if where == "RPC0")
        assert row["total_mib"] == pytest.approx(seen, rel=0.02), (row, truth)


def test_what_is_called_measured_is_tested() -> None:
    headers = (TESTS / "fixtures" / "gguf_headers").glob("*.gguf")
    real = {read_model(str(path)).metadata["general.architecture"] for path in headers}
    assert set(MEASURED) == {*real, *MODELS}
