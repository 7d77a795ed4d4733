# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest with a router: its unit under a double of systemd, its files, its models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, read_key
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router
from router_server import LLAMA_SERVER, Call, free_port, section

UNIT = "llama-router.service"
DOUBLE = Path(__file__).with_name("systemd_double.py")


def twin_places(folder: Path, short: Path) -> dict[str, str]:
    """Where the double has units and their folders. The path of a socket has 108 bytes at most: `short` leads there."""
    (short / "run").symlink_to(folder / "run")
    return {"UNITS": str(folder), "FOLDER": str(folder / "run/homelab"), "RUNTIME": str(short / "run")}


class Host:
    """One guest: the unit, its files, its models."""

    def __init__(self, folder: Path, models: Path, call: Call) -> None:
        self.folder = folder
        self.models = models
        self.call = call
        self.twins: dict[str, str] = {}
        self.unit = folder / UNIT
        self.presets = folder / "models.ini"
        self.keys = folder / "api-keys"
        self.folder_of_models = folder / "models"
        self.applied = folder / "run" / "llama-router" / "applied"
        self.pending = folder / "pending.json"
        self.port = free_port()
        self.folder_of_models.mkdir()
        self.keys.write_text("test-key-1\n")
        self.write_presets(alpha={}, beta={}, gamma={})
        self.write_unit()

    def write_unit(self, limit: int = 2, extra: str = "") -> None:
        files = f"{self.presets} {self.unit} {self.keys}"
        self.unit.write_text(
            "[Service]\n"
            "RuntimeDirectory=llama-router\n"
            f"ExecStartPre=/bin/sh -c 'sha256sum {files} > {self.applied}'\n"
            f"ExecStart={LLAMA_SERVER} --host 127.0.0.1 --port {self.port} --api-key-file {self.keys}"
            f" --models-preset {self.presets} --models-dir {self.folder_of_models} --models-max {limit} --reuse-port\n"
            "Restart=on-failure\nRestartSec=30\n" + extra
        )

    def write_presets(self, **sections: dict[str, str]) -> None:
        files = {"delta": "alpha"}
        texts = (section(name, self.models / f"{files.get(name, name)}.gguf", **o) for name, o in sections.items())
        self.presets.write_text("".join(texts))

    def converge(self, check: bool = False, **params: Any) -> dict[str, Any]:
        defaults = {
            "presets": str(self.presets),
            "models_dir": str(self.folder_of_models),
            "watch": [str(self.unit), str(self.keys)],
            "applied": str(self.applied),
            "pending": str(self.pending),
            "url": f"http://127.0.0.1:{self.port}",
            "api_key_file": str(self.keys),
            "timeout": 120,
            "load_timeout": 120,
        }
        return self.call("router_service", check=check, **{**defaults, **params})

    @property
    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", read_key(str(self.keys)))

    def status(self) -> dict[str, str]:
        return {model.id: model.status for model in self.client.models()}

    def loaded(self) -> list[str]:
        return [name for name, status in self.status().items() if status == "loaded"]

    def load(self, *names: str) -> None:
        Router(self.client).load(names, 300)

    def pid(self) -> int:
        return int(json.loads((self.folder / f"{UNIT}.json").read_text())["pid"])

    def calls(self) -> list[str]:
        """What systemctl was asked for since the last time."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.write_text("")
        return [line.split()[0] for line in lines]
