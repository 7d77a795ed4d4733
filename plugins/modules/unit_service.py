#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_service
short_description: A unit runs with its files as they are now
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Keeps a unit enabled and running, and restarts or reloads it when a file is another one than it was started with.
  - What it has read is noted in a record, so that also a run that was cut off between a file and the restart is made
    good by the next one, and a change that came by another way is seen.
  - systemd reads its unit files again where it has to.
attributes:
  check_mode:
    support: full
    description: Says what would be done. A unit that is not there yet would be started.
  diff_mode:
    support: full
    description: Shows the steps.
options:
  name:
    description: The unit.
    type: str
    required: true
  applied:
    description:
      - The record of what it has read, in the format of C(sha256sum). By default the unit writes it itself when it
        starts, and the files that are looked at are the ones in it. The filter P(homelab.llamacpp.unit_record#filter)
        makes the line that does it.
      - A record in a directory that another user can write to counts as missing.
    type: path
    required: true
  files:
    description:
      - For a unit that does not write O(applied) itself, such as a server that others have set up. When one of these
        files is another one, or there is no record, it is reloaded, and the record is written then.
      - Of a folder it is its entries that count.
    type: list
    elements: path
    default: []
  restart:
    description: With O(files), whether it is restarted in place of a reload, as it reads them only when it starts.
    type: bool
    default: false
notes:
  - Needs root (C(become)).
seealso:
  - module: ansible.builtin.systemd_service
  - module: homelab.llamacpp.router_service
"""

EXAMPLES = r"""
# In the unit:
#   {{ ['/etc/systemd/system/example.service', '/etc/example.conf'] | homelab.llamacpp.unit_record }}
- name: It runs with the file as it is
  homelab.llamacpp.unit_service:
    name: example.service
    applied: /run/homelab-llamacpp/example.service.applied

- name: Nginx has read the site
  homelab.llamacpp.unit_service:
    name: nginx.service
    applied: /var/lib/example/nginx.applied
    files: [/etc/nginx/conf.d/example.conf]
"""

RETURN = r"""
steps:
  description: What was done, and in check mode would be - C(daemon-reload), C(enable), C(start), C(restart), C(reload).
  type: list
  elements: str
  returned: success
  sample: [restart]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError, runner
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_service import UnitService

ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "applied": {"type": "path", "required": True},
    "files": {"type": "list", "elements": "path", "default": []},
    "restart": {"type": "bool", "default": False},
}


def run(module: AnsibleModule) -> dict[str, Any]:
    service = UnitService(runner(module.run_command), **module.params)
    steps = list(service.wanting())
    if not module.check_mode:
        service.apply(steps)
    diff = {"before": "", "after": "".join(f"{step}\n" for step in steps)}
    return {"changed": bool(steps), "steps": steps, "diff": diff}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        module.exit_json(**run(module))
    except (RouterError, UnitError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
