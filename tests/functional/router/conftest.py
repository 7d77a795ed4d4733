# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny models for the real llama-server, a certificate, and the router modules called as Ansible calls them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.module_utils import _unit_twin
from router_host import DOUBLE, UNIT, Host, twin_places
from router_server import KEYS, TESTS, Call

sys.path.insert(0, str(TESTS))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """alpha, beta, gamma: 0.5 MB each; slow: 130 MB; broken: a header alone."""
    make = importlib.import_module("make_tiny_models").make
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("alpha", "beta", "gamma"), 1):
        make(folder / f"{name}.gguf", seed)
    make(folder / "slow.gguf", 9, width=1024, layers=2, ff=4096)
    (folder / "broken.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 64)
    return folder


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    cert, key = (tmp_path_factory.mktemp("tls") / name for name in ("cert.pem", "key.pem"))
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    argv += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(argv, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """call("router_model", name=["a"], …, check=True): what the module returns, `failed` included."""

    def run(module: str, check: bool = False, **params: Any) -> dict[str, Any]:
        main = importlib.import_module(f"ansible_collections.homelab.llamacpp.plugins.modules.{module}").main
        capsys.readouterr()
        warnings._global_warnings.clear()  # kept for the process, which is a module's own in real life
        # The arguments are returned as with -vvv, so that a secret among them is seen.
        given = {**params, "_ansible_check_mode": check, "_ansible_inject_invocation": True}
        with patch_module_args(given), pytest.raises(SystemExit):
            main()
        output = capsys.readouterr().out
        for key in KEYS:
            assert key not in output
        result: dict[str, Any] = json.loads(output)
        assert result.pop("invocation")
        result["warnings"] = [warning["event"]["msg"] for warning in result.get("warnings", [])]
        return result

    return run


@pytest.fixture
def host(tmp_path: Path, models: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    (tmp_path / "bin").mkdir()
    for name in ("systemctl", "journalctl"):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {DOUBLE} {name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("SYSTEMD_DOUBLE", str(tmp_path))
    with tempfile.TemporaryDirectory(prefix="twin-") as short:
        host = Host(tmp_path, models, call)
        host.twins = twin_places(tmp_path, Path(short))
        for name, folder in host.twins.items():
            monkeypatch.setattr(_unit_twin, name, folder)
        yield host
        subprocess.run(["systemctl", "stop", UNIT], check=True)
