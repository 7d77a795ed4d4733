# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What somebody who is not root@pam may not do to a container, all of it told before the first change.

Proxmox VE refuses these too, but one at a time, and the start of a container only after it was changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import (
    DEVICE,
    Changes,
    bind_source,
    bridge_of,
    is_mount,
    kind_of,
    new_volume,
    parse_properties,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import AccessError

# Keys -> the privilege that a change of them needs; every other key needs VM.Config.Options.
PRIVILEGES = (
    (re.compile(r"cores|cpuunits|cpulimit"), "VM.Config.CPU"),
    (re.compile(r"memory|swap"), "VM.Config.Memory"),
    (re.compile(r"net\d+|nameserver|searchdomain|hostname"), "VM.Config.Network"),
    (re.compile(r"rootfs|mp\d+"), "VM.Config.Disk"),
    (re.compile(r"features|unprivileged"), "VM.Allocate"),
)
STEPS = {
    "create": "VM.Allocate",
    "delete": "VM.Allocate",
    "grow": "VM.Config.Disk",
    "start": "VM.PowerMgmt",
    "shutdown": "VM.PowerMgmt",
    "restart": "VM.PowerMgmt",
}


class Need(NamedTuple):
    """A privilege on one of some paths, and what needs it."""

    paths: tuple[str, ...]
    privilege: str
    what: str


def on_storage(storage: str, what: str, privilege: str = "Datastore.AllocateSpace") -> Need:
    """What a new or larger volume, or a template to download, needs of its storage."""
    return Need((f"/storage/{storage}",), privilege, what)


def check_rights(
    api: Proxmox,
    vmid: int,
    change: Changes,
    before: Mapping[str, str],
    unprivileged: bool,
    steps: Iterable[str],
    more: Iterable[Need] = (),
) -> None:
    """Raise AccessError with everything that this user or token may not do of a change and the steps around it.

    unprivileged: whether the container is; steps: out of STEPS; more: what those need beside. root@pam may do anything,
    and is not asked.
    """
    if api.root:
        return
    refused = for_root_alone(change, before, unprivileged)
    if refused:
        raise AccessError(
            f"wanted {', '.join(refused)}, which Proxmox VE lets root@pam alone set, no token and no other user: leave "
            "api_host out and run on the node as root, log in with api_user root@pam and its password, or have them "
            "set that way once: settings that are in place already are no change"
        )
    guest = (f"/vms/{vmid}",)
    needs = [Need(guest, _privilege(key), key) for key in sorted([*change.put, *change.delete])]
    steps = list(steps)
    needs += [Need(guest, STEPS[step], step) for step in steps]
    if "create" in steps and not unprivileged:
        needs.append(Need(("/",), "Sys.Modify", "a privileged container"))
    needs += [on_storage(volume, key) for key, volume in _new_volumes(change)]
    needs += [*_networks(change, before), *more]
    held: dict[str, set[str]] = {}
    lacking: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for need in needs:
        if not any(need.privilege in _held(api, path, held) for path in need.paths):
            lacking.setdefault((need.paths, need.privilege), []).append(need.what)
    if lacking:
        told = [f"{what} on {path[0]} ({', '.join(whats)})" for (path, what), whats in sorted(lacking.items())]
        raise AccessError(
            f"wanted the privileges {', '.join(told)}, which this user or token lacks. On the node, `pveum acl modify "
            "PATH --roles ROLE` with --users or --tokens gives them: the role PVEVMAdmin has those of /vms, "
            "PVEDatastoreUser those of /storage, PVESDNUser SDN.Use"
        )


def _held(api: Proxmox, path: str, known: dict[str, set[str]]) -> set[str]:
    """The privileges on a path, asked for once."""
    if path not in known:
        answer = api.call("GET", "access/permissions", path=path) or {}
        known[path] = {privilege for privileges in answer.values() for privilege in privileges}
    return known[path]


def _new_volumes(change: Changes) -> list[tuple[str, str]]:
    volumes = {key: new_volume(key, text) for key, text in sorted(change.put.items())}
    return [(key, volume.group(1)) for key, volume in volumes.items() if volume]


def _networks(change: Changes, before: Mapping[str, str]) -> Iterator[Need]:
    """What each network needs: the bridge that it leaves and the one that it joins; with a tag that of the bridge does.

    The zone of an SDN vnet is not known here; Proxmox VE itself refuses one that this user may not use.
    """
    for key, text in sorted(change.put.items()):
        for side in filter(None, (before.get(key), text)):
            bridge = bridge_of(key, side)
            if bridge and bridge.startswith("vmbr"):
                path = f"/sdn/zones/localnetwork/{bridge}"
                tag = parse_properties(key, side).get("tag")
                yield Need((path, f"{path}/{tag}") if tag else (path,), "SDN.Use", key)


def _privilege(key: str) -> str:
    return next((privilege for keys, privilege in PRIVILEGES if keys.fullmatch(key)), "VM.Config.Options")


def for_root_alone(change: Changes, before: Mapping[str, str], unprivileged: bool) -> list[str]:
    """The settings of a change that only root@pam may set."""
    refused = []
    for key in sorted([*change.put, *change.delete]):
        text = change.put.get(key)
        if kind_of(key) is DEVICE:
            refused.append(f"{key} ({text or before[key]})")
        elif is_mount(key) and text and bind_source(key, text):
            refused.append(f"{key} (bind mount of {bind_source(key, text)})")
        elif key == "features":
            old, new = parse_properties(key, before.get(key, "")), parse_properties(key, text or "")
            names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            if not unprivileged or names != ["nesting"]:
                refused.append(f"features ({', '.join(names)}{'' if unprivileged else ' of a privileged container'})")
        elif key == "hookscript":
            refused.append(key)
    return refused
