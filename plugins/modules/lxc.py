#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc
short_description: One LXC container of a Proxmox VE node
version_added: 0.1.0
author:
  - The homelab.llamacpp authors (@homelab-llamacpp)
description:
  - Creates a container from a template, makes its configuration what is wanted, starts it, stops it, deletes it.
  - Puts only what differs. An option that is not given is left as it is; one that is given is wanted whole, so that
    a property that it does not name is taken away. What Proxmox VE makes up itself is kept (the MAC address of a
    network, the volume behind C(storage:size)). An empty value takes a setting away.
  - What cannot work is refused before anything changes, such as a device, a bridge or an SDN vnet that the node does
    not have, a storage that holds no containers, or settings that the user or token may not set, all of them named at
    once.
  - On the node itself, configuration and state are read from the node's files, since a call of C(pvesh) takes a second.
    A run that finds everything in place makes no API call there. Over HTTPS it makes two.
  - A container that is on another node of the cluster, such as one that has migrated, is an error that names its node.
  - There is no option for a root password. On the node it would stand in the argument list of C(pvesh), where every
    user can read it. Use O(ssh_public_keys), or C(pct enter).
extends_documentation_fragment:
  - homelab.llamacpp.proxmox
attributes:
  check_mode:
    support: full
    description: Says what a run would do, and changes nothing. Only the reading calls are made.
  diff_mode:
    support: full
    description: The keys of the container's configuration, and its state, before and after.
options:
  vmid:
    description: Number of the container.
    type: int
    required: true
  state:
    description:
      - V(present) creates and configures, and leaves a container running or stopped as it is.
      - V(started) and V(stopped) do that and start it or shut it down.
      - V(absent) deletes it with its volumes, and takes it out of backup jobs and HA.
    type: str
    choices: [present, started, stopped, absent]
    default: present
  restart:
    description:
      - Whether a running container may be restarted when changes wait for that. Without it they go on waiting, and
        RV(restart_required) is true.
    type: bool
    default: false
  force:
    description:
      - With O(state=absent), delete a running container too.
      - With O(state=stopped) or O(restart=true), kill what does not shut down within O(timeout).
    type: bool
    default: false
  ostemplate:
    description:
      - Template to create from, as C(STORAGE:vztmpl/FILE). Needed only where the container does not exist; one that
        exists is never made anew.
      - C(FILE) may be the package's name alone, such as V(local:vztmpl/debian-13-standard); the newest of it is taken
        from the storage, or else from what Proxmox VE offers.
    type: str
  download_template:
    description: Whether a template that is not on its storage is downloaded, as C(pveam download) does.
    type: bool
    default: true
  storage:
    description: Storage of the root volume. Used only to create. The default is Proxmox VE's own, C(local).
    type: str
  disk_gib:
    description:
      - Size of the root volume in GiB. A smaller one is grown, a larger one is left as it is.
      - A volume whose file system does not grow with it fails the run. On the node the next run grows the volume by
        another MiB, so that Proxmox VE grows the file system too.
    type: float
  hostname:
    description:
      - Name of the container. With O(state=absent), a container of another name is not deleted.
      - A running container takes another name at its next start, and RV(pending) says so until then. After the run that
        changed it that is only seen on the node itself.
    type: str
  cores:
    description: Number of cores that the container may use.
    type: int
  memory_mib:
    description: Memory in MiB.
    type: int
  swap_mib:
    description: Swap in MiB.
    type: int
  unprivileged:
    description:
      - Whether root in the container is an ordinary user on the node. A new container is, unless this is V(false).
      - Fixed when a container is made, another value for one that exists is an error.
    type: bool
  features:
    description:
      - Features such as C(nesting), C(keyctl), C(fuse), C(mknod), C(mount).
    type: dict
  net:
    description:
      - Networks by their key, C(net0), C(net1) and so on. Each is a dictionary of Proxmox VE's properties (C(name),
        C(bridge), C(ip), C(gw) and others) or a property string; null takes a network away. Networks that are not
        named are left alone.
      - Or a whole list of them. One keeps its key by its C(name), new ones take free keys, others are taken away.
    type: raw
  mounts:
    description:
      - Mount points by their key, C(mp0), C(mp1) and so on. Each is a dictionary of Proxmox VE's properties (C(volume),
        C(mp), C(backup) and others) or a property string; null takes a mount point away and keeps its volume as
        unused. Mount points that are not named are left alone.
      - Or a whole list of them. One keeps its key by its C(mp), new ones take free keys, others are taken away.
      - A C(volume) of C(STORAGE:GIB) makes a volume where there is none, grows a smaller one, and leaves a larger one
        as it is. An absolute path is a bind mount, which forbids snapshots.
    type: raw
  devices:
    description:
      - Devices of the node that the container gets. The list is whole, devices that it does not name are taken away,
        an empty list takes all away. Without it devices are left alone.
      - On the node itself each must be there before anything changes. Over the API that cannot be seen beforehand, and
        Proxmox VE refuses the change. Only where one goes missing later does the start fail.
    type: list
    elements: dict
    suboptions:
      path:
        description: Path of the device node on the node. Never a folder.
        type: str
        required: true
      uid:
        description: Owner of the node in the container.
        type: int
      gid:
        description: Group of the node in the container, by the container's own numbers.
        type: int
      mode:
        description: Mode of the node in the container, a 0 and three octal digits, quoted.
        type: str
      deny_write:
        description: Whether the container may only read it.
        type: bool
  nameserver:
    description: Addresses of the name servers.
    type: list
    elements: str
  searchdomain:
    description: Domains to search in.
    type: list
    elements: str
  onboot:
    description: Whether the container starts with the node.
    type: bool
  startup:
    description: Start order and delays, such as V(order=2,up=30).
    type: str
  tags:
    description: Tags. Case and order do not count.
    type: list
    elements: str
  description:
    description: Notes shown in the web interface.
    type: str
  timezone:
    description: Time zone, such as V(Europe/Berlin), or V(host).
    type: str
  protection:
    description: Whether Proxmox VE refuses to delete the container or its volumes.
    type: bool
  ssh_public_keys:
    description: Public keys for root, in OpenSSH's form. Used only to create.
    type: list
    elements: str
  config:
    description:
      - Other keys of the container's configuration, such as C(cpulimit) or C(hookscript). Null takes a key away.
      - Keys that have an option of their own are refused.
    type: dict
