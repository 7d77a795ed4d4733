# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module lxc over pvesh: its decisions. What Proxmox makes of them is judged in tests/functional."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import lxc

Answer = tuple[int, str, str]
Run = Callable[..., dict[str, Any]]
MISSING = (2, "", "Configuration file 'nodes/pve/lxc/130.conf' does not exist\n")
CONFIG = {"hostname": "llm", "memory": 512, "unprivileged": 1, "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:0:0:1"}


class Node:
    """pvesh of a node that has at most one container."""

    def __init__(self, config: dict[str, Any] | None = None, status: str = "stopped") -> None:
        self.config = config
        self.status = status
        self.changes: list[tuple[str, str, dict[str, str]]] = []

    def __call__(self, argv: list[str], **_keywords: Any) -> Answer:
        verb, path = argv[1:3]
        params = {key[1:]: value for key, value in zip(argv[3:-2:2], argv[4:-2:2])}
        if verb != "get":
            self.changes.append((verb, path, params))
            if (verb, path) == ("create", "/nodes/pve/lxc"):
                self.config = {key: value for key, value in params.items() if key not in ("vmid", "ostemplate")}
            return 0, "", ""
        if path.endswith("/content"):
            return 0, json.dumps([{"volid": "local:vztmpl/debian.tar"}]), ""
        if path.endswith("/aplinfo"):
            return 0, json.dumps([{"template": "other.tar"}]), ""
        if path.endswith("/storage"):
            return 0, json.dumps([{"storage": name, "content": "rootdir,vztmpl"} for name in ("nas", "local")]), ""
        if path.endswith("/network"):
            return 0, json.dumps([{"iface": "vmbr0", "type": "bridge"}]), ""
        if path == "/cluster/resources":
            return 0, "[]", ""
        if self.config is None:
            return MISSING
        if path.endswith("/pending"):
            return 0, json.dumps([{"key": key, "value": value} for key, value in self.config.items()]), ""
        return 0, json.dumps({"status": self.status}), ""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the module against a node; a failure is a result with `failed`."""

    def run_once(node: Node, /, check: bool = False, **options: Any) -> dict[str, Any]:
        monkeypatch.setattr(AnsibleModule, "run_command", node)
        monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda *_args, **_keywords: "/usr/bin/pvesh")
        given = {"vmid": 130, "node": "pve", **options, "_ansible_check_mode": check}
        with patch_module_args(given), pytest.raises(SystemExit):
            lxc.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run_once


def test_nothing_to_do_takes_two_calls(run: Run) -> None:
    node = Node(dict(CONFIG), "running")
    result = run(node, hostname="llm", memory_mib=512, net={"net0": "bridge=vmbr0,name=eth0"}, state="started")
    assert not result["changed"]
    assert result["calls"] == ["GET nodes/pve/lxc/130/pending", "GET nodes/pve/lxc/130/status/current"]
    assert result["diff"]["before"] == result["diff"]["after"]
    assert node.changes == []


def test_put_names_only_what_differs(run: Run) -> None:
    node = Node({**CONFIG, "digest": "abc", "tags": "old"})
    result = run(node, hostname="llm", memory_mib=1024, tags=[], onboot=False)
    assert result["actions"] == ["configure"]
    assert node.changes == [("set", "/nodes/pve/lxc/130/config", {"digest": "abc", "delete": "tags", "memory": "1024"})]


def test_check_mode_changes_nothing_and_says_the_same(run: Run) -> None:
    for options in (
        {"memory_mib": 1024, "state": "started"},
        {"state": "absent"},
        {"config": {"cpulimit": 2}},
    ):
        node, other = Node(dict(CONFIG)), Node(dict(CONFIG))
        foretold = run(node, check=True, **options)
        assert node.changes == []
        real = run(other, **options)
        assert other.changes
        assert (foretold["changed"], foretold["actions"], foretold["diff"]) == (
            real["changed"],
            real["actions"],
            real["diff"],
        )


def test_create_is_unprivileged_unless_told_and_needs_its_template(run: Run) -> None:
    node = Node()
    run(node, ostemplate="local:vztmpl/debian.tar", storage="nas", disk_gib=4.5, hostname="llm")
    assert node.changes == [
        (
            "create",
            "/nodes/pve/lxc",
            {
                "vmid": "130",
                "ostemplate": "local:vztmpl/debian.tar",
                "storage": "nas",
                "hostname": "llm",
                "unprivileged": "1",
                "rootfs": "nas:4.5",
            },
        )
    ]
    node = Node()
    missing = run(node, ostemplate="local:vztmpl/other.tar", download_template=False)
    assert "found on storage local: local:vztmpl/debian.tar. `pveam download`" in missing["msg"]
    assert run(node, check=True, ostemplate="local:vztmpl/other.tar")["actions"] == ["download", "create"]
    assert "disk_gib" in run(node, ostemplate="local:vztmpl/debian.tar", mounts={"mp0": "local:1,mp=/m"})["msg"]
    assert node.changes == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {"memory": 1}}, "config: memory does not go here; its option: memory_mib"),
        ({"config": {"password": "x"}}, "its option: ssh_public_keys"),
        ({"config": {"net3": "x"}}, "use net, mounts or devices"),
        ({"config": {"lxc.mount.entry": "x"}}, "use net, mounts or devices"),
        ({"net": {"eth0": {}}}, "net: wanted keys such as net0, found 'eth0'"),
        ({"mounts": {"rootfs": "x"}}, "mounts: wanted keys such as mp0, found 'rootfs'"),
        ({"net": "dhcp"}, "net: wanted a dictionary or a list"),
        ({"devices": [{"path": "/dev/kvm"}, {"path": "/dev/kvm"}]}, "stands twice"),
    ],
)
def test_bad_options_change_nothing(run: Run, options: dict[str, Any], words: str) -> None:
    node = Node(dict(CONFIG))
    failed = run(node, memory_mib=1024, **options)
    assert failed["failed"]
    assert words in failed["msg"]
    assert node.changes == []


def test_running_container_is_deleted_only_by_force(run: Run) -> None:
    node = Node(dict(CONFIG), "running")
    assert "is running" in run(node, state="absent")["msg"]
    assert node.changes == []
    assert run(node, state="absent", force=True)["status"] == "absent"
    assert node.changes == [("delete", "/nodes/pve/lxc/130", {"force": "1", "purge": "1"})]


def test_options_reach_pvesh_as_they_are(run: Run) -> None:
    node = Node(dict(CONFIG))
    run(node, description="costs $HOME, ~ and größer", config={"cpulimit": 1.5, "hookscript": "local:snippets/x"})
    assert node.changes[0][2] == {
        "description": "costs $HOME, ~ and größer",
        "cpulimit": "1.5",
        "hookscript": "local:snippets/x",
    }


def test_device_that_the_node_lacks_changes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "pve.house", "6", "1", "x86_64")))
    devices = [{"path": "/dev/null"}, {"path": "/dev/no-such-gpu"}]
    for config in (None, dict(CONFIG), {**CONFIG, "dev0": "/dev/null", "dev1": "/dev/no-such-gpu"}):
        node = Node(config)
        for check in (True, False):
            failed = run(node, check, ostemplate="local:vztmpl/debian.tar", devices=devices, cores=2)
            assert "wanted device nodes of pve, found /dev/no-such-gpu (missing)" in failed["msg"]
        assert node.changes == []
    # Of another node of the cluster nothing is known here.
    elsewhere = run(Node(dict(CONFIG)), node="pve2", devices=devices)
    assert elsewhere["actions"] == ["configure"]
