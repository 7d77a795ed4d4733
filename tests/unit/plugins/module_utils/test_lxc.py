# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run does to a container, and in which order; what Proxmox makes of it is judged in tests/functional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc import LISTS, NUMBERED, SCALARS, Lxc, growth
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import (
    NotFoundError,
    ProxmoxError,
    TaskError,
)

OWN = "nodes/pve/lxc/130"
# The module's options, as when none is given.
OPTIONS: dict[str, Any] = {
    **dict.fromkeys((*SCALARS, *LISTS, *NUMBERED, "devices", "config", "storage", "disk_gib", "ostemplate")),
    **{"ssh_public_keys": None, "download_template": True, "state": "present", "restart": False, "force": False},
    "timeout": 300,
}
CONFIG: dict[str, Any] = {
    "hostname": "llm",
    "memory": 512,
    "unprivileged": 1,
    "rootfs": "local-lvm:vm-130-disk-0,size=8G",
    "net0": "name=eth0,bridge=vmbr0",
    "digest": "abc",
}


class Node:
    """A node with at most one container; `fails` has the errors of tasks, by the end of their path."""

    def __init__(self, config: Mapping[str, Any] | None = None, status: str = "stopped") -> None:
        self.config = None if config is None else dict(config)
        self.status = status
        self.changes: list[tuple[str, str, dict[str, str]]] = []
        self.fails: dict[str, ProxmoxError] = {}
        self.pending: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.elsewhere: list[dict[str, Any]] = []
        self.shows = True

    def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        if method == "GET":
            return self._read(path)
        self.changes.append((method, path, dict(params)))
        for end, error in self.fails.items():
            if path.endswith(end):
                raise error
        if (method, path) == ("POST", "nodes/pve/lxc") and self.shows:
            self.config = {key: value for key, value in params.items() if key not in ("vmid", "ostemplate")}
        if path.endswith("/config") and self.config is not None:
            for key in params.get("delete", "").split(","):
                self.config.pop(key, None)
            self.config.update({key: value for key, value in params.items() if key not in ("delete", "digest")})
        if path.endswith("/resize"):
            assert self.config is not None
            self.config[params["disk"]] = f"local-lvm:vm-130-disk-0,size={params['size']}"
            return "UPID:pve:0001:0002:0003:resize:130:root@pam:"
        return None

    def _read(self, path: str) -> Any:
        answers: dict[str, Any] = {
            "cluster/resources": self.elsewhere,
            "nodes/pve/network": [{"iface": "vmbr0", "type": "bridge"}],
            "nodes/pve/storage/local/content": [{"volid": "local:vztmpl/debian.tar"}],
            "nodes/pve/aplinfo": [{"template": "other.tar"}],
            "nodes/pve/storage": [{"storage": name, "content": "rootdir,vztmpl"} for name in ("local", "local-lvm")],
        }
        if path in answers:
            return answers[path]
        if path.endswith("/log"):
            return [{"t": line} for line in self.log]
        if path.startswith("nodes/pve/tasks/UPID"):
            return {"status": "stopped", "exitstatus": "OK"}
        if self.config is None:
            raise NotFoundError("Configuration file 'nodes/pve/lxc/130.conf' does not exist")
        if path == f"{OWN}/pending":
            waiting = {entry["key"] for entry in self.pending}
            now = [{"key": key, "value": value} for key, value in self.config.items() if key not in waiting]
            return [*now, *self.pending]
        assert path == f"{OWN}/status/current", path
        return {"status": self.status}

    def run(self, check: bool = False, **options: Any) -> dict[str, Any]:
        self.changes.clear()
        clock = iter(range(10**6))
        api = Proxmox(self, 60, clock=lambda: float(next(clock)), sleep=lambda seconds: None)
        self.one = Lxc({**OPTIONS, "vmid": 130, **options}, check, api, "pve")
        return self.one.run()

    @property
    def paths(self) -> list[str]:
        return [path.rpartition("130/")[2] for _method, path, _params in self.changes]


