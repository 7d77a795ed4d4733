#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_model
short_description: Load and unload the models of a llama.cpp router, and fill its cache
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Brings models of a llama-server in router mode into memory, or takes them out, and waits until that is true.
  - At the router's limit a load evicts the idle model that was used the longest ago; which ones is reported.
  - A load that fails is an error that says why, with the last lines of its process when the journal can be read.
  - It also has the router fetch models from Hugging Face into its own cache, which makes them models of it, and take
    them out again. The router answers before a download is done and does not say that one came to nothing, so it is
    followed by its events, and judged by what the router lists then.
extends_documentation_fragment: [homelab.llamacpp.router]
options:
  name:
    description:
      - Ids or aliases of the models. They are loaded in this order, so the last one is the last to be evicted.
      - More names to load than the router's limit is an error, before anything is loaded.
      - With O(state=present) and O(state=absent) the names of the hub, C(user/repository) or C(user/repository:quant).
        Without a quant V(present) is content with any of that repository and else leaves the choice to llama.cpp
        (C(Q4_K_M), C(Q8_0), then the first file), and V(absent) means all of them.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(loaded) - the model runs. A sleeping model counts as loaded - it holds its slot and wakes with a request.
      - V(unloaded) - its process has ended.
      - V(present) - it is in the router's cache. A download that was broken off is taken up where it ended.
      - V(absent) - it is not in the router's cache. What runs is stopped first, a download that runs is ended. Models
        of a preset or of the models directory are not touched.
    type: str
    choices: [loaded, unloaded, present, absent]
    default: loaded
  wait:
    description:
      - Whether to wait until it is so. Without it a load or a download that fails later is not noticed.
      - O(state=absent) always waits.
    type: bool
    default: true
  timeout:
    description:
      - How many seconds all models together may take. A free slot is waited for just as long.
      - With O(state=present) how many seconds may pass in which nothing of a file arrives; a download itself may take
        as long as it needs. With O(state=absent) how long one model may take to stop.
    type: int
    default: 300
  unit:
    description: The router's systemd unit on this host. Its journal is read when a load has failed.
    type: str
    default: llama-router.service
attributes:
  check_mode:
    support: full
    description:
      - Says what would be loaded, unloaded, fetched or removed. Which model would be evicted only the router knows, and
        nobody is asked whether the hub has what is wanted.
  diff_mode:
    support: full
    description: The status of the models that change, before and after.
notes:
  - The hub that the router asks is C(HF_ENDPOINT) in its environment, its token C(HF_TOKEN), its cache C(LLAMA_CACHE).
    It checks no checksums. M(homelab.llamacpp.model_file) does, and needs no router.
seealso:
  - module: homelab.llamacpp.model_file
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

- name: Have the router fetch a model by itself
  homelab.llamacpp.router_model:
    name: ggml-org/gemma-3-1b-it-GGUF:Q4_K_M
    state: present
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
cached:
  description: Ids of the models in the router's cache that the names stand for.
  type: list
  elements: str
  returned: success and O(state=present) or O(state=absent); in check mode as they are
  sample: [ggml-org/gemma-3-1b-it-GGUF:Q4_K_M]
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
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_cache import (
    Cache,
    cached,
    check_names,
    under_way,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router, resolve_all, running
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, runner


class RouterModel:
    """Models in memory, or out of it."""

    def __init__(self, router: Router, params: dict[str, Any], check_mode: bool) -> None:
        self.router = router
        self.names: list[str] = params["name"]
        self.load = params["state"] == "loaded"
        self.wait: bool = params["wait"]
        self.timeout: float = params["timeout"]
        self.check_mode = check_mode

    @property
    def acted(self) -> bool:
        return self.router.acted

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
        result["changed"] = bool(shown) if self.check_mode else self.acted
        return result


class CachedModel:
    """Models in the router's cache, or out of it."""

    def __init__(self, cache: Cache, params: dict[str, Any], check_mode: bool) -> None:
        self.cache = cache
        self.names: list[str] = list(dict.fromkeys(params["name"]))
        self.present = params["state"] == "present"
        self.wait: bool = params["wait"]
        self.timeout: float = params["timeout"]
        self.check_mode = check_mode

    @property
    def acted(self) -> bool:
        return self.cache.acted

    def run(self) -> dict[str, Any]:
        check_names(self.names)
        models = before = self.cache.client.models()
        if not self.check_mode:
            if self.present:
                self.cache.fetch(self.names, self.timeout, self.wait)
            else:
                self.cache.remove(self.names, self.timeout)
            models = self.cache.client.models()
        then = {name: _in_cache(before, name) for name in self.names}
        wanted = "present" if self.present else "absent"
        shown = [name for name in self.names if then[name] != wanted]
        return {
            "changed": bool(shown) if self.check_mode else self.acted,
            "cached": [entry for name in self.names for entry in cached(models, name)],
            "loaded": running(models),
            "diff": {"before": {name: then[name] for name in shown}, "after": dict.fromkeys(shown, wanted)},
        }


def _in_cache(models: list[Model], name: str) -> str:
    download = under_way(models, name)
    return download.status if download else "present" if cached(models, name) else "absent"


def _statuses(models: list[Model]) -> dict[str, str]:
    return {model.id: model.status for model in models}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["loaded", "unloaded", "present", "absent"], "default": "loaded"},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 300},
            "unit": {"type": "str", "default": "llama-router.service"},
        },
        mutually_exclusive=EXCLUSIVE,
        supports_check_mode=True,
    )
    unit = Unit(runner(module.run_command), module.params["unit"])

    def why(model: Model | None, since: float) -> list[str]:
        return unit.journal(since, prefix=f"[{model.port}] " if model else "")

    task: RouterModel | CachedModel
    try:
        router = Router(Client.from_params(module.params), why)
    except RouterError as error:
        module.fail_json(msg=str(error))
    if module.params["state"] in ("loaded", "unloaded"):
        task = RouterModel(router, module.params, module.check_mode)
    else:
        task = CachedModel(Cache(router.client, why), module.params, module.check_mode)
    try:
        module.exit_json(**task.run())
    except RouterError as error:
        module.fail_json(msg=str(error), changed=task.acted)


if __name__ == "__main__":
    main()
