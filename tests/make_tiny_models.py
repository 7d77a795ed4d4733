# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write small GGUF models with random weights, which the real llama-server loads and answers from (with nonsense).

usage: make_tiny_models.py OUTDIR [SET]

SET `tests` (the default): alpha-Q4_K_M, beta-Q8_0, gamma, a slow one whose loading can be watched, a split one in a
folder, one with a projector, a broken and a truncated one. SET `demo`: a single file and a split one, heavy enough
(about 40 MiB) that a small device holds only some of them. SET `hub`: repositories for tests/doubles/hub.py.
Needs numpy and gguf; the tokenizer (bytes and a few letters) is made here, nothing is downloaded.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ': ' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    kind = gguf.TokenType
    rows: list[tuple[str, float, int]] = [
        ("<unk>", 0.0, kind.UNKNOWN),
        ("<s>", 0.0, kind.CONTROL),
        ("</s>", 0.0, kind.CONTROL),
        *((f"<0x{byte:02X}>", 0.0, kind.BYTE) for byte in range(256)),
        *((c, -float(i), kind.NORMAL) for i, c in enumerate("\u2581abcdefghijklmnopqrstuvwxyz.,!?0123456789", 1)),
    ]
    texts, scores, kinds = zip(*rows)
    return [text.encode() for text in texts], list(scores), [int(kind) for kind in kinds]


def tensors(width: int, layers: int, ff: int, words: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) * np.float32(0.05)

    yield "token_embd.weight", weights(words, width)
    yield "output_norm.weight", np.ones(width, np.float32)
    yield "output.weight", weights(words, width)
    for i in range(layers):
        yield f"blk.{i}.attn_norm.weight", np.ones(width, np.float32)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{i}.{name}.weight", weights(width, width)
        yield f"blk.{i}.ffn_norm.weight", np.ones(width, np.float32)
        yield f"blk.{i}.ffn_gate.weight", weights(ff, width)
        yield f"blk.{i}.ffn_up.weight", weights(ff, width)
        yield f"blk.{i}.ffn_down.weight", weights(width, ff)


def make(
    path: Path, seed: int, context: int = 512, width: int = 64, layers: int = 2, ff: int = 128, shards: int = 1
) -> None:
    """One model; with shards, `path` names the set and gguf adds -0000N-of-0000M to each file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens, scores, kinds = vocabulary()
    heads = max(2, width // 128)
    split = {"split_max_tensors": -(-(3 + layers * 9) // shards)} if shards > 1 else {}
    writer = gguf.GGUFWriter(str(path), "llama", **split)
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in tensors(width, layers, ff, len(tokens), seed):
        writer.add_tensor(name, tensor)
    close(writer)


def make_projector(path: Path) -> None:
    """Named and marked like one, without tensors."""
    writer = gguf.GGUFWriter(str(path), "clip")
    writer.add_type("mmproj")
    close(writer)


def close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_tests(out: Path) -> None:
    for seed, name in enumerate(("alpha-Q4_K_M", "beta-Q8_0", "gamma"), 1):
        make(out / f"{name}.gguf", seed)
    make(out / "slow.gguf", 9, width=1024, layers=8, ff=4096)
    make(out / "Sharded-Q4_K_M" / "Sharded-Q4_K_M.gguf", 5, shards=3)
    make(out / "vision-Q8_0" / "vision-Q8_0.gguf", 6)
    make_projector(out / "vision-Q8_0" / "mmproj-F16.gguf")
    (out / "broken.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 64)
    whole = (out / "alpha-Q4_K_M.gguf").read_bytes()
    (out / "truncated.gguf").write_bytes(whole[: len(whole) // 2])
    (out / "notes.txt").write_text("not a model\n")


def make_demo(out: Path) -> None:
    make(out / "tiny-single.gguf", 1, context=8192, width=256, layers=8, ff=1024)
    make(out / "tiny-split" / "tiny-split.gguf", 2, context=8192, width=256, layers=8, ff=1024, shards=3)


def make_hub(out: Path) -> None:
    """Repositories as they are on a hub: several quants in one, shards in a folder, projectors beside their models."""
    owner = out / "homelab"
    for seed, quant in enumerate(("Q4_K_M", "Q8_0"), 11):
        make(owner / "tiny-GGUF" / f"tiny-{quant}.gguf", seed)
    make(owner / "split-GGUF" / "Q4_K_M" / "split-Q4_K_M.gguf", 13, shards=3)
    make(owner / "eyes-GGUF" / "eyes-Q8_0.gguf", 14)
    make_projector(owner / "eyes-GGUF" / "mmproj-F16.gguf")
    # What a card cannot hold is known from its header alone.
    header = Path(__file__).parent / "fixtures" / "gguf_headers" / "Llama-3.1-70B-Q4_K_M.gguf"
    (owner / "huge-GGUF").mkdir()
    shutil.copy(header, owner / "huge-GGUF" / "huge-Q4_K_M.gguf")


if __name__ == "__main__":
    {"tests": make_tests, "demo": make_demo, "hub": make_hub}[sys.argv[2] if len(sys.argv) > 2 else "tests"](
        Path(sys.argv[1])
    )
