#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_info
short_description: Which of systemd's hardening directives a machine carries out
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Starts a service of a moment (C(systemd-run)) with all hardening that P(homelab.llamacpp.unit_hardening#filter)
    knows, which then looks at itself. Where that fails, as it may in an unprivileged container without nesting, one
    directive after the other is tried.
  - A directive counts as refused when the service does not start with it, when this systemd does not know it, and when
    systemd passes over it without a word.
  - Takes 0.1 seconds, and some 2 where something is refused.
attributes:
  check_mode:
    support: full
    description: Changes nothing that lasts, in any mode; the service of a moment is started in check mode too.
  diff_mode:
    support: N/A
    description: Changes nothing.
requirements:
  - systemd as the first process, and root's rights
seealso:
  - plugin: homelab.llamacpp.unit_hardening
    plugin_type: filter
"""

EXAMPLES = r"""
- name: What this machine lets a service be confined by
  homelab.llamacpp.sandbox_info:
  register: sandbox

- name: Say what it does not
  ansible.builtin.debug:
    msg: "{{ sandbox.refused }}"
  when: sandbox.refused
"""

RETURN = r"""
refused:
  description: The directives that this machine does not carry out, each with the reason; empty where all of them work.
  type: dict
  returned: success
  sample: {ProtectProc: 226/NAMESPACE}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._sandbox_probe import ProbeError, probe
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import runner


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.run_command_environ_update = {"LC_ALL": "C"}
    try:
        module.exit_json(changed=False, refused=probe(runner(module.run_command)))
    except ProbeError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
