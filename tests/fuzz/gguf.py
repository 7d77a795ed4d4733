# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The GGUF reader and the planner: whatever a file says, a description and a cost, or the one error."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from fractions import Fraction

from ansible_collections.homelab.llamacpp.plugins.module_utils import _gguf, _gguf_info, _vram_cost, _vram_load
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable

HEADERS = pathlib.Path(__file__).parents[1] / "fixtures" / "gguf_headers"
PATH = os.path.join(tempfile.mkdtemp(prefix="fuzz-gguf-"), "model.gguf")
LOAD = _vram_load.Load(8192)
TWO = _vram_load.Split((0, 1), (Fraction(1), Fraction(2)))


def seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(HEADERS.glob("*.gguf"))]


def fuzz_one(data: bytes) -> None:
    with open(PATH, "wb") as file:
        file.write(data)
    try:
        model = _gguf.read_model(PATH)
    except _gguf.GGUFError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert len(refusal) < 4096
    assert refusal == printable(refusal, 4096)
    if refusal:
        return
    found = _gguf_info.described(model)
    assert len(json.dumps(found, allow_nan=False)) < 1 << 20
    if found["facts"]:
        try:
            cost = _vram_cost.cost_of(found["facts"], LOAD, TWO)
        except _vram_load.VramError:
            return
        assert all(value >= 0 for part in [*cost.parts.values(), cost.host] for value in part)
