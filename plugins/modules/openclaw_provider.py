#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: openclaw_provider
short_description: A llama.cpp router as a model provider of OpenClaw
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Puts one provider into OpenClaw's configuration (JSON5), with the models and their contexts. Comments, order and
    whatever else stands in the file stay, and so do fields that its owner added to the provider and its models.
  - The key stays out of the file, which names the environment variable that has it.
  - Run it as the user whose OpenClaw it is. Run as root on a path of another user, it reads and writes with the rights
    of that user, so that no link of theirs leads it to other files.
extends_documentation_fragment: [ansible.builtin.files]
options:
  path:
    description:
      - The configuration. Its directory has to exist; a missing file is created with mode 0600. A link is followed.
    type: path
    default: ~/.openclaw/openclaw.json
  provider:
    description: Id of the provider. A model is C(PROVIDER/MODEL) to OpenClaw.
    type: str
    default: llama-server
  state:
    description: V(absent) takes the provider away, and nothing else.
    type: str
    choices: [present, absent]
    default: present
  base_url:
    description: The router, with or without C(/v1). Needed with V(present).
    type: str
  key_variable:
    description: Environment variable in which OpenClaw finds the key.
    type: str
    default: LLAMA_SERVER_API_KEY
  models:
    description:
      - The router's models. One that is not named goes. Those that are there keep their places, and new ones come after
        them in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: Id of the model.
        type: str
        required: true
      name:
        description: Its name for people, the id by default.
        type: str
      context:
        description:
          - How many tokens a conversation can have. OpenClaw cuts at that, and its own prompts and tools want 40,000 or
            more; a model with fewer is warned about, and so is one without, which OpenClaw takes for one of 128,000.
        type: int
      max_tokens:
        description: How long an answer may be in tokens, by default 8192 or a quarter of the context.
        type: int
  primary:
    description:
      - Id of the model that agents use by default (C(agents.defaults.model.primary)). Without it that stays as it is.
    type: str
  backup:
    description: Whether a changed file is copied before, with the time in its name.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: Says whether the file would be written.
  diff_mode:
    support: full
    description: Shows the provider before and after, and nothing else of the file, which may have its owner's secrets.
seealso:
  - module: homelab.llamacpp.client_info
"""

EXAMPLES = r"""
- name: OpenClaw knows the router
  homelab.llamacpp.openclaw_provider:
    base_url: http://192.0.2.20:8012
    models:
      - {id: qwen3-8b, context: 65536}
    primary: qwen3-8b
    mode: "0600"
"""

RETURN = r"""
backup_file:
  description: The copy of the file as it was.
  type: str
  returned: when it was changed, had been there, and O(backup) is set
  sample: /home/me/.openclaw/openclaw.json.12345.2026-11-22@12:00:00~
