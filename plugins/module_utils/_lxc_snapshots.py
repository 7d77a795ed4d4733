# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The snapshots of one container: made, deleted, gone back to, and kept in bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _lxc_guards as guards
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import bind_source, is_mount
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_run import LxcRun
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import (
    NotFoundError,
    ProxmoxError,
    TaskError,
)

# What Proxmox VE takes for the name of a snapshot, and the names that it keeps for itself.
NAME = re.compile(r"[A-Za-z][\w-]{1,39}", re.ASCII)
RESERVED = ("current", "vzdump")
# Seconds that going back may take beyond the timeout. ext4 that was mounted when its snapshot was taken is mounted
# again only after a wait (multi-mount protection), 44 to 50 seconds a volume, more than once for each.
ROLLBACK = 1200
Snapshot = dict[str, Any]


class LxcSnapshot(LxcRun):
    """One run of the module."""

    def __init__(self, params: dict[str, Any], check: bool, api: Proxmox, node: str) -> None:
        super().__init__(params, check, api, node)
        self.changed = False

    def run(self) -> dict[str, Any]:
        """What the module returns; raises ProxmoxError before or instead of a change."""
        name, state = self.params["name"], self.params["state"]
        if name is not None and (not NAME.fullmatch(name) or name in RESERVED):
            raise ProxmoxError(
                f"name: wanted a letter and then 1 to 39 letters, digits, _ and -, none of {', '.join(RESERVED)}, "
                f"found {name!r}"
            )
        if self.params["keep"] is not None and self.params["keep"] < 1:
            raise ProxmoxError(f"keep: wanted 1 or more, found {self.params['keep']}")
        before = self.snapshots()
        if name is None:
            return self.result(before, before)
        if state == "rolled_back":
            return self.roll_back(name, before)
        if state == "absent":
            return self.result(before, self.delete([each["name"] for each in before if each["name"] == name], before))
        return self.keep(name, before)

    def snapshots(self) -> list[Snapshot]:
        """The container's snapshots, oldest first."""
        try:
            entries = self.entries()
        except NotFoundError:
            guards.elsewhere(self.api, self.node, self.vmid)
            raise ProxmoxError(f"container {self.vmid} does not exist on node {self.node}: is vmid right?") from None
        found = [
            {
                "name": str(entry["name"]),
                "snaptime": int(entry.get("snaptime") or 0),
                "description": str(entry.get("description") or "").rstrip("\n"),
                "parent": entry.get("parent"),
            }
            for entry in entries
            # Proxmox lists the container's present state as one of them.
            if entry["name"] != "current"
        ]
        return _in_order(found)

    def entries(self) -> Sequence[Mapping[str, Any]]:
        """The snapshots as the node lists them. Raises NotFoundError for a container that does not exist."""
        if not self.api.files:
            return self.api.call("GET", f"{self.path}/snapshot") or []
        found = self.api.files.snapshots(self.vmid)
        if found is None:
            raise NotFoundError(f"container {self.vmid} does not exist")
        return found

    def keep(self, name: str, before: list[Snapshot]) -> dict[str, Any]:
        """Make the snapshot where it is missing, and delete the oldest beyond those to keep."""
        after = before
        if name not in [each["name"] for each in before]:
            reason = self.unsupported()
            if reason and self.params["if_unsupported"] == "skip":
                return {**self.result(before, before), "skipped_reason": reason}
            if reason:
                raise ProxmoxError(reason)
            description = self.params["description"]
            self.act("POST", f"{self.path}/snapshot", snapname=name, description=description)
            parent = before[-1]["name"] if before else None
            new = {"name": name, "snaptime": None, "description": description or "", "parent": parent}
            after = [*before, new] if self.check else self.snapshots()
        prefix, keep = self.params["prefix"], self.params["keep"]
        if keep is not None:
            ours = [each["name"] for each in after if each["name"].startswith(prefix)]
            others = [other for other in ours if other != name]
            # The named one counts when the prefix is its own, and is never the one to go.
            after = self.delete(others[: max(0, len(ours) - keep)], after)
        return self.result(before, after)

    def delete(self, names: list[str], before: list[Snapshot]) -> list[Snapshot]:
        """Delete these, oldest first; what then is left. The one after a deleted one gets its parent."""
        left = [dict(each) for each in before]
        for name in names:
            self.act("DELETE", f"{self.path}/snapshot/{name}")
            gone = next(each for each in left if each["name"] == name)
            left.remove(gone)
            for each in left:
                if each["parent"] == name:
                    each["parent"] = gone["parent"]
        return left

    def roll_back(self, name: str, before: list[Snapshot]) -> dict[str, Any]:
        """Make the container what it was; one that runs is stopped for it and started again."""
        if name not in [each["name"] for each in before]:
            there = ", ".join(each["name"] for each in before) or "none"
            raise ProxmoxError(f"wanted to go back to the snapshot {name} of container {self.vmid}, found {there}")
        running = self.status() == "running"
        try:
            self.act(
                "POST",
                f"{self.path}/snapshot/{name}/rollback",
                limit=self.params["timeout"] + ROLLBACK,
                start=True if running else None,
            )
        except TaskError as error:
            if "more recent snapshots" not in str(error):
                raise
            raise ProxmoxError(
                f"{error}\nThis storage goes back to the newest snapshot only: delete those after {name} first "
                "(state: absent)"
            ) from None
        return self.result(before, before)

    def unsupported(self) -> str | None:
        """Why the container cannot have a snapshot, None when it can."""
        found = self.find()
        if not found:
            raise ProxmoxError(f"container {self.vmid} does not exist on node {self.node} any more")
        guards.half_made(self.api, self.node, self.vmid, found)
        who = f"container {self.vmid} ({found.config.get('hostname', 'no name')}) on node {self.node}"
        # As it runs: a mount point that waits to go is still in the way.
        mounts = {key: text for key, text in sorted(found.running.items()) if is_mount(key)}
        binds = [
            f"{key} is a bind mount of {bind_source(key, text)}"
            for key, text in mounts.items()
            if bind_source(key, text)
        ]
        if binds:
            return f"{who} cannot have snapshots: {', '.join(binds)}. With a volume (STORAGE:GIB) in its place it can"
        if self.api.call("GET", f"{self.path}/feature", feature="snapshot").get("hasFeature"):
            return None
        volumes = ", ".join(f"{key} on {text.partition(':')[0]}" for key, text in mounts.items())
        return f"{who} cannot have snapshots: one of its storages makes none ({volumes})"

    def act(self, method: str, path: str, limit: float | None = None, **params: Any) -> None:
        """The one place where a change is made, and left out in check mode; limit: as Proxmox.call has it."""
        if not self.check:
            self.api.call(method, path, limit=limit, **params)
        self.changed = True

    def result(self, before: list[Snapshot], after: list[Snapshot]) -> dict[str, Any]:
        """The returned values; a rollback changes the container and none of the snapshots."""
        names, left = [each["name"] for each in before], [each["name"] for each in after]
        sides: dict[str, Any] = {"before": {"snapshots": names}, "after": {"snapshots": left}}
        if self.changed and self.params["state"] == "rolled_back":
            sides["after"]["rolled_back_to"] = self.params["name"]
        return {
            "changed": self.changed,
            "diff": sides,
            "node": self.node,
            "snapshots": after,
            "removed": [name for name in names if name not in left],
            "calls": self.api.calls,
        }


def _in_order(snapshots: list[Snapshot]) -> list[Snapshot]:
    """By time, and within a second by descent: a snapshot stands after its parent."""
    parents = {each["name"]: each["parent"] for each in snapshots}

    def depth(name: str | None) -> int:
        steps, seen = 0, set()
        while name in parents and name not in seen:
            seen.add(name)
            name, steps = parents[name], steps + 1
        return steps

    return sorted(snapshots, key=lambda each: (each["snaptime"], depth(each["name"]), each["name"]))
