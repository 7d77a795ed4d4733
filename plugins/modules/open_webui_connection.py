#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_connection
short_description: The connection of an Open WebUI to a llama.cpp router
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Has a running Open WebUI serve the models of a router, by one of its OpenAI connections. It is found by its address;
    the other connections stay as they are.
  - Open WebUI keeps its connections in its database, which its environment does not change after the first start. So
    this goes through its REST API, as an administrator. It wants Open WebUI 0.12 or later.
extends_documentation_fragment: [homelab.llamacpp.open_webui]
attributes:
  check_mode:
    support: full
    description:
      - Says what would be changed. A router that Open WebUI cannot reach yet, or that refuses the key, is a warning.
  diff_mode:
    support: full
    description: The connection before and after. Of a key it is only told whether it is the one that is given.
options:
  url:
    description:
      - The router's address as Open WebUI's host sees it, with or without C(/v1).
      - A connection to the same address in other words (a slash at the end, no C(/v1), a port that is the scheme's own)
        is taken for this one, and gets this address.
    type: str
    required: true
  api_key:
    description:
      - The router's key. It is never logged.
      - Without O(api_key) and O(api_key_file) the key that Open WebUI has is kept, and a new connection gets none.
    type: str
  api_key_file:
    description:
      - The router's key file on the module's host, so that no key has to travel. Its first key is taken.
      - It is read as llama-server reads it, see M(homelab.llamacpp.router_info).
    type: path
  provider:
    description:
      - What Open WebUI takes the server for. With V(llama.cpp) it shows which models are loaded, and an administrator
        can load and unload them from its page.
    type: str
    default: llama.cpp
  prefix_id:
    description: What Open WebUI puts before the models' ids, and a dot. Kept as it is when not set; empty for none.
    type: str
  tags:
    description: Tags that Open WebUI gives the connection's models. Kept as they are when not set.
    type: list
    elements: str
  model_ids:
    description:
      - The only models that are to be seen. Kept as they are when not set; empty for all of the router, which is best -
        with a list Open WebUI does not ask the router, and shows models that it does not have.
    type: list
    elements: str
  enabled:
    description: Whether the connection is used.
    type: bool
    default: true
  verify:
    description:
      - Whether Open WebUI is asked to reach the router with this key before anything is changed. A router that is down
        and a key that is wrong are errors then.
      - A connection that is not O(enabled) is not verified.
    type: bool
    default: true
  state:
    description:
      - V(present) - there is the connection, and Open WebUI's OpenAI connections are switched on as a whole.
      - V(absent) - there is none to this address.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: homelab.llamacpp.open_webui_models
  - module: homelab.llamacpp.router_keys
"""

EXAMPLES = r"""
- name: Open WebUI has the router's models
  homelab.llamacpp.open_webui_connection:
    webui_url: http://127.0.0.1:8080
    webui_email: admin@example.com
    webui_password: "{{ vault_open_webui_password }}"
    url: http://192.0.2.20:8012
    api_key: "{{ vault_llama_router_key }}"

- name: It is taken away again
  homelab.llamacpp.open_webui_connection:
    webui_email: admin@example.com
    webui_password: "{{ vault_open_webui_password }}"
    url: http://192.0.2.20:8012
    state: absent
"""

RETURN = r"""
url:
  description: The connection's address as Open WebUI has it.
  type: str
  returned: success
  sample: http://192.0.2.20:8012/v1
index:
  description: Its place in Open WebUI's list, from 0; null when there is none.
  type: int
  returned: success
  sample: 0
models:
  description: Ids of the models that the router offers, as Open WebUI was told when it verified the connection.
  type: list
  elements: str
  returned: success, when it was verified
  sample: [qwen3-8b, glm-4-9b]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._http_service import base_url
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui import (
    ARGUMENTS,
    EXCLUSIVE,
    ONE_OF,
    TOGETHER,
    OpenWebUI,
    OpenWebUIError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_answers import mapping
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_connections import (
    Connection,
    Wanted,
    absent,
    configured,
    connections,
    offered,
    places,
    present,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError, read_key


class OpenWebUIConnection:
    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.present: bool = params["state"] == "present"
        self.wanted = Wanted(
            base_url(params["url"], "url"),
            self._key(),
            params["provider"],
            params["enabled"],
            params["prefix_id"],
            params["tags"],
            params["model_ids"],
        )

    def _key(self) -> str | None:
        if not self.module.params["api_key_file"]:
            key: str | None = self.module.params["api_key"]
        else:
            # As text, in which it goes to Open WebUI; the router compares bytes.
            key = read_key(self.module.params["api_key_file"]).encode("latin-1").decode(errors="replace")
            self.module.no_log_values.add(key)
        if key is not None and (not key.strip() or key != key.strip() or not key.isprintable()):
            raise OpenWebUIError("api_key: a key of one line was wanted, it is empty or holds blanks around it")
        return key

    def run(self) -> dict[str, Any]:
        webui = OpenWebUI.from_params(self.module.params)
        result: dict[str, Any] = {"url": self.wanted.url}
        if self.present and self.module.params["verify"] and self.wanted.enabled:
            listed = present(connections(self._config(webui)), self.wanted)
            result.update(self._verified(webui, listed[_place(listed, self.wanted.url) or 0]))
        # Read after that, which takes its time: what somebody else changes meanwhile is not to be undone.
        before = self._config(webui)
        old, on = connections(before), bool(before.get("ENABLE_OPENAI_API"))
        if self.present:
            new, after_on = present(old, self.wanted), True
            self._tell_twins(old)
        else:
            new, after_on = absent(old, self.wanted.url), on
        changed = (new, after_on) != (old, on)
        if changed and not self.module.check_mode:
            wanted = configured(before, new, after_on)
            webui.post("/openai/config/update", wanted)
            found = self._config(webui)
            if found != wanted:
                raise OpenWebUIError(
                    f"Open WebUI at {webui.url} took the connections and has others now: somebody else has changed them"
                    " at this moment, or this version keeps them in another way; run again"
                )
        return {
            **result,
            "changed": changed,
            "index": _place(new, self.wanted.url),
            "diff": {"before": self._shown(old, on), "after": self._shown(new, after_on)},
        }

    @staticmethod
    def _config(webui: OpenWebUI) -> dict[str, Any]:
        return mapping(webui.get("/openai/config"), "answer to GET /openai/config")

    def _tell_twins(self, listed: list[Connection]) -> None:
        twins = places(listed, self.wanted.url)[1:]
        if twins:
            self.module.warn(
                f"Open WebUI has another connection to {self.wanted.url}, in place {', '.join(map(str, twins))}; it is"
                " left alone, remove it by hand (Admin Panel, Settings, Connections)"
            )

    def _verified(self, webui: OpenWebUI, connection: Connection) -> dict[str, Any]:
        try:
            return {"models": offered(webui, connection)}
        except OpenWebUIError as error:
            if not self.module.check_mode:
                raise
            self.module.warn(str(error))
            return {}

    def _shown(self, listed: list[Connection], on: bool) -> dict[str, Any]:
        """What the diff tells: nothing of other connections, and of a key only whether it is the one that is wanted."""
        place = _place(listed, self.wanted.url)
        if place is None:
            return {"openai_api": on, "connection": None}
        one = listed[place]
        key = "(none)" if not one.key else "(kept)" if self.wanted.key is None else "(as wanted)"
        if self.wanted.key is not None and one.key != self.wanted.key:
            key = "(differs)" if one.key else "(none)"
        managed = ("enable", "provider", "prefix_id", "tags", "model_ids", "auth_type")
        settings = {name: one.settings[name] for name in managed if name in one.settings}
        return {"openai_api": on, "connection": {"url": one.url, "api_key": key, **settings}}


def _place(listed: list[Connection], url: str) -> int | None:
    return next(iter(places(listed, url)), None)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "url": {"type": "str", "required": True},
            "api_key": {"type": "str", "no_log": True},
            "api_key_file": {"type": "path", "no_log": False},
            "provider": {"type": "str", "default": "llama.cpp"},
            "prefix_id": {"type": "str"},
            "tags": {"type": "list", "elements": "str"},
            "model_ids": {"type": "list", "elements": "str"},
            "enabled": {"type": "bool", "default": True},
            "verify": {"type": "bool", "default": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        mutually_exclusive=[*EXCLUSIVE, ("api_key", "api_key_file")],
        required_together=TOGETHER,
        required_one_of=ONE_OF,
        supports_check_mode=True,
    )
    try:
        module.exit_json(**OpenWebUIConnection(module).run())
    except (OpenWebUIError, RouterError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
