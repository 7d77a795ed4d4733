# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for Ollama, which no package that can be had here carries: `ollama serve` computes nothing.

It keeps what its operators rely on: port 11434 on 127.0.0.1, /api/ps, a model that stays loaded after an answer for
OLLAMA_KEEP_ALIVE or the request's own keep_alive (a duration like 5m, seconds, 0 for not at all, below 0 for ever), and
503 from OLLAMA_MAX_LOADED_MODELS=0 never: that means automatic. Anything else is 404, a model that was not pulled too.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
PULLED = ("qwen3:8b",)
SIZE = 512 << 20  # bytes of VRAM that a model of its says that it takes


def duration(value: object) -> float:
    found = re.fullmatch(r"(-?[0-9]+)([smh]?)", str(value))
    if not found:
        raise ValueError(f"no duration: {value!r}")
    seconds = int(found[1]) * SECONDS[found[2]]
    return float("inf") if seconds < 0 else seconds


class Handler(BaseHTTPRequestHandler):
    keep_alive = duration(os.environ.get("OLLAMA_KEEP_ALIVE", "5m"))
    loaded: dict[str, float] = {}  # noqa: RUF012  (name to when it goes, of the whole process)

    def do_GET(self) -> None:
        if self.path == "/":
            self.answer(200, b"Ollama is running", "text/plain")
        elif self.path == "/api/ps":
            now = time.monotonic()
            models = [{"name": name, "size": SIZE, "size_vram": SIZE} for name, end in self.loaded.items() if end > now]
            self.answer(200, json.dumps({"models": models}).encode())
        else:
            self.answer(404, b"404 page not found", "text/plain")

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/api/generate":
            self.answer(404, b"404 page not found", "text/plain")
            return
        if request["model"] not in PULLED:
            self.answer(404, json.dumps({"error": f"model '{request['model']}' not found"}).encode())
            return
        keep = duration(request["keep_alive"]) if "keep_alive" in request else self.keep_alive
        self.loaded[request["model"]] = time.monotonic() + keep
        self.answer(200, json.dumps({"model": request["model"], "response": "", "done": True}).encode())

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    if sys.argv[1:] != ["serve"]:
        sys.exit("a stand-in for Ollama: serve is all it knows")
    ThreadingHTTPServer(("127.0.0.1", 11434), Handler).serve_forever()
