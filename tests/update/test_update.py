# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""update.yml and rollback.yml in a guest of the lab, under clients that ask all the time."""

from __future__ import annotations

import json
import os
import re

import pytest
from conftest import BUSY, ROOT, Guest

# All gates and all ways to be bad take their time: `make test-update` has them.
long = pytest.mark.skipif("HOMELAB_LONG_TESTS" not in os.environ, reason="make test-update runs it")


@pytest.fixture(autouse=True)
def busy(guest: Guest) -> None:
    guest.load(*BUSY)


def test_nobody_notices_an_update(guest: Guest) -> None:
    before, dedicated = guest.link("current"), guest.dedicated()
    with guest.clients() as clients:
        done = guest.update("second")
    assert done.returncode == 0, done.stdout
    assert clients.lost == []
    assert guest.link("current").startswith("b20002-")
    assert (guest.link("previous"), guest.link("fallback")) == (before, "")
    assert guest.loaded() == sorted(BUSY)
    assert guest.dedicated() != dedicated
    again = guest.update("second")
    assert "changed=0 " in again.stdout, again.stdout


def test_a_model_that_a_dedicated_server_has_does_not_go(guest: Guest) -> None:
    files = {BUSY[0]: f"/srv/models/{BUSY[0]}.gguf", "tiny-split": "/srv/models/tiny-split"}
    stay = [{"name": name, "source": {"path": path}} for name, path in files.items()]
    going = {"llamacpp_models": [*stay, {"name": "tiny-single", "state": "absent"}]}
    before = guest.state()
    done = guest.playbook("models", "--extra-vars", json.dumps(going))
    assert done.returncode != 0
    assert "tiny-single would go from the models directory" in " ".join(done.stdout.split()), done.stdout
    assert guest.state() == before


def test_what_an_update_would_do_changes_nothing(guest: Guest) -> None:
    before = guest.state()
    told = guest.update("third", "--check", "--diff")
    assert told.returncode == 0, told.stdout
    assert "+b20003-archive-" in told.stdout
    assert guest.state() == before


@pytest.mark.parametrize(
    ("release", "words"),
    [
        pytest.param("exits", "it ended with 127 and said: error: symbol lookup error", marks=long),
        ("preset", "preset 'SmolLM2-135M-Instruct', line"),
        pytest.param("silent", "it does not serve after 10 s", marks=long),
        pytest.param("dies", "it loaded the model and ended with 134 when it was asked", marks=long),
        # Passes every trial beside the router: the router itself is taken back.
        ("service", "was wanted to serve"),
        # Seen when what ran before is loaded again, or else by the swap under load.
        pytest.param("kills", "was wanted (to finish its answer|loaded, its process ended)", marks=long),
    ],
)
def test_a_bad_one_is_taken_back_and_nothing_is_lost(guest: Guest, release: str, words: str) -> None:
    before = guest.link("current")
    # All but one end by themselves, and on a busy machine a good trial takes its time.
    patience = ["--extra-vars", "llama_router_trial_timeout=10"] if release == "silent" else []
    with guest.clients() as clients:
        done = guest.update(release, *patience)
    assert done.returncode != 0
    assert re.search(words, " ".join(done.stdout.split()))
    # A build that breaks off answers does so in the only place where it can be seen, in front of everybody.
    assert release == "kills" or clients.lost == []
    assert (guest.link("current"), guest.link("fallback")) == (before, "")
    assert guest.loaded() == sorted(BUSY)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("Check the room", marks=long),
        pytest.param("The prebuilt release is a release", marks=long),
        pytest.param("The new llama-server reads the command line", marks=long),
        pytest.param("The new llama-server answers", marks=long),
        "The router serves with the release",
        pytest.param("Verify that the router does", marks=long),
        pytest.param("A busy model outlives", marks=long),
        pytest.param("The release is kept", marks=long),
    ],
)
def test_an_update_that_is_killed_is_taken_up_by_the_next(guest: Guest, task: str) -> None:
    there = guest.link("current")
    release = "third" if there.startswith("b20002-") else "second"
    guest.kill_update_at(task, release)
    with guest.clients() as clients:
        done = guest.update(release)
    assert done.returncode == 0, done.stdout
    assert clients.lost == []
    assert (guest.link("previous"), guest.link("fallback")) == (there, "")
    assert guest.link("current") != there
    assert guest.loaded() == sorted(BUSY)


def test_back_to_the_release_before(guest: Guest) -> None:
    current, previous = guest.link("current"), guest.link("previous")
    told = guest.playbook("rollback")
    assert f"serves with {current}" in told.stdout
    assert "changed=0 " in told.stdout
    assert guest.playbook("rollback", "--extra-vars", "llamacpp_back_to=nowhere").returncode != 0
    dedicated = guest.dedicated()
    with guest.clients() as clients:
        done = guest.playbook("rollback", "--extra-vars", "llamacpp_back_to=previous")
    assert done.returncode == 0, done.stdout
    assert clients.lost == []
    assert (guest.link("current"), guest.link("previous")) == (previous, current)
    assert guest.dedicated() != dedicated
    assert guest.loaded() == sorted(BUSY)


@long
@pytest.mark.parametrize(
    ("room", "words"),
    [("", "Wanted for a release (archive)"), ('{"_llama_cpp_room_mib": {"archive": 0}}', "No space left on device")],
)
def test_a_full_disk_while_the_release_is_made(guest: Guest, room: str, words: str) -> None:
    """The releases lie on a disk that is full, first with the gate that looks for room, then without."""
    before, serving = guest.link("current"), guest.host.check_output("systemctl show llama-router -P MainPID")
    guest.host.check_output(
        f"cp -a {ROOT} /root/copy && mount -t tmpfs -o size=200k small {ROOT} && cp -a /root/copy/. {ROOT}"
        f" && {{ cat /dev/zero > {ROOT}/filler || true; }}"
    )
    try:
        done = guest.update("fourth", *(["--extra-vars", room] if room else []))
    finally:
        guest.host.check_output(f"umount {ROOT} && rm -r /root/copy")
    assert done.returncode != 0
    assert words in " ".join(done.stdout.split()), done.stdout
    assert guest.link("current") == before
    assert guest.host.check_output("systemctl show llama-router -P MainPID") == serving
    assert guest.loaded() == sorted(BUSY)


@long
def test_back_to_a_snapshot_by_name(guest: Guest) -> None:
    guest.take_models_in()
    guest.load(*BUSY)
    before = guest.link("current")
    build = re.escape(guest.build())
    done = guest.update("third" if before.startswith("b20002-") else "second")
    assert done.returncode == 0, done.stdout
    assert guest.link("current") != before
    made = re.search(r"llama: snapshot (update-[0-9]+-[0-9]+)", done.stdout)
    assert made, done.stdout
    assert f"Snapshots: {made[1]}" in guest.playbook("rollback").stdout
    done = guest.playbook("rollback", "--extra-vars", f"llamacpp_back_to={made[1]}")
    assert done.returncode == 0, done.stdout
    assert re.search(rf"is what it was at {made[1]}: build {build} serves .*{BUSY[1]}", " ".join(done.stdout.split()))
    assert guest.link("current") == before
    guest.load(*BUSY)
