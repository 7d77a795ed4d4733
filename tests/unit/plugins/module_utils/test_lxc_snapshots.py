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
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import (
    NotFoundError,
    ProxmoxError,
    TaskError,
)
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


class Moved:
    def request(self, _method: str, path: str, _params: Any) -> Any:
        if path == "cluster/resources":
            return [{"vmid": 130, "node": "pve2", "type": "lxc", "name": "llm"}]
        raise NotFoundError("Configuration file 'nodes/pve/lxc/130.conf' does not exist")


def test_a_container_of_another_node_is_told() -> None:
    with pytest.raises(ProxmoxError, match="found llm on node pve2"):
        LxcSnapshot(NONE, False, Proxmox(Moved()), "pve").run()


class Node:
    """A node with container 130 and its snapshots; keeps what was asked for beside reads."""

    def __init__(self, status: str = "running", able: bool = True) -> None:
        self.status = status
        self.able = able
        self.error: Exception | None = None
        self.changes: list[tuple[str, str, dict[str, str]]] = []
        self.config: list[dict[str, Any]] = [
            {"key": "hostname", "value": "llm"},
            {"key": "rootfs", "value": "local-lvm:vm-130-disk-0,size=8G"},
            {"key": "mp0", "value": "tank:subvol-130-disk-1,mp=/models,size=100G"},
        ]
        self.made = [
            {"name": "first", "snaptime": 10, "description": "one\n"},
            {"name": "second", "snaptime": 20, "parent": "first"},
        ]
        self.files = None

    def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        own = "nodes/pve/lxc/130"
        assert path.startswith(f"{own}/")
        what = path[len(own) + 1 :]
        if method == "GET":
            if what == "snapshot":
                return [{"name": "current"}, *self.made]
            if what == "feature":
                assert params == {"feature": "snapshot"}
                return {"hasFeature": int(self.able)}
            return {"pending": self.config, "status/current": {"status": self.status}}[what]
        self.changes.append((method, what, dict(params)))
        if self.error:
            raise self.error
        if method == "POST" and what == "snapshot":
            given = {"name": params["snapname"], "snaptime": 30, "parent": "second"}
            self.made.append({**given, "description": params.get("description", "")})
        return None


def run_on(node: Any, check: bool = False, **options: Any) -> dict[str, Any]:
    return LxcSnapshot({**NONE, "timeout": 60, "if_unsupported": "fail", **options}, check, Proxmox(node), "pve").run()


def test_a_snapshot_is_made_once() -> None:
    node = Node()
    seen = run_on(node, check=True, name="third", description="before")
    assert (seen["changed"], node.changes) == (True, [])
    assert seen["snapshots"][-1] == {"name": "third", "snaptime": None, "description": "before", "parent": "second"}
    done = run_on(node, name="third", description="before")
    assert node.changes == [("POST", "snapshot", {"snapname": "third", "description": "before"})]
    assert done["snapshots"][-1] == {"name": "third", "snaptime": 30, "description": "before", "parent": "second"}
    assert done["diff"] == {
        "before": {"snapshots": ["first", "second"]},
        "after": {"snapshots": ["first", "second", "third"]},
    }
    assert done["snapshots"][0]["description"] == "one"
    again = run_on(node, name="third")
    assert (again["changed"], len(node.changes), again["removed"]) == (False, 1, [])
    assert again["node"] == "pve"
    assert again["calls"] == ["GET nodes/pve/lxc/130/snapshot"]


def test_the_first_snapshot_has_no_parent() -> None:
    node = Node()
    node.made = []
    assert run_on(node, check=True, name="first")["snapshots"][0]["parent"] is None


def test_without_a_name_they_are_only_listed() -> None:
    node = Node(able=False)
    done = run_on(node)
    assert (done["changed"], [each["name"] for each in done["snapshots"]]) == (False, ["first", "second"])
    assert node.changes == []


def test_a_snapshot_goes_and_its_child_gets_its_parent() -> None:
    node = Node()
    done = run_on(node, state="absent", name="first")
    assert node.changes == [("DELETE", "snapshot/first", {})]
    assert (done["changed"], done["removed"]) == (True, ["first"])
    assert done["snapshots"] == [{"name": "second", "snaptime": 20, "description": "", "parent": None}]
    assert not run_on(node, state="absent", name="other")["changed"]
    assert run_on(node, check=True, state="absent", name="first")["changed"]
    assert len(node.changes) == 1


