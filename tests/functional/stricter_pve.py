# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What fakepve would make up and the tests must know: templates to download, bridges, whether snapshots are possible.

Importing this adds the routes to every FakePve that is started afterwards.
"""

from __future__ import annotations

import re
from typing import Any

from fakepve import FakePve
from fakepve.lxc import SNAPSHOT_STORAGE
from fakepve.model import PveError, TaskError

BRIDGES = ("vmbr0", "vmbr1", "vmbr2")
# What Proxmox offers for download.
OFFERED = (
    "debian-12-standard_12.7-1_amd64.tar.zst",
    "debian-13-standard_13.1-2_amd64.tar.zst",
    "debian-13-standard_13.10-1_amd64.tar.zst",
)


def _routes_stricter(self: Any) -> list[tuple[str, str, Any]]:
    async def offered(_values: dict[str, Any], _user: str) -> list[dict[str, str]]:
        return [{"template": name, "package": name.partition("_")[0], "type": "lxc"} for name in OFFERED]

    async def download(values: dict[str, Any], user: str) -> str:
        if values["template"] not in OFFERED:
            raise PveError(400, "Parameter verification failed.", {"template": "no such template"})

        async def body() -> None:
            self.store_file(values["storage"], values["template"], 1000, content="vztmpl")

        upid: str = await self.task(values["node"], "download", "", user, body)
        return upid

    async def feature(values: dict[str, Any], _user: str) -> dict[str, int]:
        ct = self._find_ct(values["node"], values["vmid"])
        binds = [text for key, text in ct.config.items() if key.startswith("mp") and str(text).startswith("/")]
        kinds = [self.storages[mount["volume"].split(":")[0]]["type"] for _key, mount in ct.volumes()]
        return {"hasFeature": int(not binds and all(kind in SNAPSHOT_STORAGE for kind in kinds))}

    async def networks(values: dict[str, Any], user: str) -> list[dict[str, str]]:
        bridges = [name for name in BRIDGES if self.allowed(user, f"/sdn/zones/localnetwork/{name}", "SDN.Use")]
        return [{"iface": name, "type": "bridge"} for name in bridges if values.get("type") == "any_bridge"]

    return [
        ("GET", "/nodes/{node}/network", networks),
        ("GET", "/nodes/{node}/aplinfo", offered),
        ("POST", "/nodes/{node}/aplinfo", download),
        ("GET", "/nodes/{node}/lxc/{vmid}/feature", feature),
    ]


async def _update_config(self: Any, ct: Any, user: str, values: dict[str, Any], *rest: Any) -> None:
    """A running container that cannot take one change takes none; of a stopped one the file is written first."""
    missing = {key: words for key, value in values.items() if (words := _missing_bridge(key, str(value)))}
    if missing and ct.status == "running":
        words = {key: f"unable to hotplug {key}: {why}" for key, why in missing.items()}
        raise PveError(400, "Parameter verification failed.", words)
    await UPDATE_CONFIG(self, ct, user, values, *rest)
    for why in missing.values():
        raise PveError(500, why)


async def _start_steps(self: Any, ct: Any, *rest: Any, **options: Any) -> None:
    for key, value in ct.config.items():
        why = _missing_bridge(key, str(value))
        if why:
            raise TaskError(why)
    await START_STEPS(self, ct, *rest, **options)


def _missing_bridge(key: str, value: str) -> str | None:
    bridge = re.search(r"(?:^|,)bridge=([^,]+)", value) if re.fullmatch(r"net\d+", key) else None
    return f"bridge '{bridge[1]}' does not exist" if bridge and bridge[1] not in BRIDGES else None


async def task(self: Any, node: str, kind: str, *rest: Any, **options: Any) -> str:
    """The file system of a volume may not grow with it: a line in the log of a resize that ends well."""
    upid: str = await TASK(self, node, kind, *rest, **options)
    if kind == "resize" and getattr(self, "resize_fails", False):
        self.tasks[upid]["log"].insert(0, f"Failed to update the container's filesystem: {RESIZE2FS}")
    return upid


RESIZE2FS = "command 'resize2fs /dev/pve/vm-130-disk-1' failed: exit code 1"
TASK = FakePve.task
UPDATE_CONFIG, START_STEPS = FakePve._update_config, FakePve._start_steps
FakePve._routes_stricter = _routes_stricter
FakePve._update_config = _update_config
FakePve._start_steps = _start_steps
FakePve.task = task
