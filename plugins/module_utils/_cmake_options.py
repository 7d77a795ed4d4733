# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which cmake options a llama.cpp source tree has.

cmake takes any `-DGGML_…` without a word and builds something else than was wanted, so names are checked against the
tree's own `option()` and cached `set()` lines.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_COMMENT = re.compile(r"(?m)^\s*#.*$")
_SWITCH = re.compile(r"\boption\s*\(\s*([A-Za-z0-9_]+)")
_CACHED = re.compile(r"\bset\s*\(\s*([A-Za-z0-9_]+)\s[^()]*?\bCACHE\s+(BOOL|STRING|PATH|FILEPATH)\b")
_DEPRECATED = re.compile(r"\bllama_option_depr\s*\(\s*\w+\s+([A-Za-z0-9_]+)(?:\s+([A-Za-z0-9_]+))?\s*\)")
_NO_SOURCES = {".git", "node_modules", "tests", "examples", "docs", "models"}

# cmake's and its find modules' own, which no tree lists.
_OF_CMAKE = re.compile(r"CMAKE_\w+|(?:CUDAToolkit|OPENSSL|Vulkan|BLAS|OpenMP)_\w+|\w+_(?:ROOT|DIR|LIBRARY|INCLUDE_DIR)")

# Options that guides still name and that a tree does not mention any more; what stands in their place, if anything.
_GONE = {
    "GGML_CUDA_F16": "",
    "GGML_CUDA_DMMV_X": "",
    "GGML_CUDA_FORCE_DMMV": "",
    "GGML_CUDA_MMV_Y": "",
    "GGML_CUBLAS": "GGML_CUDA",
    "GGML_HIPBLAS": "GGML_HIP",
    "LLAMA_CLBLAST": "GGML_VULKAN",
    "LLAMA_CUDA_F16": "",
    "LLAMA_CURL": "LLAMA_OPENSSL",
    "LLAMA_HIPBLAS": "GGML_HIP",
    "LLAMA_SERVER_SSL": "LLAMA_OPENSSL",
    "LLAMA_VULKAN": "GGML_VULKAN",
}
_TRUE = {"ON", "YES", "TRUE", "Y", "1"}
_FALSE = {"OFF", "NO", "FALSE", "N", "0"}


@dataclass
class TreeOptions:
    """`switches` take ON or OFF, `values` a text; `deprecated` maps an old name to the new one, or to nothing."""

    switches: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    deprecated: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return (self.switches | self.values) - self.deprecated.keys()


def read_options(tree: str) -> TreeOptions:
    """The options of the source tree at this path."""
    found = TreeOptions(switches={"BUILD_SHARED_LIBS"})
    for path in _cmake_files(tree):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = _COMMENT.sub("", file.read())
        found.switches.update(_SWITCH.findall(text))
        for name, kind in _CACHED.findall(text):
            (found.switches if kind == "BOOL" else found.values).add(name)
        found.deprecated.update(_DEPRECATED.findall(text))
    return found


def problems(wanted: Mapping[str, Any], known: TreeOptions, taken: Mapping[str, str]) -> list[str]:
    """What is wrong with these options, a line each; `taken` says what sets an option that is not the operator's."""
    lines = []
    for name, value in wanted.items():
        if name in taken:
            lines.append(f"{name} is set by {taken[name]}: leave it out")
        elif name in known.names:
            if name in known.switches and _switch(value) is None:
                lines.append(f"{name} is a switch: true or false was wanted, not {value!r}")
        elif name in _GONE or name in known.deprecated:
            new = _GONE.get(name) or known.deprecated.get(name, "")
            lines.append(
                f"{name} is gone: " + (f"the new name is {new}" if new else "nothing replaces it, leave it out")
            )
        elif not _OF_CMAKE.fullmatch(name):
            near = difflib.get_close_matches(name, sorted(known.names), n=1, cutoff=0.6)
            lines.append(f"this source tree has no option {name}" + (f"; the nearest is {near[0]}" if near else ""))
    return lines


def arguments(options: Mapping[str, Any]) -> list[str]:
    """As cmake's command line has them."""
    return [f"-D{name}={_text(value)}" for name, value in sorted(options.items())]


def _text(value: Any) -> str:
    switch = _switch(value) if isinstance(value, bool) else None
    if switch is not None:
        return "ON" if switch else "OFF"
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)


def _switch(value: Any) -> bool | None:
    text = str(value).upper()
    return True if text in _TRUE else False if text in _FALSE else None


def _cmake_files(tree: str) -> Iterator[str]:
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name not in _NO_SOURCES]
        for name in files:
            if name == "CMakeLists.txt" or name.endswith(".cmake"):
                yield os.path.join(folder, name)