@pytest.mark.parametrize(("status", "start"), [("running", {"start": "1"}), ("stopped", {})])
def test_back_to_a_snapshot(status: str, start: dict[str, str]) -> None:
    """What ran runs again."""
    node = Node(status)
    seen = run_on(node, check=True, state="rolled_back", name="second")
    assert (seen["changed"], node.changes) == (True, [])
    done = run_on(node, state="rolled_back", name="second")
    assert node.changes == [("POST", "snapshot/second/rollback", start)]
    assert done["changed"]
    assert done["diff"]["after"] == {"snapshots": ["first", "second"], "rolled_back_to": "second"}
    assert "rolled_back_to" not in done["diff"]["before"]


def test_back_to_one_that_is_not_there() -> None:
    node = Node()
    with pytest.raises(ProxmoxError, match=r"go back to the snapshot third of container 130, found first, second\Z"):
        run_on(node, state="rolled_back", name="third")
    node.made = []
    with pytest.raises(ProxmoxError, match=r"found none\Z"):
        run_on(node, state="rolled_back", name="third")
    assert node.changes == []


def test_a_storage_that_goes_back_to_the_newest_only() -> None:
    node = Node()
    node.error = TaskError("can't rollback, more recent snapshots exist: second", [])
    with pytest.raises(ProxmoxError, match=r"delete those after first first \(state: absent\)"):
        run_on(node, state="rolled_back", name="first")
    node.error = TaskError("out of space", [])
    with pytest.raises(TaskError, match=r"out of space"):
        run_on(node, state="rolled_back", name="first")


def test_a_rollback_may_take_longer_than_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float | None] = []
    real = Proxmox.call

    def call(self: Proxmox, method: str, path: str, /, limit: float | None = None, **params: Any) -> Any:
        if method != "GET":
            limits.append(limit)
        return real(self, method, path, limit=limit, **params)

    monkeypatch.setattr(Proxmox, "call", call)
    run_on(Node(), state="rolled_back", name="second")
    run_on(Node(), state="absent", name="second")
    longer, usual = limits
    assert usual is None
    assert longer is not None
    assert longer >= 60 + 20 * 60


def test_a_container_that_cannot_have_snapshots() -> None:
    node = Node(able=False)
    words = r"container 130 \(llm\) on node pve cannot have snapshots: one of its storages makes none"
    with pytest.raises(ProxmoxError, match=words + r" \(mp0 on tank, rootfs on local-lvm\)"):
        run_on(node, name="third")
    done = run_on(node, name="third", if_unsupported="skip")
    assert (done["changed"], done["skipped_reason"].startswith("container 130 (llm)")) == (False, True)
    assert node.changes == []
    # One that is there is not made again, whatever the storage can do.
    assert "skipped_reason" not in run_on(node, name="second")


def test_a_bind_mount_cannot_have_snapshots() -> None:
    """Also one that goes when the container is restarted; a mount that comes then is not in the way yet."""
    node = Node()
    node.config[2] = {"key": "mp0", "value": "/srv/models,mp=/models", "delete": 1}
    node.config.append({"key": "mp1", "pending": "/srv/more,mp=/more"})
    with pytest.raises(ProxmoxError, match=r"snapshots: mp0 is a bind mount of /srv/models\. With a volume"):
        run_on(node, name="third")


def test_a_container_without_a_name() -> None:
    node = Node(able=False)
    del node.config[0]
    with pytest.raises(ProxmoxError, match=r"container 130 \(no name\)"):
        run_on(node, name="third")


def test_a_half_made_container() -> None:
    class HalfMade(Node):
        def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
            return [] if path == "nodes/pve/tasks" else super().request(method, path, params)

    node = HalfMade()
    node.config.append({"key": "lock", "value": "create"})
    with pytest.raises(ProxmoxError, match=r"is half made \(lock: create\)"):
        run_on(node, name="third")


def test_a_container_that_went_meanwhile() -> None:
    class Gone(Node):
        def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
            if path.endswith("/pending"):
                raise NotFoundError("gone")
            return super().request(method, path, params)

    with pytest.raises(ProxmoxError, match="does not exist on node pve any more"):
        run_on(Gone(), name="third")


@pytest.mark.parametrize("name", ["current", "vzdump", "a", "1st", "with space", "a" * 41, "b\u00fcro", "ends\n"])
def test_names_that_proxmox_refuses(name: str) -> None:
    node = Node()
    for state in ("present", "absent", "rolled_back"):
        with pytest.raises(ProxmoxError, match=r"^name: wanted a letter and then 1 to 39"):
            run_on(node, name=name, state=state)
    assert not run_on(node, name="a" * 40, state="absent")["changed"]
    assert not run_on(node, name="A1", state="absent")["changed"]


def test_none_is_not_what_can_be_kept() -> None:
    with pytest.raises(ProxmoxError, match=r"keep: wanted 1 or more, found 0"):
        run_on(Node(), name="second", prefix="se", keep=0)
