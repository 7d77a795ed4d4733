# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tests talk to the router: from inside the guest, with its own key, and without the collection's modules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab_guest import guest

KEYS = "/etc/llama-router/api-keys"
URL = "http://127.0.0.1:8012"

Answer = tuple[int, Any]


class Router:
    """The router in the guest. Its key stays there."""

    PROGRAM = f"""
import sys, urllib.error, urllib.request
method, path, body = sys.argv[1:]
key = open("{KEYS}").readline().strip()
headers = {{"Authorization": "Bearer " + key, "Content-Type": "application/json"}}
request = urllib.request.Request("{URL}" + path, body.encode() or None, headers, method=method)
try:
    answer = urllib.request.urlopen(request, timeout=600)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode(), sep="\\n")
"""

    def __init__(self, host: Any) -> None:
        self.host = host

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        words = ["python3", "-c", self.PROGRAM, method, path, json.dumps(body) if body else ""]
        status, text = self.host.check_output(" ".join(["%s"] * len(words)), *words).split("\n", 1)
        return int(status), json.loads(text)

    def chat(self, model: str, tokens: int = 4) -> Answer:
        """One short question; loads the model if need be."""
        question = {"role": "user", "content": "Say hello and introduce yourself in one sentence."}
        body = {"model": model, "temperature": 0, "max_tokens": tokens, "messages": [question]}
        return self.ask("POST", "/v1/chat/completions", body)

    def statuses(self) -> dict[str, str]:
        return {model["id"]: model["status"]["value"] for model in self.ask("GET", "/models")[1]["data"]}

    def loaded(self) -> list[str]:
        return sorted(name for name, status in self.statuses().items() if status == "loaded")


@pytest.fixture(scope="session")
def host() -> Any:
    return guest(120)


@pytest.fixture(scope="module")
def router(host: Any) -> Router:
    return Router(host)
