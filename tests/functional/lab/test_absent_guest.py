# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks where a container is gone, is stopped, or is on another node. Uses the containers 138 and 139."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_node import TEMPLATE, destroy, on_node
from plays import Plays, in_guest, words

GONE, STOPPED = 138, 139
AWAY = "/etc/pve/nodes/pve2"


class Homelab(Plays):
    """A node, a guest that is gone and one that is stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        guests = {"gone": in_guest(GONE), "stopped": in_guest(STOPPED)}
        self.write_inventory(llama_routers={"hosts": guests, "vars": {"llama_router_cpu_only": True}})


@pytest.fixture(scope="module")
def homelab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homelab]:
    for vmid in (GONE, STOPPED):
        destroy(vmid)
    on_node(f"pct create {STOPPED} {TEMPLATE} -hostname stopped -rootfs local-lvm:4")
    yield Homelab(tmp_path_factory.mktemp("absent"))
    destroy(STOPPED)


def test_remove_goes_on_with_the_node(homelab: Homelab) -> None:
    output = words(homelab.playbook("remove.yml"))
    assert f"gone: there is no container {GONE} on pve. Nothing is done in it." in output
    assert f"stopped: container {STOPPED} does not run on pve. Nothing is done in it." in output
    assert "unreachable=0" in output.partition("gone :")[2]
    # The node's part ran.
    assert "PLAY [The driver on each node]" in output
    assert "pve : ok=" in output.partition("PLAY RECAP")[2]


@pytest.mark.parametrize("options", [("status.yml",), ("site.yml", "--tags", "llama_router")])
def test_others_say_so_too(homelab: Homelab, options: tuple[str, ...]) -> None:
    output = words(homelab.playbook(*options, "-e", "llamacpp_models=[]"))
    assert f"gone: there is no container {GONE} on pve. Nothing is done in it. Run site.yml without --tags" in output
    assert f"stopped: container {STOPPED} does not run on pve" in output
    assert "unreachable=0" in output.partition("gone :")[2]


def test_guest_that_has_migrated_is_named_with_its_node(homelab: Homelab) -> None:
    on_node(f"mkdir -p {AWAY}/lxc && echo 'hostname: gone' >{AWAY}/lxc/{GONE}.conf")
    try:
        output = words(homelab.playbook("status.yml"))
        assert f"gone: there is no container {GONE} on pve, node pve2 has it: set proxmox_lxc_node" in output
    finally:
        on_node(f"rm -r {AWAY}")
