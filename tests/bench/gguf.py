# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The GGUF reader against PyPI's gguf on the same headers: seconds and memory, each in a process of its own.

A header is a real model's with a vocabulary of 152 or 262 thousand words put in, as large as the one it came with.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HEADERS = Path(__file__).parents[1] / "fixtures" / "gguf_headers"
CASES = {"Qwen3-8B-Q4_K_M": 151936, "gemma-3-4b-Q4_K_M": 262144}
REPEATS = 5  # of ours; the incumbent runs once

MEASURE = """
import json, re, sys, time
{imports}
def peak():  # of this program alone: getrusage also knows of the one that started it
    with open("/proc/self/status") as file:
        return int(re.search("VmHWM:[ \\t]+([0-9]+) kB", file.read())[1])
before = peak()
times = []
for _turn in range({repeats}):
    start = time.perf_counter()
    {call}
    times.append(time.perf_counter() - start)
after = peak()
print(json.dumps({{"seconds": min(times), "mib": after / 1024, "own_mib": (after - before) / 1024}}))
"""
OURS = {
    "imports": "from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import read_model",
    "call": "read_model(sys.argv[1])",
    "repeats": REPEATS,
}
INCUMBENT = {"imports": "import gguf", "call": "gguf.GGUFReader(sys.argv[1])", "repeats": 1}


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def with_vocabulary(header: Path, words: int, out: Path) -> None:
    """The header with tokens, their types and their merges, which come before its own keys."""
    source = header.read_bytes()
    version, tensors, keys = struct.unpack_from("<IQQ", source, 4)
    dice = random.Random(words)
    tokens = [bytes(dice.choices(range(97, 123), k=dice.randint(2, 12))) for _word in range(words)]
    merges = [tokens[index] + b" " + tokens[-index - 1] for index in range(words)]
    types = struct.pack(f"<{words}i", *[1] * words)
    own = text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, words) + b"".join(map(text, tokens))
    own += text(b"tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, words) + types
    own += text(b"tokenizer.ggml.merges") + struct.pack("<IIQ", 9, 8, words) + b"".join(map(text, merges))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys + 3) + own + source[24:]
    out.write_bytes(head + bytes(-len(head) % 32))


def measured(path: Path, how: dict[str, Any]) -> dict[str, float]:
    argv = [sys.executable, "-c", MEASURE.format(**how), str(path)]
    result: dict[str, float] = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for name, words in CASES.items():
            path = Path(scratch, f"{name}.gguf")
            with_vocabulary(HEADERS / f"{name}.gguf", words, path)
            # The incumbent maps the tensors' data, so that has to be there: a hole of the length that is wanted.
            with path.open("ab") as file:
                file.truncate(8 << 30)
            ours, theirs = measured(path, OURS), measured(path, INCUMBENT)
            print(
                f"{name}, {words} words: {ours['seconds'] * 1000:.0f} ms and {ours['mib']:.0f} MiB"
                f" ({ours['own_mib']:.0f} above its imports); PyPI's gguf {theirs['seconds']:.1f} s and"
                f" {theirs['mib']:.0f} MiB: {theirs['seconds'] / ours['seconds']:.0f} times faster,"
                f" {theirs['mib'] / ours['mib']:.0f} times smaller"
            )


if __name__ == "__main__":
    main()
