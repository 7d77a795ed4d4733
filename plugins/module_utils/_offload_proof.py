# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prove that the models of a running router lie on its devices; loads one model where nothing else tells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _offload
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Model, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router, resolve
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit

# Lines of the journal that are read: a load is some 200, an answer some 20.
LINES = 20_000

# The options of a module that needs the proof, beside those of the router.
PROOF_ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "default": "llama-router.service"},
    "models": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "devices": {"type": "list", "elements": "str", "default": []},
        },
    },
    "proof": {"type": "path", "default": "/run/homelab-llamacpp/llama-router.service.offloaded"},
    "timeout": {"type": "int", "default": 300},
}


def wanted_of(params: Mapping[str, Any]) -> dict[str, list[str]]:
    return {model["name"]: model["devices"] for model in params["models"]}


class OffloadProof:
    """The proof for one router, by its API and its journal."""

    def __init__(self, client: Client, unit: Unit, proof: str, timeout: float, check_mode: bool = False) -> None:
        self.client = client
        self.unit = unit
        self.proof = proof
        self.timeout = timeout
        self.check_mode = check_mode
        self.router = Router(client, why=lambda model, since: unit.journal(since, prefix=f"[{model.port}] "))

    def run(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """What the module router_offload returns. `wanted`: devices by model, the one that loads fastest first.

        Raises RouterError when a model is not where it is wanted, and UnitError.
        """
        running = [model.id for model in self.client.models() if model.running and model.id in wanted]
        found = {name: seen for name in running for seen in [self._look(name, wanted[name])] if seen}
        proven = bool(found) or os.path.exists(self.proof)
        loaded = None
        if wanted and not proven and not running and not self.check_mode:
            loaded = next(iter(wanted))
            found[loaded] = self._load_and_look(loaded, wanted[loaded])
            proven = True
        if found and not self.check_mode:
            self._note()
        return {"models": {name: asdict(seen) for name, seen in found.items()}, "loaded": loaded, "proven": proven}

    def _load_and_look(self, name: str, devices: Sequence[str]) -> _offload.Offload:
        try:
            self.router.load([name], self.timeout)
            seen = self._look(name, devices)
        finally:
            self.router.unload([name], self.timeout)
        if seen is None:
            raise RouterError(
                f"{name} was loaded, and the journal of {self.unit.name} was wanted to tell where its layers are; it"
                " does not. Let the unit set LLAMA_ARG_LOG_VERBOSITY=4, and see that journalctl shows its output"
            )
        return seen

    def _look(self, name: str, devices: Sequence[str]) -> _offload.Offload | None:
        """Where a running model lies; None when the journal does not tell (any more)."""
        if not self.check_mode:
            self.router.load([name], self.timeout)  # one that is loading
        model: Model = resolve(self.client.models(), name)
        seen = _offload.read(self.unit.journal(0, prefix=f"[{model.port}] ", lines=LINES, read=LINES))
        layers = model.options.get("n-gpu-layers", "all")
        wrong = _offload.complaint(name, seen, devices, layers) if seen else None
        if wrong:
            raise RouterError(wrong)
        return seen

    def _note(self) -> None:
        try:
            _files.replace(self.proof, b"", create_mode=0o755)
        except OSError as error:
            raise RouterError(
                f"proof: {self.proof} cannot be written: {error.strerror}; name a file in a directory of root's and run"
                " as root (become)"
            ) from None
