# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a model's layers lie, by the log of its process, and whether that is where they were wanted.

llama-server goes on without a word when it has no GPU, or too little memory on one: it computes on the CPU, and only
its log (at verbosity 4) tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

# The first line of a model's process; everything of an earlier process behind the same port comes before it.
BEGIN, LOADED = "llama_server: initializing", "llama_server: model loaded"
_DEVICE = re.compile(r"  - ([A-Za-z]+\d+) +: (.+) \(\d+ MiB, \d+ MiB free\)")
_LAYERS = re.compile(r"load_tensors: offloaded (\d{1,9})/(\d{1,9}) layers to GPU")
# Weights, the KV cache of attention, recurrent state, results, scratch.
_BUFFER = re.compile(r" (\S+) +(model|KV|RS|output|compute) buffer size = +([0-9]{1,12}(?:\.[0-9]{1,6})?) MiB")
# A device's own buffer: not CPU_Mapped, not CUDA_Host. Those of another machine are named by its address.
_ON_DEVICE = re.compile(r"([A-Za-z]+\d+)(?:\[(.+)\])?")
HOST = "host"  # where the rest lies


@dataclass(frozen=True)
class Offload:
    """What a model's process said of its load.

    `weights` is MiB by device, as `--list-devices` names it; `memory` that of all its buffers, those of the HOST too.
    """

    offloaded: int
    layers: int
    weights: dict[str, float]
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        where = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in self.weights.items()) or "no device"
        return f"{self.offloaded} of {self.layers} layers on {where}"


def read(log: Sequence[str]) -> Offload | None:
    """The latest load in a model's log; None when the log does not tell of one."""
    start = max((at for at, line in enumerate(log) if BEGIN in line), default=None)
    if start is None:
        return None
    addresses: dict[str, str] = {}
    layers: tuple[int, int] | None = None
    weights: dict[str, float] = {}
    memory: dict[str, float] = {}
    for line in log[start:]:
        device, count, buffer = _DEVICE.search(line), _LAYERS.search(line), _BUFFER.search(line)
        if device:
            addresses[device[2]] = device[1]
        elif count and layers is None:  # a draft model's come after it
            layers = int(count[1]), int(count[2])
        elif buffer:
            on_device = _ON_DEVICE.fullmatch(buffer[1])
            name = addresses.get(on_device[2] or "", on_device[1]) if on_device else HOST
            memory[name] = memory.get(name, 0.0) + float(buffer[3])
            if on_device and buffer[2] == "model":
                weights[name] = weights.get(name, 0.0) + float(buffer[3])
        elif LOADED in line:
            # Without a GPU's backend it says nothing of layers, but where the weights lie.
            return Offload(*(layers or (0, 0)), weights, memory) if memory else None
    return None


def complaint(name: str, found: Offload, devices: Sequence[str], gpu_layers: str) -> str | None:
    """What is wrong with a model's place, None when nothing is.

    devices: where weights of it are wanted, anywhere but on the CPU when empty. gpu_layers: its option n-gpu-layers.
    """
    number = re.fullmatch(r"\+?\d+", gpu_layers)
    wanted = min(int(gpu_layers), found.layers) if number else found.layers
    missing = [device for device in devices or [""] if not (found.weights.get(device) if device else found.weights)]
    if found.layers and found.offloaded >= wanted and not missing:
        return None
    return (
        f"{name} was wanted with {gpu_layers if number else 'all'} of its layers on {' and '.join(devices) or 'a GPU'};"
        f" found {found.text if found.layers else 'that llama-server uses no GPU at all'}. What is not on a device is"
        " computed on the CPU. When its memory was short: free some (nvidia-smi shows who has it), or declare what"
        " others need (llama_router_reserved_mib); when it is wanted like this: say so in the model's options"
        " (n-gpu-layers, device)"
    )
