#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_trial
short_description: Try another llama-server beside a running llama.cpp router
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Whether a llama-server that is to take the router's place would do what it does, tried while the router serves.
  - It runs as a transient unit with the settings of the router's unit, so that nothing differs but the binary - command
    line, environment, user, credentials, sandbox. Nothing is taken from the router's process.
  - Nothing of the router is touched, and no port is opened.
extends_documentation_fragment: [homelab.llamacpp.router]
options:
  llama_server:
    description: The llama-server to try.
    type: path
    required: true
  gate:
    description:
      - V(presets) - it reads the router's command line and its presets. Options that it does not know any more are
        named with preset and line, all at once.
      - V(answer) - it loads the smallest of the router's models, on a socket that only the router's user reaches, and
        answers from it. It takes no memory of a card, unless O(plan) has room for one more process of that model beside
        any models that the router runs.
    type: str
    choices: [presets, answer]
    required: true
  presets:
    description: The router's preset file. Leave it out for a router without one.
    type: path
  plan:
    description: The plan of the cards' memory, as the role llama_router keeps it.
    type: path
  name:
    description: The router's systemd unit.
    type: str
    default: llama-router.service
  timeout:
    description: How many seconds it may take to load the model, and to answer, each.
    type: int
    default: 120
attributes:
  check_mode:
    support: full
    description: The same, since nothing is changed.
  diff_mode:
    support: none
    description: Nothing is changed.
seealso:
  - module: homelab.llamacpp.router_handover
"""

EXAMPLES = r"""
- name: The new build reads the presets
  homelab.llamacpp.router_trial:
    llama_server: /opt/llama.cpp/releases/b11669-cuda-77ab01fe/bin/llama-server
    gate: presets
    presets: /etc/llama-router/models.ini
"""

RETURN = r"""
model:
  description: The model that it answered from.
  type: str
  returned: success and O(gate=answer)
  sample: qwen3-1.7b
on_gpu:
  description: Whether it was loaded onto the cards.
  type: bool
  returned: success and O(gate=answer)
answer:
  description: What it answered; empty for a model that answers with vectors or scores.
  type: str
  returned: success and O(gate=answer)
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    ARGUMENTS,
    EXCLUSIVE,
    Client,
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_files import by_size
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_trial import Trial, room_beside
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, UnitError, runner
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_twin import FOLDER


class RouterTrial:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        run = runner(module.run_command)
        state = Unit(run, self.params["name"]).state()
        if not state.up or not state.main_pid:
            raise RouterError(
                f"{self.params['name']} was wanted running, to try {self.params['llama_server']} with what it runs"
                f" with; it is {state.active} ({state.sub}); start it first (playbooks/site.yml)"
            )
        self.trial = Trial(run, self.params["name"], self.params["llama_server"], self.params["timeout"])

    def run(self) -> None:
        if self.params["gate"] == "presets":
            self.trial.reads(self.params["presets"])
            self.module.exit_json(changed=False)
        router = Router(Client.from_params(self.params, self.params["name"]))
        models = by_size(router.client.models())
        if not models:
            raise RouterError(
                f"a model to answer from was wanted, the router at {router.client.url} knows none whose file is there;"
                " place one first"
            )
        on_gpu = room_beside(self.plan(), router.limit, models[0].model.id)
        answer = self.trial.answers(models[0], on_gpu)
        self.module.exit_json(changed=False, model=models[0].model.id, on_gpu=on_gpu, answer=answer)

    def plan(self) -> dict[str, list[dict[str, object]]]:
        nothing: dict[str, list[dict[str, object]]] = {"devices": [], "models": []}
        if not self.params["plan"]:
            return nothing
        try:
            with open(self.params["plan"], encoding="utf-8") as file:
                return {**nothing, **json.load(file)}
        except FileNotFoundError:
            return nothing
        except (OSError, ValueError) as error:
            raise RouterError(f"plan: a plan was wanted in {self.params['plan']}: {error}; run site.yml") from None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "llama_server": {"type": "path", "required": True},
            "gate": {"type": "str", "choices": ["presets", "answer"], "required": True},
            "presets": {"type": "path"},
            "plan": {"type": "path"},
            "name": {"type": "str", "default": "llama-router.service"},
            "timeout": {"type": "int", "default": 120},
        },
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    try:
        RouterTrial(module).run()
    except (RouterError, UnitError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"the trial cannot write {error.filename or FOLDER}: {error.strerror}; run as root (become), and free"
            " space in /run"
        )


if __name__ == "__main__":
    main()