seealso:
  - name: Options of a container
    description: Proxmox VE's reference of the container's configuration file.
    link: https://pve.proxmox.com/pve-docs/pct.conf.5.html
"""

EXAMPLES = r"""
- name: A container for the router, made on the node itself
  homelab.llamacpp.lxc:
    vmid: 110
    hostname: llm
    ostemplate: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst
    storage: local-lvm
    disk_gib: 16
    cores: 8
    memory_mib: 16384
    unprivileged: true
    features:
      nesting: true
    net:
      net0:
        name: eth0
        bridge: vmbr0
        ip: 192.0.2.10/24
        gw: 192.0.2.1
    mounts:
      mp0:
        volume: local-lvm:200
        mp: /var/lib/llama-router/models
        backup: false
    ssh_public_keys:
      - "{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"
    state: started
  delegate_to: pve

- name: Two GPUs, seen from the container's group 44 (video)
  homelab.llamacpp.lxc:
    vmid: 110
    devices:
      - {path: /dev/nvidia0, gid: 44}
      - {path: /dev/nvidia1, gid: 44}
      - {path: /dev/nvidiactl, gid: 44}
      - {path: /dev/nvidia-uvm, gid: 44}
      - {path: /dev/nvidia-uvm-tools, gid: 44}
  delegate_to: pve

- name: More room for the models, and what waits for a restart done now
  homelab.llamacpp.lxc:
    vmid: 110
    mounts:
      mp0: local-lvm:400,mp=/var/lib/llama-router/models,backup=0
    features:
      nesting: true
      keyctl: true
    restart: true
  delegate_to: pve

