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
  - A run that finds everything in place makes two API calls.
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
  force:
    description:
      - With O(state=absent), delete a running container too.
      - With O(state=stopped), kill what does not shut down within O(timeout).
    type: bool
    default: false
  ostemplate:
    description:
      - Template to create from, as C(STORAGE:vztmpl/FILE). Needed only where the container does not exist; one that
        exists is never made anew.
    type: str
  storage:
    description: Storage of the root volume. Used only to create. The default is Proxmox VE's own, C(local).
    type: str
  disk_gib:
    description:
      - Size of the root volume in GiB. Used only to create; a smaller root volume is a warning.
    type: float
  hostname:
    description:
      - Name of the container. With O(state=absent), a container of another name is not deleted.
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
        C(bridge), C(ip), C(gw) and others) or a property string; null takes a network away.
    type: dict
  mounts:
    description:
      - Mount points by their key, C(mp0), C(mp1) and so on. Each is a dictionary of Proxmox VE's properties (C(volume),
        C(mp), C(backup) and others) or a property string; null takes a mount point away and keeps its volume as
        unused.
      - A C(volume) of C(STORAGE:GIB) makes a volume where there is none. An absolute path is a bind mount, which
        forbids snapshots.
    type: dict
  devices:
    description:
      - Devices of the node that the container gets. The list is whole, devices that it does not name are taken away,
        an empty list takes all away. Without it devices are left alone.
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

