# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module lxc on the lab's node: pvesh there, real containers behind it, real Ansible over ssh.

Uses the containers 130 to 139.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _proxmox_here
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import Found
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import ARGUMENT_SPEC, connect
from ansible_collections.homelab.llamacpp.plugins.modules import lxc, lxc_snapshot
from lab_node import NETWORK, TEMPLATE, WANTED, Run, destroy, in_guest, login, on_node, until_booted

GUEST = "nodes/pve/lxc/130"
NO_API = {name: spec.get("default") for name, spec in ARGUMENT_SPEC.items()}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """No container 130 before and after."""
    destroy()
    yield
    destroy()


def test_from_nothing_to_a_running_guest_and_back(run: Run) -> None:
    foretold = run(check=True, **WANTED)
    assert foretold["actions"] == ["create", "start"]
    assert "130" not in on_node("lxc-ls", "-1").split()

    made = run(**WANTED)
    assert not made["failed"], made
    assert (made["actions"], made["status"]) == (foretold["actions"], "running")
    assert made["diff"] == foretold["diff"]
    # A call of pvesh takes a second on a real node: template, storages, create and start.
    assert len(made["calls"]) == 4
    assert "hwaddr=" in made["config"]["net0"]

    until_booted()
    assert in_guest("cat /etc/hostname").strip() == "lxc-test"
    # Unprivileged: root in the guest is not root on the node.
    assert in_guest("cat /proc/self/uid_map").split()[:2] == ["0", "100000"]
    assert f"{NETWORK}.130/24" in in_guest("ip -4 -o address show eth0")
    on_node("ping", "-c1", "-w20", f"{NETWORK}.130")

    again = run(**WANTED)
    assert not again["changed"], again["diff"]
    # The node's own files tell all of it.
    assert again["calls"] == []
    assert again["restart_required"] is False

    assert "is running" in run(state="absent")["msg"]
    stopped = run(state="stopped")
    assert (stopped["actions"], stopped["status"]) == (["shutdown"], "stopped")
    assert "STOPPED" in on_node("lxc-info", "-n", "130", "-s")
    deleted = run(state="absent", hostname="lxc-test")
    assert deleted["actions"] == ["delete"]
    assert "130" not in on_node("lxc-ls", "-1").split()
    assert run(state="absent")["changed"] is False


