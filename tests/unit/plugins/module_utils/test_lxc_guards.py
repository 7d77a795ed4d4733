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
    missing_devices,
    new_volumes,
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
