# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What speaks against a change, before the first is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import Changes, ConfigError, Found
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_guards import (
    elsewhere,
    guests,
    half_made,
    missing_bridges,
    missing_devices,
    new_volumes,
    number_taken,
    protected_volumes,
    storages_fit,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import ProxmoxError

STORAGES = [
    {"storage": "local", "content": "iso,vztmpl", "active": 1},
    {"storage": "fast", "content": "rootdir,images", "active": 1},
    {"storage": "nas", "content": "rootdir", "active": 0},
]


class Answers:
    """A transport that answers every request with the same data."""

    def __init__(self, data: Any = None) -> None:
        self.data = data

    def request(self, _method: str, _path: str, _params: Any) -> Any:
        return self.data


def api(data: Any = None, here: bool = True) -> Proxmox:
    """The node, and whether this is it."""
    return Proxmox(Answers(data), here=here)


def test_devices_are_looked_at_on_the_node(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert missing_devices(api(), "pve", ["/dev/null", "/dev/zero"]) is None
    assert missing_devices(api(), "pve", []) is None
    with pytest.raises(ConfigError) as caught:
        missing_devices(api(), "pve", ["/dev/null", str(tmp_path), str(tmp_path / "file"), str(tmp_path / "gone")])
    assert "(a folder: name the nodes in it)" in str(caught.value)
    assert "file (no device)" in str(caught.value)
    assert "gone (missing)" in str(caught.value)
    assert "/dev/null" not in str(caught.value)


def test_devices_of_another_machine_cannot_be_looked_at() -> None:
    said = missing_devices(api(here=False), "pve", ["/dev/no-such-gpu"])
    assert said
    assert "cannot be seen whether node pve has /dev/no-such-gpu" in said


@pytest.mark.parametrize(
    ("storage", "content", "words"),
    [
        ("fast", "rootdir", None),
        ("local", "vztmpl", None),
        ("local", "rootdir", "wanted a storage for rootdir, found local with iso,vztmpl. For rootdir there: fast, nas"),
        ("gone", "rootdir", "storage 'gone' does not exist on node pve"),
        ("nas", "rootdir", "storage 'nas' is not online"),
    ],
)
def test_storages(storage: str, content: str, words: str | None) -> None:
    if words is None:
        storages_fit(api(STORAGES), "pve", [("mp0", storage, content)])
        return
    with pytest.raises(ConfigError, match=words):
        storages_fit(api(STORAGES), "pve", [("mp0", "fast", "rootdir"), ("mp0", storage, content)])


def test_nothing_new_asks_for_no_storage() -> None:
    node = api(STORAGES)
    storages_fit(node, "pve", new_volumes({"mp0": "/srv/x,mp=/x", "mp1": "fast:vm-1-disk-0,mp=/y", "cores": "2"}))
    assert node.calls == []
    assert new_volumes({"mp2": "mp=/z,volume=fast:4"}) == [("mp2", "fast", "rootdir")]


def test_volumes_of_a_protected_container() -> None:
    found = Found.parse([{"key": "protection", "value": 1}])
    protected_volumes(Changes({"cores": "2"}, ["protection"]), found)
    protected_volumes(Changes({"mp0": "x"}, []), Found.parse([]))
    with pytest.raises(ProxmoxError, match="mp0, mp1: the container is protected"):
        protected_volumes(Changes({"mp1": "x"}, ["mp0", "protection"]), found)


class Asked:
    """A transport that answers reads by their path and parameters, and no others."""

    def __init__(self, *answers: tuple[str, dict[str, str], Any]) -> None:
        self.answers = answers

    def request(self, method: str, path: str, params: Any) -> Any:
        (found,) = (data for at, given, data in self.answers if (method, path, dict(params)) == ("GET", at, given))
        return found


def asked(path: str, data: Any, files: Any = None, **params: str) -> Proxmox:
    return Proxmox(Asked((path, params, data)), files=files)


HALF_MADE = Found.parse([{"key": "lock", "value": "create"}])


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([{"type": "vzcreate"}], "is being created right now: wait, run again"),
        ([{"type": "vzrestore", "endtime": 0}], "is being created right now"),
        (
            [{"type": "vzcreate", "endtime": 1}],
            r"is half made \(lock: create\): .* `pct unlock 130 && pct destroy 130`",
        ),
        ([{"type": "vzstart"}, {"type": "vzdump"}, {}], "is half made"),
        ([], "is half made"),
        (None, "is half made"),
    ],
)
def test_a_container_that_is_being_made(tasks: Any, words: str) -> None:
    node = asked("nodes/pve/tasks", tasks, vmid="130", source="active")
    with pytest.raises(ProxmoxError, match=f"container 130 on node pve {words}"):
        half_made(node, "pve", 130, HALF_MADE)


