# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong in a homelab: a reboot, a play that is killed half way. The next run mends it and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import URL, Router

CHECKOUT = Path(__file__).parent.parent.parent
INVENTORY = CHECKOUT / "tests/lab/inventory"
SITE = [
    "ansible-playbook",
    "--inventory",
    str(INVENTORY),
    str(CHECKOUT / "playbooks/site.yml"),
    "--tags",
    "llama_router",
]
NODE = [str(CHECKOUT / "tests/lab/lab"), "ssh"]
BUSY = ["SmolLM2-135M-Instruct", "tiny-split"]


def site(*more: str) -> str:
    """Run the playbook's router part to its end."""
    return subprocess.run([*SITE, *more], check=True, capture_output=True, text=True, cwd=CHECKOUT).stdout


def kill_site_at(task: str, *more: str) -> None:
    """Run it, and kill it without warning as soon as it comes to a task."""
    play = subprocess.Popen([*SITE, *more], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, start_new_session=True)
    assert play.stdout
    for line in play.stdout:
        if line.startswith("TASK") and task in line:
            break
    else:
        pytest.fail(f"the play never came to {task!r}")
    os.killpg(play.pid, signal.SIGKILL)
    play.wait()


def wait_for_router() -> None:
    # Not through testinfra: what a guest prints that has just begun to boot may get lost.
    ask = f"python3 -c \"import urllib.request as u; u.urlopen('{URL}/health')\""
    deadline = time.monotonic() + 300
    while subprocess.run([*NODE, f"lxc-attach -n 120 -- {ask}"], check=False, capture_output=True).returncode:
        assert time.monotonic() < deadline, "the router did not come up"
        time.sleep(1)


def options(timeout: int) -> str:
    """The inventory's options of the router, and one more."""
    rpc = ["127.0.0.1:50161", "127.0.0.1:50162"]
    return json.dumps({"llama_router_options": {"rpc": rpc, "timeout": timeout}})


@pytest.fixture
def as_it_was() -> Iterator[None]:
    yield
    site()


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize(
    ("task", "change", "seen"),
    [
        # The unit is written, the service still runs the old one.
        ("Limit who may connect", options(601), "--timeout 601"),
        # The presets are written, the router has not read them.
        (
            "Write the command, the plan,",
            '{"llama_router_common_options": {"threads": 1}}',
            "threads",
        ),
        # In the middle of the restart, which goes on in the guest while the next run begins.
        ("Run what the files say", options(602), "--timeout 602"),
    ],
)
def test_a_play_killed_half_way_is_made_good_by_the_next(
    host: Any, router: Router, task: str, change: str, seen: str
) -> None:
    for model in BUSY:
        assert router.chat(model)[0] == 200
    kill_site_at(task, "--extra-vars", change)
    site("--extra-vars", change)
    assert router.loaded() == sorted(BUSY)
    running = host.check_output(
        "tr '\\0' ' ' < /proc/$(systemctl show llama-router --property MainPID --value)/cmdline"
    )
    presets = " ".join(" ".join(model["status"]["args"]) for model in router.ask("GET", "/models")[1]["data"])
    assert seen in running + presets
    assert "changed=0" in site("--extra-vars", change)


def test_after_a_reboot_of_the_guest_it_serves_again_and_nothing_changes(host: Any, router: Router) -> None:
    subprocess.run([*NODE, "pct reboot 120"], check=True, capture_output=True)
    wait_for_router()
    assert router.chat("tiny-single")[0] == 200
    assert "changed=0" in site()


def journal_since(host: Any, moment: str) -> str:
    host.check_output("journalctl --sync")
    return str(host.check_output("journalctl --unit llama-router --since %s --output cat --no-pager", moment))


def test_a_device_that_is_gone_stops_the_start_by_its_name(host: Any, router: Router) -> None:
    moment = host.check_output("date +@%s")
    host.check_output("systemctl stop lab-gpu@1")
    assert host.run("systemctl restart llama-router").rc != 0
    said = journal_since(host, moment)
    assert "llama-router gate: wanted the devices RPC0 RPC1; " in said
    assert "ended with 134: Failed to connect to 127.0.0.1:50162." in said
    assert host.run("systemctl is-active llama-router").stdout.strip() != "active"
    # Back again it starts by itself: systemd keeps trying.
    host.check_output("systemctl start lab-gpu@1")
    wait_for_router()
    assert router.chat("tiny-single")[0] == 200


@pytest.mark.usefixtures("as_it_was")
def test_a_machine_meant_for_the_cpu_starts_without_a_device(host: Any, router: Router) -> None:
    change = {"llama_router_cpu_only": True, "llama_router_models_max": 2}
    nothing: dict[str, Any] = {"llama_router_devices": [], "llama_router_options": {}}
    host.check_output("systemctl stop lab-gpu@0 lab-gpu@1")
    try:
        said = site("--extra-vars", json.dumps({**change, **nothing}))
        assert "this machine is meant to compute on its CPU (llama_router_cpu_only)" in said
        assert router.chat("tiny-single")[0] == 200
    finally:
        host.check_output("systemctl start lab-gpu@0 lab-gpu@1")
