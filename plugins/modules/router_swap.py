#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_swap
short_description: Prove that a llama.cpp router stops no busy model when it loads others
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - There were builds of llama-server that killed a model in the middle of an answer when a request for another one
    needed its slot. This asks the smallest model for a long answer, then asks for as many of the next smaller ones as
    the router runs at once, and fails when the answer breaks off.
  - Afterwards the models run that ran before, and of those that it asked for no others.
  - A router with a single model has nothing to swap.
extends_documentation_fragment: [homelab.llamacpp.router]
options:
  tokens:
    description: The most tokens of the long answer. It ends before that once the others are loaded.
    type: int
    default: 2000
  load_timeout:
    description: How many seconds each load may take, and the long answer at a limit of one model.
    type: int
    default: 300
attributes:
  check_mode:
    support: full
    description: Says which models it would take, and asks none.
  diff_mode:
    support: none
    description: The router is as it was afterwards.
"""

EXAMPLES = r"""
- name: A long answer outlives the loading of other models
  homelab.llamacpp.router_swap:
    api_key_file: /etc/llama-router/api-keys
"""

RETURN = r"""
busy:
  description: The model that answered at length; empty when there is nothing to swap.
  type: str
  returned: always
  sample: qwen3-1.7b
others:
  description: The models that were asked for meanwhile.
  type: list
  elements: str
  returned: always
  sample: [qwen3-8b, gemma-3-4b]
tokens:
  description: How many tokens of the answer had come when the others were loaded.
  type: int
  returned: always
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    ARGUMENTS,
    EXCLUSIVE,
    Client,
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_swap import SwapTest


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "tokens": {"type": "int", "default": 2000, "no_log": False},
            "load_timeout": {"type": "int", "default": 300},
        },
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    try:
        test = SwapTest(Client.from_params(module.params), module.params["tokens"], module.params["load_timeout"])
        if test.choose() and not module.check_mode:
            test.run()
    except RouterError as error:
        module.fail_json(msg=str(error))
    for warning in test.warnings:
        module.warn(warning)
    module.exit_json(changed=False, **asdict(test.swap))


if __name__ == "__main__":
    main()
