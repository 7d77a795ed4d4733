#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_service
short_description: An Ollama beside the router keeps its VRAM, or not
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Ollama holds the VRAM of the model that it answered from last. This stops it for good, lets it keep no model, or
    lets it run only while the router does not.
  - How its unit was before the first change is remembered, and V(untouched) brings that back.
  - A machine without the unit is no error; nothing is done there.
attributes:
  check_mode:
    support: full
    description: Says what would be changed.
  diff_mode:
    support: full
    description: Shows the unit's state, and the drop-in.
options:
  mode:
    description:
      - V(disabled) stops it, and takes it out of the machine's start. It is masked, so that nothing starts it. A unit
        file in C(/etc/systemd/system), where Ollama's installer puts it, is kept beside under another name.
      - V(fallback) lets it answer, and unload each model right after its answer (C(OLLAMA_KEEP_ALIVE=0)). A client that
        sends a C(keep_alive) of its own still has its way.
      - V(exclusive) makes it and the router exclude each other on this machine. Starting the one stops the other;
        with the machine, and when both run, it is the router. Who stops the one starts the other again.
      - V(untouched) brings back what was before, if this changed it.
    type: str
    choices: [disabled, fallback, exclusive, untouched]
    required: true
  name:
    description: Ollama's unit.
    type: str
    default: ollama.service
  router:
    description: The router's unit.
    type: str
    default: llama-router.service
  url:
    description: Where Ollama answers, as seen on this machine. It is only asked which models it has loaded.
    type: str
    default: http://127.0.0.1:11434
  memory:
    description: File that remembers the unit's state before the first change.
    type: path
    default: /var/lib/homelab-llamacpp/ollama.json
seealso:
  - module: homelab.llamacpp.gguf_collection_info
"""

EXAMPLES = r"""
- name: Ollama is stopped for good
  homelab.llamacpp.ollama_service:
    mode: disabled

- name: Ollama is as it was
  homelab.llamacpp.ollama_service:
    mode: untouched
"""

RETURN = r"""
found:
  description: Whether there is such a unit.
  type: bool
  returned: success
before:
  description: The unit before, null where there is none.
  type: dict
  returned: success
  contains:
    enabled:
      description: Whether it starts with the machine.
      type: bool
    active:
      description: Whether it runs.
      type: bool
    masked:
      description: Whether nothing can start it.
      type: bool
    drop_in:
      description: The text of the drop-in that this module writes, empty for none.
      type: str
after:
  description: The unit now, or as it would be in check mode.
  type: dict
  returned: success
  contains:
    enabled: {description: As above., type: bool}
    active: {description: As above., type: bool}
    masked: {description: As above., type: bool}
    drop_in: {description: As above., type: str}
loaded:
  description: The models that it had loaded before.
  type: list
  elements: str
  returned: success
held_mib:
  description: The VRAM that it said they took, in MiB.
  type: int
  returned: success
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._ollama import MODES, Ollama, OllamaError, held_mib
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError, runner

ARGUMENTS: dict[str, Any] = {
    "mode": {"type": "str", "choices": list(MODES), "required": True},
    "name": {"type": "str", "default": "ollama.service"},
    "router": {"type": "str", "default": "llama-router.service"},
    "url": {"type": "str", "default": "http://127.0.0.1:11434"},
    "memory": {"type": "path", "default": "/var/lib/homelab-llamacpp/ollama.json"},
}


class OllamaService:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.ollama = Ollama(
            runner(module.run_command), self.params["name"], self.params["router"], self.params["memory"]
        )

    def run(self) -> dict[str, Any]:
        mode, ollama = self.params["mode"], self.ollama
        for warning in ollama.warnings(mode, self.params["url"]):
            self.module.warn(warning)
        if not ollama.found():
            return {"changed": False, "found": False, "before": None, "after": None, "loaded": [], "held_mib": 0}
        before, after = ollama.now(), ollama.wanted(mode)
        loaded, held = held_mib(self.params["url"]) if before.active else ([], 0)
        if not self.module.check_mode:
            # Also where nothing differs: the mode itself is remembered.
            ollama.apply(mode)
            if mode == "fallback":
                ollama.check_environment()
            after = ollama.now()
        result = {"found": True, "before": asdict(before), "after": asdict(after), "loaded": loaded, "held_mib": held}
        return {"changed": before != after, "diff": {"before": asdict(before), "after": asdict(after)}, **result}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        module.exit_json(**OllamaService(module).run())
    except (OllamaError, UnitError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename} was wanted writable: {error.strerror}; run as root (become)")


if __name__ == "__main__":
    main()
