#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_verify
short_description: "[INTERNAL] Verify that a llama.cpp router does what the inventory says"
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - A step of the role P(homelab.llamacpp.llama_router#role). It fails unless the router refuses requests without a key,
    serves exactly the listed models at the planned limit, and has the layers of its models on the planned devices.
  - The devices are checked as M(homelab.llamacpp.router_offload) does it. This can load one model once per start of
    the router.
extends_documentation_fragment: [homelab.llamacpp.router]
options:
  names:
    description: The models, each with its aliases as V(ID = ALIAS = ALIAS).
    type: list
    elements: str
    required: true
  limit:
    description: How many models run at once.
    type: int
    required: true
  name:
    description: The router's systemd unit on this host.
    type: str
    default: llama-router.service
  models:
    description: The models on devices, as O(homelab.llamacpp.router_offload#module:models). None where none is used.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Id of the model.
        type: str
        required: true
      devices:
        description: The devices that hold weights of it.
        type: list
        elements: str
        default: []
  proof:
    description: As O(homelab.llamacpp.router_offload#module:proof).
    type: path
    default: /run/homelab-llamacpp/llama-router.service.offloaded
  timeout:
    description: How many seconds a model may take to load, and to unload.
    type: int
    default: 300
attributes:
  check_mode:
    support: full
    description: Loads no model.
  diff_mode:
    support: none
    description: Changes nothing that stays.
seealso:
  - module: homelab.llamacpp.router_info
  - module: homelab.llamacpp.router_offload
"""

EXAMPLES = r"""
- name: Verify the router
  homelab.llamacpp.router_verify:
    api_key_file: /etc/llama-router/api-keys
    names: [qwen3-8b = chat]
    limit: 1
    models:
      - {name: qwen3-8b, devices: [CUDA0]}
"""

RETURN = r"""
offload:
  description: What M(homelab.llamacpp.router_offload) returns; empty without O(models).
  type: dict
  returned: success
  sample: {models: {}, loaded: null, proven: true}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._offload_proof import (
    PROOF_ARGUMENTS,
    OffloadProof,
    wanted_of,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    ARGUMENTS,
    EXCLUSIVE,
    Client,
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_facts import check_keyless, check_served
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, UnitError, runner


def verify(module: AnsibleModule) -> dict[str, Any]:
    """What the module returns; RouterError for the first thing that is not as the inventory says."""
    params = module.params
    client = Client.from_params(params, params["name"])
    check_keyless(Client.from_params({**params, "api_key": None, "api_key_file": None}, params["name"]))
    check_served(client, params["names"], params["limit"])
    if not params["models"]:
        return {"offload": {}}
    unit = Unit(runner(module.run_command), params["name"])
    proof = OffloadProof(client, unit, params["proof"], params["timeout"], module.check_mode)
    return {"offload": proof.run(wanted_of(params))}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            **PROOF_ARGUMENTS,
            "names": {"type": "list", "elements": "str", "required": True},
            "limit": {"type": "int", "required": True},
        },
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **verify(module))
    except (RouterError, UnitError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
