# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenario `service`: a router that goes from one strategy to another, its keys, and who asks it meanwhile."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
INVENTORIES = [CHECKOUT / "tests/lab/inventory", CHECKOUT / "extensions/molecule/service/inventory"]
VMID = 150
ADDRESS = (f"{os.environ.get('HOMELAB_LAB_NETWORK', '198.18.77.0/24').rpartition('.')[0]}.{VMID}", 8012)
KEYS = "/etc/llama-router/api-keys"


def other(name: str, path: str) -> ModuleType:
    """A file of another suite, whose conftest has this one's name."""
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "tests" / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


models = other("models", "testinfra_models/conftest.py")
load = other("load", "update/load.py")

import lab_guest

# Looks at the models until these have these statuses, and all the others are unloaded: in the guest, or a state that
# lasts seconds would be over before the next look on a busy machine.
SETTLE = f"""
import json, sys, time, urllib.request
wanted, deadline = json.loads(sys.argv[1]), time.monotonic() + float(sys.argv[2])
headers = {{"Authorization": "Bearer " + open("{KEYS}").readline().strip()}}
while True:
    answer = json.load(urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8012/models", None, headers)))
    status = {{model["id"]: model["status"]["value"] for model in answer["data"]}}
    found = {{name: value for name, value in status.items() if value != "unloaded"}}
    if found == wanted or time.monotonic() > deadline:
        break
    time.sleep(0.1)
print(json.dumps(found))
"""


class Service(models.guest.Router):  # type: ignore[misc, name-defined]
    """The router, and what a person does with it."""

    def settle(self, **wanted: str) -> None:
        """Wait until these models have these statuses, and all the others are unloaded."""
        found = json.loads(self.host.check_output("python3 -c %s %s 300", SETTLE, json.dumps(wanted)))
        assert found == wanted

    def use(self, *names: str) -> None:
        for name in names:
            assert self.chat(name, tokens=1)[0] == 200

    def process(self, name: str) -> str:
        """Of a model that runs; the bracket keeps the shell that asks from finding itself."""
        return str(self.host.run(f"pgrep --full '[a]lias {name} '").stdout.strip())

    def keys(self) -> list[str]:
        return str(self.host.check_output(f"cat {KEYS}")).splitlines()

    def clients(self, key: str, model: str) -> Any:
        """Who holds this key, asks all the time, and notices everything."""
        return load.Load(*ADDRESS, key, model, tokens=20)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def host() -> Any:
    return lab_guest.guest(VMID)


@pytest.fixture(scope="session")
def service(host: Any) -> Service:
    return Service(host)


Site = Callable[..., str]


@pytest.fixture(scope="session")
def site() -> Site:
    """Run the playbook's router part with these variables over the inventory's; what it said, as far as that goes."""

    def run(*words: str, fails: bool = False, **variables: Any) -> str:
        argv = ["ansible-playbook", str(CHECKOUT / "playbooks/site.yml"), "--tags", "llama_router", *words]
        argv += [word for inventory in INVENTORIES for word in ("--inventory", str(inventory))]
        argv += ["--extra-vars", json.dumps(variables)]
        plain = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}  # molecule asks for colours
        done = subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT, env=plain, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run
