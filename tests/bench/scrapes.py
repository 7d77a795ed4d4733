# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the exporter costs a model that answers: tokens a second of a chat stream, without it and while it is scraped.

The router is the real one on this machine's CPU, its model random weights of 57 million parameters. The three ways take
turns, window by window, so that what else the machine does meets all of them; each is compared with the window without
an exporter of the same round.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# In place of this folder, whose gguf.py is not the package.
sys.path[:1] = [str(TESTS), str(TESTS / "functional"), str(TESTS / "functional/router")]

from router_server import KEY, Server, section
from test_exporter import Exporter

ROUNDS, WINDOW = 3, 15.0  # seconds; in one of these windows Prometheus scrapes once by default
WAYS = {"no exporter": None, "a scrape every 15 s": 15.0, "a scrape a second": 1.0}


def speed(server: Server, seconds: float) -> float:
    """Tokens a second of answers one after the other, each token an event of the stream."""
    tokens, begin = 0, time.monotonic()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body = {"model": "small", "messages": [{"role": "user", "content": "once"}], "stream": True}
    while time.monotonic() - begin < seconds:
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        line.request(
            "POST", "/v1/chat/completions", json.dumps({**body, "max_tokens": 400, "ignore_eos": True}), headers
        )
        for event in line.getresponse():
            tokens += event.startswith(b"data: {")
            if time.monotonic() - begin >= seconds:
                break
        line.close()
    return tokens / (time.monotonic() - begin)


def scraped(server: Server, folder: Path, every: float) -> float:
    """The same, with an exporter that is scraped now and then."""
    exporter, over, scrapes = Exporter(server, folder, folder), threading.Event(), 0

    def scrape() -> None:
        nonlocal scrapes
        while not over.wait(every / 2 if not scrapes else every):
            with urllib.request.urlopen(exporter.url + "/metrics") as response:
                assert b"llamacpp_up 1.0" in response.read()
            scrapes += 1

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        found = speed(server, WINDOW)
    finally:
        over.set()
        thread.join()
        exporter.stop()
    assert scrapes >= WINDOW // every
    return found


def main() -> None:
    os.environ["LLAMA_ARG_LOG_VERBOSITY"] = "4"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "small.gguf"
        importlib.import_module("make_tiny_models").make(model, 1, context=1024, width=768, layers=8, ff=2048)
        presets = folder / "models.ini"
        presets.write_text(section("small", model, ctx_size="1024"))
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        with Server(folder, "--models-preset", str(presets), "--metrics") as server:
            server.load("small")
            speed(server, 3)
            for _round in range(ROUNDS):
                for way, every in WAYS.items():
                    found[way].append(scraped(server, folder, every) if every else speed(server, WINDOW))
    for way, speeds in found.items():
        line = f"{way}: {statistics.median(speeds):.1f} tokens/s ({min(speeds):.1f} to {max(speeds):.1f})"
        if WAYS[way]:
            ratios = [value / base for value, base in zip(speeds, found["no exporter"], strict=True)]
            line += f", {statistics.median(ratios):.3f} of it ({min(ratios):.3f} to {max(ratios):.3f})"
        print(line)


main()
