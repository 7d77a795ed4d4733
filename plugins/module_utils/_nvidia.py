# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine knows of its NVIDIA GPUs: the PCI bus, the kernel module, the libraries, the device nodes, nvidia-smi.

Everything but nvidia-smi is read from files, so that there is an answer when it fails. An LXC guest shares its node's
kernel: it sees all cards and the kernel module's version, and has libraries and device nodes of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._bounded import LEFT_BEHIND, NOT_FOUND, TIMED_OUT
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run

VENDOR = "0x10de"
DISPLAY = ("0x0300", "0x0302")  # PCI classes of a graphics card: VGA, 3D
TURING, BLACKWELL = 0x1E00, 0x2900  # the lowest PCI device ids of these architectures
SHARED_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")  # of every process that uses CUDA, whatever the GPU
LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
VERSION = r"\d+\.\d+(?:\.\d+)?"
SMI_FIELDS = (
    "index",
    "uuid",
    "pci.bus_id",
    "name",
    "memory.total",
    "memory.used",
    "compute_cap",
    "power.limit",
    "power.default_limit",
    "power.min_limit",
    "power.max_limit",
    "persistence_mode",
)
# What nvidia-smi's exit status means, and how to fix it. The last three are those of `_bounded`.
SMI_REASONS = {
    2: "it does not know an argument: the driver is older than 470; install a newer one",
    3: "the GPU does not support what was asked",
    4: "this user may not use the GPU: look at the owner and the mode of the device nodes",
    6: "it finds no GPU: no device node of one is here, or its driver does not know the card (dmesg says which)",
    8: "a power cable of the GPU is not plugged in",
    9: "it cannot talk to the kernel module: not loaded, or its device nodes are not here",
    10: "the kernel sees a problem with the GPU's interrupt (dmesg says which)",
    12: "the library libnvidia-ml.so.1 is missing: install the driver's libraries",
    13: "the library libnvidia-ml.so.1 is too old for it: the driver's packages are of different versions",
    14: "the GPU's infoROM is corrupt",
    15: "the GPU has fallen off the bus: look at its power and its slot, and reboot the node",
    17: "the operating system keeps it from the GPU: the numbers of its device nodes may be stale",
    18: "the kernel module and the libraries are of different versions",
    TIMED_OUT: "it did not answer in time and was killed: the GPU hangs (dmesg), and the node needs a reboot",
    NOT_FOUND: "it is not installed",
    LEFT_BEHIND: "it hangs in the kernel and cannot be killed: the GPU hangs (dmesg), and the node needs a reboot",
}


class Kernel(NamedTuple):
    """The loaded kernel module."""

    version: str
    kind: str  # proprietary, open


class Card(NamedTuple):
    """A graphics card of NVIDIA's on the PCI bus, whether it has a driver or not."""

    pci_address: str
    device_id: str
    kernel_driver: str | None  # nvidia, nouveau, vfio-pci
    open_module: str  # whether NVIDIA's open kernel module drives it: unsupported, supported, required


# --- texts ------------------------------------------------------------------------------------------------------


def kernel_of(text: str) -> Kernel | None:
    """The kernel module from /proc/driver/nvidia/version, which the open one writes in another form."""
    found = re.search(rf"^NVRM version:.*?\s({VERSION})\s", text, re.MULTILINE)
    if not found:
        return None
    return Kernel(found.group(1), "open" if " Open " in found.group(0) else "proprietary")


def information_of(text: str) -> dict[str, str]:
    """The fields of /proc/driver/nvidia/gpus/*/information."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _colon, value in pairs}


def address_of(text: str) -> str:
    """A PCI address as the kernel writes it, from nvidia-smi's, whose domain has eight digits."""
    domain, _colon, rest = text.strip().lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def number_of(text: str) -> int | float | None:
    """A field of nvidia-smi; None for one that the card does not have ([N/A], [Not Supported])."""
    if not re.fullmatch(r"\d+(?:\.\d+)?", text):
        return None
    value = float(text)
    return int(value) if value.is_integer() else value


