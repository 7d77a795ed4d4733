#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_handover
short_description: Hand a llama.cpp router over to another release of llama-server, and back
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Makes another release the current one and restarts the router with it, as M(homelab.llamacpp.router_service) does -
    no answer is broken off, and who connects meanwhile waits instead of being refused. The models that ran before run
    again. The new llama-server starts when all processes of the old one are gone, so the cards are free.
  - When the other release does not serve, the one before serves again, and the module fails with the reason.
  - A release that serves is kept only when it is confirmed. A run that is interrupted before that leaves the link
    C(<root>/fallback), and the next one goes back by it.
extends_documentation_fragment: [homelab.llamacpp.router, homelab.llamacpp.router_unit]
options:
  state:
    description:
      - V(switched) - the router serves with O(release), which is not confirmed yet.
      - V(confirmed) - what serves is kept, and the link C(<root>/previous) leads to the release before.
      - V(reverted) - a release that is not confirmed does not serve any more. Without such a one nothing is done.
    type: str
    choices: [switched, confirmed, reverted]
    default: switched
  release:
    description: Name of a release in C(<root>/releases). Required with O(state=switched).
    type: str
  root:
    description: Folder of the releases and of the links, see M(homelab.llamacpp.llama_cpp_release).
    type: path
    default: /opt/llama.cpp
attributes:
  check_mode:
    support: full
    description: Says whether the router would be handed over, and does not look whether the release serves.
  diff_mode:
    support: full
    description: The current release before and after.
seealso:
  - module: homelab.llamacpp.llama_cpp_release
  - module: homelab.llamacpp.router_service
  - module: homelab.llamacpp.router_trial
"""

EXAMPLES = r"""
- name: Serve with the new release
  homelab.llamacpp.router_handover:
    release: b11434-cuda-1c9d2a07
    presets: /etc/llama-router/models.ini
    models_dir: /var/lib/llama-router/models
    watch:
      - /etc/systemd/system/llama-router.service
      - /etc/llama-router/api-keys
      - /opt/llama.cpp/current/stamp.json
    api_key_file: /etc/llama-router/api-keys

- name: It does what it should
  homelab.llamacpp.router_handover:
    state: confirmed
"""

RETURN = r"""
before:
  description: Name of the release that was current.
  type: str
  returned: always
  sample: b11434-cuda-1c9d2a07
after:
  description: Name of the release that is current.
  type: str
  returned: always
  sample: b11669-cuda-77ab01fe
stopped:
  description: Ids of the models that ran before and that the restart stopped.
  type: list
  elements: str
  returned: always
loaded:
  description: Ids of the models that ran before and run again.
  type: list
  elements: str
  returned: always
paused_seconds:
  description: For how long new requests waited.
  type: float
  returned: always
  sample: 0.42
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import ReleaseError, Releases, alone
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import ARGUMENTS, EXCLUSIVE, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_handover import Handover
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_service import UNIT_ARGUMENTS, Convergence
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError, runner


class RouterHandover:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        run = runner(module.run_command)
        self.releases = Releases(run, self.params["root"])
        self.handover = Handover(run, self.releases, lambda hold: Convergence.from_params(module.params, run, hold))
        self.changed = False
        self.before = self.current()

    def run(self) -> None:
        state, release = self.params["state"], self.params["release"]
        if self.module.check_mode:
            fallback = self.handover.fallback()
            self.changed = release != self.before if state == "switched" else fallback is not None
        elif state == "switched":
            self.changed = self.handover.switch(release)
        elif state == "confirmed":
            self.changed = self.handover.confirm()
        else:
            self.changed = self.handover.revert()

    def current(self) -> str | None:
        current = self.releases.current()
        return current.name if current else None

    def result(self) -> dict[str, Any]:
        for warning in dict.fromkeys(self.handover.warnings):
            self.module.warn(warning)
        after = self.current()
        if self.module.check_mode and self.changed and self.params["state"] != "confirmed":
            fallback = self.handover.fallback()
            after = self.params["release"] or (fallback.name if fallback else None)
        outcome = self.handover.outcome
        return {
            "changed": self.changed,
            "before": self.before,
            "after": after,
            "stopped": outcome.stopped if outcome else [],
            "loaded": outcome.loaded if outcome else [],
            "paused_seconds": round(self.handover.paused, 3),
            "diff": {"before": {"current": self.before}, "after": {"current": after}},
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            **UNIT_ARGUMENTS,
            "state": {"type": "str", "choices": ["switched", "confirmed", "reverted"], "default": "switched"},
            "release": {"type": "str"},
            "root": {"type": "path", "default": "/opt/llama.cpp"},
        },
        required_if=[("state", "switched", ["release"])],
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    try:
        with alone(module.params["root"]):
            handover = RouterHandover(module)
            try:
                handover.run()
            except (ReleaseError, RouterError, UnitError) as error:
                module.fail_json(msg=str(error), **handover.result())
            except OSError as error:
                path = error.filename2 or error.filename
                module.fail_json(
                    msg=f"{path} was wanted written, {error.strerror}; mend that, then run again", **handover.result()
                )
            result = handover.result()
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
