#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_info
short_description: Read GGUF models, one file or a whole models directory
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Reads the headers of GGUF files, and says of each model what it is, whether all of it is there, and what its memory
    follows from.
  - A directory is seen as C(llama-server --models-dir) sees it, with the ids that the router gives, and with shards,
    projectors and draft models joined to their model. What the router would list wrongly or could not start with is
    told.
  - Needs nothing but Python on the target.
attributes:
  check_mode:
    support: full
    description: Changes nothing but its own cache, in any mode.
  diff_mode:
    support: N/A
    description: Changes nothing.
options:
  path:
    description: A GGUF file, or one shard of several, or a directory of models.
    type: path
    required: true
  user:
    description:
      - The user that the server runs as. What that user cannot read is told; an unreadable folder keeps the router from
        starting. One that is not there yet is taken for a new one, that owns nothing and is in no group of files here.
      - Without it only what cannot be read by the user of this task is told.
    type: str
  cache:
    description:
      - A file to keep what was read in, by the path, size and time of change of each model. It is read and written by
        this module alone.
      - The default is C(homelab.llamacpp/gguf_info.json) in C($XDG_CACHE_HOME) or in C(~/.cache). An empty string reads
        each file anew.
      - Where it cannot be written it is left out without an error.
    type: path
seealso:
  - plugin: homelab.llamacpp.vram_plan
    plugin_type: filter
"""

EXAMPLES = r"""
- name: What is in the models directory?
  homelab.llamacpp.gguf_info:
    path: /var/lib/llama-router/models
    user: llama-router
  register: found

- name: Every model is whole
  ansible.builtin.assert:
    that: found.models | rejectattr('complete') | length == 0
    fail_msg: "Not complete: {{ found.models | rejectattr('complete') | map(attribute='id') | join(', ') }}"

- name: What one model costs on two devices of 24 GiB
  ansible.builtin.debug:
    msg: "{{ [{'name': found.models[0].id, 'facts': found.models[0].facts, 'options': {'ctx-size': 32768}}]
             | homelab.llamacpp.vram_plan([24576, 24576]) }}"
"""

RETURN = r"""
models:
  description: The models, by id.
  type: list
  elements: dict
  returned: success
  contains:
    id:
      description: What the router calls it.
      type: str
      sample: Qwen3-8B-Q4_K_M
    path:
      description: The file that the router loads, of several shards the first.
      type: str
    files:
      description: All its shards that are there.
      type: list
      elements: str
    missing:
      description: The shards that are not there.
      type: list
      elements: str
    projector:
      description: The projector in its folder.
      type: str
    draft:
      description: The draft model in its folder.
      type: str
    size:
      description: Bytes on disk, projector and draft model included.
      type: int
    complete:
      description: Whether all shards are there and every file reaches to the end of its tensors.
      type: bool
    error:
      description: Why one of its files cannot be read; what would be known of it is null then.
      type: str
    architecture:
      description: As llama.cpp calls it.
      type: str
      sample: qwen3
    name:
      description: The name that its maker gave it.
      type: str
    quantization:
      description: The name of its quantization.
      type: str
      sample: Q4_K_M
    parameters:
      description: Elements of all its tensors.
      type: int
    layers:
      description: Its layers.
      type: int
    ctx_train:
      description: Tokens of context that it was trained for.
      type: int
    chat_template:
      description: Whether it has one.
      type: bool
    modalities:
      description: V(text), and with a projector V(vision), V(audio) or both.
      type: list
      elements: str
    facts:
      description: All that P(homelab.llamacpp.vram_plan#filter) needs; null for what is no model of language.
      type: dict
problems:
  description: What the router lists wrongly, passes over, or cannot start with.
  type: list
  elements: str
  returned: success
blocking:
  description: Those of RV(problems) with which the router does not start.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_read import ReadError, read_models


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "user": {"type": "str"},
            "cache": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        found = read_models(module.params["path"], module.params["user"], module.params["cache"])
    except ReadError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
