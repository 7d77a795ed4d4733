# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What somebody who is not root@pam may not do."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import Changes
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_rights import (
    PRIVILEGES,
    STEPS,
    check_rights,
    on_storage,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import AccessError

EVERY = (
    "VM.Config.Options",
    "SDN.Use",
    "Datastore.AllocateSpace",
    *STEPS.values(),
    *(privilege for _keys, privilege in PRIVILEGES),
)


class Permissions:
    """A transport of somebody who holds these privileges on the container."""

    def __init__(self, held: tuple[str, ...]) -> None:
        self.held = held

    def request(self, _method: str, path: str, params: Any) -> Any:
        assert path == "access/permissions"
        return {params["path"]: dict.fromkeys(self.held, 1)}


def api(held: tuple[str, ...] = EVERY, root: bool = False) -> Proxmox:
    """The API for one who holds these privileges."""
    return Proxmox(Permissions(held), root=root)


@pytest.mark.parametrize(
    ("put", "delete", "before", "unprivileged", "refused"),
    [
        ({"dev0": "/dev/kvm"}, [], {}, True, "dev0 (/dev/kvm)"),
        ({}, ["dev1"], {"dev1": "/dev/kvm"}, True, "dev1 (/dev/kvm)"),
        ({"mp0": "mp=/x,volume=/srv/x"}, [], {}, True, "mp0 (bind mount of /srv/x)"),
        ({"features": "nesting=1,keyctl=0"}, [], {"features": "nesting=0"}, True, "features (keyctl, nesting)"),
        ({}, ["features"], {"features": "fuse=1"}, True, "features (fuse)"),
        ({"features": "nesting=1"}, [], {}, False, "features (nesting of a privileged container)"),
        ({"hookscript": "local:snippets/x"}, [], {}, True, "hookscript"),
        ({"features": "keyctl=1,nesting=1"}, [], {"features": "keyctl=1"}, True, None),
        ({"mp0": "fast:8,mp=/x", "cores": "2", "net0": "name=eth0"}, ["mp1"], {"mp1": "/srv,mp=/x"}, True, None),
    ],
)
def test_what_root_alone_may_set(
    put: dict[str, str], delete: list[str], before: dict[str, str], unprivileged: bool, refused: str | None
) -> None:
    change = Changes(put, delete)
    check_rights(api(root=True), 130, change, before, unprivileged, [])
    if refused is None:
        check_rights(api(), 130, change, before, unprivileged, [])
        return
    with pytest.raises(AccessError) as caught:
        check_rights(api(), 130, change, before, unprivileged, [])
    assert str(caught.value).startswith(f"wanted {refused}, which Proxmox VE lets root@pam alone set")


def test_privileges_that_are_lacking_are_told_together() -> None:
    change = Changes({"cores": "2", "memory": "512", "tags": "a", "net0": "name=eth0"}, ["mp1", "cpulimit"])
    before = {"mp1": "fast:x,mp=/x"}
    with pytest.raises(AccessError) as caught:
        check_rights(
            api(held=("VM.Config.Memory", "VM.Config.Network")), 130, change, before, True, ["grow", "restart"]
        )
    for told in ("CPU on /vms/130 (cores, cpulimit)", "Disk on /vms/130 (mp1, grow)", "Options on /vms/130 (tags)"):
        assert f"VM.Config.{told}" in str(caught.value)
    assert "VM.PowerMgmt on /vms/130 (restart)" in str(caught.value)
    assert "VM.Config.Memory" not in str(caught.value)


def test_nothing_to_do_asks_for_no_privileges() -> None:
    node = api(held=())
    check_rights(node, 130, Changes({}, []), {}, True, [])
    assert node.calls == []


class Tree(Permissions):
    """A transport of somebody who holds these privileges on these paths."""

    def __init__(self, **held: str) -> None:
        self.tree = held

    def request(self, _method: str, _path: str, params: Any) -> Any:
        return {params["path"]: {privilege: 1 for privilege, path in self.tree.items() if path == params["path"]}}


def test_bridges_storages_and_privileged_containers_need_their_own() -> None:
    put = {"net0": "name=eth0,bridge=vmbr1,tag=5", "net1": "name=eth1,bridge=lan", "mp0": "fast:8,mp=/x"}
    before = {"net0": "name=eth0,bridge=vmbr0"}
    more = [on_storage("slow", "grow"), on_storage("local", "download", "Datastore.AllocateTemplate")]
    with pytest.raises(AccessError) as caught:
        check_rights(api(held=("VM.Config.Network",)), 130, Changes(put, []), before, False, ["create"], more)
    for told in (
        "SDN.Use on /sdn/zones/localnetwork/vmbr0 (net0)",
        "SDN.Use on /sdn/zones/localnetwork/vmbr1 (net0)",
        "Datastore.AllocateSpace on /storage/fast (mp0)",
        "Datastore.AllocateSpace on /storage/slow (grow)",
        "Datastore.AllocateTemplate on /storage/local (download)",
        "Sys.Modify on / (a privileged container)",
    ):
        assert told in str(caught.value)
    assert "lan" not in str(caught.value)
    # The right to one VLAN of a bridge is enough for it.
    tagged = Changes({"net0": "name=eth0,bridge=vmbr1,tag=5"}, [])
    held = {"VM.Config.Network": "/vms/130", "SDN.Use": "/sdn/zones/localnetwork/vmbr1/5"}
    check_rights(Proxmox(Tree(**held), root=False), 130, tagged, {}, True, [])


@pytest.mark.parametrize(
    ("keys", "privilege"),
    [
        (("cores", "cpuunits", "cpulimit"), "VM.Config.CPU"),
        (("memory", "swap"), "VM.Config.Memory"),
        (("net0", "net12", "nameserver", "searchdomain", "hostname"), "VM.Config.Network"),
        (("rootfs", "mp0"), "VM.Config.Disk"),
        (("unprivileged",), "VM.Allocate"),
        (("tags", "description", "onboot", "network", "cores2", "mp"), "VM.Config.Options"),
    ],
)
def test_what_a_key_needs(keys: tuple[str, ...], privilege: str) -> None:
    for key in keys:
        change = Changes({}, [key])
        check_rights(api(held=(privilege,)), 130, change, {}, True, [])
        with pytest.raises(AccessError, match=rf"{privilege} on /vms/130 \({key}\)"):
            check_rights(api(held=()), 130, change, {}, True, [])


@pytest.mark.parametrize(
    ("step", "privilege"),
    [
        ("create", "VM.Allocate"),
        ("delete", "VM.Allocate"),
        ("grow", "VM.Config.Disk"),
        ("start", "VM.PowerMgmt"),
        ("shutdown", "VM.PowerMgmt"),
        ("restart", "VM.PowerMgmt"),
    ],
)
def test_what_a_step_needs(step: str, privilege: str) -> None:
    check_rights(api(held=(privilege,)), 130, Changes({}, []), {}, True, [step])
    with pytest.raises(AccessError, match=rf"{privilege} on /vms/130 \({step}\)"):
        check_rights(api(held=()), 130, Changes({}, []), {}, True, [step])


def test_each_path_is_asked_for_once() -> None:
    node = api()
    check_rights(node, 130, Changes({"cores": "1", "memory": "2", "tags": "x"}, []), {}, True, ["start"])
    assert node.calls == ["GET access/permissions"]
