#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_models
short_description: Names, order and defaults of the models in an Open WebUI
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Has a running Open WebUI show models as they are wanted. It adds and changes what is named; entries of other models
    stay, and so do the fields of an entry that are not named here.
  - It also sets the model of a new chat, the pinned ones, the one that writes titles and tags, and the address for
    people.
  - It goes through Open WebUI's REST API, as an administrator, and wants Open WebUI 0.12 or later.
extends_documentation_fragment: [homelab.llamacpp.open_webui]
attributes:
  check_mode:
    support: full
    description: Says what would be changed. A model that Open WebUI does not have yet is a warning.
  diff_mode:
    support: full
    description: What changes, before and after; of a model's parameters only those that do.
options:
  models:
    description: The models that are to be shown in a certain way.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: The model's id in Open WebUI - the router's, with the prefix of its connection where it has one.
        type: str
        required: true
      name:
        description: What people read. Kept as it is when not set; at first it is the id.
        type: str
      description:
        description: A sentence for people. Kept as it is when not set.
        type: str
      visibility:
        description:
          - Who sees it - V(public) everybody, V(private) administrators, and those to whom it was given in Open WebUI.
          - Kept as it is when not set; at first it is private.
        type: str
        choices: [public, private]
      hidden:
        description: Whether it is left out of the list from which people choose. Kept as it is when not set.
        type: bool
      params:
        description:
          - Parameters of its requests, as Open WebUI names them (C(temperature), C(system), C(max_tokens), …). Others
            are kept; null takes one away.
        type: dict
  public:
    description:
      - Ids of models that everybody is to see where nothing else is said - O(models) has no visibility for it, and no
        other entry is there. An entry that O(models) does not name stays as it is.
    type: list
    elements: str
    default: []
  absent:
    description:
      - Ids of models whose entries are taken away, and from order, defaults and pins. The model itself is the router's.
    type: list
    elements: str
    default: []
  order:
    description: Ids in the order in which they are to be listed. What is not named follows. Kept as it is when not set.
    type: list
    elements: str
  default_models:
    description: Ids of the models that a new chat begins with. Kept as they are when not set; empty for none.
    type: list
    elements: str
  pinned_models:
    description: Ids of the models pinned to everybody's sidebar. Kept as they are when not set; empty for none.
    type: list
    elements: str
  task_model:
    description:
      - Id of the model that writes titles, tags and follow-up questions, for chats with models of external connections,
        as a router's is (C(TASK_MODEL_EXTERNAL)). Empty for the chat's own model.
      - A small model that stays loaded spares the router from loads that nobody asked for. Kept as it is when not set.
    type: str
  ollama_api:
    description: Whether Open WebUI asks an Ollama, too. Kept as it is when not set.
    type: bool
  public_url:
    description:
      - Where people find Open WebUI, as it links to itself in notifications and single sign-on (C(WEBUI_URL)). Kept as
        it is when not set.
    type: str
  wait_models:
    description:
      - How many seconds may pass until Open WebUI has all models that are named. One that it has not then is an error,
        before anything is changed.
    type: int
    default: 10
seealso:
  - module: homelab.llamacpp.open_webui_connection
"""

EXAMPLES = r"""
- name: People find the models by their names
  homelab.llamacpp.open_webui_models:
    webui_email: admin@example.com
    webui_password: "{{ vault_open_webui_password }}"
    models:
      - id: qwen3-8b
        name: Qwen 3
        description: For everyday questions
        visibility: public
      - id: gemma-3-1b
        hidden: true
    order: [qwen3-8b]
    default_models: [qwen3-8b]
    task_model: gemma-3-1b
    ollama_api: false
"""

RETURN = r"""
models:
  description: Ids of the models whose entries were added or changed.
  type: list
  elements: str
  returned: success
  sample: [qwen3-8b]
