# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lab stand-ins for NVIDIA GPUs: made-up cards, and the kernel module that would drive them. There is no GPU.

What the kernel shows of them lies in two tmpfs that the node boots with and every guest has too: /proc/driver and
/sys/bus/pci/devices. The packages, DKMS and the libraries are Debian's real ones; the stand-ins of nvidia-smi
(nvidia_smi.py), nvidia-modprobe and modprobe do what the real ones would do on such a machine, and no more.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STATE = Path("/etc/lab-gpu/machine.json")
PROC = Path("/proc/driver/nvidia")
PCI = Path("/sys/bus/pci/devices")
# The module's answers to nvidia-smi, which a real one gets by ioctl.
LIVE = PROC / "lab-stand-in.json"
NULL = (1, 3)
# nvidia-uvm has a dynamic major number: another one at each boot.
UVM_NUMBERS = ((1, 5), (1, 7), (1, 8), (1, 9))

FORMS = {
    "proprietary": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Apr  8 12:41:17 UTC 2025\n",
    "open": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (lab@stand-in)  "
    "Tue Apr  8 12:41:17 UTC 2025\n",
}
RTX_3090 = {
    "product": "NVIDIA GeForce RTX 3090",
    "device": "0x2204",
    "mib": 24576,
    "cc": "8.6",
    "watts": [100, 350, 366],
}
RTX_4060_TI = {
    "product": "NVIDIA GeForce RTX 4060 Ti",
    "device": "0x2805",
    "mib": 16380,
    "cc": "8.9",
    "watts": [100, 165, 165],
}
GTX_1080_TI = {
    "product": "NVIDIA GeForce GTX 1080 Ti",
    "device": "0x1b06",
    "mib": 11264,
    "cc": "6.1",
    "watts": [125, 250, 300],
}
RTX_5090 = {
    "product": "NVIDIA GeForce RTX 5090",
    "device": "0x2b85",
    "mib": 32607,
    "cc": "12.0",
    "watts": [400, 575, 600],
}
DEBIANS = "550.163.01"

# `module` is loaded when the machine is placed, as after an upgrade without a reboot; at a boot DKMS's sources that are
# installed come first (they count as built: this machine's kernel has no headers). `nodes` are there already.
MACHINES: dict[str, dict[str, Any]] = {
    "none": {"cards": []},
    "two-3090s": {"cards": [RTX_3090, RTX_3090], "module": [DEBIANS, "proprietary"], "nodes": "all"},
    "one-4060ti": {"cards": [RTX_4060_TI], "module": [DEBIANS, "proprietary"], "nodes": "all"},
    "open-module": {"cards": [RTX_3090, RTX_3090], "module": [DEBIANS, "open"], "nodes": "all"},
    "mismatch": {"cards": [RTX_3090, RTX_3090], "module": ["550.144.03", "proprietary"], "nodes": "all"},
    "uvm-missing": {"cards": [RTX_3090, RTX_3090], "module": [DEBIANS, "proprietary"], "nodes": "cards"},
    "not-loaded": {"cards": [RTX_3090, RTX_3090]},
    "nouveau": {"cards": [RTX_3090], "nouveau": True},
    "pascal": {"cards": [GTX_1080_TI]},
    "blackwell": {"cards": [RTX_5090]},
}


def read(path: Path) -> dict[str, Any]:
    """A JSON file; empty when it is not there."""
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return data


def place(name: str, version: str | None = None) -> None:
    """Put another machine's cards in, as if the node had been built with them; with another version of the module."""
    STATE.parent.mkdir(exist_ok=True)
    STATE.write_text(json.dumps({"name": name, "version": version, "boots": read(STATE).get("boots", 0)}))
    power_on(machine().get("module"))
    nodes = MACHINES[name].get("nodes")
    if nodes:
        make_card_nodes()
    if nodes == "all":
        make_uvm_nodes()


def boot() -> None:
    """What is there after the node's boot: the cards, and their module when udev finds one."""
    state = read(STATE)
    if state:
        STATE.write_text(json.dumps({**state, "boots": state["boots"] + 1}))
        power_on(module())


def machine() -> dict[str, Any]:
    """The machine that was placed."""
    state = read(STATE)
    found = MACHINES[state.get("name", "none")]
    return {**found, "module": [state["version"], found["module"][1]]} if state.get("version") else found


def power_on(loaded: Sequence[str] | None) -> None:
    """The cards on the bus, no device nodes, and nouveau or NVIDIA's module (its version and kind)."""
    for node in (*Path("/dev").glob("nvidia*"),):
        shutil.rmtree(node) if node.is_dir() else node.unlink()
    for folder in (PROC, PCI):
        # The folder itself is a mount point, or what guests look at.
        for entry in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for number, card in enumerate(machine()["cards"]):
        entry = PCI / address(number)
        entry.mkdir()
        for name, value in (("vendor", "0x10de"), ("device", card["device"]), ("class", "0x030000")):
            (entry / name).write_text(value + "\n")
    if machine().get("nouveau") and not blacklisted("nouveau"):
        bind("nouveau")
    elif loaded:
        insert(loaded)


