# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node's own files say. That the API says the same is in tests/functional/lab/test_lxc.py."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _proxmox_here as here
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import Found
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_here import Here

CONFIG = """#gr%C3%B6%C3%9Fer%3A 100 %25
#second line
arch: amd64
cores: 4
hostname: llm
lock: backup
mp0: local-zfs:subvol-130-disk-1,mp=/models,size=200G
net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,type=veth
lxc.mount.entry: /x y none bind 0 0

[pve:pending]
cores: 8
delete: mp0,!net0

[before]
#before the update
cores: 2
snaptime: 1700000000
parent: older
"""
UPID = "UPID:pve:00001A2B:0012D687:6789ABCD:resize:130:root@pam:"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A node `pve` with the container 130, of a cluster whose pve2 has 131, and a virtual machine 132."""
    for path in ("pve/nodes/pve/lxc/130", "pve/nodes/pve2/lxc/131", "pve/nodes/pve2/qemu-server/132"):
        file = tmp_path / f"{path}.conf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(CONFIG)
    monkeypatch.setattr(here, "PVE", str(tmp_path / "pve"))
    monkeypatch.setattr(here, "TASKS", str(tmp_path / "tasks"))
    monkeypatch.setattr(here, "SOCKETS", str(tmp_path / "sockets"))
    found = Here.of("pve", lambda *_argv, **_keywords: (1, "", ""))
    assert found
    return found


def log(folder: str, upid: str, *lines: str) -> None:
    file = Path(folder, upid.split(":")[4][-1], upid)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def test_configuration_and_what_waits(node: Here) -> None:
    entries = node.guest(130)
    assert entries
    found = Found.parse(entries)
    assert found.running["description"] == "größer: 100 %\nsecond line\n"
    assert (found.running["cores"], found.config["cores"]) == ("4", "8")
    assert found.waiting == ["cores", "mp0", "net0"]
    assert ("mp0" in found.config, "mp0" in found.running) == (False, True)
    assert (found.lock, found.digest) == ("backup", hashlib.sha1(CONFIG.encode()).hexdigest())
    # The snapshot's own values are not the container's.
    assert "snaptime" not in found.config
    assert not [key for key in found.config if key.startswith("lxc")]
    assert node.guest(131) is None


def test_snapshots(node: Here) -> None:
    snapshots = node.snapshots(130)
    assert snapshots
    assert [each["name"] for each in snapshots] == ["before"]
    assert (snapshots[0]["snaptime"], snapshots[0]["parent"]) == ("1700000000", "older")
    assert snapshots[0]["description"] == "before the update\n"
    assert node.snapshots(131) is None


def test_places_in_the_cluster(node: Here) -> None:
    places = {vmid: list(node.places(vmid)) for vmid in (130, 131, 132, 133)}
    assert places == {130: [("pve", "lxc")], 131: [("pve2", "lxc")], 132: [("pve2", "qemu")], 133: []}


def test_running_is_whose_monitor_listens(node: Here) -> None:
    Path(here.SOCKETS).write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000: 00000002 00000000 00010000 0001 01 1 @/var/lib/lxc/130/command\n"
        "0000: 00000002 00000000 00010000 0001 01 2 /run/x @/var/lib/lxc/13/command/x\n"
    )
    assert (node.running(130), node.running(13), node.running(30)) == (True, False, False)


@pytest.mark.parametrize(
    ("last", "ended"),
    [
        ("TASK OK", "OK"),
        ("TASK WARNINGS: 2", "WARNINGS: 2"),
        ("TASK ERROR: CT is locked (backup)", "CT is locked (backup)"),
        ("still at work", None),
    ],
)
def test_task_that_has_ended(node: Here, last: str, ended: str | None) -> None:
    log(here.TASKS, UPID, "one", last)
    task = node.task(UPID)
    assert (task.ended if task else None) == ended
    assert not task or task.log == ["one", last]


@pytest.mark.parametrize("upid", ["UPID:pve:1:2:../../etc:x:1:r:", "UPID", "UPID:pve:0:0::resize:130:r:", UPID, ""])
def test_task_that_is_none(node: Here, upid: str) -> None:
    """What is no task's id reaches no file; a task without a log is asked of the API."""
    assert node.task(upid) is None


def test_newest_task_of_a_container(node: Here) -> None:
    for start, kind, vmid in (("67890001", "vzcreate", 130), ("67890002", "resize", 130), ("67890003", "resize", 1130)):
        log(here.TASKS, f"UPID:pve:00000001:00000002:{start}:{kind}:{vmid}:root@pam:", "TASK OK")
    last = node.last_task(130, "vzcreate", "resize")
    assert last
    assert ":67890002:resize:130:" in last
    assert node.last_task(130, "vzrollback") is None


def test_no_cluster_file_system_means_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "PVE", str(tmp_path))
    assert Here.of("pve", lambda *_argv, **_keywords: (1, "", "")) is None


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ([(0, "4711\n", ""), (0, "old-name\n", "")], "old-name"),
        ([(0, "-1\n", "")], None),
        ([(1, "", "no such container")], None),
        ([(0, "4711\n", ""), (1, "", "nsenter: no such process")], None),
    ],
)
def test_name_that_the_guest_has(answers: list[Any], name: str | None) -> None:
    assert Here("pve", lambda *_argv, **_keywords: answers.pop(0)).hostname(130) == name
    assert not answers


def test_bridges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux's own; Open vSwitch's look like any interface without a device, and count where it is loaded."""
    for path in ("vmbr0/bridge", "vnet1/bridge", "eth0/device", "ovs1", "lo"):
        (tmp_path / path).mkdir(parents=True)
    monkeypatch.setattr(here, "INTERFACES", str(tmp_path))
    isdir = os.path.isdir
    for loaded, found in ((False, ["vmbr0", "vnet1"]), (True, ["lo", "ovs1", "vmbr0", "vnet1"])):
        monkeypatch.setattr(
            here.os.path, "isdir", lambda path, on=loaded: on if path == "/sys/module/openvswitch" else isdir(path)
        )
        assert Here.bridges() == found


def test_where_a_machine_has_its_sockets_and_interfaces() -> None:
    assert os.path.isdir(here.INTERFACES)
    with open(here.SOCKETS, encoding="utf-8", errors="replace") as file:
        assert file.readline().split()[-1] == "Path"


def test_a_file_that_is_no_text(node: Here) -> None:
    Path(here.PVE, "nodes/pve/lxc/130.conf").write_bytes(b"hostname: a\xffb\nodd line\n[snap-1]\ncores: 1\n")
    found = node.guest(130)
    assert found
    assert {entry["key"]: entry["value"] for entry in found if entry["key"] != "digest"} == {"hostname": "a\ufffdb"}
    assert node.snapshots(130) == [{"cores": "1", "name": "snap-1"}]


def test_a_line_of_the_table_has_to_end_with_the_name(node: Here) -> None:
    table = Path(here.SOCKETS)
    table.write_text(
        "Num Path\nx @/var/lib/lxc/130/command2\nx @/var/lib/lxc/1130/command\nx /var/lib/lxc/130/command\n"
    )
    assert not node.running(130)
    table.write_bytes(b"\xff\nx @/var/lib/lxc/130/command\n")
    assert node.running(130)
    table.write_text("x @/var/lib/lxc/130/command")
    assert node.running(130)
