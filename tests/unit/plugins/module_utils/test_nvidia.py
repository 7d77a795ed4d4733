# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parsers, and a machine made of files; tests/functional/lab/test_gpu_info.py asks real packages on the lab."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _nvidia
from ansible_collections.homelab.llamacpp.plugins.module_utils._nvidia import (
    SMI_REASONS,
    Card,
    Kernel,
    address_of,
    gpus_of,
    kernel_of,
    look,
    reason_of,
    smi_reason,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import vram_plan
from hypothesis import given
from hypothesis import strategies as st

PROPRIETARY = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025
GCC version:  gcc version 14.2.0 (Debian 14.2.0-19)
"""
OPEN = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22-I3)  Tue Sep 23 2025
GCC version:  Selected multilib: .;@m64
"""
# As nvidia-smi prints --query-gpu with --format=csv,noheader,nounits.
TWO_3090 = """\
0, GPU-8d2f0f6e-27c1-4e6b-9d3e-1b0a4c5d6e7f, 00000000:01:00.0, NVIDIA GeForce RTX 3090, 24576, 1, 8.6, 350.00, 350.00, 100.00, 366.00, Disabled
1, GPU-5b1c9a34-90ab-4cde-8f01-23456789abcd, 00000000:0A:00.0, NVIDIA GeForce RTX 3090, 24576, 18000, 8.6, 280.00, 350.00, 100.00, 366.00, Enabled
"""  # noqa: E501


# --- texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PROPRIETARY, Kernel("550.163.01", "proprietary")),
        (OPEN, Kernel("580.95.05", "open")),
        # Versions can have two numbers, and the builder's name digits and dots.
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  555.58  Release Build  (root@10.0.0.1)  Sa 29",
            Kernel("555.58", "open"),
        ),
        (
            "NVRM version: NVIDIA UNIX aarch64 Kernel Module  570.148.08  Fri May\nGCC version:  gcc version 13.3.0 ()",
            Kernel("570.148.08", "proprietary"),
        ),
        ("GCC version:  gcc version 13.3.0 (Ubuntu)", None),
        ("", None),
    ],
)
def test_the_kernel_module(text: str, found: Kernel | None) -> None:
    assert kernel_of(text) == found


def test_gpus() -> None:
    first, second = gpus_of(TWO_3090, {"0000:01:00.0": 1})
    assert first == {
        "index": 0,
        "uuid": "GPU-8d2f0f6e-27c1-4e6b-9d3e-1b0a4c5d6e7f",
        "pci_address": "0000:01:00.0",
        "product": "NVIDIA GeForce RTX 3090",
        "memory_total_mib": 24576,
        "memory_used_mib": 1,
        "compute_capability": "8.6",
        "power": {"limit": 350, "default_limit": 350, "min_limit": 100, "max_limit": 366},
        "persistence": False,
        "minor": 1,
        "device_node": "/dev/nvidia1",
    }
    assert (second["pci_address"], second["persistence"]) == ("0000:0a:00.0", True)
    assert (second["minor"], second["device_node"]) == (None, None)


def test_a_card_without_power_limits() -> None:
    line = (
        "0, GPU-1, 00000000:01:00.0, NVIDIA GeForce GT 1030, 2048, 0, 6.1, [N/A], [Not Supported], 28.5, [N/A], [N/A]"
    )
    (gpu,) = gpus_of(line, {})
    assert gpu["power"] == {"limit": None, "default_limit": None, "min_limit": 28.5, "max_limit": None}
    assert gpu["persistence"] is False


def test_the_planner_takes_the_list_as_it_is() -> None:
    plan = vram_plan([{"name": "a", "vram_mib": 20000}, {"name": "b", "vram_mib": 20000}], gpus_of(TWO_3090, {}))
    assert [(device["name"], device["total_mib"]) for device in plan["devices"]] == [("CUDA0", 24576), ("CUDA1", 24576)]


def test_output_that_is_no_list_of_gpus() -> None:
    assert gpus_of("No devices were found\n", {}) == []


@given(st.text())
def test_any_text_has_an_answer(text: str) -> None:
    assert isinstance(gpus_of(text, {}), list)
    assert kernel_of(text) is None or kernel_of(text).version


def test_addresses() -> None:
    assert address_of("00000000:0A:00.0") == address_of("0000:0a:00.0") == "0000:0a:00.0"


