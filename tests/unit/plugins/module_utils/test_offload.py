# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._offload import Offload, complaint, read

BEGIN = "0.00.139.111 I srv  llama_server: initializing ..."
END = "0.01.180.208 I srv  llama_server: model loaded"


def log(*lines: str) -> list[str]:
    return [BEGIN, *lines, END]


def cuda(offloaded: int, *buffers: str) -> list[str]:
    return log(
        "0.00.1 I cmn  common_param:   - CUDA0   : NVIDIA GeForce RTX 3090 (24124 MiB, 23863 MiB free)",
        "0.00.1 I cmn  common_param:   - CUDA1   : NVIDIA GeForce RTX 3090 (24124 MiB, 23863 MiB free)",
        f"0.01.0 I load_tensors: offloaded {offloaded}/29 layers to GPU",
        *(f"0.01.0 I load_tensors: {name:>12} model buffer size =  {mib} MiB" for name, mib in map(str.split, buffers)),
    )


def test_weights_are_those_on_devices_and_not_on_the_host() -> None:
    lines = cuda(29, "CPU_Mapped 243.40", "CUDA_Host 10.00", "CUDA0 1000.50", "CUDA1 900.25")
    on_devices = {"CUDA0": 1000.5, "CUDA1": 900.25}
    assert read(lines) == Offload(29, 29, on_devices, {**on_devices, "host": pytest.approx(253.4)})


def test_memory_is_that_of_all_buffers() -> None:
    lines = cuda(29, "CUDA0 1000.00", "CPU_Mapped 100.00")
    lines[-1:-1] = [
        "0.01.1 I llama_context:  CUDA_Host  output buffer size =     0.58 MiB",
        "0.01.1 I llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB",
        "0.01.1 I llama_memory_recurrent:      CUDA0 RS buffer size =     4.25 MiB",
        "0.01.1 I llama_kv_cache: size =  512.00 MiB (  4096 cells,  28 layers,  4/1 seqs), K (f16):  256.00 MiB",
        "0.01.1 I sched_reserve:      CUDA0 compute buffer size =   304.75 MiB",
        "0.01.1 I sched_reserve:  CUDA_Host compute buffer size =    24.01 MiB",
    ]
    seen = read(lines)
    assert seen
    assert seen.weights == {"CUDA0": 1000.0}
    assert seen.memory == pytest.approx({"CUDA0": 1821.0, "host": 124.59})


def test_devices_of_other_machines_are_told_apart_by_their_addresses() -> None:
    """Each server calls its device RPC0; here it is RPC0 and RPC1."""
    lines = log(
        "0.00.1 I cmn  common_param:   - CPU     : AMD EPYC (24105 MiB, 24105 MiB free)",
        "0.00.1 I cmn  common_param:   - RPC0    : 127.0.0.1:42027 (24105 MiB, 24105 MiB free)",
        "0.00.1 I cmn  common_param:   - RPC1    : 127.0.0.1:51443 (24105 MiB, 24105 MiB free)",
        "0.01.0 I load_tensors: offloaded 9/9 layers to GPU",
        "0.01.0 I load_tensors: RPC0[127.0.0.1:42027] model buffer size =    20.01 MiB",
        "0.01.0 I load_tensors: RPC0[127.0.0.1:51443] model buffer size =    12.30 MiB",
    )
    assert read(lines) == Offload(9, 9, {"RPC0": 20.01, "RPC1": 12.3}, {"RPC0": 20.01, "RPC1": 12.3})


def test_latest_process_behind_the_port_counts() -> None:
    assert read(cuda(29, "CUDA0 9.00") + cuda(3, "CUDA1 1.00")) == Offload(3, 29, {"CUDA1": 1.0}, {"CUDA1": 1.0})


def test_layers_of_a_draft_model_are_not_the_models() -> None:
    lines = cuda(29, "CUDA0 1000.50")
    lines[-1:-1] = ["0.01.0 I load_tensors: offloaded 5/5 layers to GPU"]
    assert read(lines) == Offload(29, 29, {"CUDA0": 1000.5}, {"CUDA0": 1000.5})


@pytest.mark.parametrize("lines", [[], [END], log(), cuda(29, "CUDA0 1.00")[:-1], cuda(29, "CUDA0 1.00")[1:]])
def test_a_log_that_does_not_tell_of_a_whole_load_says_nothing(lines: list[str]) -> None:
    assert read(lines) is None


def test_without_a_backend_for_gpus_there_is_no_line_about_layers() -> None:
    seen = read(log("0.01.0 I load_tensors:   CPU_Mapped model buffer size =    32.60 MiB"))
    assert seen == Offload(0, 0, {}, {"host": 32.6})
    assert "uses no GPU at all" in (complaint("a", seen, ["CUDA0"], "all") or "")


@pytest.mark.parametrize(
    ("found", "devices", "layers"),
    [
        (Offload(29, 29, {"CUDA0": 1.0, "CUDA1": 1.0}), ["CUDA0", "CUDA1"], "all"),
        (Offload(29, 29, {"CUDA1": 1.0}), [], "auto"),
        (Offload(29, 29, {"CUDA1": 1.0}), ["CUDA1"], "-1"),
        (Offload(12, 29, {"CUDA0": 1.0}), ["CUDA0"], "12"),
        (Offload(29, 29, {"CUDA0": 1.0}), ["CUDA0"], "999"),
    ],
)
def test_where_it_is_wanted(found: Offload, devices: list[str], layers: str) -> None:
    assert complaint("a", found, devices, layers) is None


@pytest.mark.parametrize(
    ("found", "devices", "layers", "words"),
    [
        (
            Offload(12, 29, {"CUDA0": 7.6}),
            ["CUDA0"],
            "all",
            "all of its layers on CUDA0; found 12 of 29 layers on CUDA0 8",
        ),
        (Offload(12, 29, {"CUDA0": 7.6}), ["CUDA0"], "20", "20 of its layers on CUDA0; found 12 of 29"),
        (
            Offload(29, 29, {"CUDA0": 7.6}),
            ["CUDA0", "CUDA1"],
            "all",
            "on CUDA0 and CUDA1; found 29 of 29 layers on CUDA0",
        ),
        (Offload(0, 29, {}), [], "auto", "on a GPU; found 0 of 29 layers on no device"),
        (Offload(29, 29, {}), [], "auto", "on a GPU; found 29 of 29 layers on no device"),
    ],
)
def test_not_where_it_is_wanted(found: Offload, devices: list[str], layers: str, words: str) -> None:
    said = complaint("a", found, devices, layers) or ""
    assert words in said
    assert "llama_router_reserved_mib" in said
