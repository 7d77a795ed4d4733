#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_model
short_description: Load and unload the models of a llama.cpp router
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Brings models of a llama-server in router mode into memory, or takes them out, and waits until that is true.
  - At the router's limit a load evicts the idle model that was used the longest ago; which ones is reported.
  - A load that fails is an error that says why, with the last lines of its process when the journal can be read.
extends_documentation_fragment: [homelab.llamacpp.router]
options:
  name:
    description:
      - Ids or aliases of the models. They are loaded in this order, so the last one is the last to be evicted.
      - More names to load than the router's limit is an error, before anything is loaded.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(loaded) - the model runs. A sleeping model counts as loaded - it holds its slot and wakes with a request.
      - V(unloaded) - its process has ended.
    type: str
    choices: [loaded, unloaded]
    default: loaded
  wait:
    description: Whether to wait until it is so. Without it a load that fails later is not noticed.
    type: bool
    default: true
  timeout:
    description: How many seconds all models together may take. A free slot is waited for just as long.
    type: int
    default: 300
  unit:
    description: The router's systemd unit on this host. Its journal is read when a load has failed.
    type: str
    default: llama-router.service
attributes:
  check_mode:
    support: full
    description: Says what would be loaded or unloaded. Which model would be evicted only the router knows.
  diff_mode:
    support: full
    description: The status of the models that change, before and after.
seealso:
  - module: homelab.llamacpp.router_info
  - module: homelab.llamacpp.router_reload
"""

EXAMPLES = r"""
- name: Have the chat model ready
  homelab.llamacpp.router_model:
    name: qwen3-8b
    state: loaded
    api_key_file: /etc/llama-router/api-keys

- name: Make room on the GPUs
  homelab.llamacpp.router_model:
    name: [qwen3-8b, glm-4-9b]
    state: unloaded
    api_key_file: /etc/llama-router/api-keys
"""

RETURN = r"""
evicted:
  description: Ids of other models that ran before a load and do not run after it.
  type: list
  elements: str
  returned: success and O(state=loaded), empty in check mode
  sample: [glm-4-9b]
loaded:
  description: Ids of the models that run now.
  type: list
  elements: str
  returned: success
  sample: [qwen3-8b]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    ARGUMENTS,
    EXCLUSIVE,
    Client,
    Model,
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router, resolve_all, running
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, runner


class RouterModel:
    def __init__(self, router: Router, params: dict[str, Any], check_mode: bool) -> None:
        self.router = router
        self.names: list[str] = params["name"]
        self.load = params["state"] == "loaded"
        self.wait: bool = params["wait"]
        self.timeout: float = params["timeout"]
        self.check_mode = check_mode

    def run(self) -> dict[str, Any]:
        before = self.router.client.models()
        ids = resolve_all(before, self.names)
        if self.check_mode:
            if self.load:
                self.router.check_limit(ids)
            wanted = "loaded" if self.load else "unloaded"
            after = {m.id: m.status if m.id not in ids or m.running == self.load else wanted for m in before}
            loaded = [m.id for m in before if (self.load if m.id in ids else m.running)]
        else:
            act = self.router.load if self.load else self.router.unload
            act(self.names, self.timeout, self.wait)
            now = self.router.client.models()
            after, loaded = _statuses(now), running(now)
        result: dict[str, Any] = {"loaded": loaded}
        then = _statuses(before)
        evicted = [name for name in running(before) if name not in ids and name not in loaded]
        if self.load:
            result["evicted"] = evicted
        shown = [name for name in then if (name in ids or name in evicted) and after.get(name) != then[name]]
        result["diff"] = {
            "before": {name: then[name] for name in shown},
            "after": {name: after.get(name) for name in shown},
        }
        result["changed"] = bool(shown) if self.check_mode else self.router.acted
        return result


def _statuses(models: list[Model]) -> dict[str, str]:
    return {model.id: model.status for model in models}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["loaded", "unloaded"], "default": "loaded"},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 300},
            "unit": {"type": "str", "default": "llama-router.service"},
        },
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    unit = Unit(runner(module.run_command), module.params["unit"])
    try:
        router = Router(
            Client.from_params(module.params),
            why=lambda model, since: unit.journal(since, prefix=f"[{model.port}] "),
        )
    except RouterError as error:
        module.fail_json(msg=str(error))
    try:
        module.exit_json(**RouterModel(router, module.params, module.check_mode).run())
    except RouterError as error:
        module.fail_json(msg=str(error), changed=router.acted)


if __name__ == "__main__":
    main()
