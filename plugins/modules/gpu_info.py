#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: The NVIDIA GPUs of a node or of a guest, their driver and their device nodes
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Says which GPUs there are, whether the kernel module and the libraries are of the same version, and which device
    nodes are missing, with the one reason why the GPUs cannot be used.
  - The kernel module, the libraries and the nodes are read from files, so they are told when C(nvidia-smi) fails or is
    not installed.
  - On a machine without a GPU the lists are empty; that is no error.
options:
  packages:
    description: Debian packages, of which those that dpkg knows are returned too.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Changes nothing, in any mode.
  diff_mode:
    support: N/A
    description: Changes nothing.
notes:
  - An LXC guest shares its node's kernel. It sees all cards of the node and the version of its kernel module; the
    libraries and the device nodes are its own, so in a guest that was given some of the GPUs the nodes of the others
    are among the missing ones, and RV(gpus) has only its own.
  - The indexes are in the order of the PCI addresses. CUDA numbers its devices in this order only with
    C(CUDA_DEVICE_ORDER=PCI_BUS_ID) in its environment.
seealso:
  - plugin: homelab.llamacpp.vram_plan
    plugin_type: filter
"""

EXAMPLES = r"""
- name: What can this machine compute on?
  homelab.llamacpp.gpu_info:
  register: found

- name: The GPUs can be used
  ansible.builtin.assert:
    that: not found.driver.reason
    fail_msg: "{{ found.driver.reason }}"

- name: What fits on them
  ansible.builtin.debug:
    msg: "{{ llamacpp_models | homelab.llamacpp.vram_plan(found.gpus) }}"
"""

RETURN = r"""
gpus:
  description: The GPUs that C(nvidia-smi) lists, by index; none when it fails. The planner takes the list as it is.
  type: list
  elements: dict
  returned: success
  contains:
    index:
      description: Its index for C(nvidia-smi).
      type: int
    uuid:
      description: Its UUID, which stays when cards are moved.
      type: str
      sample: GPU-5f3a2c1e-7b64-4a8e-9c0d-2f6b1e8d4a70
    pci_address:
      description: Its PCI address, as the kernel writes it.
      type: str
      sample: "0000:01:00.0"
    product:
      description: What it is.
      type: str
      sample: NVIDIA GeForce RTX 3090
    memory_total_mib:
      description: Its memory in MiB.
      type: int
      sample: 24576
    memory_used_mib:
      description: The memory in use just now, in MiB.
      type: int
    compute_capability:
      description: Its architecture as CUDA numbers it.
      type: str
      sample: "8.6"
    power:
      description: Its power limits, C(limit default_limit min_limit max_limit), in watts; null for what it has not.
      type: dict
      sample: {limit: 280, default_limit: 350, min_limit: 100, max_limit: 366}
    persistence:
      description: Whether it stays initialized when nothing uses it.
      type: bool
    minor:
      description: The number of its device node; null where the kernel does not tell.
      type: int
    device_node:
      description: Its device node; null where the kernel does not tell.
      type: str
      sample: /dev/nvidia0
cards:
  description: NVIDIA's graphics cards on the PCI bus, also without a driver.
  type: list
  elements: dict
  returned: success
  contains:
    pci_address:
      description: The PCI address.
      type: str
    device_id:
      description: The PCI device id.
      type: str
      sample: "0x2204"
    kernel_driver:
      description: The kernel module that drives it, V(nvidia), V(nouveau), V(vfio-pci); null for none.
      type: str
    open_module:
      description:
        - What NVIDIA's open kernel module is to it. V(unsupported) before Turing, V(required) from Blackwell on.
      type: str
      sample: supported
driver:
  description: The driver's two sides.
  type: dict
  returned: success
  contains:
    kernel_version:
      description: The version of the loaded kernel module; null when none is loaded.
      type: str
      sample: 550.163.01
    kernel_module:
      description: V(proprietary) or V(open); null when none is loaded.
      type: str
    library_version:
      description: The version of the libraries; null when there are none.
      type: str
      sample: 550.163.01
    libraries:
      description: The version of each library.
      type: dict
      sample: {libcuda.so.1: 550.163.01, libnvidia-ml.so.1: 550.163.01}
    agree:
      description: Whether kernel module and libraries are the same in all numbers; null when one is not there.
      type: bool
    secure_boot:
      description: Whether the firmware loads signed code only; null where it does not tell.
      type: bool
    reason:
      description: Why the GPUs cannot be used, the first thing to mend; null when they can.
      type: str
packages:
  description: Those of O(packages) that dpkg knows.
  type: list
  elements: dict
  returned: when O(packages) is given
  contains:
    name:
      description: The package.
      type: str
      sample: nvidia-smi
    selection:
      description: What dpkg is told of it, V(install), V(hold), V(deinstall).
      type: str
    state:
      description: Its state, V(installed), V(config-files), V(not-installed) for instance.
      type: str
    version:
      description: Its version; empty where it has none.
      type: str
      sample: 550.163.01-2
device_nodes:
  description: The device nodes.
  type: dict
  returned: success
  contains:
    present:
      description: Those that are there, those in C(/dev/nvidia-caps) too.
      type: list
      elements: str
      sample: [/dev/nvidia0, /dev/nvidiactl, /dev/nvidia-uvm, /dev/nvidia-uvm-tools]
    missing:
      description: Those that CUDA needs for all GPUs of the machine and that are not there.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils import _packages
from ansible_collections.homelab.llamacpp.plugins.module_utils._bounded import runner
from ansible_collections.homelab.llamacpp.plugins.module_utils._nvidia import look


def main() -> None:
    module = AnsibleModule(
        argument_spec={"packages": {"type": "list", "elements": "str", "default": []}}, supports_check_mode=True
    )
    run, names = runner(), module.params["packages"]
    try:
        found = {"packages": _packages.known(run, names)} if names else {}
    except _packages.PackageError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **look(run), **found)


if __name__ == "__main__":
    main()
