#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: role_files
short_description: "[INTERNAL] Write the files of a role in one call"
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - A step of roles. It writes files that are root's, with the content that the role has rendered, and the collection's
    own commands. One call instead of several saves most of the time of a run that changes nothing.
  - Each file is written beside its place, brought to the disk and renamed. Nothing is written that would not change.
  - No path is followed that another user can change.
options:
  files:
    description: The files, written in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file. Its directory has to exist.
        type: path
        required: true
      content:
        description: Its content. It is neither returned nor logged.
        type: str
        required: true
      mode:
        description: Its mode in octal digits.
        type: str
        default: "0644"
  tools:
    description: The collection's own commands, as M(homelab.llamacpp.guest_tool) writes them, with mode 0755.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Which command.
        type: str
        required: true
        choices: [exporter, keeper, status]
      path:
        description: The file. Its directory has to exist.
        type: path
        required: true
attributes:
  check_mode:
    support: full
    description: Reports what would be written.
  diff_mode:
    support: full
    description: Shows the content of each file that changes, and the digests of commands.
notes:
  - Needs root (C(become)).
"""

EXAMPLES = r"""
- name: Write the unit and its gate
  homelab.llamacpp.role_files:
    files:
      - path: /etc/systemd/system/example.service
        content: "{{ lookup('ansible.builtin.template', 'example.service.j2') }}"
      - path: /usr/local/lib/example/gate
        content: "{{ lookup('ansible.builtin.file', 'gate', rstrip=false) }}"
        mode: "0755"
"""

RETURN = r"""
changed_files:
  description: The files that were written, or in check mode would be.
  type: list
  elements: str
  returned: success
  sample: [/etc/systemd/system/example.service]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils import _guest_tools
from ansible_collections.homelab.llamacpp.plugins.module_utils._root_files import Change, put_file

ARGUMENTS: dict[str, Any] = {
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "mode": {"type": "str", "default": "0644"},
        },
    },
    "tools": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True, "choices": _guest_tools.NAMES},
            "path": {"type": "path", "required": True},
        },
    },
}


class Module(AnsibleModule):
    def _log_invocation(self) -> None:
        """Keep the content of files, which may be confidential, out of the machine's log."""
        self.log(f"role_files: {', '.join(_paths(self.params))}")


def _paths(params: dict[str, Any]) -> list[str]:
    return [entry["path"] for entry in [*params["tools"], *params["files"]]]


def write(module: AnsibleModule) -> list[Change]:
    """What was changed; the first error ends it, and the next run goes on."""
    changes = []
    wanted = [(tool["path"], _guest_tools.packed(tool["name"]), 0o755) for tool in module.params["tools"]]
    for file in module.params["files"]:
        try:
            wanted.append((file["path"], file["content"].encode("utf-8", "surrogateescape"), int(file["mode"], 8)))
        except ValueError:
            module.fail_json(msg=f"{file['path']}: expected octal digits as mode, found {file['mode']!r}")
    for path, content, mode in wanted:
        try:
            change = put_file(path, content, mode, module.check_mode)
        except OSError as error:
            module.fail_json(
                msg=f"{path}: expected to write it, found: {error.strerror}; it was left as it is, and its directory"
                " has to exist"
            )
        if change:
            changes.append(change)
    return changes


def main() -> None:
    module = Module(argument_spec=ARGUMENTS, supports_check_mode=True)
    changes = write(module)
    result: dict[str, Any] = {"changed_files": [change.path for change in changes]}
    if module._diff:
        result["diff"] = [change.diff() for change in changes]
    # Without the content, which would be repeated otherwise.
    module.exit_json(changed=bool(changes), invocation={"module_args": {"paths": _paths(module.params)}}, **result)


if __name__ == "__main__":
    main()
