# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._instance_plan import InstanceError, plan

GPUS: list[dict[str, Any]] = [
    {
        "index": place,
        "uuid": f"GPU-{place}",
        "pci_address": f"0000:0{place}:00.0",
        "product": "NVIDIA GeForce RTX 3090",
        "memory_total_mib": 24576,
        "device": f"CUDA{place}",
    }
    for place in (0, 1)
]
CODER: dict[str, Any] = {"name": "coder", "path": "/srv/coder.gguf", "port": 8101, "vram_mib": 5000}


def environment(entry: dict[str, Any], **given: Any) -> dict[str, str]:
    found: dict[str, str] = plan([entry], **given)["instances"][0]["environment"]
    return found


def test_a_file_on_a_cpu() -> None:
    assert environment({"name": "coder", "path": "/srv/coder.gguf", "port": 8101}) == {
        "MODEL": "/srv/coder.gguf",
        "HOST": "0.0.0.0",
        "PORT": "8101",
        "DEVICES": "",
        "DEVICE_OPTIONS": "",
        "OPTIONS": "",
    }


def test_a_model_of_the_models_directory_with_its_projector() -> None:
    models = [
        {"id": "gemma", "path": "/models/gemma/gemma.gguf", "projector": "/models/gemma/mmproj.gguf", "complete": True}
    ]
    found = environment({"name": "eyes", "model": "gemma", "port": 8101}, models=models)
    assert found["MODEL"] == "/models/gemma/gemma.gguf"
    assert found["OPTIONS"] == "--mmproj /models/gemma/mmproj.gguf"


def test_options_become_words_that_systemd_splits_again() -> None:
    options = {
        "ctx-size": 4096,
        "jinja": True,
        "perf": False,
        "swa-full": False,
        "top-k": None,
        "chat-template-kwargs": {"a": 'b "c"'},
    }
    words = shlex.split(environment({**CODER, "options": options})["OPTIONS"])
    assert words == ["--ctx-size", "4096", "--jinja", "--no-perf", "--chat-template-kwargs", '{"a": "b \\"c\\""}']


def test_common_options_give_way_to_its_own() -> None:
    found = environment({**CODER, "options": {"ctx-size": 512}}, common={"ctx-size": 4096, "threads": 4})
    assert found["OPTIONS"] == "--ctx-size 512 --threads 4"


def test_gpus_are_named_to_cuda_by_uuid_and_counted_from_zero() -> None:
    found = environment({**CODER, "gpus": [1]}, devices=GPUS)
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert found["DEVICES"] == "CUDA0"
    both = environment({**CODER, "gpus": ["GPU-1", "0000:00:00.0"]}, devices=GPUS)
    assert both["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-0"
    assert both["DEVICES"] == "CUDA0 CUDA1"
    assert both["OPTIONS"] == "--tensor-split 1,1"


def test_devices_by_hand_keep_their_names_and_the_gate_gets_what_decides_about_them() -> None:
    devices = [{"name": "RPC0", "total_mib": 8000}, {"name": "RPC1", "total_mib": 8000}]
    found = environment({**CODER, "options": {"rpc": ["a:1", "b:2"], "device": "RPC1"}}, devices=devices)
    assert found["DEVICES"] == "RPC1"
    assert found["DEVICE_OPTIONS"] == "--rpc a:1,b:2"
    assert "CUDA_VISIBLE_DEVICES" not in found


def test_what_started_ones_hold_is_reserved_on_their_own_devices() -> None:
    entries = [
        {**CODER, "gpus": [1]},
        {**CODER, "name": "both", "port": 8102, "vram_mib": 8000},
        {**CODER, "name": "stopped", "port": 8103, "state": "stopped"},
        {"name": "gone", "state": "absent"},
    ]
    # Half of 8000 and a context on each, 5000 and a context on the second.
    assert plan(entries, devices=GPUS)["reserved_mib"] == [4300, 9600]
    assert plan(entries, devices=GPUS, reserved_mib=[100, 100])["reserved_mib"] == [4400, 9700]


def test_without_instances_what_others_hold_is_all() -> None:
    assert plan([], devices=GPUS, reserved_mib=512)["reserved_mib"] == [512, 512]
    assert plan([])["reserved_mib"] == []


@pytest.mark.parametrize(
    ("entries", "given", "text"),
    [
        ([{**CODER, "name": "a b"}], {}, "name: letters, digits"),
        ([CODER, CODER], {}, "instance coder: the name is there twice"),
        ([CODER, {**CODER, "name": "b"}], {}, "instance b: port 8101 is the one of the instance coder"),
        ([{**CODER, "port": 8012}], {"ports": {"8012": "the router"}}, "port 8012 is the one of the router"),
        ([{**CODER, "port": None}], {}, "port: a number from 1 to 65535 was wanted, None was found"),
        ([{**CODER, "state": "on"}], {}, "state: one of started, stopped, absent was wanted, 'on' was found"),
        ([{"name": "x", "port": 1}], {}, "either model (an id of the models directory) or path (a file) is wanted"),
        (
            [{"name": "x", "port": 1, "model": "m"}],
            {},
            "the model 'm' was wanted in the models directory, which has none",
        ),
        ([{**CODER, "options": {"ctx-sze": 1}}], {}, "ctx-sze is not an option"),
        ([{**CODER, "options": {"ctx-size": "lots"}}], {}, "ctx-size takes a whole number"),
        ([{**CODER, "options": {"port": 1}}], {}, "the option port belongs in port"),
        ([{**CODER, "options": {"api-key": "s3cr3t"}}], {}, "the option api-key belongs in api_keys"),
        ([{**CODER, "options": {"hf-token": "s3cr3t"}}], {}, "hf-token is a secret"),
        ([{**CODER, "options": {"tools": "all"}}], {}, "tools lets whoever has a key run commands"),
        ([CODER], {"common": {"agent": True}}, "agent lets whoever has a key run commands"),
        ([{**CODER, "options": {"chat-template": "a\rb"}}], {}, "the value of chat-template without line ends"),
        ([{**CODER, "gpus": [2]}], {"devices": GPUS}, "wanted the GPU '2'"),
        ([{**CODER, "gpus": [0]}], {"devices": [24576]}, "gpus needs GPUs that were looked up"),
        ([{**CODER, "vram_mib": None}], {"devices": GPUS}, "say vram_mib"),
        ([{**CODER, "vram_mib": 60000}], {"devices": GPUS}, "instance coder:"),
        (
            [{**CODER, "vram_mib": 40000}, {**CODER, "name": "b", "port": 1, "vram_mib": 6000}],
            {"devices": GPUS},
            "instance b: with it the instances take 23600 MiB of the device CUDA0, which has 23552 MiB",
        ),
    ],
)
def test_what_cannot_run_is_refused(entries: list[dict[str, Any]], given: dict[str, Any], text: str) -> None:
    with pytest.raises(InstanceError, match=re.escape(text)) as refused:
        plan(entries, **given)
    assert "s3cr3t" not in str(refused.value)


def test_options_that_run_commands_can_be_allowed() -> None:
    assert environment({**CODER, "options": {"tools": "all"}}, allow_options=["tools"])["OPTIONS"] == "--tools all"
