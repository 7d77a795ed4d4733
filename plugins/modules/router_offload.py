#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_offload
short_description: Prove that a llama.cpp router's models lie on its GPUs
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - A llama-server that finds no GPU, or too little memory on one, computes on the CPU and says so only in its log. This
    module reads there how many layers of each running model are on which device, and fails when one is not where it
    is wanted. All layers are wanted on devices, or as many as the model's option C(n-gpu-layers) says.
  - When no model runs and none was looked at since the router started, it loads the first of O(models), looks, and
    unloads it again. So it loads at most once for a start of the router, and evicts none of O(models).
extends_documentation_fragment: [homelab.llamacpp.router]
options:
  name:
    description:
      - The router's systemd unit on this host, whose journal is read.
      - Its models must log at verbosity 4 (C(Environment=LLAMA_ARG_LOG_VERBOSITY=4)). At 3, the default, they do not
        tell.
    type: str
    default: llama-router.service
  models:
    description: The models that are wanted on GPUs, the one that is loaded fastest first.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Id of the model.
        type: str
        required: true
      devices:
        description:
          - The devices that are to hold weights of it, as C(llama-server --list-devices) names them. Any by default.
        type: list
        elements: str
        default: []
  proof:
    description:
      - An empty file that says that a model was looked at since the router started. The line of
        P(homelab.llamacpp.unit_record#filter) in the unit removes C(/run/homelab-llamacpp/UNIT.*) at each start.
    type: path
    default: /run/homelab-llamacpp/llama-router.service.offloaded
  timeout:
    description: How many seconds a model may take to load, and to unload.
    type: int
    default: 300
attributes:
  check_mode:
    support: full
    description: Looks at the models that run, and loads none.
  diff_mode:
    support: none
    description: It changes nothing that stays.
notes:
  - What the journal does not hold any more, after a month say, is passed over.
seealso:
  - module: homelab.llamacpp.router_model
"""

EXAMPLES = r"""
- name: The models are on the GPUs
  homelab.llamacpp.router_offload:
    api_key_file: /etc/llama-router/api-keys
    models:
      - {name: qwen3-1.7b, devices: [CUDA0]}
      - {name: qwen3-32b, devices: [CUDA0, CUDA1]}
"""

RETURN = r"""
models:
  description: What was seen, by the model's id.
  type: dict
  returned: success
  sample:
    qwen3-1.7b: {offloaded: 29, layers: 29, weights: {CUDA0: 1050.43}, memory: {CUDA0: 1866.5, host: 182.1}}
loaded:
  description: The model that was loaded to look at it, and unloaded again; null when none was.
  type: str
  returned: success
  sample: qwen3-1.7b
proven:
  description: Whether a model was looked at since the router started.
  type: bool
  returned: success
  sample: true
"""

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
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, UnitError, runner


def main() -> None:
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, **PROOF_ARGUMENTS}, mutually_exclusive=EXCLUSIVE, supports_check_mode=True
    )
    params = module.params
    unit = Unit(runner(module.run_command), params["name"])
    try:
        client = Client.from_params(params)
        proof = OffloadProof(client, unit, params["proof"], params["timeout"], module.check_mode)
        result = proof.run(wanted_of(params))
    except (RouterError, UnitError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
