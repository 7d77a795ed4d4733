# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What fakepve would make up and the tests must know: templates to download, and whether snapshots are possible.

Importing this adds the routes to every FakePve that is started afterwards.
"""

from __future__ import annotations

from typing import Any

from fakepve import FakePve
from fakepve.lxc import SNAPSHOT_STORAGE
from fakepve.model import PveError

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

    return [
        ("GET", "/nodes/{node}/aplinfo", offered),
        ("POST", "/nodes/{node}/aplinfo", download),
        ("GET", "/nodes/{node}/lxc/{vmid}/feature", feature),
    ]


FakePve._routes_stricter = _routes_stricter
