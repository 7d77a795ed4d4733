# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The GGUF reader and the planner under atheris: whatever a file says, a description and a cost or the one error.

Run it by tests/fuzz/run, which fetches atheris and sets the bounds of time and memory.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from fractions import Fraction

import atheris

with atheris.instrument_imports():
    from ansible_collections.homelab.llamacpp.plugins.module_utils import _gguf, _gguf_info, _vram_cost, _vram_load

PATH = os.path.join(tempfile.mkdtemp(prefix="fuzz-gguf-"), "model.gguf")
LOAD = _vram_load.Load(8192)
TWO = _vram_load.Split((0, 1), (Fraction(1), Fraction(2)))


def one_file(data: bytes) -> None:
    with open(PATH, "wb") as file:
        file.write(data)
    try:
        model = _gguf.read_model(PATH)
    except _gguf.GGUFError:
        return
    found = _gguf_info.described(model)
    assert len(json.dumps(found, allow_nan=False)) < 1 << 20
    if found["facts"]:
        try:
            cost = _vram_cost.cost_of(found["facts"], LOAD, TWO)
        except _vram_load.VramError:
            return
        assert all(value >= 0 for part in [*cost.parts.values(), cost.host] for value in part)


atheris.Setup(sys.argv, one_file)
atheris.Fuzz()
