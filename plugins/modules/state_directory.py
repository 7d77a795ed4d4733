#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: state_directory
short_description: "[INTERNAL] Make the directory above the models root's"
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - A step of the roles P(homelab.llamacpp.llama_models#role) and P(homelab.llamacpp.llama_router#role). It converts
    what an earlier version has installed, and changes nothing otherwise.
  - There the service owned the directory above the models. Now the directory is root's, and the service writes in a
    directory C(state) in it.
  - The setting C(StateDirectory=) of the unit is changed first. Else systemd would give the models to the service.
  - Nothing is deleted and no link is followed. The service's own files go to its C(state) directory. Models that belong
    to the service become root's. Anything else of the service among the models is moved to a new directory
    C(moved-aside-*) of root's.
extends_documentation_fragment: [homelab.llamacpp.state_directory]
options:
  read:
    description: Whether to read the models afterwards too, as M(homelab.llamacpp.gguf_info) does for O(user).
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Lists what would change.
  diff_mode:
    support: full
    description: Shows each path with what happens to it.
notes:
  - Needs root (C(become)).
"""

EXAMPLES = r"""
- name: Convert the state directory of an earlier version
  homelab.llamacpp.state_directory:
"""

RETURN = r"""
owned:
  description: Directories and models in O(path) that became root's; V(./) is the directory itself.
  type: list
  elements: str
  returned: success
  sample: ["./"]
moved:
  description: The service's own entries of O(path) that are in its C(state) directory now.
  type: list
  elements: str
  returned: success
  sample: [.cache]
aside:
  description: Entries that the service may have planted, which were moved aside.
  type: list
  elements: str
  returned: success
  sample: [models/.model_file.json.lock]
ready:
  description: Whether O(models_dir) is a directory of root's with mode 0755.
  type: bool
  returned: success
  sample: true
found:
  description:
    - What M(homelab.llamacpp.gguf_info) returns of O(models_dir). The lists are empty where nothing is there, and in
      check mode where the directory is still to be converted.
  type: dict
  returned: when O(read=true)
  sample: {models: [], problems: [], blocking: []}
"""

import os
import stat
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_read import ReadError, read_models
from ansible_collections.homelab.llamacpp.plugins.module_utils._state_directory import (
    PLACES_ARGUMENTS,
    Places,
    StateDirectory,
    StateError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError, runner


def is_ready(folder: str) -> bool:
    try:
        found = os.stat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o755)


def read(params: dict[str, Any], trusted: bool) -> dict[str, Any]:
    if not trusted or not os.path.exists(params["models_dir"]):
        return {"models": [], "problems": [], "blocking": []}
    return read_models(params["models_dir"], params["user"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={**PLACES_ARGUMENTS, "read": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )
    places = Places.of(module.params)
    try:
        outcome = StateDirectory(places, runner(module.run_command), module.check_mode).run()
        trusted = not (module.check_mode and outcome.changed)
        found = {"found": read(module.params, trusted)} if module.params["read"] else {}
    except (StateError, UnitError, ReadError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{places.path}: expected to make it root's, found: {error.strerror} ({error.filename})")
    for warning in outcome.warnings(places):
        module.warn(warning)
    module.exit_json(
        changed=outcome.changed,
        owned=outcome.owned,
        moved=outcome.moved,
        aside=outcome.aside,
        ready=is_ready(module.params["models_dir"]),
        diff={"before": "", "after": "".join(f"{line}\n" for line in outcome.lines(places))},
        **found,
    )


if __name__ == "__main__":
    main()