@pytest.mark.parametrize("lock", [None, "backup", "snapshot"])
def test_another_lock_is_no_half_made_container(lock: str | None) -> None:
    half_made(Proxmox(Asked()), "pve", 130, Found.parse([{"key": "lock", "value": lock}] if lock else []))


GUESTS = [
    {"vmid": 130, "node": "pve2", "type": "lxc", "name": "llm"},
    {"vmid": "131", "node": "pve", "type": "qemu"},
    {"vmid": 132, "node": "pve", "type": "lxc", "name": "own"},
    {"type": "node", "node": "pve"},
]


def test_a_number_of_another_guest() -> None:
    node = asked("cluster/resources", GUESTS, type="vm")
    assert guests(node, 130) == [("llm ", "pve2", "lxc")]
    for act in (number_taken, elsewhere):
        with pytest.raises(ProxmoxError, match="wanted container 130 on node pve, found llm on node pve2: it was made"):
            act(node, "pve", 130)
        act(node, "pve", 132)
        act(node, "pve", 133)
    with pytest.raises(
        ProxmoxError, match="wanted container 131, found a virtual machine with that number, no name on"
    ):
        number_taken(node, "pve", 131)
    elsewhere(node, "pve", 131)
    number_taken(asked("cluster/resources", None, type="vm"), "pve", 130)


class Files:
    """The node's own files."""

    def places(self, vmid: int) -> list[tuple[str, str]]:
        return [("pve2", "lxc")] if vmid == 130 else []

    def bridges(self) -> list[str]:
        return ["vmbr0", "vnet1"]


def test_a_number_of_another_guest_by_the_nodes_files() -> None:
    node = Proxmox(Asked(), files=Files())  # type: ignore[arg-type]
    with pytest.raises(ProxmoxError, match="found on node pve2: it was made there"):
        number_taken(node, "pve", 130)
    number_taken(node, "pve", 131)


NETWORKS = {"net0": "name=eth0,bridge=vmbr0", "net1": "name=eth1,bridge=vmbr9", "memory": "512", "mp0": "x"}


def test_bridges_that_the_node_lacks() -> None:
    node = asked("nodes/pve/network", [{"iface": "vmbr0"}, {"iface": "a"}], type="any_bridge")
    missing_bridges(node, "pve", {"net0": NETWORKS["net0"]})
    with pytest.raises(
        ConfigError, match=r"wanted the bridges vmbr9 \(net1\), node pve has a, vmbr0 that this user may"
    ):
        missing_bridges(node, "pve", NETWORKS)
    for nothing in ([], None):
        with pytest.raises(
            ConfigError, match=r"vmbr0 \(net0\), vmbr9 \(net1\), node pve has none that this user may see"
        ):
            missing_bridges(asked("nodes/pve/network", nothing, type="any_bridge"), "pve", NETWORKS)
    here = Proxmox(Asked(), files=Files())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"vmbr9 \(net1\), node pve has vmbr0, vnet1. Fix bridge"):
        missing_bridges(here, "pve", NETWORKS)


def test_without_a_network_nothing_is_asked() -> None:
    missing_bridges(Proxmox(Asked()), "pve", {"memory": "512", "net0": "name=eth0"})


def test_a_device_that_cannot_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, words in (("file/x", "Not a directory"), ("loop", "Too many levels of symbolic links")):
        with pytest.raises(ConfigError, match=rf"found .*{name} \({words}\)\. Is the driver loaded"):
            missing_devices(api(), "pve", [str(tmp_path / name)])


def test_a_storage_without_content_and_one_that_does_not_say_whether_it_is_active() -> None:
    node = asked("nodes/pve/storage", [{"storage": "empty"}, {"storage": "quiet", "content": "rootdir"}])
    storages_fit(node, "pve", [("mp0", "quiet", "rootdir")])
    with pytest.raises(ConfigError, match=r"found empty with nothing. For rootdir there: quiet"):
        storages_fit(node, "pve", [("mp0", "empty", "rootdir")])
    with pytest.raises(ConfigError, match="For images there: none"):
        storages_fit(node, "pve", [("mp0", "gone", "images")])
    with pytest.raises(ConfigError, match="For rootdir there: none"):
        storages_fit(asked("nodes/pve/storage", None), "pve", [("mp0", "gone", "rootdir")])
