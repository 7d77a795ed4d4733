#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_collection_info
short_description: Find the GGUF models that are there already, in folders and in Ollama's store
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Looks through folders with all that is below them for models that can be taken into a models directory, each with a
    name that suits it. Files are not read, so it is quick on terabytes.
  - Shards are one model. A projector (C(mmproj) in its name) goes with the only model of its folder.
  - A folder with C(manifests) and C(blobs) is the store of an Ollama, whose blobs are GGUF files. Its models are named
    as in Ollama with a hyphen for the colon, C(qwen3:8b) is V(qwen3-8b), C(gemma3:latest) is V(gemma3).
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: N/A
    description: Changes nothing.
options:
  paths:
    description: The folders, such as V(/srv/models) or V(/usr/share/ollama/.ollama/models).
    type: list
    elements: path
    required: true
notes:
  - Ollama runs some models with code of its own that llama.cpp cannot load, above all those with a projector inside
    the same file. Loading one shows it.
seealso:
  - module: homelab.llamacpp.model_file
  - module: homelab.llamacpp.gguf_info
"""

EXAMPLES = r"""
- name: What is there?
  homelab.llamacpp.gguf_collection_info:
    paths: [/srv/old-models, /usr/share/ollama/.ollama/models]
  register: there

- name: Take all of it into the models directory, by links
  homelab.llamacpp.model_file:
    models_dir: /var/lib/llama-router/models
    models: "{{ there.models | map(attribute='entry') }}"
"""

RETURN = r"""
models:
  description: The models, by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: A name that suits a models directory.
      type: str
      sample: qwen3-8b
    path:
      description: Its file, of several shards the first.
      type: str
      sample: /srv/models/Qwen3-8B-Q4_K_M.gguf
    projector:
      description: Its projector.
      type: str
    size:
      description: Bytes, its projector included.
      type: int
    origin:
      description: Where its name is from, a file or a model of Ollama's.
      type: str
      sample: ollama:qwen3:8b
    entry:
      description: The model as an entry for O(homelab.llamacpp.model_file#module:models), or for the inventory.
      type: dict
      sample: {name: qwen3-8b, source: {path: /srv/models/Qwen3-8B-Q4_K_M.gguf}}
problems:
  description: What cannot be taken, and why.
  type: list
  elements: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._collection import Collection, Found


def described(model: Found) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": model.name, "source": {"path": model.path}}
    if model.projector:
        entry["projector"] = {"path": model.projector}
    return {**model._asdict(), "entry": entry}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path", "required": True}},
        supports_check_mode=True,
    )
    collection = Collection()
    for path in module.params["paths"]:
        try:
            collection.add(path)
        except OSError as error:
            module.fail_json(msg=f"paths: a folder with models was wanted at {path}, found: {error.strerror}")
    module.exit_json(
        changed=False, models=[described(model) for model in collection.models], problems=collection.problems
    )


if __name__ == "__main__":
    main()
