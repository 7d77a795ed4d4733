# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scrape of the exporter costs with 50 models, four of them loaded: CPU time of the exporter, and of the router.

The router is the real one on this machine; its models are links to a tiny one. The exporter itself tells its CPU time.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# In place of this folder, whose gguf.py is not the package.
sys.path[:1] = [str(TESTS), str(TESTS / "functional"), str(TESTS / "functional/router")]

from router_server import Server, section
from test_exporter import Exporter

MODELS, LOADED, SCRAPES = 50, 4, 50
LIMIT_MS = 20


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    os.environ["LLAMA_ARG_LOG_VERBOSITY"] = "4"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        importlib.import_module("make_tiny_models").make(folder / "tiny.gguf", 1)
        names = [f"model-{at:02}" for at in range(MODELS)]
        presets = folder / "models.ini"
        presets.write_text("".join(section(name, folder / "tiny.gguf", ctx_size="512") for name in names))
        with Server(folder, "--models-preset", str(presets), "--models-max", str(LOADED), "--metrics") as server:
            server.load(*names[:LOADED])
            exporter = Exporter(server, folder, folder)
            time.sleep(1)
            try:
                before, router = cpu_seconds(exporter.process.pid), cpu_seconds(server.process.pid)
                begin = time.monotonic()
                for _scrape in range(SCRAPES):
                    with urllib.request.urlopen(exporter.url + "/metrics") as response:
                        size = len(response.read())
                cpu = 1000 * (cpu_seconds(exporter.process.pid) - before) / SCRAPES
                served = 1000 * (cpu_seconds(server.process.pid) - router) / SCRAPES
                wall = 1000 * (time.monotonic() - begin) / SCRAPES
            finally:
                exporter.stop()
    print(f"a scrape with {MODELS} models, {LOADED} loaded: {size / 1024:.0f} KiB, {wall:.0f} ms")
    print(f"CPU: {cpu:.1f} ms of the exporter (wanted: below {LIMIT_MS}), {served:.1f} ms of the router")


main()
