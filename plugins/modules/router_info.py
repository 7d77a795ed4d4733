#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_info
short_description: Read a llama.cpp router and its models
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Asks a llama-server in router mode what it is and which models it knows, with the status of each.
  - It never loads a model and never wakes a sleeping one.
extends_documentation_fragment: [homelab.llamacpp.router]
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: N/A
    description: Changes nothing.
seealso:
  - module: homelab.llamacpp.router_model
  - module: homelab.llamacpp.router_reload
"""

EXAMPLES = r"""
- name: What does the router serve?
  homelab.llamacpp.router_info:
    api_key_file: /etc/llama-router/api-keys
  register: router

- name: Each model with its status
  ansible.builtin.debug:
    msg: "{{ router.models | items2dict(key_name='id', value_name='status') }}"
"""

RETURN = r"""
role:
  description: Always V(router). Another kind of server is an error.
  type: str
  returned: success
  sample: router
build:
  description: The build as the server prints it.
  type: str
  returned: success
  sample: b11669-Debian
build_number:
  description: The number in it, V(0) when it carries none.
  type: int
  returned: success
  sample: 11669
limit:
  description: How many models run at once (C(--models-max)); V(0) is no limit. A sleeping model counts.
  type: int
  returned: success
  sample: 3
models_autoload:
  description: Whether a request for a model loads it.
  type: bool
  returned: success
models:
  description: The models it knows, in its own order.
  type: list
  elements: dict
  returned: success
  contains:
    id:
      description: The name to ask for.
      type: str
    aliases:
      description: Other names for it.
      type: list
      elements: str
    tags:
      description: Its tags.
      type: list
      elements: str
    status:
      description: V(unloaded), V(loading), V(loaded), V(sleeping), V(downloading) or V(downloaded).
      type: str
    failed:
      description: Whether its last process ended with an error. A forced unload looks the same.
      type: bool
    exit_code:
      description: The exit code of that process, null when it did not fail.
      type: int
    source:
      description: Where it comes from, V(preset), V(models_dir) or V(cache).
      type: str
    options:
      description: Its options as the router took them, long names to texts. The values of secrets are hidden.
      type: dict
    ctx_size:
      description: The context of a running model in tokens, else what its options ask for; null when neither tells.
      type: int
    modalities:
      description: What it takes as input, for instance V(text) and V(image).
      type: list
      elements: str
  sample:
    - id: qwen3-8b
      aliases: [chat]
      tags: []
      status: loaded
      failed: false
      exit_code: null
      source: preset
      options: {model: /var/lib/llama-router/models/Qwen3-8B-Q4_K_M.gguf, ctx-size: "16384"}
      ctx_size: 16384
      modalities: [text]
loaded:
  description: The ids of those that hold a slot - loading, loaded or sleeping.
  type: list
  elements: str
  returned: success
  sample: [qwen3-8b]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    ARGUMENTS,
    EXCLUSIVE,
    Client,
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_facts import facts


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, mutually_exclusive=EXCLUSIVE, supports_check_mode=True)
    try:
        module.exit_json(changed=False, **facts(Client.from_params(module.params)))
    except RouterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
