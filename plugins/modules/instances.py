#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instances
short_description: Dedicated llama-servers, each an instance of one template unit
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Brings each instance to its state, with an environment file (C(0640)) and a key file (C(0400), the service's) of its
    own.
  - Everything is looked at and tried out first (ports, the model, the command line by a dry run of the real
    llama-server), so that what cannot run is refused before anything is changed.
  - Only what differs from what it was started with is restarted. It then waits until the model is loaded, and sees that
    a call without the key is refused, that one with it is answered, and that the layers are on the devices.
  - Instances that are not named are left alone.
  - The role P(homelab.llamacpp.llama_instance#role) installs the template unit and uses this.
attributes:
  check_mode:
    support: full
    description: Says what would be done to which instance.
  diff_mode:
    support: full
    description: Shows the environment files. Keys and values of secret options are not shown.
options:
  instances:
    description: The instances, as P(homelab.llamacpp.instance_plan#filter) returns them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name, the part of its unit after the C(@).
        type: str
        required: true
      state:
        description: V(absent) takes its files away, too.
        type: str
        choices: [started, stopped, absent]
        default: started
      port:
        description: Where it listens.
        type: int
      environment:
        description: The variables of its environment file, C(MODEL), C(HOST), C(PORT), C(OPTIONS) and so on.
        type: dict
      keys:
        description: Its keys. Without them one is made in the first run, and kept.
        type: list
        elements: str
  unit:
    description: Name of the template unit, without the C(@).
    type: str
    default: llama-instance
  user:
    description: User of the service.
    type: str
    default: llama-instance
  config_dir:
    description: Where the files of the instances lie. It has to be there.
    type: path
    default: /etc/llama-instance
  run_dir:
    description:
      - Where the unit records what each instance was started with, in a file C(UNIT@NAME.service.applied). The filter
        P(homelab.llamacpp.unit_record#filter) makes the line that does it.
    type: path
    default: /run/homelab-llamacpp
  binary:
    description: The llama-server.
    type: path
    required: true
  watch:
    description: Files of which a change restarts every instance.
    type: list
    elements: path
    default: []
  placed_in:
    description:
      - The folder into which M(homelab.llamacpp.model_file) places models. An instance whose model it has replaced
        since is restarted.
    type: path
  timeout:
    description: How long a model may take to load, in seconds.
    type: int
    default: 600
seealso:
  - plugin: homelab.llamacpp.instance_plan
    plugin_type: filter
"""

EXAMPLES = r"""
- name: One server for completions in an editor
  homelab.llamacpp.instances:
    binary: /opt/llama.cpp/current/bin/llama-server
    instances: "{{ (wanted | homelab.llamacpp.instance_plan(models=found.models)).instances }}"
  vars:
    wanted:
      - {name: coder, model: qwen2.5-coder-1.5b, port: 8101, options: {ctx-size: 8192}}
"""

RETURN = r"""
instances:
  description: What was done, or would be in check mode.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: Its name.
      type: str
    action:
      description: V(none), V(start), V(restart), V(stop) or V(remove).
      type: str
    files:
      description: Its files that were written.
      type: list
      elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._instances import (
    InstanceError,
    Instances,
    Places,
    secrets_of,
    shown,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError, runner

INSTANCE: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["started", "stopped", "absent"], "default": "started"},
    "port": {"type": "int"},
    "environment": {"type": "dict"},
    "keys": {"type": "list", "elements": "str", "no_log": True},
}


class Module(AnsibleModule):
    def _log_invocation(self) -> None:
        """Keep secrets of options out of the guest's log, and out of what the module returns."""
        for instance in self.params["instances"]:
            self.no_log_values.update(secrets_of(instance.get("environment") or {}))
        super()._log_invocation()


def result(instances: Instances) -> dict[str, Any]:
    changed = [instance for instance in instances.all if instance.changed]
    return {
        "changed": bool(changed),
        "instances": [
            {"name": instance.name, "action": instance.action, "files": sorted(instance.files)}
            for instance in instances.all
        ],
        "diff": [
            {
                "before_header": f"{instance.name} (before)",
                "after_header": f"{instance.name} ({instance.action})",
                "before": shown(instance.before),
                "after": shown(instance.after),
            }
            for instance in changed
        ],
    }


def main() -> None:
    module = Module(
        argument_spec={
            "instances": {"type": "list", "elements": "dict", "required": True, "options": INSTANCE},
            "unit": {"type": "str", "default": "llama-instance"},
            "user": {"type": "str", "default": "llama-instance"},
            "config_dir": {"type": "path", "default": "/etc/llama-instance"},
            "run_dir": {"type": "path", "default": "/run/homelab-llamacpp"},
            "binary": {"type": "path", "required": True},
            "watch": {"type": "list", "elements": "path", "default": []},
            "placed_in": {"type": "path"},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    params = dict(module.params)
    wanted = params.pop("instances")
    instances = Instances(wanted, Places(**params), runner(module.run_command))
    try:
        instances.look()
        if not module.check_mode:
            instances.converge()
    except (InstanceError, RouterError, UnitError) as error:
        module.fail_json(msg=str(error), **result(instances))
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or params['config_dir']}: {error.strerror}; correct that, then run again",
            **result(instances),
        )
    module.exit_json(**result(instances))


if __name__ == "__main__":
    main()
