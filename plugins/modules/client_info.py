#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_info
short_description: What the clients of a llama.cpp router are configured with
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Asks a llama-server in router mode for its models and says of each what a client has to know, among others how many
    tokens a conversation can have, and how long a cold load may take.
  - It never loads a model and never wakes a sleeping one.
  - Runs on the router's own host, since it looks at its unit and at the sizes of the models' files.
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: N/A
    description: Changes nothing.
options:
  name:
    description: The router's unit. Its command line tells where the router and its keys are.
    type: str
    default: llama-router.service
  url:
    description: Where the router listens, for one without such a unit.
    type: str
  api_key_file:
    description: Its key file, for one without such a unit.
    type: path
  base_url:
    description:
      - How clients reach the router, where that is not by the address and the port of its host - through
        a proxy, or by a name. With or without C(/v1).
    type: str
  read_mib_s:
    description: How many MiB of a model are read in a second at the least, from which the time of a load follows.
    type: int
    default: 100
notes:
  - Run it as root (become), who can read the router's key.
seealso:
  - module: homelab.llamacpp.router_info
"""

EXAMPLES = r"""
- name: What do clients have to know?
  homelab.llamacpp.client_info:
  register: clients

- name: The longest context
  ansible.builtin.debug:
    msg: "{{ clients.models | map(attribute='context') | select | max }} tokens"
"""

RETURN = r"""
base_url:
  description: The router as clients reach it, without C(/v1).
  type: str
  returned: success
  sample: http://192.0.2.20:8012
api_key_file:
  description: The router's keys, one a line, on its host; clients use the first one.
  type: str
  returned: success
  sample: /etc/llama-router/api-keys
models:
  description: The router's models, by their ids.
  type: list
  elements: dict
  returned: success
  contains:
    id:
      description: The name to ask for.
      type: str
    aliases:
      description: Other names for it.
      type: list
      elements: str
    text:
      description: Whether it answers with text, and not with vectors or scores.
      type: bool
    context:
      description:
        - How many tokens a conversation can have, no more than the model was trained for; null when neither the options
          nor a running process tell.
      type: int
    at_start:
      description: Whether it is loaded when the router starts.
      type: bool
    size_mib:
      description: The size of its files in MiB, shards and projector included; null when they are not known.
      type: int
    load_seconds:
      description: What a cold load may take, 30 seconds and the time to read its files; null when these are not known.
      type: int
  sample:
    - {id: qwen3-8b, aliases: [], text: true, context: 16384, at_start: true, size_mib: 4795, load_seconds: 78}
task_model:
  description: The smallest model that answers with text and is loaded at start, empty when there is none.
  type: str
  returned: success
  sample: qwen3-1.7b
longest_load_seconds:
  description: What the slowest of the cold loads may take, 0 when none is known.
  type: int
  returned: success
  sample: 225
"""

from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._client_facts import READ_MIB_S, facts, from_outside
from ansible_collections.homelab.llamacpp.plugins.module_utils._http_service import base_url as clients_url
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import UNIT, of_unit
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_report import connect
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import runner

ARGUMENTS = {
    "name": {"type": "str", "default": UNIT},
    "url": {"type": "str"},
    "api_key_file": {"type": "path", "no_log": False},
    "base_url": {"type": "str"},
    "read_mib_s": {"type": "int", "default": READ_MIB_S},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    module.run_command_environ_update = {"LC_ALL": "C"}
    given, speed = module.params, module.params["read_mib_s"]
    if speed < 1:
        module.fail_json(msg=f"read_mib_s: 1 MiB or more was wanted, {speed} was found")
    try:
        base_url = given["base_url"] and clients_url(given["base_url"], "base_url").removesuffix("/v1")
    except ValueError as error:
        module.fail_json(msg=str(error))
    places = of_unit(runner(module.run_command), given["name"])
    places = replace(places, url=given["url"] or places.url, keys=given["api_key_file"] or places.keys)
    try:
        client = connect(places)
        client.props()  # another kind of server is an error
        told = facts(client.models(), speed)
    except RouterError as error:
        module.fail_json(msg=str(error))
    if not base_url and places.local and not given["url"]:
        base_url = places.url
        module.warn(
            f"the router listens on {base_url} alone, where no other host reaches it; set base_url (llama_clients_url"
            " in an inventory) to the address of the proxy before it, or have it listen on 0.0.0.0 (llama_router_host)"
        )
    module.exit_json(changed=False, base_url=base_url or from_outside(places.url), api_key_file=places.keys, **told)


if __name__ == "__main__":
    main()
