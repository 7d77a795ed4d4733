# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A container's configuration: property strings, and wanted against found."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._lxc_config import (
    Changes,
    ConfigError,
    Found,
    changes,
    format_properties,
    growth,
    parse_properties,
    wanted_text,
)
from hypothesis import given
from hypothesis import strategies as st

NET = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=192.0.2.10/24,type=veth"
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
VALUES = st.from_regex(r"[A-Za-z0-9./:;_-]{1,12}", fullmatch=True)
KEYS = st.sampled_from(["net0", "mp1", "dev2", "features", "startup"])


@given(KEYS, st.dictionaries(NAMES, VALUES, min_size=1))
def test_properties_survive_being_written(key: str, properties: dict[str, str]) -> None:
    assert parse_properties(key, format_properties(key, properties)) == properties


@given(KEYS, st.dictionaries(NAMES, VALUES, min_size=1), st.randoms())
def test_order_never_counts_and_what_is_put_is_then_found(key: str, properties: dict[str, str], random: Any) -> None:
    text = format_properties(key, properties)
    names = list(properties)
    random.shuffle(names)
    other = format_properties(key, {name: properties[name] for name in names})
    assert not changes({key: other}, {key: text})
    put = changes({key: text}, {})
    assert not changes({key: text}, put.over({}))


@given(
    st.dictionaries(st.sampled_from(["cores", "memory", "tags", "onboot", "net0", "mp0"]), st.none() | VALUES),
    st.dictionaries(st.sampled_from(["cores", "memory", "swap", "tags", "onboot"]), VALUES),
)
def test_converged_is_converged(wanted: dict[str, str | None], found: dict[str, str]) -> None:
    wanted = {key: f"a={text}" if key == "net0" and text else text for key, text in wanted.items()}
    after = changes(wanted, found).over(found)
    assert not changes(wanted, after)
    untold = set(found) - set(wanted)
    assert {key: after[key] for key in untold} == {key: found[key] for key in untold}


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (
            "net0",
            {"name": "eth0", "bridge": "vmbr0", "tag": 20, "firewall": True},
            "name=eth0,bridge=vmbr0,tag=20,firewall=1",
        ),
        ("net0", {"name": "eth0", "gw": None, "ip6": ""}, "name=eth0"),
        (
            "mp0",
            {"mp": "/models", "volume": "local:8", "mountoptions": ["noatime", "discard"]},
            "local:8,mp=/models,mountoptions=noatime;discard",
        ),
        ("features", {"nesting": True, "keyctl": False}, "nesting=1,keyctl=0"),
        ("features", {}, None),
        ("net1", None, None),
        ("description", "", None),
        ("onboot", False, "0"),
        ("cpulimit", 1.5, "1.5"),
    ],
)
def test_wanted_text(key: str, value: Any, text: str | None) -> None:
    assert wanted_text(key, value) == text


@pytest.mark.parametrize(
    ("key", "wanted", "found"),
    [
        ("net0", "bridge=vmbr0,name=eth0,ip=192.0.2.10/24", NET),
        ("net0", "bridge=vmbr0,name=eth0,ip=192.0.2.10/24,firewall=0,hwaddr=bc:24:11:00:00:01", NET),
        ("mp0", "local-lvm:20,mp=/models,backup=0", "local-lvm:vm-130-disk-1,mp=/models,size=20G"),
        ("mp0", "mp=/models,volume=local-lvm:20,ro=yes", "local-lvm:vm-130-disk-1,mp=/models,ro=1,size=20G"),
        ("mp0", "/srv/models,mp=/models", "/srv/models,mp=/models"),
        ("dev0", "/dev/nvidia0,uid=0,mode=0660", "path=/dev/nvidia0"),
        ("features", "keyctl=0,nesting=1", "nesting=1"),
        ("startup", "order=1,up=10", "1,up=10"),
        ("tags", "LLM;a", "a;llm"),
        ("nameserver", "192.0.2.1 192.0.2.2", "192.0.2.1,192.0.2.2"),
        ("description", "two\nlines", "two\nlines\n"),
        ("onboot", "1", "yes"),
    ],
)
def test_other_spellings_are_no_change(key: str, wanted: str, found: str) -> None:
    assert not changes({key: wanted}, {key: found})


@pytest.mark.parametrize("key", ["onboot", "protection", "unprivileged"])
def test_a_flag_that_is_not_there_is_off(key: str) -> None:
    assert not changes({key: "0"}, {})


def test_only_what_differs_and_what_proxmox_made_up_is_kept() -> None:
    found = {"net0": NET, "mp0": "local:130/vm-130-disk-1.raw,mp=/m,ro=1,size=8G", "cores": "4", "memory": "512"}
    wanted = {
        "net0": "name=eth0,bridge=vmbr1",
        "mp0": "local:8,mp=/models",
        "cores": "4",
        "memory": "1024",
        "tags": None,
        "swap": None,
    }
    assert changes(wanted, found) == Changes(
        {
            "memory": "1024",
            "mp0": "local:130/vm-130-disk-1.raw,mp=/models,size=8G",
            "net0": "name=eth0,bridge=vmbr1,hwaddr=BC:24:11:00:00:01,type=veth",
        },
        [],
    )
    assert changes({"cores": None}, found) == Changes({}, ["cores"])


def test_another_volume_or_bind_mount_replaces() -> None:
    found = {"mp0": "local:vm-130-disk-1,mp=/m,size=8G"}
    assert changes({"mp0": "/srv/m,mp=/m"}, found).put == {"mp0": "/srv/m,mp=/m"}
    assert changes({"mp0": "local:4,mp=/m"}, {"mp0": "/srv/m,mp=/m"}).put == {"mp0": "local:4,mp=/m"}
    with pytest.raises(ConfigError, match="pct move-volume VMID mp0 nas"):
        changes({"mp0": "nas:8,mp=/m"}, found)


