#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_status_info
short_description: Whether a router, its models and its machine do what they should
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Looks at the unit, the router, each model beside the plan, the GPUs and their driver, memory and disk, and says
    what is to be mended.
  - What the command C(llama-router-status), the exporter and its page say comes from the same place. It neither loads
    nor wakes a model.
  - A router that is down is an answer, not an error.
options:
  name:
    description: The router's unit. Its command line tells where the router and its files are.
    type: str
    default: llama-router.service
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: N/A
    description: Changes nothing.
notes:
  - Run it as root (become), who can read the router's key and its journal.
seealso:
  - module: homelab.llamacpp.router_info
  - module: homelab.llamacpp.gpu_info
"""

EXAMPLES = r"""
- name: How is the router?
  homelab.llamacpp.router_status_info:
  register: router

- name: It is well
  ansible.builtin.assert:
    that: router.report.verdict == 'healthy'
    fail_msg: "{{ router.report.reasons | join('; ') }}"
"""

RETURN = r"""
lines:
  description: All of it as a table for people.
  type: list
  elements: str
  returned: success
report:
  description: All of it as data. Memory is in MiB, times are seconds since the epoch, null is what is not known.
  type: dict
  returned: success
  contains:
    at:
      description: When it was looked at.
      type: float
    verdict:
      description: V(healthy), V(degraded) (it serves, and something is to be mended) or V(down).
      type: str
    reasons:
      description: Why it is not healthy, a sentence each.
      type: list
      elements: str
    unit:
      description:
        - C(name), C(state), C(sub), C(enabled), C(since), C(restarts), C(memory_mib), C(errors), its last ones, and
          C(delays), the units that held up the start of the machine, with C(name), C(seconds) and C(for).
      type: dict
    router:
      description: >-
        C(url), C(up), C(reason) (why it is not), C(problem) (the same in a word), C(role), C(build), C(limit),
        C(autoload), C(loaded).
      type: dict
    models:
      description:
        - The models, by their ids. C(id), C(aliases), C(status), C(failed), C(exit_code), C(source) and C(ctx_size) are
          those of RV(homelab.llamacpp.router_info#module:models).
      type: list
      elements: dict
      contains:
        pinned:
          description: Whether it is loaded at start.
          type: bool
        port:
          description: The port of its process, on the loopback.
          type: int
        planned:
          description: Whether the plan has it.
          type: bool
        memory:
          description:
            - What it takes of each device and of the host, C(device), C(planned_mib), and C(used_mib) by its own log
              as long as it runs.
          type: list
          elements: dict
        offloaded:
          description: How many of its layers are on devices.
          type: int
        layers:
          description: Of how many.
          type: int
        on_cpu:
          description: Whether layers lie on the CPU that were planned on a device.
          type: bool
    devices:
      description: The plan's devices, C(name), C(total_mib), C(usable_mib), and C(used_mib) by the running models.
      type: list
      elements: dict
    gpus:
      description: The GPUs by nvidia-smi, their memory, utilization, temperature, power, what holds their clocks down.
      type: list
      elements: dict
    driver:
      description: As RV(homelab.llamacpp.gpu_info#module:driver).
      type: dict
    memory:
      description: C(total_mib) and C(available_mib) of the machine.
      type: dict
    disk:
      description: C(path), C(total_mib) and C(free_mib) of the models' folder.
      type: dict
    certificates:
      description:
        - Of the router when it has TLS of its own, and of the servers that the exporter watches. C(address),
          C(expires), and C(reason) where that is not known.
      type: list
      elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import UNIT, of_unit, run_here
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_report import gather
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_table import lines_of


def main() -> None:
    module = AnsibleModule(argument_spec={"name": {"type": "str", "default": UNIT}}, supports_check_mode=True)
    report = gather(of_unit(run_here, module.params["name"]), run_here)
    module.exit_json(changed=False, report=report, lines=lines_of(report))


if __name__ == "__main__":
    main()