@pytest.mark.parametrize(
    ("status", "options", "actions", "after"),
    [
        ("stopped", {"state": "started"}, ["start"], "running"),
        ("running", {"state": "started"}, [], "running"),
        ("running", {"state": "stopped"}, ["shutdown"], "stopped"),
        ("stopped", {"state": "stopped"}, [], "stopped"),
        ("stopped", {"state": "present"}, [], "stopped"),
        ("running", {"state": "present"}, [], "running"),
    ],
)
def test_power(status: str, options: dict[str, Any], actions: list[str], after: str) -> None:
    node = Node(CONFIG, status)
    seen = node.run(check=True, **options)
    assert (seen["actions"], seen["status"], node.changes) == (actions, after, [])
    done = node.run(**options)
    assert (done["actions"], done["status"], done["changed"]) == (actions, after, bool(actions))
    assert done["diff"] == seen["diff"]
    assert node.paths == [f"status/{action}" for action in actions]


def test_a_shutdown_has_an_end_and_force_kills() -> None:
    node = Node(CONFIG, "running")
    node.run(state="stopped", timeout=70)
    assert node.changes == [("POST", f"{OWN}/status/shutdown", {"timeout": "70"})]
    node.run(state="stopped", timeout=70, force=True)
    assert node.changes[0][2] == {"timeout": "70", "forceStop": "1"}
    node.fails = {"shutdown": TaskError("command failed: timeout", [])}
    with pytest.raises(ProxmoxError, match=r"It did not shut down within 70 seconds; force: true kills what does not"):
        node.run(state="stopped", timeout=70)


def restarting(**options: Any) -> tuple[Node, dict[str, Any]]:
    """A running container of which a change waits for its next start."""
    node = Node(CONFIG, "running")
    node.pending = [{"key": "unprivileged", "value": 1}, {"key": "features", "pending": "nesting=1"}]
    return node, node.run(features={"nesting": 1}, **options)


def test_a_restart_is_a_shutdown_and_a_start() -> None:
    node, done = restarting(restart=True)
    assert node.paths == ["status/shutdown", "status/start"]
    assert (done["actions"], done["status"]) == (["restart"], "running")


def test_what_waits_for_a_restart_is_told() -> None:
    node, done = restarting(restart=False)
    assert (done["changed"], done["restart_required"], done["pending"]) == (False, True, ["features"])
    assert node.changes == []


def test_a_restart_that_does_not_come_up_is_told() -> None:
    node = Node(CONFIG, "running")
    node.pending = [{"key": "features", "pending": "nesting=1"}]
    node.fails = {"start": TaskError("startup for container '130' failed", [])}
    with pytest.raises(ProxmoxError, match=r"failed\nThe container was shut down to restart it, and is stopped now"):
        node.run(features={"nesting": 1}, restart=True)


def test_a_volume_grows_before_the_rest_is_put() -> None:
    """The digest is that of the configuration as it was found: after the first change it is another one."""
    node = Node(CONFIG)
    seen = node.run(check=True, storage="local-lvm", disk_gib=16, cores=4)
    done = node.run(storage="local-lvm", disk_gib=16, cores=4)
    assert seen["diff"] == done["diff"]
    assert done["actions"] == ["grow", "configure"]
    assert node.changes == [
        ("PUT", f"{OWN}/resize", {"disk": "rootfs", "size": "16G", "digest": "abc"}),
        ("PUT", f"{OWN}/config", {"cores": "4"}),
    ]
    node.run(cores=2)
    assert node.changes == [("PUT", f"{OWN}/config", {"digest": "abc", "cores": "2"})]
    assert not node.run(cores=2, storage="local-lvm", disk_gib=16)["changed"]


def test_a_file_system_that_does_not_grow_is_an_error() -> None:
    node = Node(CONFIG)
    node.log = ["Size of logical volume changed", "resize2fs: Bad magic number in super-block", "TASK OK"]
    node.log.append("Failed to update the container's filesystem: command 'resize2fs' failed: exit code 1")
    with pytest.raises(ProxmoxError, match=r"rootfs of container 130 has 16G now, but its file system did not grow"):
        node.run(disk_gib=16, storage="local-lvm")


