# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenario `models`: its playbooks, run as an operator runs them, and the router of tests/testinfra."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
INVENTORIES = [CHECKOUT / "tests/lab/inventory", CHECKOUT / "extensions/molecule/models/inventory"]
MODELS_DIR = "/var/lib/llama-router/models"

# The other scenario's conftest, which has this one's name.
spec = importlib.util.spec_from_file_location("guest", CHECKOUT / "tests/testinfra/conftest.py")
assert spec
assert spec.loader
guest = importlib.util.module_from_spec(spec)
sys.modules["guest"] = guest
spec.loader.exec_module(guest)

import lab_guest


@pytest.fixture(scope="session")
def host() -> Any:
    return lab_guest.guest(120)


@pytest.fixture(scope="module")
def router(host: Any) -> Any:
    return guest.Router(host)


@dataclass
class Run:
    """What a playbook did."""

    failed: bool
    output: str

    @property
    def changed(self) -> bool:
        return "changed=0" not in self.output

    def said(self, *texts: str) -> bool:
        """Whether all of this is in the output, however that is broken into lines."""
        words = " ".join(self.output.split())
        return all(" ".join(text.split()) in words for text in texts)


@pytest.fixture(scope="module")
def listed() -> list[dict[str, Any]]:
    """The models of the scenario's inventory."""
    inventory = yaml.safe_load((INVENTORIES[1] / "models.yml").read_text())
    models: list[dict[str, Any]] = inventory["llama_routers"]["hosts"]["llama"]["llamacpp_models"]
    return models


def play(playbook: str, models: list[dict[str, Any]], *words: str, **variables: Any) -> Run:
    """Run a playbook of the collection with these models as the inventory's."""
    argv = ["ansible-playbook", str(CHECKOUT / "playbooks" / f"{playbook}.yml"), *words]
    argv += [word for inventory in INVENTORIES for word in ("--inventory", str(inventory))]
    argv += ["--extra-vars", json.dumps({"llamacpp_models": models, **variables})]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    return Run(done.returncode != 0, done.stdout + done.stderr)


@pytest.fixture
def as_it_was(listed: list[dict[str, Any]]) -> Iterator[None]:
    """Afterwards the guest has the inventory's models again, and nothing else."""
    yield
    done = play("models", listed, llama_models_prune="models")
    assert not done.failed, done.output


def on_node(script: str) -> str:
    lab = [str(CHECKOUT / "tests/lab/lab"), "ssh", script]
    return subprocess.run(lab, check=True, capture_output=True, text=True).stdout