- name: The same container from elsewhere, over the API
  homelab.llamacpp.lxc:
    api_host: pve.example
    api_user: root@pam
    api_password: "{{ vault_pve_password }}"
    api_fingerprint: "{{ pve_fingerprint }}"
    node: pve
    vmid: 110
    memory_mib: 32768
  delegate_to: localhost

- name: Delete it, running or not
  homelab.llamacpp.lxc:
    vmid: 110
    hostname: llm
    state: absent
    force: true
  delegate_to: pve
"""

RETURN = r"""
vmid:
  description: Number of the container.
  returned: success
  type: int
  sample: 110
node:
  description: Node that the container is on.
  returned: success
  type: str
  sample: pve
status:
  description: V(running), V(stopped) or V(absent), after the run; in check mode, as it would be.
  returned: success
  type: str
  sample: running
actions:
  description:
    - What was done, in order, out of V(download), V(create), V(grow), V(configure), V(start), V(restart), V(shutdown),
      V(delete).
    - In check mode, what a run would do.
  returned: success
  type: list
  elements: str
  sample: [create, start]
config:
  description:
    - The container's configuration after the run, changes that wait for a restart included. Empty when it is absent.
    - In check mode, as it would be, without what Proxmox VE makes up itself.
  returned: success
  type: dict
  sample:
    hostname: llm
    memory: '16384'
    net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,type=veth
restart_required:
  description: Whether the running container has changes that it takes only at its next start.
  returned: success
  type: bool
  sample: false
pending:
  description: The keys of the changes that wait for a restart.
  returned: success
  type: list
  elements: str
  sample: [features]
calls:
  description: The API calls that were made, without their parameters.
  returned: success
  type: list
  elements: str
  sample: [GET nodes/pve/lxc/110/pending, GET nodes/pve/lxc/110/status/current]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc import Lxc
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import ConfigError
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import ARGUMENT_SPEC, connect
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import ProxmoxError


def main() -> None:
    """Read the options, run, answer."""
    spec: dict[str, dict[str, Any]] = {
        **ARGUMENT_SPEC,
        "vmid": {"type": "int", "required": True},
        "state": {"type": "str", "choices": ["present", "started", "stopped", "absent"], "default": "present"},
        "restart": {"type": "bool", "default": False},
        "force": {"type": "bool", "default": False},
        "ostemplate": {"type": "str"},
        "download_template": {"type": "bool", "default": True},
        "storage": {"type": "str"},
        "disk_gib": {"type": "float"},
        "hostname": {"type": "str"},
        "cores": {"type": "int"},
        "memory_mib": {"type": "int"},
        "swap_mib": {"type": "int"},
        "unprivileged": {"type": "bool"},
        "features": {"type": "dict"},
        "net": {"type": "raw"},
        "mounts": {"type": "raw"},
        "devices": {
            "type": "list",
            "elements": "dict",
            "options": {
                "path": {"type": "str", "required": True},
                "uid": {"type": "int"},
                "gid": {"type": "int"},
                "mode": {"type": "str"},
                "deny_write": {"type": "bool"},
            },
        },
        "nameserver": {"type": "list", "elements": "str"},
        "searchdomain": {"type": "list", "elements": "str"},
        "onboot": {"type": "bool"},
        "startup": {"type": "str"},
        "tags": {"type": "list", "elements": "str"},
        "description": {"type": "str"},
        "timezone": {"type": "str"},
        "protection": {"type": "bool"},
        "ssh_public_keys": {"type": "list", "elements": "str", "no_log": False},
        "config": {"type": "dict"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        api, node = connect(module.params, module.run_command, module.get_bin_path("pvesh"))
    except ProxmoxError as error:
        module.fail_json(msg=str(error))
    lxc = Lxc(module.params, module.check_mode, api, node)
    try:
        result = lxc.run()
    except (ConfigError, ProxmoxError) as error:
        done = [] if module.check_mode else lxc.actions
        module.fail_json(msg=str(error), changed=bool(done), actions=done, calls=api.calls)
    for warning in [*lxc.warnings, *api.warnings]:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
