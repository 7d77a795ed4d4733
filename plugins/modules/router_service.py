#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_service
short_description: Bring a running llama.cpp router in line with the files on disk
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Starts the router's systemd unit, restarts it, lets it reload its presets, or leaves it alone, whichever the files
    on disk ask for, and loads again the models that this stopped.
  - It compares files with a record that the unit writes itself at each start, so it needs no handler, and a play
    that was interrupted at any point is completed by the next run.
  - A restart breaks off no answer and refuses no request, as long as the router shares its port
    (E(LLAMA_ARG_REUSE_PORT)), see O(quiet_timeout). Who connects meanwhile waits until the router is up again.
  - Enabling the unit is left to M(ansible.builtin.systemd_service).
extends_documentation_fragment: [homelab.llamacpp.router]
options:
  name:
    description: The router's systemd unit.
    type: str
    default: llama-router.service
  state:
    description:
      - V(started) - the unit runs, with the files as they are.
      - V(restarted) - the same, and it is restarted in any case.
    type: str
    choices: [started, restarted]
    default: started
  presets:
    description:
      - The router's preset file. A change of it alone is taken up by a reload, which stops only the models that it
        concerns.
      - Leave it out for a router without one.
    type: path
  models_dir:
    description:
      - The router's models folder. When other models lie in it than the router serves from it, it is made to reload.
      - Leave it out for a router without one.
    type: path
  watch:
    description:
      - Files whose change needs a restart, for instance the unit file, the key file and a stamp of the release.
      - A drop-in of the unit that systemd has not read yet needs one too, without being named here.
    type: list
    elements: path
    default: []
  applied:
    description:
      - The record of what the running router started with, in the format of C(sha256sum).
      - The unit has to write it with an C(ExecStartPre=), a line each for O(presets) and every file of O(watch) that
        exists, with the very same paths, in a C(RuntimeDirectory=) of its own so that it goes when the service stops.
    type: path
    default: /run/llama-router/applied
  pending:
    description: Where the names of models that are to be loaded again are kept while that is not done.
    type: path
    default: /var/lib/llama-router/pending.json
  timeout:
    description: How many seconds the router may take to come up, or to reload.
    type: int
    default: 60
  load_timeout:
    description: How many seconds each model may take that is loaded again.
    type: int
    default: 300
  quiet_timeout:
    description:
      - Before a restart, how many seconds to wait for a moment in which no answer is under way. The router serves
        meanwhile. A router that is told to stop breaks off what it is answering.
    type: int
    default: 300
  finish_timeout:
    description:
      - When no such moment came, how many seconds the answers that are under way may take to finish. New requests wait
        meanwhile. What is not finished then is broken off, with a warning.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
    description:
      - Says which action would be taken, and what a restart would stop. What a reload would stop only the router knows.
      - A unit that is not installed yet counts as one to start.
  diff_mode:
    support: none
    description: It changes no file of the router.
notes:
  - A model with C(load-on-startup) keeps its slot when the router starts. Of the others that ran before, those that
    do not fit within the limit any more are named in a warning.
  - A new alias is applied only to a model that does not run, so such a model is unloaded and loaded again.
seealso:
  - module: homelab.llamacpp.router_reload
  - module: homelab.llamacpp.router_model
"""

EXAMPLES = r"""
- name: The router runs with the files as they are
  homelab.llamacpp.router_service:
    presets: /etc/llama-router/models.ini
    models_dir: /var/lib/llama-router/models
    watch:
      - /etc/systemd/system/llama-router.service
      - /etc/llama-router/api-keys
    api_key_file: /etc/llama-router/api-keys

# The lines of the unit that belong to it:
#   RuntimeDirectory=llama-router
#   ExecStartPre=/bin/sh -c 'sha256sum /etc/llama-router/models.ini … > /run/llama-router/applied'
"""

RETURN = r"""
action:
  description: What was done, or in check mode would be - V(none), V(start), V(reload) or V(restart).
  type: str
  returned: always
  sample: reload
changed_files:
  description: The files that asked for it. The record itself when it was missing, the folder when models differ.
  type: list
  elements: str
  returned: always
  sample: [/etc/llama-router/models.ini]
stopped:
  description: Ids of the models that ran before and that this stopped.
  type: list
  elements: str
  returned: always
  sample: [qwen3-8b]
loaded:
  description: Ids of the models that ran before and run again, also those that an interrupted run had left.
  type: list
  elements: str
  returned: always
  sample: [qwen3-8b]
"""

import os
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import PortHold
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    ARGUMENTS,
    EXCLUSIVE,
    Client,
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_service import Convergence, Wanted
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, UnitError, runner


class RouterService:
    def __init__(self, module: AnsibleModule) -> None:
        params = dict(module.params)
        if module.check_mode and params["api_key_file"] and not os.path.exists(params["api_key_file"]):
            params["api_key_file"] = None  # the run that is being tried out would have written it
        self.warn = module.warn
        self.restart: bool = params["state"] == "restarted"
        self.check_mode: bool = module.check_mode
        self.convergence = Convergence(
            Unit(runner(module.run_command), params["name"]),
            Client.from_params(params),
            Wanted(**{name: params[name] for name in Wanted.__dataclass_fields__}),
            PortHold(),
        )

    def run(self) -> None:
        try:
            self.convergence.run(self.restart, self.check_mode)
        finally:
            self.convergence.hold.give()

    def result(self) -> dict[str, Any]:
        result = asdict(self.convergence.outcome)
        for warning in result.pop("warnings"):
            self.warn(warning)
        return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "default": "llama-router.service"},
            "state": {"type": "str", "choices": ["started", "restarted"], "default": "started"},
            "presets": {"type": "path"},
            "models_dir": {"type": "path"},
            "watch": {"type": "list", "elements": "path", "default": []},
            "applied": {"type": "path", "default": "/run/llama-router/applied"},
            "pending": {"type": "path", "default": "/var/lib/llama-router/pending.json"},
            "timeout": {"type": "int", "default": 60},
            "load_timeout": {"type": "int", "default": 300},
            "quiet_timeout": {"type": "int", "default": 300},
            "finish_timeout": {"type": "int", "default": 60},
        },
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    try:
        service = RouterService(module)
    except RouterError as error:
        module.fail_json(msg=str(error))
    try:
        service.run()
    except (RouterError, UnitError) as error:
        module.fail_json(msg=str(error), **service.result())
    module.exit_json(**service.result())


if __name__ == "__main__":
    main()
