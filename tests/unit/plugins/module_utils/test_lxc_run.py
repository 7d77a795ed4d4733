# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_run import LxcRun
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import AccessError, NotFoundError

CONFIG = [{"key": "hostname", "value": "llm"}]


class Api:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def request(self, _method: str, _path: str, _params: Mapping[str, str]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Files:
    def __init__(self, config: Any = None, runs: bool = False) -> None:
        self.config, self.runs = config, runs

    def guest(self, vmid: int) -> Any:
        assert vmid == 130
        return self.config

    def running(self, vmid: int) -> bool:
        assert vmid == 130
        return self.runs


def run_of(answer: Any, files: Any = None) -> LxcRun:
    return LxcRun({"vmid": 130}, False, Proxmox(Api(answer), files=files), "pve")


def test_the_container_by_the_api() -> None:
    one = run_of(CONFIG)
    found = one.find()
    assert found
    assert found.config == {"hostname": "llm"}
    assert one.api.calls == ["GET nodes/pve/lxc/130/pending"]
    assert run_of(NotFoundError("gone")).find() is None
    with pytest.raises(AccessError):
        run_of(AccessError("no")).find()


@pytest.mark.parametrize("status", ["running", "stopped"])
def test_its_status_by_the_api(status: str) -> None:
    one = run_of({"status": status})
    assert one.status() == status
    assert one.api.calls == ["GET nodes/pve/lxc/130/status/current"]


def test_the_nodes_own_files_are_asked_first() -> None:
    one = run_of(AssertionError("the files say it"), Files(CONFIG, runs=True))
    found = one.find()
    assert found
    assert found.config == {"hostname": "llm"}
    assert one.status() == "running"
    none = run_of(AssertionError("the files say it"), Files(None))
    assert none.find() is None
    assert none.status() == "stopped"
    assert none.api.calls == []


def test_what_a_run_knows() -> None:
    params = {"vmid": 130, "state": "present"}
    for check in (True, False):
        one = LxcRun(params, check, Proxmox(Api(None)), "pve2")
        assert (one.params, one.check, one.node, one.vmid) == (params, check, "pve2", 130)
        assert one.path == "nodes/pve2/lxc/130"
