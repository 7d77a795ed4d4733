# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which template is meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import ConfigError
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_template import Template, find_template, newest
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox

FILES = [
    "alpine.tar.xz",
    "debian-13-standard_13.10-1_amd64.tar.zst",
    "debian-13-standard_13.9-2_amd64.tar.zst",
    "debian-13-turnkey-lxc_19.0-1_amd64.tar.gz",
    "ubuntu-25.04-standard_25.04-1.1_amd64.tar.zst",
]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("debian-13-standard", FILES[1]),
        (FILES[2], FILES[2]),
        ("alpine.tar.xz", "alpine.tar.xz"),
        ("ubuntu-25.04-standard", FILES[4]),
        ("debian-13", None),
        ("debian-12-standard", None),
        ("debian-13-standard_13.11-1_amd64.tar.zst", None),
    ],
)
def test_newest(name: str, file: str | None) -> None:
    assert newest(name, FILES) == file


class Storage:
    """A node with these templates, and these to download."""

    def __init__(self, there: list[str] | None, offered: list[str] | None = None) -> None:
        self.there, self.offered = there, offered

    def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        assert method == "GET"
        if path == "nodes/pve/aplinfo":
            assert params == {}
            return self.offered and [{"template": name} for name in self.offered]
        assert (path, params) == ("nodes/pve/storage/local/content", {"content": "vztmpl"})
        return self.there and [{"volid": f"local:vztmpl/{name}"} for name in self.there]


def find(storage: Storage, wanted: str | None, download: bool = True) -> tuple[Template, list[str]]:
    api = Proxmox(storage)
    return find_template(api, "pve", wanted, download), api.calls


def test_one_that_is_there_is_not_looked_for_elsewhere() -> None:
    found, calls = find(Storage(FILES), "local:vztmpl/debian-13-standard")
    assert found == Template("local", FILES[1], missing=False)
    assert found.volume == f"local:vztmpl/{FILES[1]}"
    assert len(calls) == 1


@pytest.mark.parametrize("there", [None, [], ["alpine.tar.xz"]])
def test_one_to_download(there: list[str] | None) -> None:
    found, calls = find(Storage(there, FILES), "local:vztmpl/debian-13-standard")
    assert found == Template("local", FILES[1], missing=True)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "wanted", [None, "", "debian", "local:iso/x.iso", "local:vztmpl/", "a:b:vztmpl/x", ":vztmpl/x", "l:vztmpl/x/y"]
)
def test_what_is_no_template(wanted: str | None) -> None:
    with pytest.raises(ConfigError, match=f"ostemplate must be STORAGE:vztmpl/FILE, found {wanted or 'nothing'}"):
        find(Storage(FILES), wanted)


def test_one_that_is_nowhere() -> None:
    wanted = "local:vztmpl/debian-13-standard_1.0-1_amd64.tar.zst"
    with pytest.raises(ConfigError) as caught:
        find(Storage(["b.tar", "a.tar"], FILES), wanted)
    assert str(caught.value) == (
        f"ostemplate: wanted {wanted}, found on storage local: local:vztmpl/a.tar, local:vztmpl/b.tar; to download:"
        f" {FILES[1]}, {FILES[2]}. `pveam update` on the node renews that list"
    )
    with pytest.raises(ConfigError, match=r"on storage local: no template; to download: none of that name\. `pveam up"):
        find(Storage(None, None), wanted)
    with pytest.raises(
        ConfigError, match=r"found on storage local: no template\. `pveam download` on the node fetches"
    ):
        find(Storage([], FILES), "local:vztmpl/debian-13-standard", download=False)
