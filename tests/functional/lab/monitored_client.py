# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the router, in its guest, that counts what it did. Prints JSON.

usage: python3 - SECONDS LIMIT MODEL… (no other client, no model loaded): asks one model after the other at random, and
knows by itself which one the router has to load and which one to let go.
"""

from __future__ import annotations

import json
import random
import sys
import time
import urllib.request
from collections import Counter

URL = "http://127.0.0.1:8012"
with open("/etc/llama-router/api-keys") as keys:
    KEY = keys.readline().strip()


def ask(path: str, body: dict[str, object] | None = None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(URL + path, json.dumps(body).encode() if body else None, headers)
    with urllib.request.urlopen(request, timeout=300) as response:
        answer: dict[str, object] = json.load(response)
        return answer


def main(seconds: float, limit: int, models: list[str]) -> None:
    chosen = random.Random(7)
    loaded: list[str] = []  # the least recently used first
    loads: Counter[str] = Counter(dict.fromkeys(models, 0))
    evictions, answers, tokens = loads.copy(), loads.copy(), loads.copy()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        model = chosen.choice(models)
        if model not in loaded:
            loads[model] += 1
            if len(loaded) == limit:
                evictions[loaded.pop(0)] += 1
        else:
            loaded.remove(model)
        loaded.append(model)
        count = chosen.randrange(1, 40)
        body: dict[str, object] = {"model": model, "prompt": "once", "max_tokens": count, "ignore_eos": True}
        ask("/v1/completions", body)
        answers[model] += 1
        tokens[model] += count
        time.sleep(chosen.random() / 5)
    print(json.dumps({"loads": loads, "evictions": evictions, "answers": answers, "predicted_tokens": tokens}))


main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
