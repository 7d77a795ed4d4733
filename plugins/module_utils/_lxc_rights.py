# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What somebody who is not root@pam may not do to a container, all of it told before the first change.

Proxmox VE refuses these too, but one at a time, and the start of a container only after it was changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import (
    DEVICE,
    Changes,
    bind_source,
    is_mount,
    kind_of,
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


def check_rights(
    api: Proxmox, vmid: int, change: Changes, before: Mapping[str, str], unprivileged: bool, steps: Iterable[str]
) -> None:
    """Raise AccessError with everything that this user or token may not do of a change and the steps around it.

    unprivileged: whether the container is; steps: out of STEPS. root@pam may do anything, and is not asked.
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
    needed: dict[str, list[str]] = {}
    for key in sorted([*change.put, *change.delete]):
        needed.setdefault(_privilege(key), []).append(key)
    for step in steps:
        needed.setdefault(STEPS[step], []).append(step)
    if not needed:
        return
    answer = api.call("GET", "access/permissions", path=f"/vms/{vmid}") or {}
    held = {privilege for privileges in answer.values() for privilege in privileges}
    lacking = [
        f"{privilege} ({', '.join(what)})" for privilege, what in sorted(needed.items()) if privilege not in held
    ]
    if lacking:
        raise AccessError(
            f"wanted the privileges {', '.join(lacking)} on /vms/{vmid}, which this user or token lacks: `pveum acl "
            f"modify /vms/{vmid} --roles PVEVMAdmin` with --users or --tokens on the node gives them"
        )


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