def test_a_new_container_is_shown_before_it_is_started() -> None:
    node = Node()
    done = node.run(ostemplate="local:vztmpl/debian.tar", state="started", ssh_public_keys=["ssh-a", "ssh-b"])
    assert [path for _method, path, _params in node.changes] == ["nodes/pve/lxc", f"{OWN}/status/start"]
    assert node.changes[0][2] == {
        "vmid": "130",
        "ostemplate": "local:vztmpl/debian.tar",
        "ssh-public-keys": "ssh-a\nssh-b",
        "unprivileged": "1",
    }
    assert (done["actions"], done["status"]) == (["create", "start"], "running")
    assert done["diff"]["before"] == {}
    assert done["diff"]["after"]["state"] == "running"
    node = Node()
    node.shows = False
    with pytest.raises(ProxmoxError, match="was made, but node pve does not show it after 10 seconds: look at"):
        node.run(ostemplate="local:vztmpl/debian.tar", state="started")
    assert len(node.changes) == 1


def test_a_number_that_another_guest_has() -> None:
    node = Node()
    node.elsewhere = [{"vmid": 130, "node": "pve2", "type": "lxc", "name": "llm"}]
    for options in ({"ostemplate": "local:vztmpl/debian.tar"}, {"state": "absent"}):
        with pytest.raises(ProxmoxError, match="wanted container 130 on node pve, found llm on node pve2"):
            node.run(**options)
        assert node.changes == []


def test_what_is_absent_stays_so() -> None:
    node = Node()
    done = node.run(state="absent")
    assert (done["changed"], done["status"], done["diff"]) == (False, "absent", {"before": {}, "after": {}})


def test_a_container_goes() -> None:
    node = Node(CONFIG)
    done = node.run(state="absent", hostname="llm")
    assert node.changes == [("DELETE", OWN, {"purge": "1"})]
    assert (done["actions"], done["status"], done["diff"]["after"]) == (["delete"], "absent", {})
    assert done["diff"]["before"]["state"] == "stopped"


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ({}, {"hostname": "other"}, r"wanted container 130 named other, found container 130 \(llm\) on node pve"),
        ({"protection": 1}, {}, r"container 130 \(llm\) on node pve is protected"),
        ({"protection": 1}, {"force": True}, "is protected. Set protection: false first"),
        ({"hostname": None}, {"hostname": "llm"}, r"found container 130 \(no name\)"),
    ],
)
def test_a_container_that_stays(config: dict[str, Any], options: dict[str, Any], words: str) -> None:
    node = Node({key: value for key, value in {**CONFIG, **config}.items() if value is not None})
    with pytest.raises(ProxmoxError, match=words):
        node.run(state="absent", **options)
    assert node.changes == []


def test_a_protected_containers_option_can_be_taken_away() -> None:
    node = Node({**CONFIG, "protection": 1})
    assert node.run(protection=False)["actions"] == ["configure"]
    assert not node.run(protection=False)["changed"]


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_half_made_container(state: str) -> None:
    node = Node({**CONFIG, "lock": "create"})
    node._read = lambda path, read=node._read: [] if path == "nodes/pve/tasks" else read(path)  # type: ignore
    with pytest.raises(ProxmoxError, match="is half made"):
        node.run(state=state)
    assert node.changes == []


def test_a_device_that_cannot_be_seen_from_here_is_a_warning() -> None:
    """Only when it is put: what is there already was seen once."""
    node = Node(CONFIG)
    node.run(devices=[{"path": "/dev/no-such-gpu"}])
    assert "cannot be seen whether node pve has /dev/no-such-gpu" in node.one.warnings[0]
    node.run(devices=[{"path": "/dev/no-such-gpu"}])
    assert node.one.warnings == []
    node.run(cores=3, devices=[{"path": "/dev/no-such-gpu"}])
    assert node.one.warnings == []
    assert node.paths == ["config"]


