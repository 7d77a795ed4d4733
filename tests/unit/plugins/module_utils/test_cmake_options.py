# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._cmake_options import (
    TreeOptions,
    arguments,
    problems,
    read_options,
)

TREE = {
    "CMakeLists.txt": """
        project("llama.cpp" C CXX)
        option(LLAMA_OPENSSL "llama: use openssl" ON)
        # option(LLAMA_DREAMT_OF "not yet" ON)
        option(LLAMA_CUDA_OLD "kept for the message" OFF)
        llama_option_depr(WARNING LLAMA_CUDA GGML_CUDA)
        llama_option_depr(WARNING LLAMA_CURL)
        llama_option_depr(WARNING LLAMA_CUDA_OLD GGML_CUDA)
        set(LLAMA_PLAIN "not cached")
    """,
    "ggml/CMakeLists.txt": """
        option(GGML_CUDA "ggml: use CUDA" OFF)
        option(GGML_CUDA_FA_ALL_QUANTS "ggml: all quants" OFF)
        set   (GGML_CUDA_COMPRESSION_MODE "size" CACHE STRING
                                              "ggml: cuda link binary compression mode")
    """,
    "tools/ui/CMakeLists.txt": 'set(LLAMA_UI_GZIP ON CACHE BOOL "gzip")',
    "cmake/common.cmake": 'option(LLAMA_FROM_INCLUDE "x" ON)',
    "tests/CMakeLists.txt": 'option(LLAMA_ONLY_OF_A_TEST "x" ON)',
}


@pytest.fixture
def tree(tmp_path: Path) -> TreeOptions:
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_options(str(tmp_path))


def test_the_options_of_a_tree(tree: TreeOptions) -> None:
    assert tree.switches - {"BUILD_SHARED_LIBS"} == {
        "GGML_CUDA",
        "GGML_CUDA_FA_ALL_QUANTS",
        "LLAMA_CUDA_OLD",
        "LLAMA_FROM_INCLUDE",
        "LLAMA_OPENSSL",
        "LLAMA_UI_GZIP",
    }
    assert tree.values == {"GGML_CUDA_COMPRESSION_MODE"}
    assert tree.deprecated == {"LLAMA_CUDA": "GGML_CUDA", "LLAMA_CURL": "", "LLAMA_CUDA_OLD": "GGML_CUDA"}
    assert "LLAMA_CUDA_OLD" not in tree.names


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("LLAMA_CURL", True, "LLAMA_CURL is gone: the new name is LLAMA_OPENSSL"),
        ("LLAMA_CUDA", True, "LLAMA_CUDA is gone: the new name is GGML_CUDA"),
        ("LLAMA_CUDA_OLD", True, "LLAMA_CUDA_OLD is gone: the new name is GGML_CUDA"),
        ("GGML_CUDA_F16", True, "GGML_CUDA_F16 is gone: nothing replaces it, leave it out"),
        (
            "GGML_CUDA_FA_ALL_QUANT",
            True,
            "this source tree has no option GGML_CUDA_FA_ALL_QUANT; the nearest is GGML_CUDA_FA_ALL_QUANTS",
        ),
        ("LLAMA_ONLY_OF_A_TEST", True, "this source tree has no option LLAMA_ONLY_OF_A_TEST"),
        ("FOO", 1, "this source tree has no option FOO"),
        ("LLAMA_OPENSSL", "perhaps", "LLAMA_OPENSSL is a switch: true or false was wanted, not 'perhaps'"),
        ("GGML_CUDA", True, "GGML_CUDA is set by backend: leave it out"),
    ],
)
def test_an_option_that_would_do_nothing(tree: TreeOptions, name: str, value: Any, told: str) -> None:
    assert problems({name: value}, tree, {"GGML_CUDA": "backend"}) == [told]


def test_options_that_are_right(tree: TreeOptions) -> None:
    wanted = {
        "LLAMA_OPENSSL": "off",
        "GGML_CUDA_COMPRESSION_MODE": "speed",
        "CMAKE_CXX_FLAGS": "-O2",
        "CUDAToolkit_ROOT": "/usr/local/cuda-13",
    }
    assert problems(wanted, tree, {}) == []


def test_a_dead_name_that_an_old_tree_still_has_is_fine() -> None:
    assert problems({"GGML_CUDA_F16": True}, TreeOptions(switches={"GGML_CUDA_F16"}), {}) == []


def test_the_command_line() -> None:
    assert arguments({"B": True, "A": ["86", "89"], "C": "x y", "D": 1}) == ["-DA=86;89", "-DB=ON", "-DC=x y", "-DD=1"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GGML_CUBLAS", "GGML_CUDA"),
        ("GGML_HIPBLAS", "GGML_HIP"),
        ("LLAMA_CLBLAST", "GGML_VULKAN"),
        ("LLAMA_CURL", "LLAMA_OPENSSL"),
        ("LLAMA_HIPBLAS", "GGML_HIP"),
        ("LLAMA_SERVER_SSL", "LLAMA_OPENSSL"),
        ("LLAMA_VULKAN", "GGML_VULKAN"),
        *((name, "") for name in ("GGML_CUDA_DMMV_X", "GGML_CUDA_FORCE_DMMV", "GGML_CUDA_MMV_Y", "LLAMA_CUDA_F16")),
    ],
)
def test_names_of_old_guides(old: str, new: str) -> None:
    told = f"the new name is {new}" if new else "nothing replaces it, leave it out"
    assert problems({old: True}, TreeOptions(switches={"LLAMA_X"}), {}) == [f"{old} is gone: {told}"]


@pytest.mark.parametrize("value", [True, False, "on", "Off", "YES", "no", "true", "FALSE", "y", "N", 1, 0, "1", "0"])
def test_what_a_switch_takes(value: Any) -> None:
    assert problems({"A": value}, TreeOptions(switches={"A"}), {}) == []
    assert problems({"A": value}, TreeOptions(values={"A"}), {}) == []


@pytest.mark.parametrize("value", ["", "2", 2, None, [], "onn", "enabled"])
def test_what_a_switch_does_not_take(value: Any) -> None:
    assert problems({"A": value}, TreeOptions(switches={"A"}), {}) == [
        f"A is a switch: true or false was wanted, not {value!r}"
    ]
    assert problems({"A": value}, TreeOptions(values={"A"}), {}) == []