def test_unprivileged_is_fixed() -> None:
    with pytest.raises(ConfigError, match="unprivileged: wanted 1, found 0"):
        changes({"unprivileged": "1", "cores": "2"}, {"cores": "1"})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("net0", {"name": "a,b"}, "cannot stand in a property string"),
        ("net0", {"na me": "a"}, "cannot stand in a property string"),
        ("net0", "eth0,bridge=vmbr0", "wanted name=value, found 'eth0'"),
        ("mp0", "local:8,/models", "wanted name=value, found '/models'"),
        ("net0", "name=a,name=b", "name stands twice"),
    ],
)
def test_bad_properties(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        wanted_text(key, value)


def test_what_waits_for_a_restart() -> None:
    found = Found.parse(
        [
            {"key": "dev0", "value": "/dev/a"},
            {"key": "mp0", "value": "local:x,mp=/x"},
            {"key": "net1", "value": "name=eth1"},
            {"key": "features", "value": "nesting=1", "pending": "nesting=1,keyctl=1"},
            {"key": "nameserver", "value": "192.0.2.1", "delete": 1},
            {"key": "timezone", "pending": "host"},
            {"key": "searchdomain", "value": "a", "pending": "b"},
        ]
    )
    assert Changes({}, []).waiting(found) == ["features", "nameserver", "searchdomain", "timezone"]
    put = {"cores": "2", "memory": "1", "net0": "name=a", "mp1": "local:1,mp=/y", "dev0": "/dev/b"}
    back = {"features": "keyctl=0,nesting=1", "nameserver": "192.0.2.1"}
    change = Changes({**put, **back}, ["mp0", "net1", "timezone"])
    assert change.waiting(found) == ["dev0", "mp0", "searchdomain"]


def test_found_counts_pending_changes_as_done() -> None:
    found = Found.parse(
        [
            {"key": "memory", "value": 512, "pending": 1024},
            {"key": "features", "value": "nesting=1", "delete": 1},
            {"key": "dev0", "pending": "/dev/a"},
            {"key": "onboot", "value": 1},
            {"key": "digest", "value": "abc"},
            {"key": "lock", "value": "backup"},
        ]
    )
    assert found.config == {"memory": "1024", "dev0": "/dev/a", "onboot": "1"}
    assert found.waiting == ["dev0", "features", "memory"]
    assert (found.digest, found.lock) == ("abc", "backup")
    assert found.running == {"memory": "512", "features": "nesting=1", "onboot": "1"}


@pytest.mark.parametrize(
    ("wanted", "size", "grown"),
    [
        ("local:16", "8G", "16G"),
        ("local:16", "8192M", "16G"),
        ("local:8.5", "8G", "8704M"),
        ("local:2048", "1T", "2T"),
        ("local:0.0001", "8K", "105K"),
        ("local:16", "16G", None),
        ("local:16", "1T", None),
        ("local:16", "17179869184", None),
        # Without a limit, or told as none.
        ("local:16", "0T", None),
        ("local:vm-1-disk-0", "8G", None),
        ("/srv/x", "8G", None),
    ],
)
def test_volumes_grow_and_never_shrink(wanted: str, size: str, grown: str | None) -> None:
    found = Found.parse([{"key": key, "value": f"local:vm-1-disk-0,mp=/m,size={size}"} for key in ("rootfs", "mp0")])
    keys = {"rootfs": wanted, "mp0": f"mp=/m,volume={wanted}", "mp1": "local:1,mp=/y"}
    sizes = growth(keys, found)
    assert sizes == ({"rootfs": grown, "mp0": grown} if grown else {})
    after = found.grown(sizes)
    assert growth(keys, after) == {}
    if grown:
        assert after.config["rootfs"] == f"local:vm-1-disk-0,mp=/m,size={grown}"


def test_volume_that_is_about_to_be_another_one_does_not_grow() -> None:
    found = Found.parse([{"key": "mp0", "value": "local:a,mp=/m,size=1G", "pending": "local:b,mp=/m"}])
    assert growth({"mp0": "local:4,mp=/m"}, found) == {}


def test_volume_that_is_taken_back_grows_at_once() -> None:
    found = Found.parse([{"key": "mp0", "value": "local:a,mp=/m,size=1G", "delete": 1}])
    wanted: dict[str, str | None] = {"mp0": "local:4,mp=/m"}
    assert growth(wanted, found) == {"mp0": "4G"}
    after = found.grown({"mp0": "4G"})
    assert changes(wanted, after.config, after.running).put == {"mp0": "local:a,mp=/m,size=4G"}


def test_size_is_that_of_the_volume_also_where_a_change_waits() -> None:
    entry = {"key": "mp0", "value": "local:a,mp=/m,size=1G", "pending": "local:a,mp=/m,ro=1,size=1G"}
    found = Found.parse([entry]).grown({"mp0": "4G"})
    assert (found.running["mp0"], found.config["mp0"]) == ("local:a,mp=/m,size=4G", "local:a,mp=/m,ro=1,size=1G")
    change = changes({"mp0": "local:4,mp=/m,ro=1"}, found.config, found.running)
    assert change.put == {"mp0": "local:a,mp=/m,ro=1,size=4G"}


def test_back_to_what_runs_is_sent_in_its_very_words() -> None:
    found = Found.parse([{"key": "dev0", "value": "/dev/a,gid=0", "pending": "/dev/a,gid=5"}])
    change = changes({"dev0": "/dev/a"}, found.config, found.running)
    assert (change.put, change.waiting(found)) == ({"dev0": "/dev/a,gid=0"}, [])
