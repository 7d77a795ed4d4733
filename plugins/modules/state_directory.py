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
options:
  path:
    description: The directory. Nothing happens when it does not exist.
    type: path
    default: /var/lib/llama-router
  models_dir:
    description: The models directory. It is checked when it is in O(path).
    type: path
    default: /var/lib/llama-router/models
  user:
    description: The service's user.
    type: str
    default: llama-router
  unit:
    description: The service's unit.
    type: str
    default: llama-router.service
  unit_file:
    description: The file of O(unit). It may be missing.
    type: path
    default: /etc/systemd/system/llama-router.service
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
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._state_directory import (
    Outcome,
    Places,
    StateDirectory,
    StateError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError, runner


def _lines(places: Places, outcome: Outcome) -> list[str]:
    lines = [f"{places.unit_file}: StateDirectory= is {places.state} below the directory"] if outcome.unit else []
    lines += [f"{printable(path)}: root's" for path in outcome.owned]
    lines += [f"{printable(name)}: moved to {places.state}" for name in outcome.moved]
    return lines + [f"{printable(path)}: moved aside" for path in outcome.aside]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/var/lib/llama-router"},
            "models_dir": {"type": "path", "default": "/var/lib/llama-router/models"},
            "user": {"type": "str", "default": "llama-router"},
            "unit": {"type": "str", "default": "llama-router.service"},
            "unit_file": {"type": "path", "default": "/etc/systemd/system/llama-router.service"},
        },
        supports_check_mode=True,
    )
    params = module.params
    above, models = os.path.split(os.path.normpath(params["models_dir"]))
    places = Places(
        path=os.path.normpath(params["path"]),
        unit=params["unit"],
        unit_file=params["unit_file"],
        user=params["user"],
        models=models if above == os.path.normpath(params["path"]) else "",
    )
    try:
        outcome = StateDirectory(places, runner(module.run_command), module.check_mode).run()
    except (StateError, UnitError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{places.path}: expected to make it root's, found: {error.strerror} ({error.filename})")
    if outcome.aside:
        module.warn(
            f"{places.path}: {', '.join(map(printable, outcome.aside))} belonged to the service, which may have planted"
            f" it. It was moved to {outcome.aside_in or 'a new directory'}: look at it, then remove it"
        )
    models_owned = [path for path in outcome.owned if path != "./"]
    if models_owned:
        module.warn(
            f"{places.path}: {', '.join(map(printable, models_owned))} belonged to the service and is root's now."
            " Compare the models with their sources (llama_models_verify)"
        )
    module.exit_json(
        changed=outcome.changed,
        owned=outcome.owned,
        moved=outcome.moved,
        aside=outcome.aside,
        diff={"before": "", "after": "".join(f"{line}\n" for line in _lines(places, outcome))},
    )


if __name__ == "__main__":
    main()
