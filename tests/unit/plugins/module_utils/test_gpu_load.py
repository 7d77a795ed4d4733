# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._gpu_load import load_of, look

SHOWN = (
    "1, GPU-b, NVIDIA GeForce RTX 3090, 24576, 18000, 97, 71, 280.51, 350.00, {}\n"
    "0, GPU-a, NVIDIA GeForce GT 710, 2048, 1, [N/A], 40, [Not Supported], [N/A], [N/A]\n"
)


def test_two_cards() -> None:
    old, new = load_of(SHOWN.format("0x0000000000000004"))
    assert old == {
        "index": 0,
        "uuid": "GPU-a",
        "product": "NVIDIA GeForce GT 710",
        "memory_total_mib": 2048,
        "memory_used_mib": 1,
        "utilization_percent": None,
        "temperature_celsius": 40,
        "power_watts": None,
        "power_limit_watts": None,
        "throttling": None,
    }
    assert (new["index"], new["utilization_percent"], new["power_watts"]) == (1, 97, 280.51)


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        ("0x0000000000000000", []),
        ("0x0000000000000001", []),  # idle
        ("0x0000000000000014", ["power limit"]),
        ("0x0000000000000068", ["hardware slowdown", "heat (software)", "heat (hardware)"]),
        ("0x0000000000000080", ["power brake"]),
    ],
)
def test_what_holds_a_clock_down(bits: str, reasons: list[str]) -> None:
    assert load_of(SHOWN.format(bits))[1]["throttling"] == reasons


def test_an_older_driver_calls_it_otherwise() -> None:
    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        if "clocks_event" in argv[1]:
            return 2, 'Field "clocks_event_reasons.active" is not a valid field to query.', ""
        return 0, SHOWN.format("0x0000000000000004"), ""

    assert [gpu["throttling"] for gpu in look(run)] == [None, ["power limit"]]


def test_a_card_that_does_not_answer() -> None:
    assert look(lambda _argv: (9, "NVIDIA-SMI has failed\n", "")) == []
    assert load_of("No devices were found\n") == []


def test_what_nvidia_smi_is_asked() -> None:
    """Its own names, in the order in which the words of a line are taken."""
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        asked.append(argv)
        return 0, "", ""

    assert look(run) == []
    fields = "index,uuid,name,memory.total,memory.used,utilization.gpu,temperature.gpu,power.draw,power.limit"
    query = f"--query-gpu={fields},clocks_event_reasons.active"
    assert asked == [["nvidia-smi", query, "--format=csv,noheader,nounits"]], "an answer is enough"


@pytest.mark.parametrize(
    "line", ["x, a, b, 1, 2, 3, 4, 5, 6, 0x0", "0, a, b, 1, 2, 3, 4, 5, 6", "0, a", "", "0" + ", 1" * 10]
)
def test_what_is_no_line_of_a_card(line: str) -> None:
    assert load_of(line + "\n") == []
    assert len(load_of(f"{line}\n{SHOWN.format('0x0')}")) == 2


def test_an_exit_status_of_another_kind_is_not_tried_again() -> None:
    asked: list[str] = []

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        asked.append(argv[1])
        return 9, SHOWN.format("0x0"), ""

    assert look(run) == []
    assert len(asked) == 1
