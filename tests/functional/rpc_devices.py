# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's stand-ins for GPUs, and what the real llama-server says that it allocates on them.

They are ggml's RPC servers, whose allocator is the one that CUDA uses; they run in the image of tests/llama-server.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from ports import free_port

LLAMA_SERVER = str(TESTS / "llama-server")
LAB_GPU = "/usr/libexec/lab-gpu/lab_gpu.py"
BUFFER = re.compile(r"(\S+\[127\.0\.0\.1:(\d+)\]|CPU_Mapped|CPU) +(model|KV|RS|compute) buffer size = +([0-9.]+) MiB")


@contextlib.contextmanager
def cards(ports: list[int], budgets: list[int]) -> Iterator[None]:
    """Devices behind these ports, each with so many MiB for all of its clients together."""
    environment = {**os.environ, "LLAMA_PROGRAM": "/usr/bin/python3"}
    groups = [
        subprocess.Popen(
            [LLAMA_SERVER, LAB_GPU, str(port), str(budget)],
            env=environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # it starts servers of its own, which have to end with it
        )
        for port, budget in zip(ports, budgets)
    ]
    try:
        for port, group in zip(ports, groups):
            deadline = time.monotonic() + 120
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert group.poll() is None, "the RPC server does not start: run make llama-server"
                assert time.monotonic() < deadline, "the RPC server does not listen"
                time.sleep(0.05)
        yield
    finally:
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group.pid, signal.SIGKILL)
            group.wait()


def buffers(model: Path, ports: list[int], options: dict[str, str], *args: str) -> dict[tuple[str, str], float]:
    """MiB of each buffer in the server's log, by the device's name (or host) and the buffer's kind."""
    argv = [LLAMA_SERVER, "--rpc", ",".join(f"127.0.0.1:{port}" for port in ports), "-m", str(model), "--fit", "off"]
    argv += ["--host", "127.0.0.1", "--port", str(free_port()), "--no-warmup", "-lv", "4", *args]
    argv += [word for key, value in options.items() for word in (f"--{key}", value)]
    log = model.with_suffix(".log")
    with log.open("wb") as file:
        server = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while "listening on" not in log.read_text(errors="replace"):
            assert server.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.05)
    finally:
        server.kill()
        server.wait()
    names = {str(port): f"RPC{index}" for index, port in enumerate(ports)}
    found: dict[tuple[str, str], float] = {}
    for _where, port, kind, size in BUFFER.findall(log.read_text(errors="replace")):
        key = (names.get(port, "host"), kind)
        found[key] = found.get(key, 0) + float(size)
    return found
