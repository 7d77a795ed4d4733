# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Random wanted containers, and what must hold for each: check mode says what a run then does, and a run settles it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

# Told alike by check mode and by the run.
TOLD = ("changed", "actions", "diff", "status", "restart_required", "pending")


def some_runs(devices: list[str], bridges: list[str], most: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Up to `most` runs on one container, from a node with these devices and bridges and the folders /srv/x, /srv/y."""

    def network(name: str) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(
            {"name": st.just(name), "bridge": st.sampled_from(bridges)},
            optional={"ip": st.just("dhcp"), "firewall": st.booleans(), "mtu": st.integers(1200, 1400)},
        )

    mount = st.sampled_from(
        ["local-lvm:4,mp=/a", "mp=/b,volume=local-lvm:2,ro=1", "local-lvm:6,mp=/a", "/srv/x,mp=/x", "/srv/y,ro=1,mp=/b"]
    )
    device = st.fixed_dictionaries(
        {"path": st.sampled_from(devices)},
        optional={
            "gid": st.integers(0, 99),
            "mode": st.sampled_from(["0660", "0666"]),
            "deny_write": st.booleans(),
        },
    )
    options = st.fixed_dictionaries(
        {"storage": st.just("local-lvm"), "disk_gib": st.sampled_from([4, 8, 8.5, 16])},
        optional={
            "restart": st.booleans(),
            "cores": st.integers(1, 8),
            "memory_mib": st.integers(64, 4096),
            "swap_mib": st.integers(0, 1024),
            "onboot": st.booleans(),
            "protection": st.booleans(),
            "tags": st.lists(st.sampled_from(["a", "B", "c-1"]), max_size=3),
            "description": st.sampled_from(["", "one", "one\ntwo", "größer & 100 % + 1"]),
            "startup": st.sampled_from(["", "3", "up=5,order=1"]),
            "timezone": st.sampled_from(["", "host", "Europe/Berlin"]),
            "nameserver": st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2"]), max_size=2, unique=True),
            "searchdomain": st.lists(st.just("home.arpa"), max_size=1),
            "features": st.dictionaries(st.sampled_from(["nesting", "keyctl", "fuse"]), st.booleans()),
            "net": st.fixed_dictionaries(
                {}, optional={"net0": st.none() | network("eth0"), "net3": st.none() | network("lan0")}
            )
            | st.lists(network("eth0") | network("lan0"), max_size=2, unique_by=lambda net: str(net["name"])),
            "mounts": st.dictionaries(st.sampled_from(["mp0", "mp3"]), st.none() | mount)
            | st.lists(mount, max_size=2, unique_by=lambda text: str(text.partition("mp=")[2][:2])),
            "devices": st.lists(device, unique_by=lambda each: str(each["path"])),
            "config": st.dictionaries(st.sampled_from(["cpulimit", "cpuunits"]), st.none() | st.integers(1, 9)),
            "state": st.sampled_from(["present", "started", "stopped"]),
        },
    )
    return st.lists(options, min_size=1, max_size=most)


def assert_foretold(run: Callable[..., dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Make the runs one after another, each in check mode first and once more afterwards."""
    for options in runs:
        foretold, real = run(check=True, **options), run(**options)
        if real.get("failed"):
            # A container whose volumes are protected: told beforehand, in the same words, and nothing is done.
            assert "protection: false" in real["msg"], real
            assert (foretold.get("msg"), real["actions"]) == (real["msg"], []), options
            continue
        for key in TOLD:
            assert foretold[key] == real[key], (key, options)
        again = run(**options)
        assert not again["changed"], (again["diff"], options)
        assert len(again["calls"]) == 2
