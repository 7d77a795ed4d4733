#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_prepare
short_description: "[INTERNAL] Prepare a machine for the files of the router"
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - The first step of the role P(homelab.llamacpp.llama_router#role). It gathers what the role has to know of the
    machine, converts the state directory as M(homelab.llamacpp.state_directory) does, and creates directories.
extends_documentation_fragment: [homelab.llamacpp.state_directory]
options:
  home:
    description: The home directory that the user has to have.
    type: path
    required: true
  shell:
    description: The shell that the user has to have.
    type: path
    default: /usr/sbin/nologin
  directories:
    description: Directories that become root's, with mode 0755. In check mode they are left out without the user.
    type: list
    elements: path
    default: []
  credentials:
    description: Whether to start a service that shows whether systemd can give credentials to services here.
    type: bool
    default: true
  exist:
    description: Paths that are looked for.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
    description: Reports what would change. Services of a moment are started in check mode too.
  diff_mode:
    support: full
    description: Shows each path with what happens to it.
notes:
  - Needs root (C(become)).
seealso:
  - module: homelab.llamacpp.sandbox_info
"""

EXAMPLES = r"""
- name: Prepare the machine
  homelab.llamacpp.router_prepare:
    home: /var/lib/llama-router
    directories: [/etc/llama-router, /var/lib/llama-router]
  register: prepared
"""

RETURN = r"""
account:
  description: Whether the user exists, with this home directory and shell.
  type: bool
  returned: success
  sample: true
refused:
  description: As RV(homelab.llamacpp.sandbox_info#module:refused).
  type: dict
  returned: success
  sample: {}
credentials:
  description: Whether systemd can give credentials to services; null when O(credentials=false).
  type: bool
  returned: success
  sample: true
existing:
  description: Those of O(exist) that exist.
  type: list
  elements: str
  returned: success
  sample: []
directories:
  description: The directories that were created or changed.
  type: list
  elements: str
  returned: success
  sample: []
"""

import os
import pwd
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._root_files import Change, put_folder
from ansible_collections.homelab.llamacpp.plugins.module_utils._sandbox_probe import (
    ProbeError,
    gives_credentials,
    probe,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._state_directory import (
    PLACES_ARGUMENTS,
    Places,
    StateDirectory,
    StateError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, UnitError, runner


def has_account(user: str, home: str, shell: str) -> bool:
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return False
    return (found.pw_dir, found.pw_shell) == (home, shell)


def prepare(module: AnsibleModule, run: Run) -> dict[str, Any]:
    params = module.params
    places = Places.of(params)
    account = has_account(params["user"], params["home"], params["shell"])
    state = StateDirectory(places, run, module.check_mode).run()
    changes: list[Change] = []
    for path in params["directories"] if account or not module.check_mode else []:
        change = put_folder(path, 0o755, module.check_mode)
        changes += [change] if change else []
    for warning in state.warnings(places):
        module.warn(warning)
    diff = [{"before": "", "after": "".join(f"{line}\n" for line in state.lines(places))}] if state.changed else []
    return {
        "changed": state.changed or bool(changes),
        "account": account,
        "refused": probe(run),
        "credentials": gives_credentials(run) if params["credentials"] else None,
        "existing": [path for path in params["exist"] if os.path.lexists(path)],
        "directories": [change.path for change in changes],
        "diff": [*diff, *(change.diff() for change in changes)],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **PLACES_ARGUMENTS,
            "home": {"type": "path", "required": True},
            "shell": {"type": "path", "default": "/usr/sbin/nologin"},
            "directories": {"type": "list", "elements": "path", "default": []},
            "credentials": {"type": "bool", "default": True},
            "exist": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    try:
        module.exit_json(**prepare(module, runner(module.run_command)))
    except (StateError, UnitError, ProbeError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: expected to make it root's, found: {error.strerror}")


if __name__ == "__main__":
    main()
