# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How clients reach a router, by what its unit says; a real one is asked in tests/functional/lab/test_clients.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.module_utils import _client_facts
from ansible_collections.homelab.llamacpp.plugins.modules import client_info
from ansible_collections.homelab.llamacpp.tests.unit.http_double import JSON, Asked, HttpDouble, Told

KEY = "the-routers-key"
MODEL = {"id": "a", "aliases": ["b"], "status": {"value": "unloaded", "preset": "[a]\nctx-size = 4096\n"}}
PROPS = {"role": "router", "max_instances": 1, "models_autoload": True}
Call = Callable[..., dict[str, Any]]


class Router(HttpDouble):
    def answer(self, asked: Asked) -> Told:
        assert asked.headers["Authorization"] == f"Bearer {KEY}"
        return Told(200, JSON, json.dumps({"/props": PROPS, "/models": {"data": [MODEL]}}[asked.path]))


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as one:
        yield one


@pytest.fixture
def call(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The module on a host whose unit listens on `host`."""
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda self, text: warnings.append(text))
    monkeypatch.setattr(_client_facts, "own_address", lambda: "192.0.2.20")
    keys = tmp_path / "api-keys"
    keys.write_text(f"# ours\n{KEY}\n")

    def run(host: str, **params: Any) -> dict[str, Any]:
        words = f"--host {host} --port {router.server_port} --api-key-file {keys}"
        started = f"ExecStart={{ path=/b ; argv[]=/b {words} ; ignore_errors=no ; pid=0 }}\n"
        monkeypatch.setattr(AnsibleModule, "run_command", lambda *_args, **_kwargs: (0, started, ""))
        capsys.readouterr()
        warnings.clear()
        with patch_module_args(params), pytest.raises(SystemExit):
            client_info.main()
        return {**json.loads(capsys.readouterr().out), "warnings": list(warnings)}

    return run


def test_by_the_hosts_own_address(router: Router, call: Call) -> None:
    told = call("0.0.0.0")
    assert told["base_url"] == f"http://192.0.2.20:{router.server_port}"
    assert told["warnings"] == []
    assert [(model["id"], model["aliases"], model["context"]) for model in told["models"]] == [("a", ["b"], 4096)]
    assert KEY not in json.dumps(told)


def test_a_router_that_no_other_host_reaches(router: Router, call: Call) -> None:
    told = call("127.0.0.1")
    assert told["base_url"] == router.url
    assert "listens on" in told["warnings"][0]
    told = call("127.0.0.1", base_url="https://llama.example.org")
    assert (told["base_url"], told["warnings"]) == ("https://llama.example.org", [])


@pytest.mark.parametrize(
    "given", ["https://Llama.example.org/v1/", "https://llama.example.org:443", "https://llama.example.org/v1"]
)
def test_by_the_name_that_is_given(call: Call, given: str) -> None:
    assert call("0.0.0.0", base_url=given)["base_url"] == "https://llama.example.org"


def test_a_name_alone_is_no_address(call: Call) -> None:
    assert (
        "base_url: http://HOST:PORT or https://HOST:PORT was wanted" in call("::", base_url="llama.example.org")["msg"]
    )
