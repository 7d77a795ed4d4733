#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_cpp_source
short_description: Place llama.cpp's source tree and check cmake options against it
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Unpacks a checked archive at a path that stays the same, so that a later build of other sources finds its compiler
    cache; or looks at a tree that is there.
  - Compares the commit of a git repository with the expected one, and with the one of the build before. A tag can be
    moved, and an archive has its checksum.
  - Checks the names of cmake options against the C(option()) lines of the tree. cmake itself takes an option that is
    misspelt, or gone, without a word.
options:
  path:
    description: Where the tree lies, or is to lie.
    type: path
    required: true
  archive:
    description:
      - An archive on the target that has the tree, at the top or up to two folders deeper. Without it the tree has to
        be at O(path) already.
    type: path
  checksum:
    description: What the SHA-256 of O(archive) has to be, as C(sha256:…).
    type: str
  repo:
    description:
      - Git repository that O(path) was checked out of. Its commit is then checked, and recorded in C(commits.json)
        beside O(path).
    type: str
  version:
    description: Tag or commit that was checked out of O(repo).
    type: str
  commit:
    description:
      - Commit that O(version) has to be. Without it the one that was recorded before, if there is one.
    type: str
    default: ''
  options:
    description: The cmake options to check, names and values.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Says whether the archive would be unpacked. Options can be checked only where the tree lies already.
  diff_mode:
    support: none
    description: A diff of two source trees would be of no use.
seealso:
  - module: homelab.llamacpp.llama_cpp_build
"""

EXAMPLES = r"""
- name: The tree of an archive, at a path that stays the same
  homelab.llamacpp.llama_cpp_source:
    path: /opt/llama.cpp/build/src
    archive: /opt/llama.cpp/build/download/b11434.tar.gz
    checksum: sha256:0b7a…
    options: {GGML_CUDA_FA_ALL_QUANTS: true}
"""

RETURN = r"""
commit:
  description: The commit of the tree.
  type: str
  returned: when O(repo) is given and the tree exists
options:
  description: Names of the options that the tree has.
  type: list
  elements: str
  returned: when the tree is there
  sample: [GGML_CUDA, GGML_VULKAN]
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._cmake_options import read_options
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_build import check_options
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import ReleaseError
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_sources import (
    check_commit,
    find_tree,
    is_placed,
    place_tree,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import runner


class LlamaCppSource:
    def __init__(self, module: AnsibleModule) -> None:
        self.params = module.params
        self.check_mode: bool = module.check_mode
        self.run_command = runner(module.run_command)

    def run(self) -> dict[str, Any]:
        path, archive, checksum = (self.params[name] for name in ("path", "archive", "checksum"))
        changed = bool(archive) and not is_placed(path, checksum)
        if changed and self.check_mode:
            return {"changed": True}
        if changed:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            place_tree(self.run_command, archive, checksum, path)
        elif self.check_mode and not os.path.isdir(path):
            return {"changed": False}
        elif find_tree(path) != path:
            raise ReleaseError(f"llama.cpp's source tree was wanted at {path}; it lies at {find_tree(path)}")
        commit = {}
        if self.params["repo"] and not self.check_mode:
            words = [self.params[name] for name in ("repo", "version", "commit")]
            commit = {"commit": check_commit(self.run_command, path, *words)}
        known = read_options(path)
        check_options(self.params["options"], known)
        return {"changed": changed, **commit, "options": sorted(known.names)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "archive": {"type": "path"},
            "checksum": {"type": "str"},
            "repo": {"type": "str"},
            "version": {"type": "str"},
            "commit": {"type": "str", "default": ""},
            "options": {"type": "dict", "default": {}},
        },
        mutually_exclusive=[("archive", "repo")],
        required_together=[("archive", "checksum"), ("repo", "version")],
        supports_check_mode=True,
    )
    try:
        result = LlamaCppSource(module).run()
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
