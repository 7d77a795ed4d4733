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
extends_documentation_fragment: [homelab.llamacpp.router, homelab.llamacpp.router_unit]
options:
  state:
    description:
      - V(started) - the unit runs, with the files as they are.
      - V(restarted) - the same, and it is restarted in any case.
    type: str
    choices: [started, restarted]
    default: started
  enabled:
    description: Whether the unit starts with the machine. By default this stays as it is.
    type: bool
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

# The line of the unit that belongs to it, in its template:
#   {{ ['/etc/systemd/system/llama-router.service', '/etc/llama-router/api-keys', '/etc/llama-router/models.ini']
#      | homelab.llamacpp.unit_record }}
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
enabled:
  description: Whether O(enabled) was changed.
  type: bool
  returned: always
  sample: false
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
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_service import UNIT_ARGUMENTS, Convergence
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError, runner


class RouterService:
    def __init__(self, module: AnsibleModule) -> None:
        params = dict(module.params)
        if module.check_mode and params["api_key_file"] and not os.path.exists(params["api_key_file"]):
            params["api_key_file"] = None  # the run that is being tried out would have written it
        self.warn = module.warn
        self.restart: bool = params["state"] == "restarted"
        self.check_mode: bool = module.check_mode
        self.enabled: bool | None = params["enabled"]
        self.convergence = Convergence.from_params(params, runner(module.run_command), PortHold())

    def run(self) -> None:
        try:
            if self.enabled is not None:
                self.convergence.enable(self.enabled, self.check_mode)
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
            **UNIT_ARGUMENTS,
            "state": {"type": "str", "choices": ["started", "restarted"], "default": "started"},
            "enabled": {"type": "bool"},
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
