# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""router_model and router_info against the real llama-server."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from router_server import KEY, Call, Server, free_port, held, section, wait_until

BUSY = {"context_shift": "on", "threads": "1"}  # so that an answer need not end


@pytest.fixture
def presets(tmp_path: Path, models: Path) -> Path:
    file = tmp_path / "models.ini"
    file.write_text(
        section("alpha", models / "alpha.gguf", alias="first,erste", ctx_size="256", **BUSY)
        + section("beta", models / "beta.gguf")
        + section("gamma", models / "gamma.gguf")
        + section("slow", models / "slow.gguf", stop_timeout="3", **BUSY)
        + section("broken", models / "broken.gguf")
    )
    return file


@pytest.fixture
def server(tmp_path: Path, presets: Path) -> Iterator[Server]:
    with Server(tmp_path, "--models-preset", str(presets), "--models-max", "2") as running:
        yield running


@pytest.fixture
def there(server: Server) -> dict[str, Any]:
    return {"url": server.url, "api_key_file": str(server.keys), "timeout": 120}


def test_load_and_unload_and_again(server: Server, there: dict[str, Any], call: Call) -> None:
    seen = call("router_model", name=["alpha"], **there, check=True)
    assert seen["changed"]
    assert seen["loaded"] == ["alpha"]
    assert server.status()["alpha"] == "unloaded"

    done = call("router_model", name=["alpha"], **there)
    assert done["changed"]
    assert done["diff"] == {"before": {"alpha": "unloaded"}, "after": {"alpha": "loaded"}} == seen["diff"]
    assert done["evicted"] == []
    assert server.complete("alpha", 2) == 200
    again = call("router_model", name=["alpha"], **there)
    assert (again["changed"], again["diff"]) == (False, {"before": {}, "after": {}})
    assert call("router_model", name=[], **there)["loaded"] == ["alpha"]  # nothing to do is done

    seen = call("router_model", name=["alpha"], state="unloaded", **there, check=True)
    assert seen["changed"]
    assert server.status()["alpha"] == "loaded"
    assert call("router_model", name=["alpha"], state="unloaded", **there)["changed"]
    assert server.status()["alpha"] == "unloaded"
    assert not call("router_model", name=["alpha"], state="unloaded", **there)["changed"]


def test_aliases_are_the_model(server: Server, there: dict[str, Any], call: Call) -> None:
    done = call("router_model", name=["erste", "alpha"], **there)
    assert done["loaded"] == ["alpha"]
    assert not call("router_model", name=["first"], **there)["changed"]


def test_at_the_limit_the_oldest_goes(server: Server, there: dict[str, Any], call: Call) -> None:
    call("router_model", name=["alpha", "beta"], **there)
    done = call("router_model", name=["gamma"], **there)
    assert done["evicted"] == ["alpha"]
    assert done["loaded"] == ["beta", "gamma"]
    assert done["diff"]["after"] == {"alpha": "unloaded", "gamma": "loaded"}


def test_a_load_does_not_cost_a_model_that_is_wanted_too(server: Server, there: dict[str, Any], call: Call) -> None:
    server.load("alpha", "beta")  # alpha is the next to be evicted
    done = call("router_model", name=["alpha", "gamma"], **there)
    assert done["loaded"] == ["alpha", "gamma"]
    assert done["evicted"] == ["beta"]
    assert not call("router_model", name=["alpha", "gamma"], **there)["changed"]


@pytest.mark.parametrize("check", [False, True])
def test_more_names_than_the_limit(server: Server, there: dict[str, Any], call: Call, check: bool) -> None:
    done = call("router_model", name=["alpha", "beta", "gamma"], **there, check=check)
    assert done["failed"]
    assert "3 models were wanted" in done["msg"]
    assert "runs 2" in done["msg"]
    assert set(server.status().values()) == {"unloaded"}
    assert not call("router_model", name=["alpha", "beta", "gamma"], state="unloaded", **there).get("failed")