def test_files_of_the_node_say_what_the_api_says(
    over_api: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configuration, digest, what waits, state, snapshots: of a guest that has all of it."""
    run = partial(over_api, lxc)
    mounts = {"mp0": {"volume": "local-lvm:1", "mp": "/models"}}
    run(**WANTED, mounts=mounts, devices=[{"path": "/dev/full", "gid": 44}])
    over_api(lxc_snapshot, name="before", description="größer: 100 %")
    run(features={"nesting": True, "keyctl": True}, devices=[], nameserver=[], description="größer: 100 %\n#2\n")
    api = connect({**NO_API, **login()}, lambda *_argv: (1, "", ""), None)[0]
    monkeypatch.setattr(_proxmox_here, "PVE", str(tmp_path))
    monkeypatch.setattr(_proxmox_here, "SOCKETS", str(tmp_path / "unix"))
    folder = tmp_path / "nodes/pve/lxc"
    folder.mkdir(parents=True)
    (folder / "130.conf").write_text(on_node("cat /etc/pve/nodes/pve/lxc/130.conf"))
    here = _proxmox_here.Here("pve", lambda *_argv: (1, "", ""))
    found, told = (Found.parse(entries or []) for entries in (here.guest(130), api.call("GET", f"{GUEST}/pending")))
    assert found == dataclasses.replace(told, digest=found.digest)
    assert found.waiting == ["dev0", "features", "nameserver"]
    assert found.digest == api.call("GET", f"{GUEST}/config")["digest"]
    (tmp_path / "unix").write_text(on_node("cat /proc/net/unix"))
    assert here.running(130) == (api.call("GET", f"{GUEST}/status/current")["status"] == "running")
    listed = [entry for entry in api.call("GET", f"{GUEST}/snapshot") if entry["name"] != "current"]
    read = [{key: entry.get(key) for key in listed[0]} for entry in here.snapshots(130) or []]
    assert read == [{**entry, "snaptime": str(entry["snaptime"])} for entry in listed]
    run(state="stopped")
    (tmp_path / "unix").write_text(on_node("cat /proc/net/unix"))
    assert not here.running(130)


def test_drift_by_hand_is_put_right(run: Run) -> None:
    made = run(**WANTED)
    on_node("pvesh", "set", "/nodes/pve/lxc/130/config", "-cores", "2", "-tags", "by-hand", "-delete", "nameserver")
    foretold = run(check=True, **WANTED)
    assert json.loads(on_node("pvesh", "get", "/nodes/pve/lxc/130/config", "--output-format", "json"))["cores"] == 2
    mended = run(**WANTED)
    assert (mended["actions"], len(mended["calls"])) == (["configure"], 1)
    assert (mended["diff"], mended["restart_required"]) == (foretold["diff"], foretold["restart_required"])
    before, after = mended["diff"]["before"]["config"], mended["diff"]["after"]["config"]
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == {"cores", "tags", "nameserver"}
    assert mended["config"]["net0"] == made["config"]["net0"]
    assert not run(**WANTED)["changed"]


def test_change_that_waits_for_a_restart(run: Run) -> None:
    run(**WANTED)
    wanted = {**WANTED, "features": {"nesting": True, "keyctl": True}}
    foretold, changed = run(check=True, **wanted), run(**wanted)
    assert foretold["pending"] == changed["pending"] == ["features"]
    again = run(**wanted)
    assert (again["changed"], again["restart_required"]) == (False, True)
    assert run(**{**wanted, "state": "stopped"})["restart_required"] is False
    assert run(**wanted)["pending"] == []


def test_hostname_waits_for_a_restart(run: Run) -> None:
    """Proxmox VE takes it for applied at once. The guest has its old name, in this run and in the next."""
    run(**WANTED)
    until_booted()
    wanted = {**WANTED, "hostname": "lxc-other"}
    foretold, changed = run(check=True, **wanted), run(**wanted)
    assert foretold["pending"] == changed["pending"] == ["hostname"]
    assert in_guest("hostname").strip() == "lxc-test"
    again = run(**wanted)
    assert (again["changed"], again["pending"], again["calls"]) == (False, ["hostname"], [])
    assert run(**wanted, restart=True)["actions"] == ["restart"]
    assert run(**wanted)["restart_required"] is False
    assert in_guest("hostname").strip() == "lxc-other"


def test_device_reaches_the_guest_with_owner_and_mode(run: Run) -> None:
    made = run(**WANTED, devices=[{"path": "/dev/full", "gid": 44, "mode": "0640"}])
    assert not made["failed"], made
    assert in_guest("stat -c %u:%g:%a /dev/full").strip() == "0:44:640"
    assert not run(**WANTED, devices=[{"path": "/dev/full", "gid": 44, "mode": "0640"}])["changed"]


def test_device_that_the_node_lacks_is_refused_before_anything_changes(run: Run) -> None:
    devices = [{"path": "/dev/null"}, {"path": "/dev/no-such-gpu"}, {"path": "/dev/pts"}]
    for check in (True, False):
        failed = run(check, **WANTED, devices=devices)
        assert "wanted device nodes of pve, found /dev/no-such-gpu (missing), /dev/pts (a folder" in failed["msg"]
    assert "130" not in on_node("lxc-ls", "-1").split()
    run(**{**WANTED, "state": "present"})
    refused = run(**{**WANTED, "cores": 2}, devices=devices)
    assert (refused["actions"], refused["failed"]) == ([], True)


def test_bridge_that_the_node_lacks_is_refused_before_anything_changes(run: Run) -> None:
    """Proxmox VE writes it, fails, and then finds nothing to change; and it creates a container with it."""
    net = {"net0": {**WANTED["net"]["net0"], "bridge": "vmbr9"}}
    for check in (True, False):
        failed = run(check, **{**WANTED, "net": net})
        assert "wanted the bridges vmbr9 (net0), node pve has vmbr0" in failed["msg"]
    assert "130" not in on_node("lxc-ls", "-1").split()
    run(**{**WANTED, "state": "present"})
    for _time in range(2):
        refused = run(net=net, cores=2)
        assert (refused["failed"], refused["actions"]) == (True, [])
    assert "bridge=vmbr0" in on_node("pct", "config", "130")
    # Written by hand, or by another tool: found and told, not taken for done.
    on_node("pvesh", "set", "/nodes/pve/lxc/130/config", "-net0", "name=eth0,bridge=vmbr9", check=False)
    assert "bridge=vmbr9" in on_node("pct", "config", "130")
    assert "wanted the bridges vmbr9 (net0)" in run(net={"net0": "name=eth0,bridge=vmbr9"})["msg"]
    assert run(**WANTED)["status"] == "running"


def test_start_that_fails_tells_why_and_the_next_run_goes_on(run: Run) -> None:
    run(**{**WANTED, "state": "present"}, devices=[{"path": "/dev/null"}])
    # The node loses the device after the configuration was made, as with a driver that is not loaded after a reboot.
    on_node("sed", "-i", "s,/dev/null,/dev/no-such-gpu,", "/etc/pve/lxc/130.conf")
    on_node("systemctl", "restart", "pve-double.service")
    on_node("sh", "-c", "'until pvesh get /version >/dev/null 2>&1; do sleep 0.2; done'")
    failed = run(state="started")
    assert failed["failed"]
    assert "task vzstart of 130 on pve failed" in failed["msg"]
    assert "/dev/no-such-gpu does not exist" in failed["msg"]
    mended = run(**WANTED, devices=[])
    assert (mended["failed"], mended.get("status")) == (False, "running"), mended


def test_root_volume_grows(over_api: Run) -> None:
    run = partial(over_api, lxc)
    run(**WANTED)
    foretold, grown = run(check=True, **{**WANTED, "disk_gib": 5}), run(**{**WANTED, "disk_gib": 5})
    assert (grown["actions"], grown["diff"]) == (["grow"], foretold["diff"])
    assert "size=5G" in on_node("pct", "config", "130")
    for same in (5, 4):
        assert not run(**{**WANTED, "disk_gib": same})["changed"]


def test_file_system_that_does_not_grow_is_told_and_tried_again(run: Run) -> None:
    """To Proxmox VE the task has ended well, and the volume has its new size."""
    flag = "/etc/pve-double/resize-fails"
    wanted = {**WANTED, "mounts": {"mp0": {"volume": "local-lvm:1", "mp": "/models"}}}
    run(**wanted)
    bigger = {**wanted, "mounts": {"mp0": {"volume": "local-lvm:2", "mp": "/models"}}}
    on_node("touch", flag)
    try:
        failed = run(**bigger)
        assert (failed["failed"], failed["actions"]) == (True, ["grow"])
        assert "mp0 of container 130 has 2G now, but its file system did not grow: Failed to update" in failed["msg"]
        assert "`pct fsck 130 --device mp0`" in failed["msg"]
        # Not taken for done: check mode and the next run say so too.
        assert run(check=True, **bigger)["actions"] == ["grow"]
        assert "has 2049M now" in run(**bigger)["msg"]
    finally:
        on_node("rm", "-f", flag)
    foretold, grown = run(check=True, **bigger), run(**bigger)
    assert (grown["actions"], grown["diff"]) == (["grow"], foretold["diff"])
    assert "size=2050M" in grown["config"]["mp0"]
    assert not run(**bigger)["changed"]
    # Of a container that was made anew nothing is left to try.
    destroy()
    assert run(**bigger)["actions"] == ["create", "start"]
    assert not run(**bigger)["changed"]


def test_restart_when_allowed(over_api: Run) -> None:
    run = partial(over_api, lxc)
    run(**WANTED)
    until_booted()
    boot = in_guest("cat /proc/1/stat").split()[21]
    wanted = {**WANTED, "features": {"nesting": True, "keyctl": True}}
    assert run(**wanted)["restart_required"] is True
    assert in_guest("cat /proc/1/stat").split()[21] == boot
    assert run(check=True, **wanted, restart=True)["actions"] == ["restart"]
    done = run(**wanted, restart=True)
    assert (done["actions"], done["restart_required"], done["status"]) == (["restart"], False, "running")
    assert in_guest("cat /proc/1/stat").split()[21] != boot
    assert not run(**wanted, restart=True)["changed"]


def test_template_is_downloaded(over_api: Run) -> None:
    run = partial(over_api, lxc)
    name = "debian-13-standard_13.99-1_amd64.tar.zst"
    offered, cache = "/var/lib/vz/template/offered", "/var/lib/vz/template/cache"
    on_node("mkdir", "-p", offered)
    on_node("cp", "--reflink=auto", f"{cache}/{TEMPLATE.partition('/')[2]}", f"{offered}/{name}")
    wanted = {**WANTED, "ostemplate": f"local:vztmpl/{name}", "state": "present"}
    try:
        foretold = run(check=True, **wanted)
        assert foretold["actions"] == ["download", "create"]
        assert name not in on_node("pveam", "list", "local")
        assert run(**wanted)["actions"] == ["download", "create"]
        assert name in on_node("pveam", "list", "local")
        # Its package's name alone now means this one, the newest.
        destroy()
        package = {**wanted, "ostemplate": "local:vztmpl/debian-13-standard"}
        assert run(**package)["actions"] == ["create"]
    finally:
        on_node("rm", "-f", f"{offered}/{name}", f"{cache}/{name}")


def test_refusals_before_any_change(run: Run) -> None:
    assert TEMPLATE in run(**{**WANTED, "ostemplate": "local:vztmpl/none.tar.zst"})["msg"]
    assert "storage 'nas' does not exist" in run(**{**WANTED, "ostemplate": "nas:vztmpl/none.tar.zst"})["msg"]
    assert "no such node" in run(**WANTED, node="nowhere")["msg"]
    assert "Proxmox refuses cores" in run(**{**WANTED, "cores": 100000})["msg"]
    assert "130" not in on_node("lxc-ls", "-1").split()


def test_refused_property_is_explained(run: Run) -> None:
    """Proxmox explains a property in a line of its own, with a dot in its key."""
    net = {"net0": {**WANTED["net"]["net0"], "ip": "300.0.2.1/24"}}
    assert "net0.ip: " in run(**{**WANTED, "net": net})["msg"]
    run(**{**WANTED, "state": "present"})
    assert "features" in run(features={"nesting": True, "flying": True})["msg"]
    assert (
        "Proxmox refuses nonsense: this version of Proxmox VE has no such option" in run(config={"nonsense": 1})["msg"]
    )


def test_the_same_container_over_the_api(run: Run) -> None:
    run(**{**WANTED, "state": "present"})
    over_api = {"host": "here", **login()}
    assert not run(**{**WANTED, "state": "present"}, **over_api)["changed"]
    started = run(state="started", **over_api)
    assert (started["actions"], started["status"]) == (["start"], "running")
    assert not run(**WANTED)["changed"]
    assert over_api["api_password"] not in json.dumps(started)