# --- the one reason ---------------------------------------------------------------------------------------------

CARD = Card("0000:01:00.0", "0x2204", "nvidia", "supported")
LOADED = Kernel("550.163.01", "proprietary")
SAME = {"libcuda.so.1": "550.163.01", "libnvidia-ml.so.1": "550.163.01"}


@pytest.mark.parametrize(
    ("cards", "kernel", "libraries", "missing", "smi", "told"),
    [
        ([], None, {}, [], (127, ""), "there is no NVIDIA graphics card on this machine's PCI bus"),
        ([CARD], None, SAME, [], (9, ""), "the NVIDIA kernel module is not loaded: the card 0000:01:00.0 is there"),
        (
            [CARD._replace(kernel_driver="nouveau")],
            None,
            {},
            [],
            (127, ""),
            "the NVIDIA kernel module is not loaded: the card 0000:01:00.0 is there, but nouveau drives it",
        ),
        (
            [CARD],
            LOADED,
            {},
            [],
            (127, ""),
            "the NVIDIA driver's libraries are not installed here, and its kernel module is 550.163.01",
        ),
        (
            [CARD],
            LOADED,
            {"libcuda.so.1": "550.163.02", "libnvidia-ml.so.1": "550.163.01"},
            [],
            (0, ""),
            "the kernel module is 550.163.01, libcuda.so.1 here is 550.163.02:"
            " they have to be the same in all their numbers",
        ),
        (
            [CARD],
            LOADED,
            SAME,
            ["/dev/nvidia1", "/dev/nvidia-uvm"],
            (0, ""),
            "device nodes are missing: /dev/nvidia-uvm",
        ),
        # A guest that was given one of two GPUs.
        ([CARD, CARD], LOADED, SAME, ["/dev/nvidia1"], (0, ""), None),
        (
            [CARD],
            LOADED,
            SAME,
            [],
            (15, "Unable to determine\n the device handle"),
            "nvidia-smi ended with 15: the GPU has fallen off the bus: look at its power and its slot, and reboot the"
            " node; Unable to determine the device handle",
        ),
    ],
)
def test_the_first_thing_to_mend(
    cards: Sequence[Card],
    kernel: Kernel | None,
    libraries: dict[str, str],
    missing: list[str],
    smi: tuple[int, str],
    told: str | None,
) -> None:
    assert reason_of(cards, kernel, libraries, missing, smi) == told


@pytest.mark.parametrize("status", [2, 3, 4, 6, 8, 9, 10, 12, 13, 14, 15, 18, 124, 127])
def test_each_exit_status_has_its_reason(status: int) -> None:
    assert smi_reason(status, "") == f"nvidia-smi ended with {status}: {SMI_REASONS[status]}"


def test_an_exit_status_that_is_not_known() -> None:
    assert smi_reason(255, "Unknown Error\n") == "nvidia-smi ended with 255: Unknown Error"


# --- a machine --------------------------------------------------------------------------------------------------


class Machine:
    """The files of a machine below a folder, and what its commands answer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.smi = (0, TWO_3090, "")
        self.asked: list[list[str]] = []
        self.listing = ""

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def card(self, address: str, device: str, kind: str = "0x030000", driver: str | None = None) -> None:
        folder = f"sys/bus/pci/devices/{address}"
        for name, value in (("vendor", "0x10de"), ("device", device), ("class", kind)):
            self.write(f"{folder}/{name}", value + "\n")
        if driver:
            (self.root / folder / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")

    def library(self, name: str, version: str) -> None:
        """As Debian places it: through the alternatives."""
        real = f"usr/lib/x86_64-linux-gnu/nvidia/current/{name}.so.{version}"
        self.write(real, "")
        link = self.root / f"lib/{name}.so.1"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(self.root / real)
        self.listing += f"\t{name}.so.1 (libc6,x86-64) => /lib/{name}.so.1\n"

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        self.asked.append(list(argv))
        return (0, self.listing, "") if argv[0] == "/sbin/ldconfig" else self.smi

    def look(self) -> dict[str, Any]:
        return look(self, self.root)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Two RTX 3090 whose device nodes have changed places; plain files stand for the nodes."""
    monkeypatch.setattr(_nvidia, "is_device", os.path.isfile)
    made = Machine(tmp_path)
    for address, minor in (("0000:01:00.0", 1), ("0000:0a:00.0", 0)):
        made.card(address, "0x2204", driver="nvidia")
        made.card(address[:-1] + "1", "0x1aef", kind="0x040300")  # its sound
        made.write(f"proc/driver/nvidia/gpus/{address}/information", f"Model: \t\t X\nDevice Minor: \t {minor}\n")
    made.write("proc/driver/nvidia/version", PROPRIETARY)
    for name in (
        "nvidia0",
        "nvidia1",
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "nvidia-caps/nvidia-cap1",
        "null",
    ):
        made.write(f"dev/{name}", "")
    for name in ("libcuda", "libnvidia-ml"):
        made.library(name, "550.163.01")
    return made