@pytest.mark.parametrize("check", [False, True])
def test_a_name_that_the_router_does_not_know(server: Server, there: dict[str, Any], call: Call, check: bool) -> None:
    done = call("router_model", name=["alpha", "Gama"], **there, check=check)
    assert "'Gama'" in done["msg"]
    assert "alpha, beta, broken, gamma, slow" in done["msg"]
    assert "did you mean 'gamma'" in done["msg"]
    assert set(server.status().values()) == {"unloaded"}


def test_a_broken_file_fails_and_says_why(
    server: Server, there: dict[str, Any], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The router's own output, as its journal would show it.
    journalctl = tmp_path / "bin" / "journalctl"
    journalctl.parent.mkdir()
    journalctl.write_text(f"#!/bin/sh\ncat {server.log}\n")
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(journalctl.parent), prepend=":")
    for _time in range(2):  # the flag of the first failure is not taken for the second's
        done = call("router_model", name=["broken"], **there)
        assert done["failed"]
        assert done["changed"]
        assert "broken was wanted loaded, its process ended with exit code 1" in done["msg"]
        assert "failed to load model" in done["msg"]
    assert call("router_info", url=server.url, api_key=KEY)["models"][2]["exit_code"] == 1


def test_killed_while_loading(server: Server, there: dict[str, Any], call: Call, models: Path) -> None:
    def kill() -> None:
        wait_until(lambda: server.status()["slow"] == "loading")
        os.kill(server.child("slow"), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    with held(models / "slow.gguf"):
        killer.start()
        done = call("router_model", name=["slow"], **there)
        killer.join()
    assert done["failed"]
    assert "its process ended with exit code" in done["msg"]
    assert call("router_model", name=["slow"], **there)["changed"]  # and the next run mends it


def test_killed_during_a_request(server: Server, there: dict[str, Any], call: Call) -> None:
    server.load("slow")
    with server.answering_at_once("slow") as statuses:
        os.kill(server.child("slow"), signal.SIGKILL)
    assert statuses == [500]
    wait_until(lambda: server.status()["slow"] == "unloaded")
    assert call("router_info", url=server.url, api_key=KEY)["models"][4]["failed"]
    assert call("router_model", name=["slow"], **there)["changed"]
    assert server.complete("slow", 2) == 200


def test_a_load_waits_for_an_unload_that_is_under_way(server: Server, there: dict[str, Any], call: Call) -> None:
    server.load("slow")
    old = server.child("slow")
    with server.answering_at_once("slow"):  # it gets the three seconds of its stop-timeout to end that
        assert call("router_model", name=["slow"], state="unloaded", wait=False, **there)["changed"]
        assert server.status()["slow"] == "loaded"  # there is no status for a model on its way out
        done = call("router_model", name=["slow"], **there)
    assert done["changed"]
    assert server.child("slow") != old
    assert server.complete("slow", 2) == 200


def test_no_slot_in_time(server: Server, there: dict[str, Any], call: Call) -> None:
    server.load("slow", "alpha")
    with server.answering("alpha"), server.answering_at_once("slow"):
        done = call("router_model", name=["beta"], **{**there, "timeout": 1})
        unloading = call("router_model", name=["slow"], state="unloaded", **{**there, "timeout": 1})
    assert "held by alpha (loaded), slow (loaded)" in done["msg"]
    assert "slow was wanted unloaded, it is still loaded after 1 s" in unloading["msg"]


def test_without_waiting(server: Server, there: dict[str, Any], call: Call, models: Path) -> None:
    with held(models / "slow.gguf"):
        done = call("router_model", name=["slow"], wait=False, **there)
        assert done["changed"]
        assert server.status()["slow"] == "loading"
    assert not call("router_model", name=["slow"], **there)["changed"]  # it joins the load that is under way
    assert server.status()["slow"] == "loaded"


def test_info_wakes_nothing(server: Server, call: Call, models: Path) -> None:
    for check in (False, True):
        info = call("router_info", url=server.url, api_key=KEY, check=check)
        assert (info["changed"], info["role"], info["limit"]) == (False, "router", 2)
        assert (info["models_autoload"], info["loaded"]) == (True, [])
        assert info["build_number"] > 10000
        assert [model["id"] for model in info["models"]] == ["alpha", "beta", "broken", "gamma", "slow"]
    alpha = info["models"][0]
    assert sorted(alpha["aliases"]) == ["erste", "first"]
    assert (alpha["ctx_size"], info["models"][1]["ctx_size"]) == (256, None)
    assert alpha["options"]["model"] == str(models / "alpha.gguf")
    server.load("beta")
    info = call("router_info", url=server.url, api_key=KEY)
    assert info["loaded"] == ["beta"]
    assert info["models"][1]["ctx_size"] > 0


def test_wrong_and_missing_keys(server: Server, call: Call, tmp_path: Path) -> None:
    wrong = call("router_info", url=server.url, api_key="not-a-key")
    assert "the key that was sent is none of them" in wrong["msg"]
    assert "not-a-key" not in wrong["msg"]
    assert "no key was sent" in call("router_info", url=server.url)["msg"]
    assert "no such file" in call("router_info", url=server.url, api_key_file=str(tmp_path / "none"))["msg"]
    assert call("router_info", url=server.url, api_key="test-key-2")["role"] == "router"


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("plain", True),
        ("  blanks in front and within", True),
        ("umlaut-äöü", True),
        ("behind ", False),
        ("carriage\r", False),
        ("tab\t", False),
    ],
)
def test_the_key_is_what_the_server_takes(tmp_path: Path, presets: Path, call: Call, line: str, good: bool) -> None:
    """Comments and blank lines first; where we refuse, the server would refuse what a client can send."""
    (tmp_path / "api-keys").write_bytes(b"\n# the family's\n" + line.encode() + b"\nanother\n")
    with Server(tmp_path, "--models-preset", str(presets)) as server:
        done = call("router_info", url=server.url, api_key_file=str(server.keys))
        assert done.get("failed", False) is not good
        if not good:
            assert "ends in a blank or a carriage return" in done["msg"]
            assert "none of them" in call("router_info", url=server.url, api_key=line.rstrip())["msg"]


