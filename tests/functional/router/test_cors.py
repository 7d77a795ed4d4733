# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose pages a browser lets call the real router: those of the inventory's Open WebUI or proxy, and no others."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from router_server import KEY, Server

ROLE = Path(__file__).resolve().parents[3] / "roles" / "llama_router"
EVIL = "https://evil.example"
PROXY = {"llama_proxy_server_names": ["~^regex$", "llama.example.org"], "llama_proxy_certificate": "/x"}
CHAT = {"open_webui_public_url": "https://chat.example.org/"}


def default(guest: dict[str, Any], clients: dict[str, dict[str, Any]]) -> str:
    """What the role sets for a guest with these variables, and these hosts with Open WebUI."""
    variables: dict[str, Any] = {"inventory_hostname": "guest", "groups": {"open_webuis": list(clients)}}
    variables["hostvars"] = {"guest": guest, **clients}
    for name in ("defaults", "vars"):
        path = str(ROLE / name / "main.yml")
        variables.update(DataLoader().load_from_file(path, cache="none", trusted_as_template=True))
    return str(Templar(DataLoader(), variables=variables).template(variables["llama_router_cors_origin"]))


@pytest.mark.parametrize(
    ("guest", "clients", "origin"),
    [
        ({}, {}, "localhost"),
        ({}, {"chat": CHAT}, "https://chat.example.org"),
        (PROXY, {"chat": CHAT}, "https://chat.example.org"),
        (PROXY, {}, "https://llama.example.org"),
        ({**PROXY, "llama_proxy_https_port": 8443}, {}, "https://llama.example.org:8443"),
        ({}, {"chat": {"llama_proxy_server_names": ["chat.lan"]}}, "http://chat.lan"),
    ],
)
def test_the_origin_is_what_the_inventory_knows(guest: dict[str, Any], clients: dict[str, Any], origin: str) -> None:
    assert default(guest, clients) == origin


@pytest.mark.parametrize("origin", ["localhost", "https://chat.example.org"])
def test_no_other_page_may_call_the_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    (tmp_path / "models.ini").touch()
    monkeypatch.setenv("LLAMA_ARG_CORS_ORIGINS", origin)
    with Server(tmp_path, "--models-preset", str(tmp_path / "models.ini")) as server:
        own = "http://localhost:3000" if origin == "localhost" else origin
        assert allowed(server, own) == own
        assert allowed(server, EVIL) != EVIL
    monkeypatch.delenv("LLAMA_ARG_CORS_ORIGINS")
    with Server(tmp_path, "--models-preset", str(tmp_path / "models.ini")) as server:
        assert allowed(server, EVIL) == EVIL, "llama-server does it by itself now: the variable may go"


def allowed(server: Server, origin: str) -> str | None:
    headers = {"Origin": origin, "Authorization": f"Bearer {KEY}"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/models", headers=headers)) as answer:
        found: str | None = answer.headers.get("Access-Control-Allow-Origin")
    return found