"""

import json
import os
import re
import stat
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._as_user import acting_as, owner_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._files import read, replace
from ansible_collections.homelab.llamacpp.plugins.module_utils._http_service import base_url
from ansible_collections.homelab.llamacpp.plugins.module_utils._json5 import Json5Error
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._openclaw import (
    CONTEXT_WANTED,
    found,
    model_entry,
    primary_of,
    with_provider,
    without_provider,
)

LONGEST = 512  # characters of a name

ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path", "default": "~/.openclaw/openclaw.json"},
    "provider": {"type": "str", "default": "llama-server"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "base_url": {"type": "str"},
    "key_variable": {"type": "str", "default": "LLAMA_SERVER_API_KEY", "no_log": False},
    "models": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "id": {"type": "str", "required": True},
            "name": {"type": "str"},
            "context": {"type": "int"},
            "max_tokens": {"type": "int", "no_log": False},
        },
    },
    "primary": {"type": "str"},
    "backup": {"type": "bool", "default": True},
}


class OpenclawProvider:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.path: str = os.path.abspath(self.params["path"])

    def run(self) -> dict[str, Any]:
        self.check()
        try:
            # Root has no rights of its own in the directory of a user: they could lead it anywhere.
            with acting_as(owner_of(os.path.dirname(self.path))):
                return self.converge()
        except OSError as error:
            place = error.filename or self.path
            self.module.fail_json(msg=f"{place}: {error.strerror or error}; nothing was changed")
            raise AssertionError("fail_json does not return") from None

    def converge(self) -> dict[str, Any]:
        self.path = os.path.realpath(self.path)
        there = self.read()
        before = there if there and there.strip() else "{}\n"
        try:
            after = self.wanted(before)
            diff = {"before": self.told(before), "after": self.told(after)}
        except Json5Error as error:
            self.module.fail_json(msg=f"{self.path}: {error}; nothing was changed")
        changed = after != before
        folder = os.path.dirname(self.path)
        if changed and not os.path.isdir(folder):
            self.module.fail_json(
                msg=f"path: OpenClaw's folder {folder} was wanted, it is not there; set OpenClaw up first (openclaw"
                " onboard), connect as the user whose it is, or name its file"
            )
        result: dict[str, Any] = {"diff": {**diff, "before_header": self.path, "after_header": self.path}}
        if changed and not self.module.check_mode:
            if there is None:
                replace(self.path, after, mode=0o600)
            else:
                if self.params["backup"]:
                    result["backup_file"] = self.backup(there)
                replace(self.path, after)
        if os.path.exists(self.path):
            attributes = self.module.load_file_common_arguments(self.params, path=self.path)
            changed = self.module.set_fs_attributes_if_different(attributes, changed)
        return {"changed": changed, **result}

    def backup(self, content: str) -> str:
        """Copy the file as it was, with its mode from the first moment on: it may hold secrets."""
        place = f"{self.path}.{os.getpid()}.{time.strftime('%Y-%m-%d@%H:%M:%S')}~"
        replace(place, content, mode=stat.S_IMODE(os.stat(self.path).st_mode))
        return place

    def check(self) -> None:
        given = self.params
        ids = [model["id"] for model in given["models"]]
        try:
            self.base_url = base_url(given["base_url"], "base_url") if given["base_url"] else ""
        except ValueError as error:
            self.module.fail_json(msg=str(error))
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", given["key_variable"]):
            self.module.fail_json(msg=f"key_variable: the name of a variable was wanted, not {given['key_variable']!r}")
        words = {"provider": [given["provider"]], "models": ids + [model["name"] or "" for model in given["models"]]}
        for option, texts in words.items():
            odd = [one for one in texts if one != printable(one, LONGEST)]
            if odd:
                self.module.fail_json(
                    msg=f"{option}: expected at most {LONGEST} printable characters, found {printable(odd[0], 100)!r}"
                )
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            self.module.fail_json(msg=f"models: each id once was wanted, more than once there is {', '.join(twice)}")
        if given["primary"] and given["primary"] not in ids:
            self.module.fail_json(
                msg=f"primary: one of the models was wanted ({', '.join(ids) or 'there are none'}),"
                f" {given['primary']!r} was found"
            )
        for model in given["models"]:
            if not model["context"]:
                self.module.warn(
                    f"{model['id']} has a context of which the length is not known here; OpenClaw takes it for one of"
                    " 128000 tokens: give the model a ctx-size"
                )
            elif model["context"] < CONTEXT_WANTED:
                self.module.warn(
                    f"{model['id']} has {model['context']} tokens of context; OpenClaw wants {CONTEXT_WANTED} or more:"
                    " raise its ctx-size, or use another model for agents"
                )

    def read(self) -> str | None:
        try:
            return read(self.path).decode("utf-8")
        except FileNotFoundError:
            return None
        except UnicodeError as error:
            self.module.fail_json(msg=f"{self.path}: a text in UTF-8 was wanted, it cannot be read: {error}")
            raise AssertionError("fail_json does not return") from None

    def wanted(self, text: str) -> str:
        given = self.params
        if given["state"] == "absent":
            return without_provider(text, given["provider"])
        key = f"${{{given['key_variable']}}}"
        return with_provider(text, given["provider"], self.base_url, key, given["models"], given["primary"])

    def told(self, text: str) -> str:
        """The provider alone, its key only where it is the name of a variable, and no password in its address."""
        entry = found(text, self.params["provider"])
        if not entry:
            return ""
        if not re.fullmatch(r"\$\{\w+\}", str(entry.get("apiKey", "${NONE}"))):
            entry["apiKey"] = "(not shown)"
        if "baseUrl" in entry:
            entry["baseUrl"] = re.sub(r"[?#].*", "?…", re.sub(r"//.*@", "//…@", str(entry["baseUrl"])), flags=re.DOTALL)
        shown: dict[str, Any] = {name: entry[name] for name in ("baseUrl", "apiKey", "api") if name in entry}
        shown["models"] = [
            {name: model[name] for name in model_entry({"id": "", "context": 1}) if name in model}
            for model in entry.get("models") or []
            if isinstance(model, dict)
        ]
        return json.dumps({self.params["provider"]: shown, "primary": primary_of(text)}, indent=2) + "\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("state", "present", ["base_url"])],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    module.exit_json(**OpenclawProvider(module).run())


if __name__ == "__main__":
    main()
