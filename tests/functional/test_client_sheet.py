# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sheet of role llama_clients as a template: what is pasted says what was meant, whatever ids and keys are like.

A real router's sheet is pasted in tests/functional/lab/test_clients.py.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._json5 import loads
from markdown_it import MarkdownIt

TEMPLATE = Path(__file__).parents[2] / "roles/llama_clients/templates/clients.md.j2"
ODD = """it's "a" $HOME `id` \\ model"""
MODEL: dict[str, Any] = {
    "aliases": [],
    "text": True,
    "context": 65536,
    "at_start": True,
    "size_mib": 1,
    "load_seconds": 31,
}
FOUND: dict[str, Any] = {
    "base_url": "https://llama.example.org",
    "api_key_file": "/etc/llama-router/api-keys",
    "models": [
        {**MODEL, "id": ODD},
        {**MODEL, "id": "vectors", "text": False},
        {**MODEL, "id": "small", "context": 4096},
    ],
    "task_model": ODD,
    "longest_load_seconds": 31,
}


def sheet(folder: Path, found: dict[str, Any], key: str | None = None, show: bool | str = True) -> str:
    wanted = folder / "sheet.md"
    show = show if key else False
    variables = {"_llama_clients_found": found, "llama_clients_show_key": show, "_llama_clients_key": key}
    (folder / "vars.json").write_text(json.dumps(variables))
    argv = ["ansible", "localhost", "-c", "local", "-m", "template", "-a", f"src={TEMPLATE} dest={wanted}"]
    argv += ["-e", f"@{folder / 'vars.json'}", "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return wanted.read_text()


def test_a_key_is_not_shown_for_a_false_that_is_a_text(tmp_path: Path) -> None:
    """As `-e llama_clients_show_key=false` has it."""
    assert "the-key" not in sheet(tmp_path, FOUND, "the-key", show="false")
    assert "the-key" in sheet(tmp_path, FOUND, "the-key", show="true")


def pasted(script: str) -> list[str]:
    """The words that a shell gives to curl, and what it pipes into it."""
    show = 'curl() { printf \'%s\\0\' "$@" "$(cat)"; }\n'
    done = subprocess.run(["sh", "-c", show + script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def block(text: str, heading: str) -> str:
    found = re.search(rf"^## {heading}\n.*?^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("key", ["a-key-of-16-signs", """a key's "odd" $HOME `id` \\ signs"""])
def test_what_is_pasted_is_what_was_meant(tmp_path: Path, key: str) -> None:
    text = sheet(tmp_path, FOUND, key)
    export = re.search(r"^export .*", text, re.MULTILINE)
    assert export
    url, *words, body, piped = pasted(f"{export[0]}\n{block(text, 'curl')}")
    assert url == "https://llama.example.org/v1/chat/completions"
    assert json.loads(body)["model"] == ODD
    assert piped == f"Authorization: Bearer {key}"
    assert words[:2] == ["-H", "@-"]
    strings = {
        node.value
        for node in ast.walk(ast.parse(block(text, "OpenAI's Python client")))
        if isinstance(node, ast.Constant)
    }
    assert {ODD, "https://llama.example.org/v1"} < strings
    provider = loads(block(text, "OpenClaw"))["models"]["providers"]["llama-server"]
    assert [(model["id"], model["contextWindow"]) for model in provider["models"]] == [(ODD, 65536), ("small", 4096)]
    assert "| Certificate | has to be for the host in this URL" in text


HOSTILE = "x`| <script>alert(1)</script> ![i](http://evil/)\r\n```\n# heading\n| a | b |"


def test_a_hostile_router_adds_nothing_to_the_page(tmp_path: Path) -> None:
    """The sheet as a browser would get it: no markup of the router's, no row, no heading, no end of a block.

    Its base_url has to be a plain word, which the role checks.
    """

    def page(found: dict[str, Any]) -> list[tuple[str, int, str]]:
        tokens = MarkdownIt("commonmark").enable("table").parse(sheet(tmp_path, found, "the-key"))
        flat = [one for token in tokens for one in [token, *(token.children or [])]]
        return [(token.type, token.level, token.tag) for token in flat]

    model = {**MODEL, "id": HOSTILE, "aliases": [HOSTILE]}
    hostile = {
        **FOUND,
        "base_url": "http://x",
        "api_key_file": HOSTILE,
        "task_model": HOSTILE,
        "models": [model],
    }
    plain = {
        **FOUND,
        "base_url": "http://x",
        "api_key_file": "/x",
        "task_model": "x",
        "models": [{**MODEL, "id": "x", "aliases": ["x"]}],
    }
    assert page(hostile) == page(plain)
    text = sheet(tmp_path, hostile, "the-key")
    assert json.loads(pasted(block(text, "curl"))[-2])["model"] == HOSTILE
    numbers = {**model, "context": "1 | <b>", "load_seconds": "<i>", "at_start": False}
    text = sheet(tmp_path, {**hostile, "models": [numbers], "longest_load_seconds": "os.system()"}, "the-key")
    assert "<b>" not in text
    assert "<i>" not in text
    assert "os.system" not in text


def test_without_key_and_models(tmp_path: Path) -> None:
    text = sheet(tmp_path, {**FOUND, "base_url": "http://192.0.2.20:8012", "models": [], "task_model": ""})
    assert "the first one in `/etc/llama-router/api-keys` on localhost" in text
    assert "Certificate" not in text
    assert json.loads(pasted(block(text, "curl"))[-2])["model"] == "MODEL"
    assert loads(block(text, "OpenClaw"))["models"]["providers"]["llama-server"]["models"] == []
