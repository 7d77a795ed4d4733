# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One container of a Proxmox node, from what is found to what is wanted."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _lxc_guards as guards
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import (
    Changes,
    ConfigError,
    Found,
    Wanted,
    changes,
    growth,
    wanted_text,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_growth import (
    a_little_more,
    not_grown,
    ungrown_volume,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_keys import as_keys, devices_as_keys
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_rights import Need, check_rights, on_storage
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_run import LxcRun
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_template import find_template
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import ProxmoxError, TaskError

# Seconds that a new container may take to be seen by every part of the cluster.
SETTLE = 10

# The tasks that make, remake or resize a container's volumes.
REMAKING = ("vzcreate", "vzrestore", "vzrollback", "resize")

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


class Lxc(LxcRun):
    """One run of the module."""

    def __init__(self, params: dict[str, Any], check: bool, api: Proxmox, node: str) -> None:
        super().__init__(params, check, api, node)
        self.actions: list[str] = []
        # A container that this run has made, as it was made.
        self.made: Found | None = None
        self.warnings: list[str] = []

    def run(self) -> dict[str, Any]:
        """What the module returns; raises ProxmoxError or ConfigError before or instead of a change."""
        found = self.find()
        if self.params["state"] == "absent":
            if found:
                return self.delete(found)
            guards.elsewhere(self.api, self.node, self.vmid)
            return self.result("absent", "absent", {}, {}, [])
        wanted = self.wanted(found)
        return self.configure(found, wanted) if found else self.create(wanted)

    # What is wanted and what is found

    def wanted(self, found: Found | None) -> Wanted:
        """Every key that the options ask for, apart from the root volume."""
        wanted: Wanted = {
            key: wanted_text(key, self.params[option])
            for option, key in SCALARS.items()
            if self.params[option] is not None
        }
        for option, separator in LISTS.items():
            if self.params[option] is not None:
                wanted[option] = separator.join(self.params[option]) or None
        for option, family in NUMBERED.items():
            if self.params[option] is not None:
                wanted.update(as_keys(option, family, self.params[option], found))
        if self.params["devices"] is not None:
            wanted.update(devices_as_keys(self.params["devices"], found))
        for key, value in (self.params["config"] or {}).items():
            if key in NOT_IN_CONFIG:
                raise ConfigError(f"config: {key} does not go here; its option: {NOT_IN_CONFIG[key]}")
            if re.fullmatch(r"(net|mp|dev)\d+|lxc\..*", key):
                raise ConfigError(f"config: {key} does not go here: use net, mounts or devices (lxc.* has no API)")
            wanted[key] = wanted_text(key, value)
        return wanted

    def rootfs(self) -> str | None:
        """The root volume, as `storage:GiB`."""
        size = self.params["disk_gib"]
        return f"{self.params['storage'] or 'local'}:{size:g}" if size else None

    def name(self, found: Found) -> str:
        """The container as messages call it."""
        return f"container {self.vmid} ({found.config.get('hostname', 'no name')}) on node {self.node}"

    # Changes

    def create(self, wanted: Wanted) -> dict[str, Any]:
        """Make the container, then start it if that is wanted."""
        guards.number_taken(self.api, self.node, self.vmid)
        wanted.setdefault("unprivileged", "1")
        settings = {key: value for key, value in wanted.items() if value is not None}
        rootfs = self.rootfs()
        if rootfs:
            settings["rootfs"] = rootfs
        elif any(key.startswith("mp") for key in settings):
            raise ConfigError("disk_gib: wanted a number of GiB, found none: mounts need a root volume with a size")
        template = find_template(self.api, self.node, self.params["ostemplate"], self.params["download_template"])
        storages = guards.new_volumes(settings) or [("storage", self.params["storage"] or "local", "rootdir")]
        if template.missing:
            storages.append(("ostemplate", template.storage, "vztmpl"))
        guards.storages_fit(self.api, self.node, storages)
        steps = ["create", *self.power_step("stopped", waiting=False)]
        more = [on_storage(self.params["storage"] or "local", "rootfs")] if not rootfs else []
        if template.missing:
            more.append(on_storage(template.storage, "download", "Datastore.AllocateTemplate"))
        self.guard(Changes(settings, []), {}, settings["unprivileged"] == "1", steps, more)
        if template.missing:
            self.act("download", "POST", f"nodes/{self.node}/aplinfo", storage=template.storage, template=template.file)
        once = {
            "vmid": self.vmid,
            "ostemplate": template.volume,
            "storage": self.params["storage"],
            "ssh-public-keys": "\n".join(self.params["ssh_public_keys"] or []) or None,
        }
        self.act("create", "POST", f"nodes/{self.node}/lxc", **once, **settings)
        self.made = None if self.check else self.api.until(self.find, SETTLE)
        if not self.check and not self.made:
            raise ProxmoxError(
                f"container {self.vmid} was made, but node {self.node} does not show it after {SETTLE} seconds: "
                f"look at `pct config {self.vmid}` there, and run again"
            )
        return self.power("absent", "stopped", {}, settings, [])

    def configure(self, found: Found, wanted: Wanted) -> dict[str, Any]:
        """Grow the volumes that are too small, put what differs, then restart, start or stop."""
        guards.half_made(self.api, self.node, self.vmid, found)
        status = self.status()
        before = found.config
        grow = self.again(found, growth({**wanted, "rootfs": self.rootfs()}, found))
        found = found.grown(grow)
        change = changes(wanted, found.config, found.running)
        guards.protected_volumes(change, found)
        guards.storages_fit(self.api, self.node, guards.new_volumes(change.put))
        waiting = self.waiting(change, found) if status == "running" else []
        steps = [*(["grow"] if grow else []), *self.power_step(status, bool(waiting))]
        more = [on_storage(found.running[key].partition(":")[0], "grow") for key in grow]
        self.guard(change, before, found.config.get("unprivileged") == "1", steps, more)
        digest = found.digest
        for key, size in grow.items():
            upid = self.act("grow", "PUT", f"{self.path}/resize", disk=key, size=size, digest=digest)
            # The volume's new size is in the configuration, which so is another one.
            digest = None
            if upid:
                self.check_grown(key, size, self.api.task_log(upid))
        if change:
            self.act(
                "configure",
                "PUT",
                f"{self.path}/config",
                digest=digest,
                delete=",".join(change.delete) or None,
                **change.put,
            )
        return self.power(status, status, before, change.over(found.config), waiting)

    def check_grown(self, key: str, size: str, log: list[str]) -> None:
        """Raise ProxmoxError if the file system did not grow with its volume. Such a task has ended well."""
        why = not_grown(log)
        if why:
            raise ProxmoxError(
                f"{key} of container {self.vmid} has {size} now, but its file system did not grow: {printable(why)}. "
                f"Shut the container down, check the file system (`pct fsck {self.vmid}"
                f"{'' if key == 'rootfs' else f' --device {key}'}` on the node), and run again: "
                + ("the next run grows it once more" if self.api.files else "then grow it by hand with `pct resize`")
            )

    def again(self, found: Found, grow: dict[str, str]) -> dict[str, str]:
        """The volumes to grow, with one whose file system did not grow the last time: by a MiB."""
        files = self.api.files
        last = files.last_task(self.vmid, *REMAKING) if files else None
        if not files or not last or last.split(":")[5] != "resize":
            return grow
        task = files.task(last)
        key = ungrown_volume(task.log, found) if task else None
        if not key or key in grow or not self.wants_size(key):
            return grow
        return {**grow, key: a_little_more(found.running[key])}

    def wants_size(self, key: str) -> bool:
        """Whether this run looks after the size of a volume."""
        return self.params["disk_gib"] is not None if key == "rootfs" else self.params["mounts"] is not None

    def waiting(self, change: Changes, found: Found) -> list[str]:
        """The keys that a running container then takes only at its next start, its name included.

        Proxmox VE takes a hostname for applied at once; the guest has it after its next start. On the node that is
        seen later too.
        """
        keys = change.waiting(found)
        name = found.config.get("hostname", "")
        if self.params["hostname"] and self.api.files and "hostname" not in keys and name:
            # A guest's own name is the first part of it.
            now = self.api.files.hostname(self.vmid)
            if now is not None and now.partition(".")[0] != name.partition(".")[0]:
                keys = sorted([*keys, "hostname"])
        return keys

    def guard(
        self, change: Changes, before: dict[str, str], unprivileged: bool, steps: list[str], more: list[Need]
    ) -> None:
        """What the user may do and the node has, before anything changes."""
        check_rights(self.api, self.vmid, change, before, unprivileged, steps, more)
        # On the node a look costs nothing. Elsewhere it is made before what would fail.
        connects = bool({"create", "start", "restart"} & {*steps}) or (self.api.here and self.params["net"] is not None)
        networks = change.over(before) if connects else change.put
        guards.missing_bridges(self.api, self.node, networks)
        unseen = guards.missing_devices(self.api, self.node, [each["path"] for each in self.params["devices"] or []])
        if unseen and any(key.startswith("dev") for key in change.put):
            self.warnings.append(unseen)

    def power_step(self, status: str, waiting: bool) -> list[str]:
        """The step to the wanted state, if one is needed; waiting: whether changes wait for a restart."""
        state = self.params["state"]
        if state == "started" and status != "running":
            return ["start"]
        if state == "stopped" and status != "stopped":
            return ["shutdown"]
        return ["restart"] if waiting and self.params["restart"] else []

    def power(
        self, before: str, status: str, config: dict[str, str], after: dict[str, str], waiting: list[str]
    ) -> dict[str, Any]:
        """Start, shut down or restart where that is wanted; a container that comes or goes takes what waited."""
        for step in self.power_step(status, bool(waiting)):
            if step == "start":
                self.act("start", "POST", f"{self.path}/status/start")
            elif step == "shutdown":
                self.shutdown("shutdown")
            else:
                self.restart()
            status, waiting = "stopped" if step == "shutdown" else "running", []
        return self.result(before, status, config, after, waiting)

    def restart(self) -> None:
        """Down and up again, in two steps: Proxmox's own reboot kills what does not shut down in time."""
        self.shutdown("restart")
        try:
            self.act("restart", "POST", f"{self.path}/status/start")
        except TaskError as error:
            raise ProxmoxError(f"{error}\nThe container was shut down to restart it, and is stopped now") from None

    def shutdown(self, action: str) -> None:
        """Shut down, by force where that is allowed."""
        limit, force = self.params["timeout"], self.params["force"]
        try:
            self.act(action, "POST", f"{self.path}/status/shutdown", timeout=limit, forceStop=True if force else None)
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
        guards.half_made(self.api, self.node, self.vmid, found)
        if found.config.get("protection", "0") != "0":
            raise ProxmoxError(f"not deleted: {self.name(found)} is protected. Set protection: false first")
        status = self.status()
        running = status == "running"
        if running and not self.params["force"]:
            raise ProxmoxError(f"not deleted: {self.name(found)} is running. Set state: stopped first, or force: true")
        check_rights(self.api, self.vmid, Changes({}, []), {}, True, ["delete"])
        self.act("delete", "DELETE", self.path, force=True if running else None, purge=True)
        return self.result(status, "absent", found.config, {}, [])

    def act(self, action: str, method: str, path: str, **params: Any) -> Any:
        """The one place where a change is made, and left out in check mode. Returns what the API answers."""
        answer = None if self.check else self.api.call(method, path, **params)
        if action not in self.actions:
            self.actions.append(action)
        return answer

    # The answer

    def result(
        self, before: str, after: str, config: dict[str, str], config_after: dict[str, str], waiting: list[str]
    ) -> dict[str, Any]:
        """The returned values; the diff is the same in check mode and in a run."""
        diff = {"before": self.side(before, config), "after": self.side(after, config_after)}
        if self.actions and not self.check and after != "absent":
            # Ask anew only after a change: what Proxmox made of it.
            found = self.made or self.find()
            if found:
                named = [key for key in waiting if key == "hostname"]
                config_after, waiting = found.config, sorted([*found.waiting, *named]) if after == "running" else []
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