def address(number: int) -> str:
    """A card's PCI address."""
    return f"0000:{number + 1:02x}:00.0"


def bind(driver: str) -> None:
    """Give every card to a kernel module."""
    for entry in PCI.iterdir():
        (entry / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")


def bound() -> str | None:
    """The kernel module that has the cards."""
    return next((os.path.basename(os.readlink(link)) for link in PCI.glob("*/driver")), None)


def blacklisted(name: str) -> bool:
    """Whether the configuration keeps a module from being loaded at boot."""
    files = Path("/etc/modprobe.d").glob("*.conf")
    return any(re.search(rf"^\s*blacklist\s+{name}\s*$", file.read_text(), re.MULTILINE) for file in files)


def module() -> Sequence[str] | None:
    """Version and kind of the kernel module that modprobe finds."""
    for conf in sorted(Path("/usr/src").glob("nvidia*/dkms.conf"), reverse=True):
        found = re.search(r'^PACKAGE_VERSION="?([0-9.]+)', conf.read_text(), re.MULTILINE)
        if found:
            return found.group(1), "open" if "open" in conf.read_text() + conf.parent.name else "proprietary"
    preset: Sequence[str] | None = machine().get("module")
    return preset


def load() -> str | None:
    """Load NVIDIA's kernel module. Returns why not, in modprobe's words."""
    found = module()
    if (PROC / "version").exists():
        return None
    if found is None:
        return f"modprobe: FATAL: Module nvidia not found in directory /lib/modules/{os.uname().release}"
    return insert(found)


def insert(found: Sequence[str]) -> str | None:
    """Insert a module of this version and kind. Returns why not, in modprobe's words."""
    cards = machine()["cards"]
    turing = all(int(card["device"], 16) >= 0x1E00 for card in cards)
    blackwell = any(int(card["device"], 16) >= 0x2900 for card in cards)
    if not cards or bound() or (found[1] == "open" and not turing) or (found[1] == "proprietary" and blackwell):
        return "modprobe: ERROR: could not insert 'nvidia': No such device"
    PROC.mkdir(exist_ok=True)
    version = FORMS[found[1]].format(found[0])
    (PROC / "version").write_text(version + "GCC version:  gcc version 14.2.0 (Debian 14.2.0-19)\n")
    live = []
    for number, card in enumerate(cards):
        identity = f"GPU-00000000-0000-4000-8000-{int(card['device'], 16):08x}{number:04x}"
        folder = PROC / "gpus" / address(number)
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t {card['product']}\nIRQ:   \t\t 146\nGPU UUID: \t {identity}\nVideo BIOS: \t 94.02.42.00.b4\n"
            f"Bus Type: \t PCIe\nDMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\n"
            f"Bus Location: \t {address(number)}\nDevice Minor: \t {number}\nGPU Excluded:\t No\n"
        )
        live.append(
            {**card, "uuid": identity, "address": address(number), "limit": card["watts"][1], "persistence": False}
        )
    write_live({"gpus": live})
    bind("nvidia")
    return None


def write_live(data: dict[str, Any]) -> None:
    """Keep what the module knows."""
    LIVE.write_text(json.dumps(data))


def make_node(name: str, numbers: tuple[int, int]) -> None:
    """A device node of the node's own."""
    path = Path("/dev") / name
    if not path.exists():
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*numbers))
        path.chmod(0o666)


def make_card_nodes() -> None:
    """Those of the cards, which nvidia-smi makes as well."""
    for name in itertools.chain(
        ["nvidiactl"], (f"nvidia{number}" for number in range(len(read(LIVE).get("gpus", []))))
    ):
        make_node(name, NULL)


def make_uvm_nodes() -> None:
    """Those of nvidia-uvm, and those of the capabilities."""
    numbers = UVM_NUMBERS[read(STATE)["boots"] % len(UVM_NUMBERS)]
    make_node("nvidia-uvm", numbers)
    make_node("nvidia-uvm-tools", numbers)
    (Path("/dev") / "nvidia-caps").mkdir(exist_ok=True)
    make_node("nvidia-caps/nvidia-cap1", NULL)
    make_node("nvidia-caps/nvidia-cap2", NULL)


def main(words: list[str]) -> int:
    """place NAME [VERSION], boot, list, or the program modprobe or nvidia-modprobe. Returns the exit status."""
    command, arguments = words[0], words[1:]
    if command == "boot":
        boot()
    elif command == "list":
        current = read(STATE).get("name", "none")
        for name, entry in MACHINES.items():
            cards = ", ".join(card["product"] for card in entry["cards"]) or "no card"
            print(f"{'*' if name == current else ' '} {name:12} {cards}")
    elif command == "place" and arguments[0] in MACHINES:
        place(*arguments)
    elif command in ("modprobe", "nvidia-modprobe"):
        refusal = load()
        if refusal:
            print(refusal, file=sys.stderr)
            return 1
        if command == "nvidia-modprobe":
            make_card_nodes()
            if "-u" in arguments:
                make_uvm_nodes()
    else:
        print(f"there is no such machine; there are: {' '.join(MACHINES)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
