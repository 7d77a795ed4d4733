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

import os
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _offload
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    ARGUMENTS,
    EXCLUSIVE,
    Client,
    Model,
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router, resolve
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, UnitError, runner

# Lines of the journal that are read: a load is some 200, an answer some 20.
LINES = 20_000


class RouterOffload:
    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.wanted = {model["name"]: model["devices"] for model in params["models"]}
        self.timeout: int = params["timeout"]
        self.proof: str = params["proof"]
        self.unit = Unit(runner(module.run_command), params["name"])
        self.client = Client.from_params(params)
        self.router = Router(self.client, why=lambda model, since: self.unit.journal(since, prefix=f"[{model.port}] "))

    def run(self) -> dict[str, Any]:
        """What the module returns; RouterError when a model is not where it is wanted."""
        running = [model.id for model in self.client.models() if model.running and model.id in self.wanted]
        found = {name: seen for name in running for seen in [self._look(name)] if seen}
        proven = bool(found) or os.path.exists(self.proof)
        loaded = None
        if self.wanted and not proven and not running and not self.module.check_mode:
            loaded = next(iter(self.wanted))
            found[loaded] = self._load_and_look(loaded)
            proven = True
        if found and not self.module.check_mode:
            self._note()
        return {"models": {name: asdict(seen) for name, seen in found.items()}, "loaded": loaded, "proven": proven}

    def _load_and_look(self, name: str) -> _offload.Offload:
        try:
            self.router.load([name], self.timeout)
            seen = self._look(name)
        finally:
            self.router.unload([name], self.timeout)
        if seen is None:
            raise RouterError(
                f"{name} was loaded, and the journal of {self.unit.name} was wanted to tell where its layers are; it"
                " does not. Let the unit set LLAMA_ARG_LOG_VERBOSITY=4, and see that journalctl shows its output"
            )
        return seen

    def _look(self, name: str) -> _offload.Offload | None:
        """Where a running model lies; None when the journal does not tell (any more)."""
        if not self.module.check_mode:
            self.router.load([name], self.timeout)  # one that is loading
        model: Model = resolve(self.client.models(), name)
        seen = _offload.read(self.unit.journal(0, prefix=f"[{model.port}] ", lines=LINES, read=LINES))
        layers = model.options.get("n-gpu-layers", "all")
        wrong = _offload.complaint(name, seen, self.wanted[name], layers) if seen else None
        if wrong:
            raise RouterError(wrong)
        return seen

    def _note(self) -> None:
        try:
            _files.replace(self.proof, b"", create_mode=0o755)
        except OSError as error:
            raise RouterError(
                f"proof: {self.proof} cannot be written: {error.strerror}; name a file in a directory of root's and run"
                " as root (become)"
            ) from None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "default": "llama-router.service"},
            "models": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "devices": {"type": "list", "elements": "str", "default": []},
                },
            },
            "proof": {"type": "path", "default": "/run/homelab-llamacpp/llama-router.service.offloaded"},
            "timeout": {"type": "int", "default": 300},
        },
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    try:
        result = RouterOffload(module).run()
    except (RouterError, UnitError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
