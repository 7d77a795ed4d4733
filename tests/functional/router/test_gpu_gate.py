# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate before the router's start, and the look after it: the real llama-server on the lab's stand-ins for GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from router_server import LLAMA_SERVER, TESTS, Call, Server, free_port, section

sys.path.insert(0, str(TESTS / "functional"))
from rpc_devices import cards

GATE = TESTS.parent / "roles/llama_router/files/gate"


def address(*ports: int) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)


@pytest.fixture(scope="module")
def two() -> Iterator[list[int]]:
    """The ports of two devices."""
    ports = [free_port(), free_port()]
    with cards(ports, [160, 160]):
        yield ports


def gate(wanted: list[str], *options: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [str(GATE), *wanted, "--", str(LLAMA_SERVER), *options],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_both_devices_are_there(two: list[int]) -> None:
    assert gate(["RPC0", "RPC1"], "--rpc", address(*two)) == (0, "")


def test_one_of_two_is_there(two: list[int]) -> None:
    status, said = gate(["RPC0", "RPC1"], "--rpc", address(two[0]))
    assert status == 1
    assert "wanted the devices RPC0 RPC1; llama-server finds RPC0. Missing: RPC1." in said
    assert "llama_router_cpu_only" in said


def test_none_is_there() -> None:
    status, said = gate(["CUDA0", "CUDA1"], CUDA_VISIBLE_DEVICES="GPU-a,GPU-b")
    assert status == 1
    assert "CUDA0 CUDA1 of CUDA_VISIBLE_DEVICES=GPU-a,GPU-b; llama-server finds none. Missing: CUDA0 CUDA1." in said


def test_a_dead_device_is_missing_though_llama_server_aborts(two: list[int]) -> None:
    dead = free_port()
    status, said = gate(["RPC0", "RPC1"], "--rpc", address(two[0], dead))
    assert status == 1
    assert f"ended with 134: Failed to connect to 127.0.0.1:{dead}" in said


def test_a_name_that_another_one_begins_with_is_not_it(two: list[int]) -> None:
    assert gate(["RPC"], "--rpc", address(*two))[0] == 1


def test_a_llama_server_that_does_not_start_is_a_refusal(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(GATE), "CUDA0", "--", str(tmp_path / "none")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "ended with 127" in done.stderr


# --- what the models' logs tell ---


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journalctl that shows the server's log, as it would for a unit."""
    command = tmp_path / "bin" / "journalctl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\n[ "$2" = llama-router.service ] || exit 64\ncat {tmp_path / "server.log"}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)


@pytest.mark.usefixtures("journal")
class TestOffload:
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path, models: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLAMA_ARG_LOG_VERBOSITY", "4")
        self.folder, self.models, self.call = tmp_path, models, call
        self.proof = tmp_path / "offloaded"

    def server(self, *args: str, **alpha: str) -> Server:
        presets = self.folder / "models.ini"
        presets.write_text(
            "".join(section(name, self.models / f"{name}.gguf", ctx_size="256", **alpha) for name in ("alpha", "beta"))
        )
        return Server(self.folder, "--models-preset", str(presets), *args)

    def look(self, server: Server, *devices: str, check: bool = False) -> dict[str, Any]:
        return self.call(
            "router_offload",
            check=check,
            url=server.url,
            api_key="test-key-1",
            proof=str(self.proof),
            models=[{"name": name, "devices": list(devices)} for name in ("alpha", "beta")],
        )

    def test_loads_one_once_for_a_start_and_leaves_none(self, two: list[int]) -> None:
        with self.server("--rpc", address(*two)) as server:
            assert self.look(server, check=True)["proven"] is False
            first = self.look(server, "RPC0", "RPC1")
            assert first["loaded"] == "alpha"
            assert first["changed"] is False
            assert set(first["models"]["alpha"]["weights"]) == {"RPC0", "RPC1"}
            assert set(server.status().values()) == {"unloaded"}
            again = self.look(server, "RPC0", "RPC1")
            assert (again["loaded"], again["models"], again["proven"]) == (None, {}, True)

    def test_looks_at_what_runs_instead_of_loading(self, two: list[int]) -> None:
        with self.server("--rpc", address(*two)) as server:
            server.load("beta")
            result = self.look(server, "RPC0")
            assert (result["loaded"], list(result["models"])) == (None, ["beta"])
            assert server.status() == {"alpha": "unloaded", "beta": "loaded"}

    def test_a_model_on_the_cpu_is_an_error(self) -> None:
        """A router without the devices: what it does without the gate."""
        with self.server() as server:
            result = self.look(server, "RPC0")
            assert result["failed"] is True
            assert "alpha was wanted with all of its layers on RPC0; found" in result["msg"]
            assert set(server.status().values()) == {"unloaded"}
            assert not self.proof.exists()

    def test_a_model_beside_its_device_is_an_error(self, two: list[int]) -> None:
        with self.server("--rpc", address(*two), device="RPC0") as server:
            assert "on RPC1; found" in self.look(server, "RPC1")["msg"]

    def test_a_model_that_only_half_fits_is_an_error_unless_wanted_so(self, two: list[int]) -> None:
        with self.server("--rpc", address(*two), n_gpu_layers="1") as server:
            result = self.look(server)
            assert "failed" not in result
            assert result["models"]["alpha"]["offloaded"] == 1

    def test_a_log_that_does_not_tell_is_an_error(self, two: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLAMA_ARG_LOG_VERBOSITY", "3")
        with self.server("--rpc", address(*two)) as server:
            assert "LLAMA_ARG_LOG_VERBOSITY=4" in self.look(server)["msg"]
