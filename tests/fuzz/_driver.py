# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run one target, TARGET.py beside this file, under atheris. tests/fuzz/run fetches atheris and sets the bounds.

A target defines `fuzz_one(data: bytes)`, which raises for a fault and returns otherwise. It may define `seeds()`, which
returns inputs to begin with.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
import sys

import atheris

name = sys.argv.pop(1)
corpus = pathlib.Path(sys.argv[-1])
spec = importlib.util.spec_from_file_location(f"fuzz_{name}", pathlib.Path(__file__).with_name(f"{name}.py"))
if spec is None or spec.loader is None:
    sys.exit(f"expected a target beside {__file__}, found no {name}.py")
target = importlib.util.module_from_spec(spec)
with atheris.instrument_imports(include=["ansible_collections.homelab.llamacpp"]):
    spec.loader.exec_module(target)
for seed in getattr(target, "seeds", list)():
    (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
atheris.Setup(sys.argv, target.fuzz_one)
atheris.Fuzz()