def gpus_of(text: str, minors: Mapping[str, int]) -> list[dict[str, Any]]:
    """The GPUs from `nvidia-smi --query-gpu`, in the order of their indexes; `minors` by PCI address.

    Memory in MiB, power in watts. `memory_total_mib` and `index` are what the planner takes a device from.
    """
    gpus = []
    for line in text.splitlines():
        fields = dict(zip(SMI_FIELDS, (field.strip() for field in line.split(","))))
        if len(fields) < len(SMI_FIELDS) or not fields["index"].isdigit():
            continue
        address = address_of(fields["pci.bus_id"])
        minor = minors.get(address)
        power = {name: number_of(fields[f"power.{name}"]) for name in ("limit", "default_limit")}
        power.update({name: number_of(fields[f"power.{name}"]) for name in ("min_limit", "max_limit")})
        gpus.append(
            {
                "index": int(fields["index"]),
                "uuid": fields["uuid"],
                "pci_address": address,
                "product": fields["name"],
                "memory_total_mib": number_of(fields["memory.total"]),
                "memory_used_mib": number_of(fields["memory.used"]),
                "compute_capability": fields["compute_cap"],
                "power": power,
                "persistence": fields["persistence_mode"] == "Enabled",
                "minor": minor,
                "device_node": None if minor is None else f"/dev/nvidia{minor}",
            }
        )
    return sorted(gpus, key=lambda gpu: gpu["index"])


def smi_reason(status: int, output: str) -> str:
    """Why nvidia-smi failed."""
    said = " ".join(output.split())
    meaning = SMI_REASONS.get(status, "")
    return f"nvidia-smi ended with {status}: " + "; ".join(part for part in (meaning, said) if part)


# --- the machine ------------------------------------------------------------------------------------------------


def is_device(path: Path) -> bool:
    """Whether a device is there, and not the empty file that a mount onto a missing node leaves behind."""
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except OSError:
        return False


def text_of(path: Path) -> str:
    """The text of a file; nothing for one that cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def entries(path: Path) -> list[Path]:
    """What is in a folder, by name; nothing for one that is not there."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def cards_in(devices: Path) -> list[Card]:
    """The graphics cards of NVIDIA's in /sys/bus/pci/devices."""
    cards = []
    for entry in entries(devices):
        if text_of(entry / "vendor").strip() != VENDOR or not text_of(entry / "class").startswith(DISPLAY):
            continue
        device = text_of(entry / "device").strip()
        number = int(device, 16)
        fit = "unsupported" if number < TURING else "supported" if number < BLACKWELL else "required"
        driver = entry / "driver"
        cards.append(
            Card(entry.name, device, os.path.basename(os.readlink(driver)) if driver.is_symlink() else None, fit)
        )
    return cards


def libraries_in(listing: str, root: Path) -> dict[str, str]:
    """The versions of the driver's libraries, by their names, from what `ldconfig -p` lists.

    The version is in the name of the file that the links end at (libcuda.so.550.163.01).
    """
    versions = {}
    for line in listing.splitlines():
        name, _arrow, path = line.strip().partition(" => ")
        name = name.split(" ")[0]
        if name not in LIBRARIES or name in versions:
            continue
        found = re.search(rf"\.so\.({VERSION})\Z", os.path.realpath(root / path.lstrip("/")))
        if found:
            versions[name] = found.group(1)
    return {name: versions[name] for name in LIBRARIES if name in versions}


def minors_in(proc: Path) -> dict[str, int]:
    """The minor number of each GPU that the kernel module drives, by PCI address."""
    minors = {}
    for entry in entries(proc / "gpus"):
        minor = information_of(text_of(entry / "information")).get("Device Minor", "")
        if minor.isdigit():
            minors[address_of(entry.name)] = int(minor)
    return minors