- name: The same from elsewhere, over the API
  homelab.llamacpp.lxc:
    api_host: pve.example
    api_user: root@pam
    api_password: "{{ vault_pve_password }}"
    ca_path: files/pve-root-ca.pem
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
    - What was done, in order, out of V(create), V(configure), V(start), V(shutdown), V(delete).
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

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import (
    ConfigError,
    Found,
    Wanted,
    changes,
    devices_as_keys,
    too_small,
    wanted_text,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import (
    ARGUMENT_SPEC,
    NotFoundError,
    Proxmox,
    ProxmoxError,
    TaskError,
    connect,
)

# Option -> key of the container's configuration, for values that are one key each.
SCALARS = {
    "hostname": "hostname",
    "cores": "cores",
    "memory_mib": "memory",
    "swap_mib": "swap",
    "unprivileged": "unprivileged",
    "features": "features",
    "onboot": "onboot",
    "startup": "startup",
    "description": "description",
    "timezone": "timezone",
    "protection": "protection",
}
LISTS = {"nameserver": " ", "searchdomain": " ", "tags": ";"}
# Option -> name of the keys that it holds.
NUMBERED = {"net": "net", "mounts": "mp"}
NOT_IN_CONFIG = {
    **{key: option for option, key in SCALARS.items()},
    **{key: key for key in LISTS},
    "ostemplate": "ostemplate",
    "storage": "storage",
    "rootfs": "storage and disk_gib",
    "ssh-public-keys": "ssh_public_keys",
    "password": "ssh_public_keys",
    "lock": "none, it belongs to Proxmox VE",
    "digest": "none, it belongs to Proxmox VE",
    "delete": "a null value",
    "revert": "none",
    "start": "state",
    "force": "none",
    "restore": "none",
}


class Lxc:
    """One run of the module."""

    def __init__(self, params: dict[str, Any], check: bool, api: Proxmox, node: str) -> None:
        self.params = params
        self.check = check
        self.api = api
        self.node = node
        self.vmid: int = params["vmid"]
        self.path = f"nodes/{node}/lxc/{self.vmid}"
        self.actions: list[str] = []
        self.warnings: list[str] = []

    def run(self) -> dict[str, Any]:
        """What the module returns; raises ProxmoxError or ConfigError before or instead of a change."""
        wanted = self.wanted()
        found = self.find()
        if self.params["state"] == "absent":
            return self.delete(found) if found else self.result("absent", "absent", {}, {}, [])
        return self.configure(found, wanted) if found else self.create(wanted)

    # What is wanted and what is found

    def wanted(self) -> Wanted:
        """Every key that the options ask for, apart from devices, whose keys depend on what is there."""
        wanted: Wanted = {
            key: wanted_text(key, self.params[option])
            for option, key in SCALARS.items()
            if self.params[option] is not None
        }
        for option, separator in LISTS.items():
            if self.params[option] is not None:
                wanted[option] = separator.join(self.params[option]) or None
        for option, name in NUMBERED.items():
            for key, value in (self.params[option] or {}).items():
                if not re.fullmatch(name + r"\d+", key):
                    raise ConfigError(f"{option}: wanted keys such as {name}0, found {key!r}")
                wanted[key] = wanted_text(key, value)
        for key, value in (self.params["config"] or {}).items():
            if key in NOT_IN_CONFIG:
                raise ConfigError(f"config: {key} does not go here; its option: {NOT_IN_CONFIG[key]}")
            if re.fullmatch(r"(net|mp|dev)\d+|lxc\..*", key):
                raise ConfigError(f"config: {key} does not go here: use net, mounts or devices (lxc.* has no API)")
            wanted[key] = wanted_text(key, value)
        return wanted

    def find(self) -> Found | None:
        """The container, or None where it does not exist."""
        try:
            return Found.parse(self.api.call("GET", f"{self.path}/pending"))
        except NotFoundError:
            return None

    def rootfs(self) -> str | None:
        """The root volume to make, as `storage:GiB`."""
        size = self.params["disk_gib"]
        return f"{self.params['storage'] or 'local'}:{size:g}" if size else None

    def name(self, found: Found) -> str:
        """The container as messages call it."""
        return f"container {self.vmid} ({found.config.get('hostname', 'no name')}) on node {self.node}"

    # Changes

    def create(self, wanted: Wanted) -> dict[str, Any]:
        """Make the container, then start it if that is wanted."""
        self.refuse_other_guest()
        self.require_template()
        wanted.update(devices_as_keys(self.params["devices"] or [], None))
        wanted.setdefault("unprivileged", "1")
        settings = {key: value for key, value in wanted.items() if value is not None}
        rootfs = self.rootfs()
        if rootfs:
            settings["rootfs"] = rootfs
        elif any(key.startswith("mp") for key in settings):
            raise ConfigError("disk_gib: wanted a number of GiB, found none: mounts need a root volume with a size")
        once = {
            "vmid": self.vmid,
            "ostemplate": self.params["ostemplate"],
            "storage": self.params["storage"],
            "ssh-public-keys": "\n".join(self.params["ssh_public_keys"] or []) or None,
        }
        self.act("create", "POST", f"nodes/{self.node}/lxc", **once, **settings)
        return self.power("absent", "stopped", {}, settings, [])

    def configure(self, found: Found, wanted: Wanted) -> dict[str, Any]:
        """Put what differs, then start or stop."""
        self.refuse_half_made(found)
        status = str(self.api.call("GET", f"{self.path}/status/current")["status"])
        if self.params["devices"] is not None:
            wanted.update(devices_as_keys(self.params["devices"], found))
        change = changes(wanted, found.config)
        self.warnings += too_small({**wanted, "rootfs": self.rootfs()}, found.config)
        if change:
            self.act(
                "configure",
                "PUT",
                f"{self.path}/config",
                digest=found.digest,
                delete=",".join(change.delete) or None,
                **change.put,
            )
        waiting = change.waiting(found) if status == "running" else []
        return self.power(status, status, found.config, change.over(found.config), waiting)

    def power(
        self, before: str, status: str, config: dict[str, str], after: dict[str, str], waiting: list[str]
    ) -> dict[str, Any]:
        """Start or shut down where that is wanted; a container that comes or goes takes what waited."""
        state = self.params["state"]
        if state == "started" and status != "running":
            self.act("start", "POST", f"{self.path}/status/start")
            status, waiting = "running", []
        elif state == "stopped" and status != "stopped":
            self.shutdown()
            status, waiting = "stopped", []
        return self.result(before, status, config, after, waiting)

    def shutdown(self) -> None:
        """Shut down, by force where that is allowed."""
        limit, force = self.params["timeout"], self.params["force"]
        try:
            self.act(
                "shutdown", "POST", f"{self.path}/status/shutdown", timeout=limit, forceStop=True if force else None
            )
        except TaskError as error:
            raise ProxmoxError(
                f"{error}\nIt did not shut down within {limit} seconds; force: true kills what does not"
            ) from None

    def delete(self, found: Found) -> dict[str, Any]:
        """Delete the container, unless something speaks against it."""
        wanted_name, name = self.params["hostname"], found.config.get("hostname")
        if wanted_name and wanted_name != name:
            raise ProxmoxError(
                f"not deleted: wanted container {self.vmid} named {wanted_name}, found {self.name(found)}. "
                "Mend vmid or hostname"
            )
        self.refuse_half_made(found)
        if found.config.get("protection", "0") != "0":
            raise ProxmoxError(f"not deleted: {self.name(found)} is protected. Set protection: false first")
        status = str(self.api.call("GET", f"{self.path}/status/current")["status"])
        running = status == "running"
        if running and not self.params["force"]:
            raise ProxmoxError(f"not deleted: {self.name(found)} is running. Set state: stopped first, or force: true")
        self.act("delete", "DELETE", self.path, force=True if running else None, purge=True)
        return self.result(status, "absent", found.config, {}, [])

    def act(self, action: str, method: str, path: str, **params: Any) -> None:
        """The one place where a change is made, and left out in check mode."""
        if not self.check:
            self.api.call(method, path, **params)
        self.actions.append(action)

    # Refusals, all before the first change

    def refuse_half_made(self, found: Found) -> None:
        """A container that is being created cannot be used, and one whose creation broke off never will be."""
        if found.lock != "create":
            return
        tasks = self.api.call("GET", f"nodes/{self.node}/tasks", vmid=self.vmid, source="active") or []
        if any(task.get("type") in ("vzcreate", "vzrestore") and not task.get("endtime") for task in tasks):
            raise ProxmoxError(f"container {self.vmid} on node {self.node} is being created right now: wait, run again")
        raise ProxmoxError(
            f"container {self.vmid} on node {self.node} is half made (lock: create): its creation was interrupted. On "
            f"the node: `pct unlock {self.vmid} && pct destroy {self.vmid}`, then run again"
        )

    def refuse_other_guest(self) -> None:
        """The number may belong to a virtual machine, or to a container of another node."""
        for guest in self.api.call("GET", "cluster/resources", type="vm") or []:
            if int(guest.get("vmid", 0)) != self.vmid:
                continue
            name = f"{guest.get('name', 'no name')} on node {guest.get('node')}"
            if guest.get("type") == "qemu":
                raise ProxmoxError(
                    f"wanted container {self.vmid}, found a virtual machine with that number, {name}: take another vmid"
                )
            if guest.get("node") != self.node:
                raise ProxmoxError(
                    f"wanted container {self.vmid} on node {self.node}, found {name}: set node: {guest.get('node')}"
                )

    def require_template(self) -> None:
        """The template is named and on its storage."""
        template = str(self.params["ostemplate"] or "")
        storage, _colon, name = template.partition(":")
        if not name.startswith("vztmpl/"):
            raise ConfigError(
                f"container {self.vmid} does not exist on node {self.node}: to create it, ostemplate must be "
                f"STORAGE:vztmpl/FILE, found {template or 'nothing'}"
            )
        content = self.api.call("GET", f"nodes/{self.node}/storage/{storage}/content", content="vztmpl") or []
        there = sorted(str(volume.get("volid")) for volume in content)
        if template not in there:
            raise ConfigError(
                f"ostemplate: wanted {template}, found on storage {storage}: {', '.join(there) or 'no template'}. "
                "`pveam download` on the node fetches one"
            )

    # The answer

    def result(
        self, before: str, after: str, config: dict[str, str], config_after: dict[str, str], waiting: list[str]
    ) -> dict[str, Any]:
        """The returned values; the diff is the same in check mode and in a run."""
        diff = {"before": self.side(before, config), "after": self.side(after, config_after)}
        if self.actions and not self.check and after != "absent":
            # Ask anew only after a change: what Proxmox made of it.
            found = self.find()
            if found:
                config_after, waiting = found.config, found.waiting if after == "running" else []
        return {
            "changed": bool(self.actions),
            "diff": diff,
            "vmid": self.vmid,
            "node": self.node,
            "status": after,
            "actions": self.actions,
            "config": config_after,
            "restart_required": bool(waiting),
            "pending": waiting,
            "calls": self.api.calls,
        }

    @staticmethod
    def side(status: str, config: dict[str, str]) -> dict[str, Any]:
        """One side of the diff: nothing for a container that is absent."""
        return {} if status == "absent" else {"config": dict(sorted(config.items())), "state": status}


def main() -> None:
    """Read the options, run, answer."""
    spec: dict[str, dict[str, Any]] = {
        **ARGUMENT_SPEC,
        "vmid": {"type": "int", "required": True},
        "state": {"type": "str", "choices": ["present", "started", "stopped", "absent"], "default": "present"},
        "force": {"type": "bool", "default": False},
        "ostemplate": {"type": "str"},
        "storage": {"type": "str"},
        "disk_gib": {"type": "float"},
        "hostname": {"type": "str"},
        "cores": {"type": "int"},
        "memory_mib": {"type": "int"},
        "swap_mib": {"type": "int"},
        "unprivileged": {"type": "bool"},
        "features": {"type": "dict"},
        "net": {"type": "dict"},
        "mounts": {"type": "dict"},
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
