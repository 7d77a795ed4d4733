#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_adoption_info
short_description: Read a llama-server that was set up by hand into the variables of an inventory
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Finds the unit that runs a llama-server in router mode, reads its command line, presets, models folder and keys, and
    says which variables of this collection's roles reproduce it.
  - The command line wins over presets, and presets win over the environment, as in llama-server. What had no effect,
    and what a llama-server of today refuses, is left out and told.
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: N/A
    description: Changes nothing.
options:
  unit:
    description: The unit, such as V(llama-server.service). By default the only one that runs a router.
    type: str
  own:
    description: The unit of this collection's own router, which is none to adopt.
    type: str
    default: llama-router.service
  target:
    description: The models directory to come, from which it follows whether files can be linked there.
    type: path
    default: /var/lib/llama-router/models
  keys:
    description: Whether to return the keys. Such a task should have C(no_log).
    type: bool
    default: false
notes:
  - Without O(keys) no key is in what it returns.
seealso:
  - module: homelab.llamacpp.gguf_collection_info
"""

EXAMPLES = r"""
- name: What has somebody set up here?
  homelab.llamacpp.llama_adoption_info:
  register: found

- name: As an inventory
  ansible.builtin.debug:
    msg: "{{ found.inventory | homelab.llamacpp.to_inventory(found.inventory.keys()) }}"
"""

RETURN = r"""
unit:
  description: The unit, null where there is none.
  type: str
  returned: success
  sample: llama-server.service
active:
  description: Whether it runs.
  type: bool
  returned: when there is a unit
enabled:
  description: Whether it starts with the machine.
  type: bool
  returned: when there is a unit
program:
  description: Its llama-server.
  type: str
  returned: when there is a unit
url:
  description: Where it answers, as seen on this machine.
  type: str
  returned: when there is a unit
inventory:
  description:
    - Variables of the roles, C(llamacpp_models) among them. The keys are not in it.
    - Its strings come from the guest. P(homelab.llamacpp.to_inventory#filter) writes them, so that Ansible takes none
      of them for a template.
  type: dict
  returned: when there is a unit
api_keys:
  description: The keys, with O(keys) only.
  type: list
  elements: str
  returned: when there is a unit
key_count:
  description: How many there are that the role takes.
  type: int
  returned: when there is a unit
served:
  description: What it answers to now, each id with its aliases; null where it does not answer.
  type: dict
  returned: when there is a unit
  sample: {qwen3-8b: [chat]}
corrected:
  description: What the inventory says otherwise, and why.
  type: list
  elements: str
  returned: when there is a unit
left:
  description: What cannot be carried over.
  type: list
  elements: str
  returned: success
"""

import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._adoption import Adoption
from ansible_collections.homelab.llamacpp.plugins.module_utils._hand_made import Server, servers
from ansible_collections.homelab.llamacpp.plugins.module_utils._peer import Recipients
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import PresetError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, UnitError, runner

ARGUMENTS: dict[str, Any] = {
    "unit": {"type": "str"},
    "own": {"type": "str", "default": "llama-router.service"},
    "target": {"type": "path", "default": "/var/lib/llama-router/models"},
    "keys": {"type": "bool", "default": False, "no_log": False},
}
# Without --port: of builds before the autumn of 2026, and since.
DEFAULT_PORTS = (8080, 9931)
PACKAGED = "/usr/bin/llama-server"


class Refused(Exception):
    """What was wanted, what was found, what mends it."""


class AdoptionInfo:
    def __init__(self, params: dict[str, Any], run: Run) -> None:
        self.params = params
        self._run = run

    def run(self) -> dict[str, Any]:
        found = [server for server in servers(self._run) if server.unit != self.params["own"]]
        server = self._chosen([one for one in found if one.is_router])
        others = [one for one in found if one is not server]
        left = [f"{one.unit}: {one.why or self._what(one)}" for one in others]
        if server is None:
            return {"changed": False, "unit": None, "left": left}
        if server.why:
            raise Refused(f"the command line of {server.unit} was wanted: {server.why}")
        try:
            adoption = Adoption(server.words, server.environment, server.folder, self.params["target"])
        except (OSError, UnicodeDecodeError, PresetError) as error:
            raise Refused(f"{server.unit} was wanted readable as its llama-server reads it: {error}") from None
        url, served = self._served(server, adoption)
        known = {
            name
            for model in adoption.inventory["llamacpp_models"]
            for name in (model["name"], *model.get("aliases", ()))
        }
        lost = sorted(set(served or ()) - known)
        left += adoption.left + [
            f"{name}: it is served (out of the cache?), and nothing names its file" for name in lost
        ]
        adoption.inventory.update(self._build(server))
        if adoption.port is None:
            adoption.inventory["llama_router_port"] = int(url.rpartition(":")[2])
        return {
            "changed": False,
            "unit": server.unit,
            "active": server.active,
            "enabled": server.enabled,
            "program": server.program,
            "url": url,
            "inventory": adoption.inventory,
            "api_keys": adoption.keys if self.params["keys"] else [],
            "key_count": len(adoption.keys),
            "served": served,
            "corrected": adoption.corrected,
            "left": left,
        }

    def _chosen(self, routers: list[Server]) -> Server | None:
        if self.params["unit"]:
            routers = [server for server in routers if server.unit == self.params["unit"]]
            if not routers:
                raise Refused(
                    f"unit: {self.params['unit']} was wanted to run a llama-server in router mode; it does not"
                )
        running = [server for server in routers if server.active]
        candidates = running or routers
        if len(candidates) > 1:
            names = ", ".join(server.unit for server in candidates)
            raise Refused(f"one unit with a router was wanted, found {names}; name one of them in unit")
        return candidates[0] if candidates else None

    @staticmethod
    def _what(server: Server) -> str:
        kind = "another router" if server.is_router else "a server of one model"
        return f"{kind}, which stays as it is (role llama_instance runs such)"

    def _served(self, server: Server, adoption: Adoption) -> tuple[str, dict[str, list[str]] | None]:
        """Where it answers, and to what."""
        host = str(adoption.options.get("host", "127.0.0.1"))
        host = "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else f"[{host}]" if ":" in host else host
        urls = [f"http://{host}:{port}" for port in ([adoption.port] if adoption.port else DEFAULT_PORTS)]
        if server.active:
            for url in urls:
                try:
                    key = adoption.given[0] if adoption.given else None
                    models = Client(url, key, recipients=Recipients.of_unit(self._run, server.unit)).models()
                except RouterError:
                    continue
                return url, {model.id: sorted(model.aliases) for model in models}
        return urls[0], None

    def _build(self, server: Server) -> dict[str, Any]:
        """How to come to such a llama-server, and whether it has a device to compute on."""
        rpc = [word for pair in zip(server.words, server.words[1:]) if pair[0] == "--rpc" for word in pair]
        _status, output, _errors = self._run([server.program, *rpc, "--list-devices"])
        devices = re.findall(r"^ +([A-Za-z]+)[0-9]+:", output, re.MULTILINE)
        backend = {"CUDA": "cuda", "Vulkan": "vulkan"}.get(devices[0] if devices else "", "cpu")
        found: dict[str, Any] = {} if devices else {"llama_router_cpu_only": True}
        if os.path.realpath(server.program) != PACKAGED:
            found.update(llama_cpp_method="build", llama_cpp_backend=backend)
        return found


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        module.exit_json(**AdoptionInfo(module.params, runner(module.run_command)).run())
    except (Refused, UnitError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
