#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_info
short_description: Report whether an LXC container of a Proxmox VE node exists and runs
version_added: 0.1.0
author:
  - The homelab.llamacpp authors (@homelab-llamacpp)
description:
  - Reports whether a container exists on a node, whether it runs, and its configuration. A container that does not
    exist is no error.
  - On the node itself it reads files and makes no call of C(pvesh).
extends_documentation_fragment:
  - homelab.llamacpp.proxmox
attributes:
  check_mode:
    support: full
    description: Changes nothing.
options:
  vmid:
    description: Number of the container.
    type: int
    required: true
seealso:
  - module: homelab.llamacpp.lxc
"""

EXAMPLES = r"""
- name: Check whether the container exists
  homelab.llamacpp.lxc_info:
    vmid: 110
  delegate_to: pve
  register: container

- name: Report a container that does not run
  ansible.builtin.debug:
    msg: Container 110 is {{ container.status }}
  when: container.status != 'running'
"""

RETURN = r"""
vmid:
  description: Number of the container.
  returned: success
  type: int
  sample: 110
node:
  description: Node that was asked.
  returned: success
  type: str
  sample: pve
status:
  description: V(running), V(stopped), or V(absent) where the node has no such container.
  returned: success
  type: str
  sample: running
elsewhere:
  description: Node of the cluster that has the container, where the node asked does not.
  returned: when another node has it
  type: str
  sample: pve2
config:
  description: The container's configuration, changes that wait for a restart included. Empty when it is absent.
  returned: success
  type: dict
  sample: {hostname: llm, memory: '16384'}
pending:
  description: The keys of the changes that wait for a restart.
  returned: success
  type: list
  elements: str
  sample: []
calls:
  description: The API calls that were made, without their parameters.
  returned: success
  type: list
  elements: str
  sample: []
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_guards import guests
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_run import LxcRun
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import ARGUMENT_SPEC, connect
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import ProxmoxError


def report(run: LxcRun) -> dict[str, Any]:
    """The returned values. Raises ProxmoxError."""
    found = run.find()
    answer: dict[str, Any] = {
        "vmid": run.vmid,
        "node": run.node,
        "status": run.status() if found else "absent",
        "config": found.config if found else {},
        "pending": found.waiting if found else [],
    }
    if not found:
        others = [node for _name, node, kind in guests(run.api, run.vmid) if kind == "lxc" and node != run.node]
        if others:
            answer["elsewhere"] = others[0]
    return {**answer, "calls": run.api.calls}


def main() -> None:
    """Read the options, look, answer."""
    spec: dict[str, dict[str, Any]] = {**ARGUMENT_SPEC, "vmid": {"type": "int", "required": True}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        api, node = connect(module.params, module.run_command, module.get_bin_path("pvesh"))
        module.exit_json(changed=False, **report(LxcRun(module.params, module.check_mode, api, node)))
    except ProxmoxError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