def test_a_machine(machine: Machine) -> None:
    found = machine.look()
    assert [(gpu["minor"], gpu["device_node"]) for gpu in found["gpus"]] == [(1, "/dev/nvidia1"), (0, "/dev/nvidia0")]
    assert found["cards"] == [
        {"pci_address": address, "device_id": "0x2204", "kernel_driver": "nvidia", "open_module": "supported"}
        for address in ("0000:01:00.0", "0000:0a:00.0")
    ]
    assert found["driver"] == {
        "kernel_version": "550.163.01",
        "kernel_module": "proprietary",
        "library_version": "550.163.01",
        "libraries": SAME,
        "secure_boot": None,
        "agree": True,
        "reason": None,
    }
    assert found["device_nodes"] == {
        "present": [
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
            "/dev/nvidia0",
            "/dev/nvidia1",
            "/dev/nvidiactl",
            "/dev/nvidia-caps/nvidia-cap1",
        ],
        "missing": [],
    }


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    empty = Machine(tmp_path)
    found = empty.look()
    assert (found["gpus"], found["cards"], found["device_nodes"]) == ([], [], {"present": [], "missing": []})
    assert found["driver"]["reason"] == "there is no NVIDIA graphics card on this machine's PCI bus"
    assert found["driver"]["agree"] is None
    assert [argv[0] for argv in empty.asked] == ["/sbin/ldconfig"]


def test_what_is_known_when_nvidia_smi_fails(machine: Machine) -> None:
    machine.smi = (18, "Failed to initialize NVML: Driver/library version mismatch\n", "")
    machine.write("proc/driver/nvidia/version", OPEN)
    found = machine.look()
    assert found["gpus"] == []
    assert (found["driver"]["kernel_version"], found["driver"]["kernel_module"]) == ("580.95.05", "open")
    assert (found["driver"]["library_version"], found["driver"]["agree"]) == ("550.163.01", False)
    assert "580.95.05, libcuda.so.1 here is 550.163.01" in found["driver"]["reason"]


def test_nodes_that_are_missing(machine: Machine) -> None:
    for name in ("nvidia1", "nvidia-uvm"):
        (machine.root / "dev" / name).unlink()
    found = machine.look()
    assert found["device_nodes"]["missing"] == ["/dev/nvidia1", "/dev/nvidia-uvm"]
    assert found["driver"]["reason"] == "device nodes are missing: /dev/nvidia-uvm"


def test_nodes_that_should_be_there_without_a_module(machine: Machine) -> None:
    for path in ("version", "gpus/0000:01:00.0/information", "gpus/0000:0a:00.0/information"):
        (machine.root / "proc/driver/nvidia" / path).unlink()
    (machine.root / "dev/nvidia0").unlink()
    assert machine.look()["device_nodes"]["missing"] == ["/dev/nvidia0"]


