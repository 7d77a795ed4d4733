# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How busy, warm and hungry the GPUs are, by nvidia-smi. What they are at all is `_nvidia`'s."""

from __future__ import annotations

from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._nvidia import number_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run

FIELDS = {
    "index": "index",
    "uuid": "uuid",
    "name": "product",
    "memory.total": "memory_total_mib",
    "memory.used": "memory_used_mib",
    "utilization.gpu": "utilization_percent",
    "temperature.gpu": "temperature_celsius",
    "power.draw": "power_watts",
    "power.limit": "power_limit_watts",
}
# The last field has its first name since driver 535, and before it had the second.
THROTTLING = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
UNKNOWN_FIELD = 2  # nvidia-smi's exit status
# Bits of the last field that mean a clock held down; the others are idleness and clocks set by hand.
THROTTLES = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


def load_of(text: str) -> list[dict[str, Any]]:
    """The lines of `nvidia-smi --query-gpu`: MiB, percent, degrees, watts; null for what a card does not tell."""
    gpus = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) != len(FIELDS) + 1 or not words[0].isdigit():
            continue
        gpu: dict[str, Any] = {name: number_of(word) for name, word in zip(FIELDS.values(), words)}
        gpu["uuid"], gpu["product"] = words[1], words[2]
        gpu["throttling"] = _throttles(words[-1])
        gpus.append(gpu)
    return sorted(gpus, key=lambda gpu: gpu["index"])


def look(run: Run) -> list[dict[str, Any]]:
    """The GPUs now; none where nvidia-smi does not answer, whose reason `_nvidia` tells."""
    for last in THROTTLING:
        query = [f"--query-gpu={','.join([*FIELDS, last])}", "--format=csv,noheader,nounits"]
        status, output, _errors = run(["nvidia-smi", *query])
        if status != UNKNOWN_FIELD:
            break
    return load_of(output) if status == 0 else []


def _throttles(word: str) -> list[str] | None:
    try:
        bits = int(word, 16)
    except ValueError:
        return None
    return [reason for bit, reason in THROTTLES.items() if bits & bit]
