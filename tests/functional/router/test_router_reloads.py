# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""router_reload against the real llama-server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from router_server import Call, Server, section


@pytest.fixture
def presets(tmp_path: Path, models: Path) -> Path:
    file = tmp_path / "models.ini"
    file.write_text("".join(section(name, models / f"{name}.gguf") for name in ("alpha", "beta", "gamma")))
    return file


@pytest.fixture
def server(tmp_path: Path, presets: Path) -> Iterator[Server]:
    (tmp_path / "folder").mkdir()
    with Server(tmp_path, "--models-preset", str(presets), "--models-dir", str(tmp_path / "folder")) as running:
        yield running


@pytest.fixture
def there(server: Server) -> dict[str, Any]:
    return {"url": server.url, "api_key_file": str(server.keys), "timeout": 120}


def test_added_removed_modified_stopped(
    server: Server, there: dict[str, Any], call: Call, presets: Path, models: Path, tmp_path: Path
) -> None:
    server.load("alpha", "beta", "gamma")
    presets.write_text(
        section("alpha", models / "alpha.gguf", ctx_size="128")  # runs with other options
        + section("beta", models / "beta.gguf")
        + section("delta", models / "gamma.gguf", alias="d")
    )
    shutil.copy(models / "alpha.gguf", tmp_path / "folder" / "epsilon.gguf")
    seen = call("router_reload", **there, check=True)
    assert seen["changed"]
    assert server.status() == dict.fromkeys(("alpha", "beta", "gamma"), "loaded")

    done = call("router_reload", **there)
    assert done["changed"]
    assert done["stopped"] == ["alpha", "gamma"]
    assert done["added"] == ["delta", "epsilon"]
    assert done["removed"] == ["gamma"]
    assert done["modified"] == ["alpha"]
    assert done["loaded"] == ["beta"]
    assert "ctx-size" not in done["diff"]["before"]["alpha"]["options"]
    assert done["diff"]["after"]["alpha"]["options"]["ctx-size"] == "128"

    again = call("router_reload", **there)
    assert not again["changed"]
    assert again["stopped"] == again["added"] == again["removed"] == again["modified"] == []


@pytest.mark.parametrize(
    ("text", "told"),
    [("[alpha\n", "failed to parse server config file"), ("[alpha]\nfrob = 1\n", "option 'frob' not recognized")],
)
def test_presets_that_the_router_refuses(
    server: Server, there: dict[str, Any], call: Call, presets: Path, text: str, told: str
) -> None:
    server.load("alpha")
    presets.write_text(text)
    done = call("router_reload", **there)
    assert done["failed"]
    assert not done.get("changed")
    assert told in done["msg"]
    assert "goes on with those it has" in done["msg"]
    assert server.status() == {"alpha": "loaded", "beta": "unloaded", "gamma": "unloaded"}
