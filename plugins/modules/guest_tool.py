#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_tool
short_description: Install one of the collection's own commands on a machine
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Writes the command and the parts of the collection that it is made of as one executable file, a Python zip
    application. It needs nothing but C(/usr/bin/python3), unless its description says so.
  - The file is replaced at once, so that a command that runs just then goes on as it was.
options:
  name:
    description: Which command. V(exporter) needs Debian's C(python3-prometheus-client) to run.
    type: str
    required: true
    choices: [exporter, keeper, status]
  path:
    description: The file. Its folder has to be there.
    type: path
    required: true
extends_documentation_fragment: [ansible.builtin.files]
attributes:
  check_mode:
    support: full
    description: Says whether the file would be written.
  diff_mode:
    support: full
    description: The digests of the file, before and after.
"""

EXAMPLES = r"""
- name: What a person asks on the guest
  homelab.llamacpp.guest_tool:
    name: status
    path: /usr/local/bin/llama-router-status
    mode: "0755"
"""

RETURN = r"""
path:
  description: The file.
  type: str
  returned: success
  sample: /usr/local/bin/llama-router-status
"""

import hashlib

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _guest_tools


class GuestTool:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.path: str = module.params["path"]

    def run(self) -> None:
        content = _guest_tools.packed(self.module.params["name"])
        found = self.read()
        changed = found != content
        if changed and not self.module.check_mode:
            self.write(content)
        result: dict[str, object] = {"path": self.path}
        if self.module._diff:
            result["diff"] = {"before": _described(found), "after": _described(content)}
        attributes = self.module.load_file_common_arguments(self.module.params, path=self.path)
        changed = self.module.set_fs_attributes_if_different(attributes, changed)
        self.module.exit_json(changed=changed, **result)

    def read(self) -> bytes | None:
        try:
            return _files.read(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.module.fail_json(msg=f"expected a file at {self.path}, it cannot be read: {error.strerror}")
            raise AssertionError("fail_json does not return") from None

    def write(self, content: bytes) -> None:
        try:
            _files.replace(self.path, content, mode=0o755)
        except OSError as error:
            self.module.fail_json(
                msg=f"cannot write {self.path}, which was left as it is: {error.strerror}; its directory has to exist"
            )


def _described(content: bytes | None) -> str:
    return "" if content is None else f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True, "choices": _guest_tools.NAMES},
            "path": {"type": "path", "required": True},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    GuestTool(module).run()


if __name__ == "__main__":
    main()
