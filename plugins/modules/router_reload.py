#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_reload
short_description: Make a llama.cpp router read its presets and its models folder again
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Models whose options changed or that are gone are stopped, the others stay loaded. A model that is busy then has up
    to its C(stop-timeout) (10 seconds when not set) to finish, and its request ends with an error.
  - The models that were stopped are not loaded again. M(homelab.llamacpp.router_service) does that.
  - A preset file that the router cannot read is an error with its message, and the router goes on as it was.
  - A new alias of a model that keeps running takes effect only after an unload and another reload; this is how the
    router is made.
extends_documentation_fragment: [homelab.llamacpp.router]
options:
  timeout:
    description: How many seconds the router may take, the stopping of models included.
    type: int
    default: 60
attributes:
  check_mode:
    support: partial
    description: Nothing is sent that would reload.
    details:
      - What a reload would do only the router knows. It is reported as a change, with the models as they are.
  diff_mode:
    support: full
    description: The models with their options and status, before and after.
seealso:
  - module: homelab.llamacpp.router_service
  - module: homelab.llamacpp.router_preset
"""

EXAMPLES = r"""
- name: Take up new presets
  homelab.llamacpp.router_reload:
    api_key_file: /etc/llama-router/api-keys
  register: reload

- name: Which models did that stop?
  ansible.builtin.debug:
    var: reload.stopped
"""

RETURN = r"""
stopped:
  description: Ids of the models that ran before and do not run after.
  type: list
  elements: str
  returned: success and not check mode
  sample: [qwen3-8b]
added:
  description: Ids that the router did not know before.
  type: list
  elements: str
  returned: success and not check mode
  sample: []
removed:
  description: Ids that the router does not know any more.
  type: list
  elements: str
  returned: success and not check mode
  sample: []
modified:
  description: Ids whose options, aliases, tags or source are others than before.
  type: list
  elements: str
  returned: success and not check mode
  sample: [qwen3-8b]
loaded:
  description: Ids of the models that run now.
  type: list
  elements: str
  returned: success
  sample: [glm-4-9b]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils import _options
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    ARGUMENTS,
    EXCLUSIVE,
    Client,
    Model,
    RouterError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router, running


class RouterReload:
    def __init__(self, router: Router, timeout: float, check_mode: bool) -> None:
        self.router = router
        self.timeout = timeout
        self.check_mode = check_mode

    def run(self) -> dict[str, Any]:
        if self.check_mode:
            return {"changed": True, "loaded": running(self.router.client.models())}
        done = self.router.reload(self.timeout)
        return {
            "changed": done.changed,
            "stopped": done.stopped,
            "added": done.added,
            "removed": done.removed,
            "modified": done.modified,
            "loaded": running(done.after),
            "diff": {"before": _picture(done.before), "after": _picture(done.after)},
        }


def _picture(models: list[Model]) -> dict[str, Any]:
    return {
        model.id: {
            "status": model.status,
            "aliases": sorted(model.aliases),
            "options": _options.masked_all(model.options),
        }
        for model in models
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, "timeout": {"type": "int", "default": 60}},
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    try:
        router = Router(Client.from_params(module.params))
        module.exit_json(**RouterReload(router, module.params["timeout"], module.check_mode).run())
    except RouterError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
