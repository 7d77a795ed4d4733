# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Some of a machine's GPUs, by what an operator calls them: index, UUID or PCI address."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

ALL = "all"


class ChoiceError(Exception):
    """A GPU that was named is not there, or twice; the text names those that are."""


def find(gpus: Sequence[Mapping[str, Any]], name: Any) -> Mapping[str, Any]:
    """The one of `gpu_info`'s GPUs that has this index, UUID or PCI address; ChoiceError when there is none."""
    text = str(name).strip().lower()
    # nvidia-smi writes eight digits of the domain, the kernel four, lspci most often none.
    address = re.fullmatch(r"(?:[0-9a-f]{0,4}([0-9a-f]{4}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", text)
    pci = f"{address[1] or '0000'}:{address[2]}" if address else None
    for gpu in gpus:
        if text in (str(gpu["index"]), str(gpu["uuid"]).lower()) or pci == gpu["pci_address"]:
            return gpu
    there = "; ".join(f"{gpu['index']} = {gpu['uuid']} = {gpu['pci_address']} ({gpu['product']})" for gpu in gpus)
    raise ChoiceError(f"wanted the GPU {str(name)!r}, by its index, UUID or PCI address; found {there or 'no GPU'}")


def choose(gpus: Sequence[Mapping[str, Any]], wanted: Any = ALL, reserved_mib: Any = None) -> list[dict[str, Any]]:
    """The wanted ones in the wanted order, each once.

    Each gets `device`, its name for a llama-server that has these UUIDs in CUDA_VISIBLE_DEVICES, and `reserved_mib`,
    the MiB of it that others use, from a dict by GPU. Raises ChoiceError.
    """
    if wanted != ALL and not isinstance(wanted, (list, tuple)):
        raise ChoiceError(f"wanted {ALL!r}, or a list of indexes, UUIDs and PCI addresses; found {wanted!r}")
    chosen = [dict(gpu) for gpu in (gpus if wanted == ALL else [find(gpus, name) for name in wanted])]
    uuids = [gpu["uuid"] for gpu in chosen]
    twice = [gpu for gpu in chosen if uuids.count(gpu["uuid"]) > 1]
    if twice:
        raise ChoiceError(f"the GPU {twice[0]['index']} = {twice[0]['uuid']} is named twice among {list(wanted)!r}")
    reserved = {find(gpus, name)["uuid"]: mib for name, mib in (reserved_mib or {}).items()}
    for place, gpu in enumerate(chosen):
        gpu["device"] = f"CUDA{place}"
        gpu["reserved_mib"] = reserved.get(gpu["uuid"], 0)
    return chosen
