# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The template that a container is made from: the one on its storage, or the one to download."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import ConfigError
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox


class Template(NamedTuple):
    """A template as Proxmox names it, and whether it must be downloaded first."""

    storage: str
    file: str
    missing: bool

    @property
    def volume(self) -> str:
        """Its volume, as ostemplate takes it."""
        return f"{self.storage}:vztmpl/{self.file}"


def find_template(api: Proxmox, node: str, wanted: str | None, download: bool) -> Template:
    """The template for `STORAGE:vztmpl/FILE`, or the newest of a package for `STORAGE:vztmpl/PACKAGE`.

    Raises ConfigError for another form, and for one that is neither there nor offered.
    """
    parts = re.fullmatch(r"([^:/]+):vztmpl/([^/]+)", wanted or "")
    if not parts:
        raise ConfigError(
            f"to create a container on node {node}, ostemplate must be STORAGE:vztmpl/FILE, found {wanted or 'nothing'}"
        )
    storage, name = parts.groups()
    content = api.call("GET", f"nodes/{node}/storage/{storage}/content", content="vztmpl") or []
    there = sorted(str(volume["volid"]).rpartition("/")[2] for volume in content)
    file = newest(name, there)
    if file:
        return Template(storage, file, missing=False)
    answer = (api.call("GET", f"nodes/{node}/aplinfo") or []) if download else []
    offered = sorted(str(entry["template"]) for entry in answer)
    file = newest(name, offered)
    if file:
        return Template(storage, file, missing=True)
    alike = [other for other in offered if other.split("_")[0] == name.split("_")[0]]
    found = ", ".join(f"{storage}:vztmpl/{other}" for other in there) or "no template"
    raise ConfigError(
        f"ostemplate: wanted {wanted}, found on storage {storage}: {found}"
        + (
            f"; to download: {', '.join(alike) or 'none of that name'}. `pveam update` on the node renews that list"
            if download
            else ". `pveam download` on the node fetches one, or download_template: true"
        )
    )


def newest(name: str, files: Iterable[str]) -> str | None:
    """The file of that name, or else the newest of the package of that name."""
    files = list(files)
    if name in files:
        return name
    ours = [file for file in files if file.split("_")[0] == name]
    return max(ours, key=lambda file: [int(number) for number in re.findall(r"\d+", file.split("_")[1])], default=None)
