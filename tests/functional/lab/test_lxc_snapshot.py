# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module lxc_snapshot on the lab's node, with real volumes. Uses the container 130."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest
from ansible_collections.homelab.llamacpp.plugins.modules import lxc, lxc_snapshot
from lab_node import WANTED, Run, destroy, in_guest, on_node, until_booted

FILE = "/models/marker"
MODELS = {"mp0": {"volume": "local-lvm:1", "mp": "/models"}}


@pytest.fixture(autouse=True)
def guest(over_api: Run) -> Iterator[None]:
    """A running container 130 with a second volume."""
    destroy()
    made = over_api(lxc, **WANTED, mounts=MODELS)
    assert made["status"] == "running", made
    until_booted()
    yield
    destroy()


@pytest.fixture
def snapshot(over_api: Run) -> Run:
    """Run lxc_snapshot."""
    return partial(over_api, lxc_snapshot)


def test_rollback_brings_back_files_and_configuration(run: Run, over_api: Run) -> None:
    in_guest(f"echo before > {FILE}; echo before > /root/marker; sync")
    made = run(module="lxc_snapshot", name="before", description="größer")
    assert (made["changed"], made["snapshots"][0]["description"]) == (True, "größer")
    assert "before" in on_node("pct", "listsnapshot", "130")
    in_guest(f"echo after > {FILE}; rm /root/marker; sync")
    over_api(lxc, cores=2)
    assert run(module="lxc_snapshot", check=True, name="before", state="rolled_back")["changed"]
    assert in_guest(f"cat {FILE}").strip() == "after"
    back = run(module="lxc_snapshot", name="before", state="rolled_back")
    assert back["changed"], back
    # It ran before, so it runs again.
    until_booted()
    assert in_guest(f"cat {FILE} /root/marker").split() == ["before", "before"]
    assert not over_api(lxc, **WANTED, mounts=MODELS)["changed"]


def test_retention(snapshot: Run) -> None:
    for number in range(3):
        done = snapshot(name=f"update-{number}", prefix="update-", keep=2)
    assert ([each["name"] for each in done["snapshots"]], done["removed"]) == (["update-1", "update-2"], ["update-0"])
    listed = on_node("pct", "listsnapshot", "130")
    assert ("update-0" in listed, "update-1" in listed) == (False, True)
    assert not snapshot(name="update-2", prefix="update-", keep=2)["changed"]
    assert snapshot(name="update-1", state="absent")["removed"] == ["update-1"]
    # With the middle one gone the one after it still works.
    assert snapshot(name="update-2", state="rolled_back")["changed"]


def test_bind_mount_forbids(snapshot: Run, over_api: Run) -> None:
    on_node("mkdir", "-p", "/srv/lab-bind")
    over_api(lxc, mounts={"mp1": "/srv/lab-bind,mp=/srv/bind"})
    failed = snapshot(name="before")
    assert "mp1 is a bind mount of /srv/lab-bind" in failed["msg"]
    skipped = snapshot(name="before", if_unsupported="skip")
    assert (skipped["changed"], skipped["skipped_reason"]) == (False, failed["msg"])
    # Proxmox would have said so only after the fact, and without the reason.
    assert "snapshot feature is not available" in on_node("pct", "snapshot", "130", "before", "2>&1", "||", "true")


def test_rollback_waits_for_each_volume_that_was_mounted(snapshot: Run) -> None:
    """The double as slow as ext4's multi-mount protection, for snapshots of a running container alone."""
    seconds = 3
    snapshot(name="hot")
    on_node(f"echo {seconds} >/etc/pve-double/mmp-seconds")
    try:
        begun = time.monotonic()
        assert snapshot(name="hot", state="rolled_back")["changed"]
        assert time.monotonic() - begun >= 2 * seconds
        on_node("pct", "stop", "130")
        snapshot(name="cold")
    finally:
        on_node("rm -f /etc/pve-double/mmp-seconds")
    assert "130-hot" in on_node("ls /etc/pve-double/hot-snapshots")
    assert "130-cold" not in on_node("ls /etc/pve-double/hot-snapshots")
