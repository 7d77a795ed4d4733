#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: removal
short_description: Take units, files, folders and a user away, and say which there were
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - What a role of this collection has made goes in one step. In check mode it only names what there is.
  - Links are removed and not followed. Nothing behind a mount point goes.
attributes:
  check_mode:
    support: full
    description: Names what would go.
  diff_mode:
    support: full
    description: Shows what goes.
options:
  units:
    description: Units to stop and to take out of the machine's start. Their files are among O(paths).
    type: list
    elements: str
    default: []
  paths:
    description: Files, and folders with all that is in them, absolute. Shell patterns are allowed.
    type: list
    elements: str
    default: []
  keep:
    description: Paths below O(paths) that stay.
    type: list
    elements: path
    default: []
  folders:
    description: Folders that go if nothing is left in them, the innermost first.
    type: list
    elements: path
    default: []
  user:
    description:
      - A system user, who goes with the group of the same name. Whatever still runs as that user when O(units) are
        stopped stops this, before anything is removed.
    type: str
  blocked:
    description:
      - Why nothing may go now, empty for no reason. It is the error where something is to go, but not in check mode.
    type: str
    default: ""
notes:
  - Needs root (C(become)).
seealso:
  - module: ansible.builtin.file
"""

EXAMPLES = r"""
- name: The service is gone
  homelab.llamacpp.removal:
    units: [example.service]
    paths: [/etc/systemd/system/example.service, /etc/example]
    user: example
"""

RETURN = r"""
found:
  description: What there was, and in check mode is, of all that was named.
  type: list
  elements: str
  returned: success
  sample: [unit example.service, /etc/systemd/system/example.service, /etc/example, user example]
"""

import grp
import pwd
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._removal import (
    RemovalError,
    empty,
    found,
    remove,
    running_as,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError, runner

ARGUMENTS: dict[str, Any] = {
    "units": {"type": "list", "elements": "str", "default": []},
    "paths": {"type": "list", "elements": "str", "default": []},
    "keep": {"type": "list", "elements": "path", "default": []},
    "folders": {"type": "list", "elements": "path", "default": []},
    "user": {"type": "str"},
    "blocked": {"type": "str", "default": ""},
}


class Removal:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self._run: Run = runner(module.run_command)

    def run(self) -> dict[str, Any]:
        units = [Unit(self._run, name) for name in self.params["units"]]
        units = [unit for unit in units if unit.properties("LoadState")["LoadState"] != "not-found"]
        paths = found(self.params["paths"], self.params["keep"])
        folders = empty(self.params["folders"], paths)
        user = self.params["user"] if self._is_there(pwd.getpwnam) else None
        there = [f"unit {unit.name}" for unit in units] + paths + folders + ([f"user {user}"] if user else [])
        if there and not self.module.check_mode:
            if self.params["blocked"]:
                raise RemovalError(self.params["blocked"])
            for unit in units:
                unit.stop()
                unit.enable(False)
            self._refuse_processes(user)
            for path in paths + folders:
                remove(path)
            if units:
                units[0].daemon_reload()
            if user:
                self._command("userdel", user)
                if self._is_there(grp.getgrnam):
                    self._command("groupdel", user)
        diff = {"before": "".join(f"{line}\n" for line in there), "after": ""}
        return {"changed": bool(there), "found": there, "diff": diff}

    def _refuse_processes(self, user: str | None) -> None:
        """What runs could lead this to other files while it removes the user's own."""
        left = running_as(pwd.getpwnam(user).pw_uid) if user else []
        if left:
            raise RemovalError(
                f"user: expected no process of {user} once the units are stopped, found {printable(', '.join(left))};"
                " stop them and run this again. No file was removed"
            )

    def _is_there(self, look: Any) -> bool:
        try:
            return bool(self.params["user"] and look(self.params["user"]))
        except KeyError:
            return False

    def _command(self, *argv: str) -> None:
        status, output, errors = self._run(argv)
        if status != 0:
            raise RemovalError(f"{' '.join(argv)} failed: {(errors or output).strip()}; mend that and run this again")


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        module.exit_json(**Removal(module).run())
    except (RemovalError, UnitError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename} was wanted gone: {error.strerror}; run as root (become)")


if __name__ == "__main__":
    main()