def test_a_file_in_the_place_of_a_device(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").write_text("")
    assert not _nvidia.is_device(tmp_path / "nvidia0")
    assert not _nvidia.is_device(tmp_path / "nvidia1")
    assert _nvidia.is_device(Path("/dev/null"))


@pytest.mark.parametrize(
    ("device", "fit"),
    [
        ("0x1b06", "unsupported"),  # GTX 1080 Ti
        ("0x1d81", "unsupported"),  # Titan V
        ("0x1e04", "supported"),  # RTX 2080 Ti
        ("0x2204", "supported"),  # RTX 3090
        ("0x2805", "supported"),  # RTX 4060 Ti
        ("0x2330", "supported"),  # H100
        ("0x2b85", "required"),  # RTX 5090
    ],
)
def test_what_the_open_module_is_to_a_card(device: str, fit: str, tmp_path: Path) -> None:
    made = Machine(tmp_path)
    made.card("0000:01:00.0", device, kind="0x030200")
    (card,) = made.look()["cards"]
    assert (card["open_module"], card["kernel_driver"]) == (fit, None)


@pytest.mark.parametrize(("last", "on"), [(b"\x01", True), (b"\x00", False)])
def test_secure_boot(last: bytes, on: bool, tmp_path: Path) -> None:
    variable = tmp_path / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\x00\x00\x00" + last)
    assert Machine(tmp_path).look()["driver"]["secure_boot"] is on


def test_libraries_that_do_not_tell_their_version(machine: Machine) -> None:
    machine.listing = "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/gone/libcuda.so.1\n3 libs found in cache\n"
    driver = machine.look()["driver"]
    assert (driver["libraries"], driver["library_version"], driver["agree"]) == ({}, None, None)


def test_only_nvidias_graphics_cards_count(machine: Machine) -> None:
    """Not those of another maker, nor what else NVIDIA puts on a card."""
    machine.card("0000:02:00.0", "0x744c", driver="amdgpu")
    machine.write("sys/bus/pci/devices/0000:02:00.0/vendor", "0x1002\n")
    machine.card("0000:03:00.0", "0x1ad6", kind="0x0c0330")  # its USB
    machine.card("0000:04:00.0", "0x2204", kind="0x030200")
    addresses = [card["pci_address"] for card in machine.look()["cards"]]
    assert addresses == ["0000:01:00.0", "0000:04:00.0", "0000:0a:00.0"]


def test_cards_without_the_kernel_module(tmp_path: Path) -> None:
    """nvidia-smi is asked for its words, and each card needs a node."""
    made = Machine(tmp_path)
    made.smi = (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", "")
    for address in ("0000:01:00.0", "0000:0a:00.0"):
        made.card(address, "0x2204", driver="nouveau")
    made.library("libcuda", "550.163.01")
    found = made.look()
    assert found["driver"]["reason"] == (
        "the NVIDIA kernel module is not loaded: the card 0000:01:00.0 is there, but nouveau drives it"
    )
    assert (found["driver"]["kernel_version"], found["driver"]["agree"], found["gpus"]) == (None, None, [])
    assert found["driver"]["library_version"] == "550.163.01"
    nodes = ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]
    assert found["device_nodes"]["missing"] == nodes
    assert _nvidia.read(made, tmp_path)[1] == 9


def test_a_card_that_nothing_drives(tmp_path: Path) -> None:
    made = Machine(tmp_path)
    for driver in (None, "nvidia"):
        made.card("0000:01:00.0" if driver else "0000:00:00.0", "0x2204", driver=driver)
        assert made.look()["driver"]["reason"] == (
            "the NVIDIA kernel module is not loaded: the card 0000:00:00.0 is there"
        )


def test_of_one_library_twice_the_first_counts(machine: Machine) -> None:
    """As the loader takes it: ldconfig lists the 32-bit one behind it."""
    old = machine.root / "usr/lib32/libcuda.so.470.1"
    old.parent.mkdir(parents=True)
    old.touch()
    machine.listing += "\tlibcuda.so.1 (libc6) => /usr/lib32/libcuda.so.470.1\n"
    machine.listing += "\tlibcudart.so.1 (libc6) => /usr/lib32/libcuda.so.470.1\n"
    driver = machine.look()["driver"]
    assert (driver["libraries"], driver["agree"]) == (SAME, True)


def test_libraries_of_two_versions(machine: Machine) -> None:
    (machine.root / "lib/libnvidia-ml.so.1").unlink()
    other = machine.root / "usr/lib/libnvidia-ml.so.535.1.2"
    other.touch()
    (machine.root / "lib/libnvidia-ml.so.1").symlink_to(other)
    driver = machine.look()["driver"]
    assert driver["agree"] is False
    assert "the kernel module is 550.163.01, libnvidia-ml.so.1 here is 535.1.2" in driver["reason"]


def test_without_a_card_nvidia_smi_is_not_asked(tmp_path: Path) -> None:
    made = Machine(tmp_path)
    assert _nvidia.read(made, tmp_path)[1] is None
    made.write("proc/driver/nvidia/version", OPEN)  # as in a container that has the host's /proc, and not its /sys
    assert _nvidia.read(made, tmp_path)[1] == 0
    assert made.asked[-1][0] == "nvidia-smi"