def test_a_server_with_a_single_model(tmp_path: Path, models: Path, call: Call) -> None:
    with Server(tmp_path, "--model", str(models / "alpha.gguf")) as server:
        for module in ("router_info", "router_reload"):
            assert "a llama-server with a single model answers" in call(module, url=server.url, api_key=KEY)["msg"]
        done = call("router_model", name=["alpha"], url=server.url, api_key=KEY)
        assert "a llama-server with a single model answers" in done["msg"]


def test_a_wrong_path_and_a_server_that_is_down(server: Server, call: Call) -> None:
    assert "without /v1" in call("router_info", url=f"{server.url}/v1", api_key=KEY)["msg"]
    down = f"http://127.0.0.1:{free_port()}"
    assert "nothing listens there" in call("router_info", url=down, api_key=KEY)["msg"]


def test_https(tmp_path: Path, presets: Path, call: Call, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    args = ["--models-preset", str(presets), "--ssl-key-file", str(key), "--ssl-cert-file", str(cert)]
    with Server(tmp_path, *args, scheme="https") as server:
        there = {"url": server.url, "api_key": KEY}
        assert "its certificate is not trusted" in call("router_info", **there)["msg"]
        assert call("router_info", **there, ca_path=str(cert))["role"] == "router"
        assert call("router_info", **there, validate_certs=False)["role"] == "router"
        assert "use https://" in call("router_info", url=server.url.replace("https", "http"), api_key=KEY)["msg"]


def test_https_where_there_is_none(server: Server, call: Call) -> None:
    done = call("router_info", url=server.url.replace("http", "https"), api_key=KEY, request_timeout=1)
    assert "whether it speaks TLS there at all (else use http:// in url)" in done["msg"]