def test_every_option_is_put_as_its_key() -> None:
    node = Node(CONFIG)
    given = {
        "memory_mib": 1024,
        "swap_mib": 0,
        "onboot": True,
        "startup": "order=2",
        "timezone": "host",
        "description": "one",
        "protection": True,
        "nameserver": ["192.0.2.1", "192.0.2.2"],
        "searchdomain": ["example.org"],
        "tags": ["a", "b"],
    }
    node.run(**given)
    (change,) = node.changes
    assert change[2] == {
        "digest": "abc",
        "memory": "1024",
        "swap": "0",
        "onboot": "1",
        "startup": "2",
        "timezone": "host",
        "description": "one",
        "protection": "1",
        "nameserver": "192.0.2.1 192.0.2.2",
        "searchdomain": "example.org",
        "tags": "a;b",
    }
    assert not node.run(**given)["changed"]


class Files:
    """What the node's own files say of the container."""

    def __init__(self, name: str | None, last: str | None = None, log: list[str] | None = None) -> None:
        self.name, self.last, self.log = name, last, log or []
        self.config = [{"key": key, "value": str(value)} for key, value in CONFIG.items()]

    def guest(self, _vmid: int) -> list[dict[str, Any]]:
        return self.config

    def running(self, _vmid: int) -> bool:
        return True

    def hostname(self, _vmid: int) -> str | None:
        return self.name

    def last_task(self, _vmid: int, *kinds: str) -> str | None:
        assert "resize" in kinds
        return self.last

    def task(self, _upid: str) -> Any:
        return self

    def bridges(self) -> list[str]:
        return ["vmbr0"]


@pytest.mark.parametrize(
    ("now", "waits"), [("llm", False), ("llm.example.org", False), ("old", True), (None, False), ("LLM", True)]
)
def test_a_name_that_the_running_container_does_not_have_yet(now: str | None, waits: bool) -> None:
    node = Node()
    files: Any = Files(now)

    def run(restart: bool) -> dict[str, Any]:
        given = {**OPTIONS, "vmid": 130, "hostname": "llm", "restart": restart}
        return Lxc(given, False, Proxmox(node, 60, files=files, here=True), "pve").run()

    done = run(False)
    assert (done["pending"], done["changed"]) == (["hostname"] if waits else [], False)
    assert run(True)["actions"] == (["restart"] if waits else [])


UNGROWN = ["Failed to update the container's filesystem", "resize2fs: /dev/pve/vm-130-disk-0 is bad"]


@pytest.mark.parametrize(
    ("task", "log", "options", "sizes"),
    [
        ("resize", UNGROWN, {"disk_gib": 8, "storage": "local-lvm"}, ["8193M"]),
        ("resize", UNGROWN, {}, []),
        ("resize", ["TASK OK"], {"disk_gib": 8, "storage": "local-lvm"}, []),
        ("vzrollback", UNGROWN, {"disk_gib": 8, "storage": "local-lvm"}, []),
        (None, UNGROWN, {"disk_gib": 8, "storage": "local-lvm"}, []),
        ("resize", UNGROWN, {"disk_gib": 16, "storage": "local-lvm"}, ["16G"]),
    ],
)
def test_a_file_system_that_did_not_grow_the_last_time_is_grown_again(
    task: str | None, log: list[str], options: dict[str, Any], sizes: list[str]
) -> None:
    """Only by a run that looks after its size."""
    files: Any = Files("llm", task and f"UPID:pve:0001:0002:0003:{task}:130:root@pam:", log)
    one = Lxc({**OPTIONS, "vmid": 130, **options}, True, Proxmox(Node(), 60, files=files, here=True), "pve")
    found = one.find()
    assert found
    wanted = {"rootfs": one.rootfs()}
    grow = one.again(found, growth(wanted, found))
    assert list(grow.values()) == sizes
    assert one.run()["actions"] == (["grow"] if sizes else [])
