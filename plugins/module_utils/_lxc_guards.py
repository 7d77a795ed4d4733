# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What speaks against a change of a container. Everything here only reads, before the first change is made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import (
    Changes,
    ConfigError,
    Found,
    bridge_of,
    is_mount,
    new_volume,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import ProxmoxError


def half_made(api: Proxmox, node: str, vmid: int, found: Found) -> None:
    """A container that is being created cannot be used, and one whose creation broke off never will be."""
    if found.lock != "create":
        return
    tasks = api.call("GET", f"nodes/{node}/tasks", vmid=vmid, source="active") or []
    if any(task.get("type") in ("vzcreate", "vzrestore") and not task.get("endtime") for task in tasks):
        raise ProxmoxError(f"container {vmid} on node {node} is being created right now: wait, run again")
    raise ProxmoxError(
        f"container {vmid} on node {node} is half made (lock: create): its creation was interrupted. On the node: "
        f"`pct unlock {vmid} && pct destroy {vmid}`, then run again"
    )


def number_taken(api: Proxmox, node: str, vmid: int) -> None:
    """The number may belong to a virtual machine, or to a container of another node."""
    found = guests(api, vmid)
    for name, place, kind in found:
        if kind == "qemu":
            raise ProxmoxError(
                f"wanted container {vmid}, found a virtual machine with that number, {name}on node {place}: take "
                "another vmid"
            )
    _on_this_node(node, vmid, found)


def elsewhere(api: Proxmox, node: str, vmid: int) -> None:
    """A container that is not on the node may have been made on another one, or have migrated there."""
    _on_this_node(node, vmid, guests(api, vmid))


def _on_this_node(node: str, vmid: int, guests: Iterable[tuple[str, str, str]]) -> None:
    for name, place, kind in guests:
        if kind == "lxc" and place != node:
            raise ProxmoxError(
                f"wanted container {vmid} on node {node}, found {name}on node {place}: it was made there or has "
                f"migrated. Set node: {place} (proxmox_lxc_node in the roles), or migrate it back"
            )


def guests(api: Proxmox, vmid: int) -> list[tuple[str, str, str]]:
    """(name and a blank where it is known, node, lxc or qemu) of the guests of the cluster with that number."""
    if api.files:
        return [("", *place) for place in api.files.places(vmid)]
    return [
        (f"{guest.get('name', 'no name')} ", str(guest.get("node")), str(guest.get("type")))
        for guest in api.call("GET", "cluster/resources", type="vm") or []
        if int(guest.get("vmid", 0)) == vmid
    ]


def missing_bridges(api: Proxmox, node: str, config: Mapping[str, str]) -> None:
    """Every network of these keys must join a bridge or an SDN vnet that the node has.

    Proxmox VE creates a container with a bridge that does not exist, and writes one into the configuration of a stopped
    container before it refuses it. Only the start fails.
    """
    wanted = {key: bridge for key, text in sorted(config.items()) if (bridge := bridge_of(key, text))}
    if not wanted:
        return
    if api.files:
        there = api.files.bridges()
    else:
        there = [str(entry["iface"]) for entry in api.call("GET", f"nodes/{node}/network", type="any_bridge") or []]
    lacking = [f"{bridge} ({key})" for key, bridge in wanted.items() if bridge not in there]
    if lacking:
        raise ConfigError(
            f"net: wanted the bridges {', '.join(lacking)}, node {node} has {', '.join(sorted(there)) or 'none'}"
            f"{'' if api.files else ' that this user may see'}. Fix bridge, or create it on the node: in "
            "/etc/network/interfaces, or as an SDN vnet that is applied"
        )


def protected_volumes(change: Changes, found: Found) -> None:
    """Proxmox changes no mount point of a protected container, not even together with taking the protection away."""
    keys = sorted(key for key in [*change.put, *change.delete] if is_mount(key))
    if keys and found.running.get("protection", "0") != "0":
        raise ProxmoxError(
            f"{', '.join(keys)}: the container is protected, so Proxmox VE changes none of its mount points. Set "
            "protection: false in a run before this one"
        )


def missing_devices(api: Proxmox, node: str, paths: Iterable[str]) -> str | None:
    """Every device must be a device node of the Proxmox node; where that cannot be seen, a sentence that says so."""
    paths = list(paths)
    if not paths:
        return None
    if not api.here:
        return (
            f"devices: from here it cannot be seen whether node {node} has {', '.join(paths)}; with one missing, "
            "Proxmox VE refuses the change, and the container does not start"
        )
    found = {path: _what_is(path) for path in paths}
    wrong = [f"{path} ({what})" for path, what in found.items() if what]
    if wrong:
        raise ConfigError(
            f"devices: wanted device nodes of {node}, found {', '.join(wrong)}. Is the driver loaded, and what makes "
            "its nodes (for NVIDIA: `nvidia-modprobe -u -c 0`)? Or take them out of devices"
        )
    return None


def _what_is(path: str) -> str | None:
    """What stands in the way of passing a path through, None for a device node."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "missing" if isinstance(error, FileNotFoundError) else (error.strerror or "unreadable")
    if stat.S_ISDIR(mode):
        return "a folder: name the nodes in it"
    return None if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "no device"


def storages_fit(api: Proxmox, node: str, wanted: Iterable[tuple[str, str, str]]) -> None:
    """Each (option, storage, content) names an active storage for that content; without any, nothing is asked."""
    wanted = list(wanted)
    if not wanted:
        return
    there = {str(entry["storage"]): entry for entry in api.call("GET", f"nodes/{node}/storage") or []}
    for option, storage, content in wanted:
        fit = ", ".join(sorted(name for name, entry in there.items() if content in _contents(entry))) or "none"
        entry = there.get(storage)
        if entry is None:
            raise ConfigError(
                f"{option}: storage '{storage}' does not exist on node {node}, or this user may not see it. For "
                f"{content} there: {fit}"
            )
        if content not in _contents(entry):
            raise ConfigError(
                f"{option}: wanted a storage for {content}, found {storage} with {entry.get('content') or 'nothing'}. "
                f"For {content} there: {fit}"
            )
        if not entry.get("active", 1):
            raise ConfigError(f"{option}: storage '{storage}' is not online: `pvesm status` on the node tells more")


def _contents(entry: Mapping[str, object]) -> list[str]:
    return str(entry.get("content", "")).split(",")


def new_volumes(settings: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """What storages_fit wants of the volumes that are still to be made."""
    volumes = {key: new_volume(key, text) for key, text in sorted(settings.items())}
    return [(key, volume.group(1), "rootdir") for key, volume in volumes.items() if volume]
