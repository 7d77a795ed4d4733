# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""router_model's present and absent: the real llama-server fetches from a stand-in for the hub."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from router_server import TESTS, Call, Server, section, wait_until

sys.path.insert(0, str(TESTS / "doubles"))
from hub import Hub

TINY = "homelab/tiny-GGUF"
QUANT = f"{TINY}:Q8_0"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    importlib.import_module("make_tiny_models").make_hub(tmp_path / "hub")
    # As on the real one, the storage is another host: redirected within one, llama-server gives up.
    with Hub(tmp_path / "hub", storage="localhost") as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    presets = tmp_path / "models.ini"
    presets.write_text(section("alpha", models / "alpha.gguf") + section("own/alpha:Q8_0", models / "alpha.gguf"))
    with Server(tmp_path, "--models-preset", str(presets)) as running:
        yield running


@pytest.fixture
def there(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    # The router's own output, as its journal would show it.
    journalctl = tmp_path / "bin" / "journalctl"
    journalctl.parent.mkdir()
    journalctl.write_text(f"#!/bin/sh\ncat {server.log}\n")
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(journalctl.parent), prepend=":")
    return {"url": server.url, "api_key_file": str(server.keys), "timeout": 120}


def cached(server: Server) -> list[str]:
    return sorted(model.id for model in server.client.models() if model.source == "cache")


def test_present_and_absent_and_again(server: Server, there: dict[str, Any], call: Call, hub: Hub) -> None:
    seen = call("router_model", name=[QUANT], state="present", **there, check=True)
    assert (seen["changed"], seen["cached"], hub.seen.sent) == (True, [], 0)
    done = call("router_model", name=[QUANT], state="present", **there)
    assert done["changed"], done
    assert done["cached"] == cached(server) == [QUANT]
    assert done["diff"] == {"before": {QUANT: "absent"}, "after": {QUANT: "present"}} == seen["diff"]
    assert server.complete(QUANT, 2) == 200
    asked = len(hub.seen.paths)
    again = call("router_model", name=[QUANT.lower().replace("gguf", "GGUF")], state="present", **there)
    assert (again["changed"], again["cached"], len(hub.seen.paths)) == (False, [QUANT], asked)

    seen = call("router_model", name=[QUANT], state="absent", **there, check=True)
    assert seen["changed"]
    assert server.status()[QUANT] == "loaded"
    gone = call("router_model", name=[QUANT], state="absent", **there)  # stopped first
    assert (gone["changed"], gone["cached"], gone["diff"]) == (True, [], seen["diff"])
    assert sorted(server.status()) == ["alpha", "own/alpha:Q8_0"]
    assert not call("router_model", name=[QUANT], state="absent", **there)["changed"]


def test_without_a_quant(server: Server, there: dict[str, Any], call: Call) -> None:
    done = call("router_model", name=[TINY, "homelab/split-GGUF"], state="present", **there)
    assert done["cached"] == [f"{TINY}:Q4_K_M", "homelab/split-GGUF:Q4_K_M"]
    assert server.complete("homelab/split-GGUF:Q4_K_M", 2) == 200
    assert call("router_model", name=[QUANT], state="present", **there)["changed"]
    assert not call("router_model", name=[TINY], state="present", **there)["changed"]
    assert call("router_model", name=[TINY], state="absent", **there)["changed"]
    assert cached(server) == ["homelab/split-GGUF:Q4_K_M"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("homelab/none-GGUF", "Repository not found"),
        (f"{TINY}:Q2_K", f"no GGUF files found in repository {TINY}"),
    ],
)
def test_what_the_hub_has_not(
    server: Server, there: dict[str, Any], call: Call, hub: Hub, name: str, said: str
) -> None:
    """The router answers 200 and tells the download as finished."""
    hub.latency = 0.5
    done = call("router_model", name=[name], state="present", **there)
    assert f"{name} was wanted in the router's cache, its download ended without a model" in done["msg"]
    assert said in done["msg"]
    assert cached(server) == []


def test_a_storage_that_does_not_answer(server: Server, there: dict[str, Any], call: Call, hub: Hub) -> None:
    hub.faults.broken = 1000
    hub.latency = 0.5  # or it has ended before its process is seen, whose lines say why
    done = call("router_model", name=[QUANT], state="present", **there)
    assert "its download ended without a model (" in done["msg"]
    assert "status code: 503" in done["msg"]
    hub.faults.broken, hub.latency = 0, 0
    assert call("router_model", name=[QUANT], state="present", **there)["changed"]


def test_nothing_arrives(server: Server, there: dict[str, Any], call: Call, hub: Hub) -> None:
    hub.faults.rate = 10_000  # 32 KiB at once, then three seconds of nothing
    done = call("router_model", name=[QUANT], state="present", **{**there, "timeout": 1})
    assert "nothing has arrived for 1 s and the router still tries" in done["msg"]
    assert call("router_model", name=[QUANT], state="absent", **there)["changed"]
    assert cached(server) == []


def test_it_joins_a_download_that_is_under_way(server: Server, there: dict[str, Any], call: Call, hub: Hub) -> None:
    hub.faults.rate = 20_000  # two seconds for each part of 32 KiB
    begun = call("router_model", name=[QUANT], state="present", wait=False, **there)
    assert (begun["changed"], begun["cached"]) == (True, [])
    hub.faults.rate = 0
    done = call("router_model", name=[QUANT], state="present", **there)
    assert (done["changed"], done["cached"]) == (False, [QUANT])


def test_a_killed_router_goes_on_where_it_was(
    tmp_path: Path, server: Server, there: dict[str, Any], call: Call, hub: Hub
) -> None:
    hub.faults.rate = 100_000
    size = (hub.root / TINY / "tiny-Q8_0.gguf").stat().st_size
    call("router_model", name=[QUANT], state="present", wait=False, **there)
    wait_until(lambda: hub.seen.sent > size // 3)
    hub.faults.rate = 10_000  # it does not arrive before both are dead
    child = server.child(QUANT)
    os.kill(server.process.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    server.process.wait()
    hub.faults.rate = 0
    done = call("router_model", name=[QUANT], state="present", **there)
    assert "nothing listens there" in done["msg"]
    server.__enter__()
    assert call("router_model", name=[QUANT], state="present", **there)["cached"] == [QUANT]
    assert hub.seen.sent < 1.5 * size  # what was on its way counts
    assert server.complete(QUANT, 2) == 200


@pytest.mark.parametrize("name", ["alpha", "a/b/c", "a/b:", "", "own/x:Q8 0"])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_names_that_no_hub_has(there: dict[str, Any], call: Call, name: str, state: str) -> None:
    done = call("router_model", name=[QUANT, name], state=state, **there, check=True)
    assert done["msg"] == f"name: user/repository or user/repository:quant was wanted for the cache, found {name!r}"


def test_an_id_of_a_preset(server: Server, there: dict[str, Any], call: Call) -> None:
    done = call("router_model", name=["own/alpha:Q8_0"], state="present", **there)
    assert "a preset or a file in its models directory is served by that id already" in done["msg"]
    assert not call("router_model", name=["own/alpha:Q8_0"], state="absent", **there)["changed"]
    assert "own/alpha:Q8_0" in server.status()