def secure_boot_in(efivars: Path) -> bool | None:
    """Whether Secure Boot is on, by the EFI variable's last byte; None where there is none."""
    for entry in entries(efivars):
        if entry.name.startswith("SecureBoot-"):
            with contextlib.suppress(OSError):
                return entry.read_bytes()[-1:] == b"\1"
    return None


def nodes_in(dev: Path, minors: Sequence[int]) -> dict[str, list[str]]:
    """The device nodes that are there, and those missing of the ones that CUDA needs for these GPUs."""
    found = [path for path in entries(dev) if re.fullmatch(r"nvidia(\d+|ctl|-.+)", path.name)]
    found += entries(dev / "nvidia-caps")
    wanted = [*(f"nvidia{minor}" for minor in sorted(minors)), *SHARED_NODES] if minors else []
    return {
        "present": [f"/dev/{path.relative_to(dev)}" for path in found if is_device(path)],
        "missing": [f"/dev/{name}" for name in wanted if not is_device(dev / name)],
    }


def reason_of(
    cards: Sequence[Card],
    kernel: Kernel | None,
    libraries: Mapping[str, str],
    missing: Sequence[str],
    smi: tuple[int, str],
) -> str | None:
    """The one thing that is to be mended first; None when the GPUs can be used."""
    if not cards and kernel is None:
        return "there is no NVIDIA graphics card on this machine's PCI bus"
    if kernel is None:
        card = cards[0]
        driver = f", but {card.kernel_driver} drives it" if card.kernel_driver not in (None, "nvidia") else ""
        return f"the NVIDIA kernel module is not loaded: the card {card.pci_address} is there{driver}"
    if not libraries:
        return f"the NVIDIA driver's libraries are not installed here, and its kernel module is {kernel.version}"
    for name, version in libraries.items():
        if version != kernel.version:
            return (
                f"the kernel module is {kernel.version}, {name} here is {version}: they have to be the same"
                " in all their numbers"
            )
    shared = [node for node in missing if node.replace("/dev/", "") in SHARED_NODES]
    if shared:
        return f"device nodes are missing: {', '.join(shared)}"
    status, output = smi
    return smi_reason(status, output) if status else None


def look(run: Run, root: Path = Path("/")) -> dict[str, Any]:
    """Everything, as gpu_info returns it. Reads below `root`, changes nothing. `run` has to be bounded (`_bounded`)."""
    return read(run, root)[0]


def read(run: Run, root: Path = Path("/")) -> tuple[dict[str, Any], int | None]:
    """As `look`, and the exit status of nvidia-smi; None where there is no card to ask it about."""
    proc = root / "proc/driver/nvidia"
    cards = cards_in(root / "sys/bus/pci/devices")
    kernel = kernel_of(text_of(proc / "version"))
    libraries = libraries_in(run(["/sbin/ldconfig", "-p"])[1], root)
    minors = minors_in(proc)
    # Without the kernel module the nodes are counted by the cards, which is how it will number them.
    nodes = nodes_in(root / "dev", list(minors.values()) or list(range(len(cards))))
    status, output, errors = 0, "", ""
    asked = bool(cards or kernel)
    if asked:
        query = [f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
        status, output, errors = run(["nvidia-smi", *query])
    versions = set(libraries.values())
    found = {
        "gpus": gpus_of(output, minors) if status == 0 else [],
        "cards": [card._asdict() for card in cards],
        "driver": {
            "kernel_version": kernel.version if kernel else None,
            "kernel_module": kernel.kind if kernel else None,
            "library_version": next(iter(libraries.values()), None),
            "libraries": libraries,
            "secure_boot": secure_boot_in(root / "sys/firmware/efi/efivars"),
            "agree": versions == {kernel.version} if kernel and versions else None,
            "reason": reason_of(cards, kernel, libraries, nodes["missing"], (status, errors or output)),
        },
        "device_nodes": nodes,
    }
    return found, status if asked else None
