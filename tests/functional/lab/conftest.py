# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two ways in which the tests of the lab run a Proxmox module."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import lab_of_worker  # before lab_node, which reads where the lab is
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import init_plugin_loader
from hand_made import HandMade
from lab_node import NODE, Run, login, runner

# Before anything imports the collection, or Ansible would not find its connection afterwards.
init_plugin_loader([os.environ["ANSIBLE_COLLECTIONS_PATH"]])


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """On the node by pvesh, with Ansible: as operators do, and seconds a run."""
    return runner(tmp_path_factory.mktemp(f"lab{lab_of_worker.NUMBER}"))


@pytest.fixture
def over_api(capsys: pytest.CaptureFixture[str]) -> Run:
    """In this process over HTTPS, as root with the password, the node's certificate pinned: milliseconds a run."""
    from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_https import fingerprint

    pinned = fingerprint(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((NODE, 8006))))

    def run_once(module: ModuleType, check: bool = False, **options: Any) -> dict[str, Any]:
        given = {**login(), "api_fingerprint": pinned, "vmid": 130, "timeout": 300, **options}
        with patch_module_args({**given, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run_once


@pytest.fixture(scope="session")
def hand_made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandMade]:
    """Guest 170, which the suites of what operators have already share; each begins with `again()`."""
    guest = HandMade(170, tmp_path_factory.mktemp("hand_made"))
    guest.create()
    yield guest
    guest.remove()
