# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lab stand-in of nvidia-smi, on the node and in every guest (which has this folder too). There is no GPU.

It works only where the real one is installed, and fails where that would: without its library, without the kernel
module, with one of another version, without device nodes.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import lab_gpu

PROC, LIVE = lab_gpu.PROC, lab_gpu.LIVE


def library() -> str | None:
    """The version of the real libnvidia-ml that is installed here."""
    listing = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    for path in re.findall(r"libnvidia-ml\.so\.1 .*=> (\S+)", listing):
        found = re.search(r"\.so\.([0-9.]+)$", os.path.realpath(path))
        if found:
            return found.group(1)
    return None


def is_device(name: str) -> bool:
    """Whether the node is there."""
    try:
        return stat.S_ISCHR(os.stat(f"/dev/{name}").st_mode)
    except OSError:
        return False


def on_the_node() -> bool:
    """Whether this is the node's root, who may make nodes and set limits, and not a guest's."""
    return Path("/etc/lab-gpu").exists()


def fail(status: int, words: str) -> None:
    """End as the real one does, which complains on stdout."""
    print(words)
    sys.exit(status)


def initialize() -> list[dict[str, Any]]:
    """The GPUs that are in reach here, by index."""
    if not os.path.exists("/usr/bin/nvidia-smi"):
        print("nvidia-smi: command not found", file=sys.stderr)
        sys.exit(127)
    own = library()
    if own is None:
        fail(12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.")
    talk = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    if not LIVE.exists():
        fail(9, talk)
    loaded = re.search(r"Module.*?\s+([0-9]+\.[0-9.]+)\s", (PROC / "version").read_text())
    if loaded is None or loaded.group(1) != own:
        fail(18, f"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: {own}")
    if on_the_node():
        lab_gpu.make_card_nodes()
    if not is_device("nvidiactl"):
        fail(9, talk)
    gpus: list[dict[str, Any]] = json.loads(LIVE.read_text())["gpus"]
    here = [gpu for number, gpu in enumerate(gpus) if is_device(f"nvidia{number}")]
    if not here:
        fail(6, "No devices were found")
    return here


def value(gpu: dict[str, Any], index: int, field: str) -> str:
    """One field of --query-gpu."""
    least, default, most = gpu["watts"]
    values = {
        "index": index,
        "uuid": gpu["uuid"],
        "pci.bus_id": "0000" + gpu["address"].upper(),
        "name": gpu["product"],
        "memory.total": gpu["mib"],
        "memory.used": 1,
        "compute_cap": gpu["cc"],
        "utilization.gpu": gpu.get("utilization", 0),
        "temperature.gpu": gpu.get("temperature", 41),
        "power.draw": gpu.get("draw", "21.50"),
        "clocks_event_reasons.active": gpu.get("reasons", "0x0000000000000001"),
        "power.limit": f"{gpu['limit']:.2f}",
        "power.default_limit": f"{default:.2f}",
        "power.min_limit": f"{least:.2f}",
        "power.max_limit": f"{most:.2f}",
        "persistence_mode": "Enabled" if gpu["persistence"] else "Disabled",
    }
    if field not in values:
        fail(2, f'Field "{field}" is not a valid field to query.')
    return str(values[field])


def main(words: list[str]) -> None:
    """A plain call, --query-gpu=… --format=csv,noheader,nounits, or -i GPU with -pm and -pl."""
    gpus = initialize()
    options = dict(zip(words[::2], words[1::2], strict=False))
    query = next((word.partition("=")[2].split(",") for word in words if word.startswith("--query-gpu=")), None)
    if query:
        for index, gpu in enumerate(gpus):
            print(", ".join(value(gpu, index, field) for field in query))
    elif options:
        if not on_the_node():
            fail(4, "Unable to set this: Insufficient Permissions")
        change(gpus, options)
    else:
        for index, gpu in enumerate(gpus):
            print(f"GPU {index}: {gpu['product']} (UUID: {gpu['uuid']})")


def change(gpus: list[dict[str, Any]], options: dict[str, str]) -> None:
    """Set persistence and a limit of power, as far as the module is loaded: a reboot forgets both."""
    if set(options) - {"-i", "-pm", "-pl"}:
        fail(2, f"Invalid combination of input arguments: {' '.join(options)}")
    wanted = options.get("-i")
    chosen = [
        gpu for index, gpu in enumerate(gpus) if wanted is None or wanted in (str(index), gpu["uuid"], gpu["address"])
    ]
    if not chosen:
        fail(6, f"No devices were found: {wanted}")
    for gpu in chosen:
        watts, (least, _default, most) = float(options.get("-pl", gpu["limit"])), gpu["watts"]
        if not least <= watts <= most:
            fail(
                2,
                f"Provided power limit {watts:.2f} W is not a valid power limit which should be between "
                f"{least:.2f} W and {most:.2f} W for GPU 0000{gpu['address'].upper()}",
            )
        gpu["limit"] = watts
        if "-pm" in options:
            gpu["persistence"] = options["-pm"] == "1"
    LIVE.write_text(json.dumps({"gpus": gpus}))


main(sys.argv[1:])
