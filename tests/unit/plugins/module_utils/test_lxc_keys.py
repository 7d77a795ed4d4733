# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lists of networks, mount points and devices against their numbered keys."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import ConfigError, Found, changes
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_keys import as_keys, devices_as_keys
from hypothesis import given
from hypothesis import strategies as st

NET = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=192.0.2.10/24,type=veth"
PATHS = st.sampled_from(["/a", "/b", "/c", "/d"])


def found_with(**config: str) -> Found:
    """A container with these keys."""
    return Found.parse([{"key": key, "value": text} for key, text in config.items()])


def test_devices_keep_their_keys_reuse_free_ones_and_the_rest_goes() -> None:
    config = {"dev0": "/dev/a,gid=44", "dev2": "/dev/b", "net0": NET}
    found = Found(config, {**config, "dev1": "/dev/going"}, ["dev1"], None, None)
    devices = [{"path": "/dev/c", "mode": "0666"}, {"path": "/dev/b", "gid": 44, "deny_write": True, "uid": None}]
    assert devices_as_keys(devices, found) == {
        "dev0": None,
        "dev2": "/dev/b,gid=44,deny-write=1",
        "dev3": "/dev/c,mode=0666",
    }


def test_an_entry_whose_removal_waits_takes_its_key_back() -> None:
    running = {"dev0": "/dev/a,mode=0666", "dev1": "/dev/b", "mp0": "local:vol-1,mp=/srv,size=10G"}
    found = Found({"dev1": "/dev/b"}, running, ["dev0", "mp0"], None, None)
    devices = [{"path": "/dev/a", "mode": "0666"}, {"path": "/dev/b"}]
    wanted = {
        **devices_as_keys(devices, found),
        **as_keys("mounts", "mp", [{"volume": "local:10", "mp": "/srv"}], found),
    }
    back = changes(wanted, found.config, found.running)
    assert back.put == {"dev0": running["dev0"], "mp0": running["mp0"]}
    assert back.waiting(found) == []


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ([{"path": "nvidia0"}], "wanted the path of a device node below /dev, found 'nvidia0'"),
        ([{"path": "/dev/nvidia-caps/"}], "wanted the path of a device node"),
        ([{"path": "/dev/a"}, {"path": "/dev/a"}], "/dev/a stands twice"),
        ([{"path": "/dev/a", "mode": "660"}], "wanted a mode of a 0 and three octal digits"),
    ],
)
def test_bad_devices(devices: list[dict[str, str]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        devices_as_keys(devices, None)


@given(st.dictionaries(st.integers(0, 9), PATHS), st.lists(PATHS, unique=True))
def test_an_entry_keeps_its_key_and_the_list_is_whole(found: dict[int, str], listed: list[str]) -> None:
    there = {path: f"mp{number}" for number, path in found.items()}
    config = {key: f"local:vol{key},mp={path}" for path, key in there.items()}
    wanted = as_keys("mounts", "mp", [f"local:1,mp={path}/" for path in listed], found_with(**config))
    kept = {key for key, text in wanted.items() if text}
    assert len(kept) == len(listed)
    assert {there[path] for path in listed if path in there} <= kept
    assert {key for key, text in wanted.items() if text is None} == {
        key for path, key in there.items() if path not in listed
    }
    # New ones take the lowest keys that nothing has.
    new = sorted(int(key[2:]) for key in kept - set(config))
    free = [number for number in range(20) if f"mp{number}" not in config]
    assert new == free[: len(new)]


def test_networks_by_their_name() -> None:
    found = found_with(net0=NET, net3="name=eth1,bridge=vmbr1")
    wanted = as_keys("net", "net", [{"name": "lan0", "bridge": "vmbr2"}, "bridge=vmbr0,name=eth0,ip=dhcp"], found)
    assert wanted == {"net0": "bridge=vmbr0,name=eth0,ip=dhcp", "net1": "name=lan0,bridge=vmbr2", "net3": None}
    assert changes(wanted, found.config).put["net0"].endswith("hwaddr=BC:24:11:00:00:01,type=veth")


def test_a_dictionary_names_its_keys_and_leaves_the_others_alone() -> None:
    assert as_keys("net", "net", {"net1": {"name": "eth1"}, "net2": None}, found_with(net0=NET)) == {
        "net1": "name=eth1",
        "net2": None,
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"eth0": {}}, "net: wanted keys such as net0, found 'eth0'"),
        ([{"bridge": "vmbr0"}], "net: wanted a name in every entry of the list"),
        (["name=a", "name=a"], "net: a stands twice"),
        ("name=a", "net: wanted a dictionary or a list, found 'name=a'"),
        ([{"name": f"e{number}"} for number in range(33)], "net: wanted more than the 32"),
    ],
)
def test_what_is_no_list_of_networks(value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        as_keys("net", "net", value, None)
