# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of snapshots, and which of them go. Made and gone back to they are in tests/functional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_snapshots import LxcSnapshot
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import NotFoundError, ProxmoxError
from hypothesis import given
from hypothesis import strategies as st

NONE = {"vmid": 130, "name": None, "state": "present", "description": None, "prefix": None, "keep": None}
NAMES = st.sampled_from(["up-1", "up-2", "up-3", "up-4", "own-1", "own-2"])


class Listed:
    """A transport that lists these snapshots, newest last, as Proxmox does; it takes deletions."""

    def __init__(self, times: Mapping[str, int]) -> None:
        self.times = dict(times)

    def request(self, method: str, path: str, _params: Any) -> Any:
        if method == "DELETE":
            del self.times[path.rpartition("/")[2]]
            return None
        assert (method, path) == ("GET", "nodes/pve/lxc/130/snapshot")
        present = {"name": "current", "description": "You are here!"}
        return [present, *({"name": name, "snaptime": time} for name, time in self.times.items())]


def one_run(times: Mapping[str, int], check: bool = False, **options: Any) -> dict[str, Any]:
    """What the module returns for a container with these snapshots."""
    return LxcSnapshot({**NONE, **options}, check, Proxmox(Listed(times)), "pve").run()


@given(st.dictionaries(NAMES, st.integers(1, 9), min_size=1), st.integers(1, 4), st.booleans(), st.data())
def test_as_many_as_wanted_are_kept_and_the_oldest_go(times: dict[str, int], keep: int, check: bool, data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(times)))
    result = one_run(times, check, name=name, prefix="up-", keep=keep)
    left = [each["name"] for each in result["snapshots"]]
    assert left == sorted(left, key=lambda each: (times[each], each))
    assert set(left) | set(result["removed"]) == set(times)
    assert name in left
    ours = [each for each in left if each.startswith("up-")]
    assert len(ours) == min(keep, len([each for each in times if each.startswith("up-")]))
    assert all(each.startswith("up-") for each in result["removed"])
    others = [times[each] for each in ours if each != name]
    assert all(times[gone] <= min(others, default=9) for gone in result["removed"])


def test_of_one_second_a_child_comes_after_its_parent() -> None:
    class OneSecond:
        def request(self, _method: str, _path: str, _params: Any) -> Any:
            parents = {"c": None, "b": "c", "a": "b"}
            return [{"name": name, "snaptime": 5, "parent": parent} for name, parent in parents.items()]

    found = LxcSnapshot(NONE, False, Proxmox(OneSecond()), "pve").run()["snapshots"]
    assert [each["name"] for each in found] == ["c", "b", "a"]
    assert found[2] == {"name": "a", "snaptime": 5, "description": "", "parent": "b"}


def test_no_such_container() -> None:
    class Missing:
        def request(self, _method: str, path: str, _params: Any) -> Any:
            if path == "cluster/resources":
                return [{"vmid": 131, "node": "pve2", "type": "lxc"}, {"vmid": 130, "node": "pve", "type": "qemu"}]
            raise NotFoundError("Configuration file 'nodes/pve/lxc/130.conf' does not exist")

    with pytest.raises(ProxmoxError, match="container 130 does not exist on node pve: is vmid right"):
        LxcSnapshot(NONE, False, Proxmox(Missing()), "pve").run()