removed:
  description: Ids of the models whose entries were taken away.
  type: list
  elements: str
  returned: success
  sample: []
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui import (
    ARGUMENTS,
    EXCLUSIVE,
    ONE_OF,
    TOGETHER,
    OpenWebUI,
    OpenWebUIError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_answers import mapping, text, texts
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_models import (
    changes,
    entries_of,
    form,
    grants,
    in_order,
    joined,
    shown,
    wait_for,
    with_public,
)


class Part(NamedTuple):
    """One of Open WebUI's configurations: where it is read, and where it is written, as a whole."""

    read: str
    write: str


class Change(NamedTuple):
    """What of a configuration differs, and is to be."""

    part: Part
    wanted: dict[str, Any]


LISTS = Part("/api/v1/configs/models", "/api/v1/configs/models")
TASKS = Part("/api/v1/tasks/config", "/api/v1/tasks/config/update")
OLLAMA = Part("/ollama/config", "/ollama/config/update")
ADMIN = Part("/api/v1/auths/admin/config", "/api/v1/auths/admin/config")


class OpenWebUIModels:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: dict[str, Any] = module.params
        self.models: list[dict[str, Any]] = []
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def named(self) -> list[str]:
        """All ids that are to be models of Open WebUI; an error when one is to be there and not."""
        lists = (self.params[name] or [] for name in ("order", "default_models", "pinned_models"))
        ids = [model["id"] for model in self.params["models"]]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise OpenWebUIError(f"models: each id once was wanted, more than once there is {', '.join(twice)}")
        odd = [one for one in [*ids, *self.params["public"]] if not re.fullmatch(r"\S{1,256}", one)]
        if odd:
            raise OpenWebUIError(
                f"models: ids of at most 256 characters without blanks were wanted, {odd[0]!r} was found; Open WebUI"
                " keeps no others: rename the model in the router's presets"
            )
        ids += [one for listed in (self.params["public"], *lists) for one in listed]
        ids += [self.params["task_model"]] if self.params["task_model"] else []
        both = sorted(set(ids) & set(self.params["absent"]))
        if both:
            raise OpenWebUIError(
                f"absent: ids that are named nowhere else were wanted, {', '.join(both)} is; take it out of one"
            )
        return ids

    def run(self) -> dict[str, Any]:
        ids = self.named()
        webui = OpenWebUI.from_params(self.params)
        if ids:
            self._wait(webui, ids)
        configurations = list(self._configurations(webui))
        # Read after the wait, and just before the change: what somebody else changes meanwhile is not to be undone.
        entries = entries_of(webui)
        self.models = with_public(self.params["models"], self.params["public"], entries)
        forms = self._forms(entries)
        removed = [one for one in self.params["absent"] if one in entries]
        self.before.update({one: entries[one]["name"] for one in removed})
        self.after.update(dict.fromkeys(removed))
        if not self.module.check_mode:
            if forms:
                webui.post("/api/v1/models/import", {"models": forms})
            for entry in forms:
                visibility = self.after[entry["id"]].get("visibility")
                if visibility:
                    who = {"id": entry["id"], "access_grants": grants(entries.get(entry["id"]), visibility)}
                    webui.post("/api/v1/models/model/access/update", who)
            for one in removed:
                webui.post("/api/v1/models/model/delete", {"id": one})
            for change in configurations:
                webui.post(change.part.write, {**self._read(webui, change.part), **change.wanted})
            self._read_back(webui, [entry["id"] for entry in forms], removed, configurations)
        return {
            "changed": bool(forms or removed or configurations),
            "models": [entry["id"] for entry in forms],
            "removed": removed,
            "diff": {"before": self.before, "after": self.after},
        }

    @staticmethod
    def _read(webui: OpenWebUI, part: Part) -> dict[str, Any]:
        return mapping(webui.get(part.read), f"answer to GET {part.read}")

    def _wait(self, webui: OpenWebUI, ids: list[str]) -> None:
        try:
            wait_for(webui, ids, 0 if self.module.check_mode else self.params["wait_models"])
        except OpenWebUIError as error:
            if not self.module.check_mode:
                raise
            self.module.warn(str(error))

    def _forms(self, entries: dict[str, Any]) -> list[dict[str, Any]]:
        """What is imported: the entries that are new or differ."""
        forms = []
        for model in self.models:
            entry = entries.get(model["id"])
            before, after = changes(entry, model)
            if after:
                self.before[model["id"]], self.after[model["id"]] = shown(before, after)
                forms.append(form(entry, model["id"], after))
        return forms

    def _configurations(self, webui: OpenWebUI) -> Iterator[Change]:
        params, gone = self.params, self.params["absent"]
        if gone or any(params[name] is not None for name in ("order", "default_models", "pinned_models")):
            now = self._read(webui, LISTS)
            order = texts(now.get("MODEL_ORDER_LIST") or [], "MODEL_ORDER_LIST")
            wanted: dict[str, Any] = {"MODEL_ORDER_LIST": in_order(order, params["order"], gone)}
            for name, option in (("DEFAULT_MODELS", "default_models"), ("DEFAULT_PINNED_MODELS", "pinned_models")):
                old = now.get(name) if now.get(name) is None else text(now[name], name)
                wanted[name] = joined(old, params[option], gone)
            yield from self._differing(LISTS, now, wanted)
        if params["task_model"] is not None:
            yield from self._differing(TASKS, self._read(webui, TASKS), {"TASK_MODEL_EXTERNAL": params["task_model"]})
        if params["ollama_api"] is not None:
            yield from self._differing(OLLAMA, self._read(webui, OLLAMA), {"ENABLE_OLLAMA_API": params["ollama_api"]})
        if params["public_url"] is not None:
            yield from self._differing(ADMIN, self._read(webui, ADMIN), {"WEBUI_URL": params["public_url"]})

    def _differing(self, part: Part, now: dict[str, Any], wanted: dict[str, Any]) -> Iterator[Change]:
        """The change that a part needs, if any. No value, no text and no list are the same."""
        after = {name: value for name, value in wanted.items() if (now.get(name) or None) != (value or None)}
        if after:
            self.before.update({name: now.get(name) for name in after})
            self.after.update(after)
            yield Change(part, after)

    def _read_back(self, webui: OpenWebUI, ids: list[str], removed: list[str], changed: list[Change]) -> None:
        entries = entries_of(webui) if ids or removed else {}
        wanted = {model["id"]: model for model in self.models}
        wrong = [one for one in ids if one not in entries or changes(entries[one], wanted[one])[1]]
        wrong += [one for one in removed if one in entries]
        for change in changed:
            found = self._read(webui, change.part)
            wrong += [name for name, value in change.wanted.items() if found.get(name) != value]
        if wrong:
            raise OpenWebUIError(
                f"Open WebUI at {webui.url} took what was wanted and has something else now, of {', '.join(wrong)}:"
                " somebody else has changed it at this moment, or this version keeps it in another way; run again"
            )


def main() -> None:
    ids = {"type": "list", "elements": "str"}
    model = {
        "id": {"type": "str", "required": True},
        "name": {"type": "str"},
        "description": {"type": "str"},
        "visibility": {"type": "str", "choices": ["public", "private"]},
        "hidden": {"type": "bool"},
        "params": {"type": "dict"},
    }
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "models": {"type": "list", "elements": "dict", "default": [], "options": model},
            "public": {**ids, "default": []},
            "absent": {**ids, "default": []},
            "order": ids,
            "default_models": ids,
            "pinned_models": ids,
            "task_model": {"type": "str"},
            "ollama_api": {"type": "bool"},
            "public_url": {"type": "str"},
            "wait_models": {"type": "int", "default": 10},
        },
        mutually_exclusive=EXCLUSIVE,
        required_together=TOGETHER,
        required_one_of=ONE_OF,
        supports_check_mode=True,
    )
    try:
        module.exit_json(**OpenWebUIModels(module).run())
    except OpenWebUIError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
