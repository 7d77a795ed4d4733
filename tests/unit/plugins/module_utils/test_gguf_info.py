# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told of a model beside its facts. The module, with its cache, is in tests/unit/plugins/modules."""

from __future__ import annotations

from typing import Any

import gguf
import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _gguf_info
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import Model, Tensor


def test_file_types_are_those_of_the_reference() -> None:
    """Of llama.cpp's own package: all but those that nobody makes (guessed) and those that were removed."""
    reference = {kind.value: kind.name for kind in gguf.LlamaFileType if kind.name != "GUESSED"}
    ours = _gguf_info.FILE_TYPES
    assert {name.replace("MOSTLY_", "").replace("ALL_", "") for name in reference.values()} == set(ours.values())
    assert ours == {kind: name.replace("MOSTLY_", "").replace("ALL_", "") for kind, name in reference.items()}


def model(metadata: dict[str, Any], *tensors: Tensor) -> Model:
    return Model(metadata, list(tensors), ["x.gguf"], [], 1, True)


@pytest.mark.parametrize(
    ("metadata", "tensors", "name"),
    [
        ({"general.file_type": 15}, [], "Q4_K_M"),
        ({"general.file_type": 4}, [("q4_0", 9), ("f32", 8)], "q4_0"),
        ({"general.file_type": "15"}, [("q4_0", 5), ("f32", 8), ("q4_0", 5)], "q4_0"),
        ({}, [("f32", 8)], "f32"),
        ({}, [], None),
    ],
)
def test_a_file_without_a_type_is_called_after_most_of_its_weights(
    metadata: dict[str, Any], tensors: list[tuple[str, int]], name: str | None
) -> None:
    made = [Tensor(f"t{index}", kind, (1,), size, 0) for index, (kind, size) in enumerate(tensors)]
    assert _gguf_info.quantization_of(model(metadata, *made)) == name


def test_what_is_told_of_a_model() -> None:
    metadata = {
        "general.architecture": "llama\n",
        "general.name": "A name",
        "tokenizer.chat_template": "x",
        "clip.has_vision_encoder": True,
        "clip.has_audio_encoder": 1,
    }
    told = _gguf_info.described(model(metadata, Tensor("a", "f32", (3, 5), 60, 0), Tensor("b", "f32", (2,), 8, 64)))
    assert (told["parameters"], told["size"], told["complete"]) == (17, 1, True)
    assert (told["name"], told["quantization"], told["chat_template"]) == ("A name", "f32", True)
    assert told["senses"] == ["vision"]
    assert "\n" not in told["architecture"]
    assert (told["layers"], told["ctx_train"], told["facts"]) == (None, None, None)
    assert not _gguf_info.described(model({"tokenizer.chat_template": ""}))["chat_template"]
