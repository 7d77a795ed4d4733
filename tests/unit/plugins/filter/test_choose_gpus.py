# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.filter.choose_gpus import FilterModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import vram_plan

choose_gpus = FilterModule().filters()["choose_gpus"]

GPUS: list[dict[str, Any]] = [
    {
        "index": 0,
        "uuid": "GPU-5f3a2c1e-7b64-4a8e-9c0d-2f6b1e8d4a70",
        "pci_address": "0000:01:00.0",
        "product": "NVIDIA GeForce RTX 3090",
        "memory_total_mib": 24576,
    },
    {
        "index": 1,
        "uuid": "GPU-0c9d8e7f-1111-2222-3333-444455556666",
        "pci_address": "0000:0a:00.0",
        "product": "NVIDIA GeForce RTX 4060 Ti",
        "memory_total_mib": 16380,
    },
]


def indexes(wanted: Any) -> list[int]:
    return [gpu["index"] for gpu in choose_gpus(GPUS, wanted)]


@pytest.mark.parametrize(
    "name", [1, "1", GPUS[1]["uuid"], GPUS[1]["uuid"].upper(), "0000:0a:00.0", "0a:00.0", "0A:00.0", "00000000:0A:00.0"]
)
def test_each_way_to_name_one(name: Any) -> None:
    assert indexes([name]) == [1]


def test_all_of_them_none_of_them_and_in_another_order() -> None:
    assert indexes("all") == [0, 1]
    assert indexes([]) == []
    assert indexes(["0a:00.0", 0]) == [1, 0]


def test_devices_are_named_as_cuda_visible_devices_will_number_them() -> None:
    chosen = choose_gpus(GPUS, [1, 0])
    assert [(gpu["uuid"][:8], gpu["device"]) for gpu in chosen] == [("GPU-0c9d", "CUDA0"), ("GPU-5f3a", "CUDA1")]
    assert [device["name"] for device in vram_plan([], choose_gpus(GPUS, [1]))["devices"]] == ["CUDA0"]


def test_memory_that_others_use_goes_with_its_gpu() -> None:
    reserved = {"0a:00.0": 2048}
    assert [gpu["reserved_mib"] for gpu in choose_gpus(GPUS, "all", reserved_mib=reserved)] == [0, 2048]
    assert [gpu["reserved_mib"] for gpu in choose_gpus(GPUS, [1], reserved_mib=reserved)] == [2048]
    assert [gpu["reserved_mib"] for gpu in choose_gpus(GPUS, [0], reserved_mib=reserved)] == [0]


def test_what_came_in_stays_as_it_is() -> None:
    before = [dict(gpu) for gpu in GPUS]
    choose_gpus(GPUS, [1])
    assert before == GPUS


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ([2], "wanted the GPU '2', .*found 0 = GPU-5f3a.* = 0000:01:00.0 .*3090.; 1 = "),
        (["GPU-nobody"], "wanted the GPU 'GPU-nobody'"),
        (["0001:0a:00.0"], "wanted the GPU '0001:0a:00.0'"),
        (["0000:0a:00.0", 1], "GPU 1 = GPU-0c9d.* is named twice"),
        ("1", "wanted 'all', or a list .* found '1'"),
        (1, "found 1"),
    ],
)
def test_what_cannot_be_is_said(wanted: Any, words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=words):
        choose_gpus(GPUS, wanted)


def test_memory_of_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(AnsibleFilterError, match="wanted the GPU '7'"):
        choose_gpus(GPUS, "all", reserved_mib={7: 1})


def test_without_gpus() -> None:
    assert choose_gpus([]) == []
    with pytest.raises(AnsibleFilterError, match="found no GPU"):
        choose_gpus([], [0])
