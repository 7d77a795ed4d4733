# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of a repository a name means. The names are those of repositories that exist."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._hub import Artefact, RepoFile, artefacts, choose

NAMES = [
    "README.md",
    "Qwen3-8B-Q4_K_M.gguf",
    "Qwen3-8B-UD-Q4_K_XL.gguf",
    "Qwen3-8B-IQ4_NL.gguf",
    "qwen3-8b.BF16.gguf",
    "UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL-00001-of-00002.gguf",
    "UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL-00002-of-00002.gguf",
    "Q8_0/Qwen3-8B-00001-of-00002.gguf",
    "Q8_0/Qwen3-8B-00002-of-00002.gguf",
    "broken/Qwen3-8B-Q6_K-00001-of-00003.gguf",
    "gpt-oss-20b-mxfp4.gguf",
    "Qwen3-8B.i1-Q5_K_S.gguf",
    "mmproj-F16.gguf",
    "mmproj-BF16.gguf",
    "mtp-Qwen3-8B-Q8_0.gguf",
]
FILES = [RepoFile(name, 1 << 30, "0" * 64) for name in NAMES]


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen3-8B-Q4_K_M", "Q4_K_M"),
        ("Qwen3-8B-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("Model.IQ3_XXS", "IQ3_XXS"),
        ("Model.i1-IQ1_S", "i1-IQ1_S"),
        ("model-bf16", "bf16"),
        ("Model-TQ1_0", "TQ1_0"),
        ("gpt-oss-20b-mxfp4", "mxfp4"),
        ("gpt-oss-20b-MXFP4_MOE", "MXFP4_MOE"),
        ("Q8_0/Model", "Q8_0"),
        ("Model-7B", ""),
        ("Phi-4", ""),
    ],
)
def test_the_quantization_is_in_the_name(name: str, quant: str) -> None:
    assert Artefact(name, []).quant == quant


def test_shards_are_one_and_a_set_that_lacks_some_is_none() -> None:
    found = {artefact.stem: len(artefact.files) for artefact in artefacts(FILES)}
    assert found["UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL"] == 2
    assert found["Qwen3-8B-Q4_K_M"] == 1
    assert not [stem for stem in found if stem.startswith("broken")]


@pytest.mark.parametrize(
    ("quant", "path"),
    [
        ("Q4_K_M", "Qwen3-8B-Q4_K_M.gguf"),
        ("q4_k_m", "Qwen3-8B-Q4_K_M.gguf"),
        ("UD-Q4_K_XL", "Qwen3-8B-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", "Qwen3-8B-UD-Q4_K_XL.gguf"),
        ("Q5_K_S", "Qwen3-8B.i1-Q5_K_S.gguf"),
        ("BF16", "qwen3-8b.BF16.gguf"),
        ("Q2_K_XL", "UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL-00001-of-00002.gguf"),
        ("Q8_0", "Q8_0/Qwen3-8B-00001-of-00002.gguf"),
    ],
)
def test_a_quant_means_one_model(quant: str, path: str) -> None:
    assert choose(FILES, "r", "model", None, quant).files[0].path == path


def test_kinds_are_kept_apart() -> None:
    assert choose(FILES, "r", "projector", None, "BF16").files[0].path == "mmproj-BF16.gguf"
    assert choose(FILES, "r", "draft", None, None).files[0].path == "mtp-Qwen3-8B-Q8_0.gguf"


def test_any_shard_names_its_model() -> None:
    second = "UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL-00002-of-00002.gguf"
    assert len(choose(FILES, "r", "model", second, None).files) == 2


def test_several_with_one_quant_are_listed() -> None:
    files = [*FILES, RepoFile("old/Qwen3-8B-Q4_K_M.gguf", 3 << 30, "")]
    with pytest.raises(FetchError) as error:
        choose(files, "own/repo (main)", "model", None, "Q4_K_M")
    assert str(error.value) == (
        "own/repo (main) was expected to have one model with the quant 'Q4_K_M'; it has Qwen3-8B-Q4_K_M.gguf (Q4_K_M,"
        " 1.0 GiB), old/Qwen3-8B-Q4_K_M.gguf (Q4_K_M, 3.0 GiB). Name its file"
    )


def test_none_lists_all_of_the_kind() -> None:
    with pytest.raises(FetchError) as error:
        choose(FILES, "r", "projector", None, "F32")
    assert "it has mmproj-BF16.gguf (BF16, 1.0 GiB), mmproj-F16.gguf (F16, 1.0 GiB)" in str(error.value)
    with pytest.raises(FetchError, match="has no whole model with the file"):
        choose(FILES, "r", "model", "broken/Qwen3-8B-Q6_K-00001-of-00003.gguf", None)
