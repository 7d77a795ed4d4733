# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GGUF files of any size, for tests of how they travel: a true header, and weights that are noise."""

from __future__ import annotations

import random
import struct
from pathlib import Path

ROW = 1024  # elements of f32, so 4 KiB
BLOCK = 1 << 20  # bytes


def write(path: Path, size: int, seed: int = 0, shard: int = 0, shards: int = 1) -> None:
    """A file of about `size` bytes with one tensor; of several shards the one with this number, counted from 0."""
    rows = max(1, size // (4 * ROW))
    pairs = [_text("general.architecture") + struct.pack("<I", 8) + _text("llama")]
    if shards > 1:
        pairs += [
            _text("split.no") + struct.pack("<IH", 2, shard),
            _text("split.count") + struct.pack("<IH", 2, shards),
            _text("split.tensors.count") + struct.pack("<II", 4, shards),
        ]
    tensor = _text(f"blk.{shard}.weight") + struct.pack("<IQQIQ", 2, ROW, rows, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor
    dice = random.Random(seed)
    left = rows * 4 * ROW
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        while left:
            count = min(BLOCK, left)
            file.write(dice.randbytes(count))
            left -= count


def write_shards(stem: Path, count: int, size: int) -> list[Path]:
    """A model of so many shards, each of about `size` bytes."""
    paths = [stem.with_name(f"{stem.name}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        write(path, size, seed=number, shard=number, shards=count)
    return paths


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()
