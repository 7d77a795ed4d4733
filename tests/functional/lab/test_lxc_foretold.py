# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Random containers against the lab's API over HTTPS, with real containers behind it. Uses the container 131."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.modules import lxc
from hypothesis import HealthCheck, given, settings
from lab_node import TEMPLATE, Run, destroy, on_node
from lxc_options import assert_foretold, some_runs

DEVICES = ["/dev/homelab-test0", "/dev/homelab-test1"]


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[None]:
    """What the random containers want of the node: devices and folders; and no container of that number."""
    nodes = "; ".join(f"mknod -m 660 {device} c 1 3" for device in DEVICES)
    on_node(f"rm -f {' '.join(DEVICES)}; {nodes}; mkdir -p /srv/x /srv/y")
    destroy(131)
    yield
    destroy(131)
    on_node(f"rm -f {' '.join(DEVICES)}")


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some_runs(devices=DEVICES, bridges=["vmbr0"], most=3))
def test_check_mode_foretells_any_run_and_the_next_changes_nothing(over_api: Run, runs: list[dict[str, Any]]) -> None:
    destroy(131)
    run = partial(over_api, lxc, vmid=131, force=True)
    assert_foretold(run, [{"ostemplate": TEMPLATE, **options} for options in runs])
