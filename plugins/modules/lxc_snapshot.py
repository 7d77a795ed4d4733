#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_snapshot
short_description: Snapshots of an LXC container of a Proxmox VE node
version_added: 0.1.0
author:
  - The homelab.llamacpp authors (@homelab-llamacpp)
description:
  - Makes a snapshot of a container, deletes one, or takes the container back to one; keeps the number of snapshots
    in bounds; lists them.
  - A snapshot holds every volume of the container and its configuration. A container with a bind mount cannot have
    snapshots, nor one with a volume on a storage that makes none; this is told before anything changes.
extends_documentation_fragment:
  - homelab.llamacpp.proxmox
attributes:
  check_mode:
    support: full
    description: Says what a run would do, and changes nothing. Only the reading calls are made.
  diff_mode:
    support: full
    description: The names of the snapshots, before and after.
options:
  vmid:
    description: Number of the container.
    type: int
    required: true
  name:
    description:
      - Name of the snapshot, a letter and then letters, digits, C(_) and C(-), 40 at most.
      - Required with O(state=absent) and O(state=rolled_back). Without it, the snapshots are only listed.
    type: str
  state:
    description:
      - V(present) makes the snapshot where there is none of that name. One that exists is not made anew.
      - V(absent) deletes it. The others stay.
      - V(rolled_back) makes the container what it was at the snapshot, in any case. What came after is lost. A running
        container is stopped for it, and started again.
      - Going back to a snapshot that was made while the container ran takes a minute or two for each volume with ext4,
        since ext4 waits before it is mounted again (multi-mount protection). O(timeout) is exceeded by up to 20 minutes
        for it. Snapshots of stopped containers, and other file systems, take seconds.
    type: str
    choices: [present, absent, rolled_back]
    default: present
  description:
    description: Description of a new snapshot.
    type: str
  prefix:
    description: Beginning of the names that O(keep) counts.
    type: str
  keep:
    description:
      - With O(state=present), how many snapshots whose names begin with O(prefix) may be left. After the new one is
        made, the oldest beyond that number are deleted, never the one that O(name) names.
    type: int
  if_unsupported:
    description:
      - Whether a container that cannot have snapshots is an error, or is passed over with the reason in
        RV(skipped_reason).
    type: str
    choices: [fail, skip]
    default: fail
seealso:
  - module: homelab.llamacpp.lxc
"""

EXAMPLES = r"""
- name: Before an update, keeping the last three
  homelab.llamacpp.lxc_snapshot:
    vmid: 110
    name: update-20261122
    description: before the update to b9999
    prefix: update-
    keep: 3
    if_unsupported: skip
  delegate_to: pve
  register: snapshot

- name: Back to it
  homelab.llamacpp.lxc_snapshot:
    vmid: 110
    name: update-20261122
    state: rolled_back
  delegate_to: pve

- name: Which are there
  homelab.llamacpp.lxc_snapshot:
    vmid: 110
  delegate_to: pve
  register: found
"""

RETURN = r"""
snapshots:
  description: The container's snapshots after the run, oldest first; in check mode, as they would be.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the snapshot.
      type: str
    snaptime:
      description: When it was made, in seconds since 1970; null in check mode for one that is still to be made.
      type: int
    description:
      description: Its description.
      type: str
    parent:
      description: Name of the snapshot before it, null for the first.
      type: str
  sample:
    - {name: update-20261122, snaptime: 1795338000, description: before the update to b9999, parent: null}
removed:
  description: Names of the snapshots that were deleted; in check mode, of those that would be.
  returned: success
  type: list
  elements: str
  sample: [update-20260801]
skipped_reason:
  description: Why there is no snapshot.
  returned: when the container cannot have one and O(if_unsupported=skip)
  type: str
  sample: "container 110 (llm) on node pve cannot have snapshots: mp0 is a bind mount of /srv/models"
node:
  description: Node that the container is on.
  returned: success
  type: str
  sample: pve
calls:
  description: The API calls that were made, without their parameters.
  returned: success
  type: list
  elements: str
  sample: [GET nodes/pve/lxc/110/snapshot]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_snapshots import LxcSnapshot
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import ARGUMENT_SPEC, connect
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import ProxmoxError


def main() -> None:
    """Read the options, run, answer."""
    spec: dict[str, dict[str, Any]] = {
        **ARGUMENT_SPEC,
        "vmid": {"type": "int", "required": True},
        "name": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent", "rolled_back"], "default": "present"},
        "description": {"type": "str"},
        "prefix": {"type": "str"},
        "keep": {"type": "int"},
        "if_unsupported": {"type": "str", "choices": ["fail", "skip"], "default": "fail"},
    }
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[("state", "absent", ["name"]), ("state", "rolled_back", ["name"])],
        required_by={"keep": ["prefix", "name"], "prefix": ["keep"]},
    )
    try:
        api, node = connect(module.params, module.run_command, module.get_bin_path("pvesh"))
    except ProxmoxError as error:
        module.fail_json(msg=str(error))
    snapshot = LxcSnapshot(module.params, module.check_mode, api, node)
    try:
        result = snapshot.run()
    except ProxmoxError as error:
        module.fail_json(msg=str(error), changed=snapshot.changed and not module.check_mode, calls=api.calls)
    for warning in api.warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
