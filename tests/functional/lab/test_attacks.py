# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attacks from inside a guest: as the service's own user and as a neighbour, against the operator's plays.

The attacker wants to become root, to read a key, to lead root to other files, or to stop the operator's plays. First
come the classes (who can change what root acts on, who can read a key), then attacks that were seen to work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from attacked_guest import (
    INSTANCE_KEY,
    KEY,
    KEYS,
    SERVICE,
    TRACED,
    TRACES,
    VARIABLES,
    AttackedGuest,
    Ended,
)
from traced_calls import misled, of_root

# Besides the names that a trace of root shows: names of the collection's records, parts and folders.
NAMES = (
    *("state", "applied", "offloaded", "pending.json", "current", "previous", "before-update", "leaving"),
    *(".model_file.json", ".model_file.json.lock", ".model_file.lock", "copied.gguf", "copied.gguf.part"),
    *("added.gguf.part", "added.gguf.part.journal", "added.gguf.part.journal.new", "own", "lock", ".lock"),
)
ADDED = {"name": "added", "source": {"path": "/srv/m/tiny.gguf", "method": "copy"}, "options": {"ctx-size": 512}}
VICTIMS = "/srv/victims"
VICTIM = f"{VICTIMS}/file"
FOLDER = f"{VICTIMS}/folder"
NOT_THERE = f"{VICTIMS}/made"
BACKWARDS = tuple(key[::-1] for key in KEYS)  # so that no command line of the attacker holds a key
# Foreign directories of Debian's own programs, which the roles only start.
DEBIANS = ("/var/cache/apt/", "/var/lib/apt/", "/var/mail", "/var/lib/systemd/network", "/run/systemd/netif")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedGuest]:
    """A converged guest. Its first run is traced, but for the installation of llama-server."""
    made = AttackedGuest(tmp_path_factory.mktemp("attacks"))
    made.create()
    installed = made.play("--tags", "install")
    assert not installed.failed, installed.reason
    made.converge(ansible_python_interpreter=TRACED)
    yield made
    made.remove()


@pytest.fixture
def victims(guest: AttackedGuest) -> Iterator[None]:
    """Root's files that the attacker's links lead to. Afterwards: they are as they were, and the guest is clean."""
    guest.root(
        f"umask 077; rm -rf {VICTIMS}; mkdir -p {FOLDER}; chmod 0755 {VICTIMS}"
        f"; echo 'root: only' | tee {VICTIM} {FOLDER}/a {FOLDER}/added.gguf.part {FOLDER}/copied.gguf >/dev/null"
    )
    before = _state(guest)
    yield
    after = _state(guest)
    _clean(guest)
    assert after == before


def _state(guest: AttackedGuest) -> str:
    """Names, modes, owners, sizes, times of change and content of the victims."""
    listing = f"find {VICTIMS} -printf '%P %M %U:%G %s %n %C@\\n' | sort"
    return guest.root(f"{listing}; find {VICTIMS} -type f -exec sha256sum {{}} + | sort")


def _clean(guest: AttackedGuest) -> None:
    """Take away what was planted and give back what was renamed; end what the attackers have left running."""
    guest.root(
        r"""
        for pid in $(cat /root/attackers 2>/dev/null); do kill -9 $pid; done; rm -f /root/attackers
        for pid in $(pgrep -f '[A]nsiballZ'); do kill -9 $pid; done
        for root in / /run /tmp /dev/shm /dev; do
          find $root -xdev -name '*.was' | while read -r was; do rm -rf "${was%.was}"; mv "$was" "${was%.was}"; done
          find $root -xdev \( -type l -lname '/srv/victims*' -o -name '*.forged' \) -delete
        done
        """,
        check=False,
    )
    # FIFOs and files: what was planted where nothing was, belongs to a service's user or to nobody.
    owned = " -o ".join(f"-user {user}" for user in (SERVICE, "llama-monitoring", "llama-instance", "nobody"))
    places = "/var/lib/llama-* /var/cache/llama-* /run /tmp /var/tmp /dev/shm"
    names = " -o ".join(f"-name '{name}'" for name in NAMES)
    guest.root(f"find {places} \\( {owned} \\) \\( -type p -o -type f \\) \\( {names} \\) -delete", check=False)


def _background(guest: AttackedGuest, started: dict[str, Any]) -> dict[str, Any]:
    guest.root(f"echo {started['pid']} >>/root/attackers")
    return started


def _is_clear(ended: Ended) -> None:
    """It worked, or a task failed with a message."""
    unclear = [text for text in ("Traceback (most recent call last)", "MODULE FAILURE") if text in ended.output]
    assert not unclear, ended.reason
    assert not ended.failed or re.search(r"msg: *\S", ended.reason), ended.reason


def _foreign(guest: AttackedGuest) -> set[str]:
    """The directories that another user than root can change. Those with a sticky bit are another matter."""
    others = r"\( ! -user root -o -perm -o+w -o \( -perm -g+w ! -group root \) \)"
    find = f"for root in / /run /dev; do find $root -xdev -type d {others} ! -perm -1000; done"
    found = set(guest.root(find).split()) - {"/proc", "/sys"}
    return {folder for folder in found if not f"{folder}/".startswith(DEBIANS)}


def _names_of_root(guest: AttackedGuest) -> tuple[str, ...]:
    """The names that root was seen to use in directories which another user can change, and NAMES."""
    foreign = _foreign(guest)
    seen = {
        access.path.rpartition("/")[2]
        for trace in _traces(guest)
        for access in of_root(trace)
        if access.path.rpartition("/")[0] in foreign
    }
    return (*NAMES, *sorted(seen - {*NAMES, "models"}))


def _traces(guest: AttackedGuest) -> list[str]:
    return guest.root(f"cd {TRACES} && for trace in *; do echo '### trace'; cat $trace; done").split("### trace\n")[1:]


# --- classes ----------------------------------------------------------------------------------------------------------


def test_root_acts_on_no_path_that_another_user_can_change(guest: AttackedGuest) -> None:
    """The first run, a run with changes, a trial of a release, and the status command."""
    changes = {
        "llama_router_models_max": 2,
        "llama_router_common_options": {"threads": 1},
        "llamacpp_models": [VARIABLES["llamacpp_models"][0], ADDED],
    }
    guest.converge("--tags", "all,trial", ansible_python_interpreter=TRACED, **changes)
    guest.root(f"{TRACED} /usr/local/bin/llama-router-status >/dev/null 2>&1", check=False)
    foreign = _foreign(guest)
    accesses = [access for trace in _traces(guest) for access in of_root(trace)]
    assert len({access.path for access in accesses if access.changes}) > 50  # the trace saw the play
    assert sorted(misled(accesses, foreign)) == []
    guest.converge()


def test_units_start_nothing_as_root_that_acts_on_a_foreign_directory(guest: AttackedGuest) -> None:
    foreign = _foreign(guest)
    lines = guest.root("cat /etc/systemd/system/llama-*.service").replace("\\\n", " ").splitlines()
    as_root = [line for line in lines if re.match(r"Exec\w+=[-@:|]*[+!]", line)]
    found = [
        (line, path)
        for line in as_root
        for path in re.findall(r"/[\w./@%-]+", line)
        if any(f"{path}/".startswith(f"{folder}/") for folder in foreign)
    ]
    assert found == []


def test_every_unit_is_hardened(guest: AttackedGuest) -> None:
    """Services score 1.4 or better; what root runs once may have what it needs."""
    units = guest.root("systemctl list-units --all --no-legend --plain 'llama-*.service' | cut -d' ' -f1").split()
    assert len(units) >= 5
    worse = {}
    for unit in units:
        said = guest.root(f"systemd-analyze security --no-pager {unit}")
        score = float(said.split("Overall exposure level")[1].split()[2])
        kind = guest.root(f"systemctl show {unit} --property Type --value").strip()
        if score > (4.0 if kind == "oneshot" else 1.4):
            worse[unit] = score
        assert guest.root(f"systemctl show {unit} --property LimitCORE --value").strip() == "0", unit
    assert worse == {}


@pytest.mark.parametrize(
    ("user", "key"),
    [("nobody", KEY), ("nobody", INSTANCE_KEY), ("llama-instance", KEY), (SERVICE, INSTANCE_KEY)],
)
def test_no_other_user_can_read_a_key(guest: AttackedGuest, user: str, key: str) -> None:
    assert guest.attack(user, "search", key[::-1]) == []


def test_no_key_is_seen_while_the_play_runs(guest: AttackedGuest) -> None:
    """In argument lists, environments and shared directories, as nobody sees them; a key is rotated meanwhile."""
    watching = _background(guest, guest.attack("nobody", "watch", "/tmp/report", *BACKWARDS))
    rotated = guest.again("--tags", "all,trial", llama_router_api_keys=["another-" + KEY, KEY])
    guest.root("cat /usr/local/bin/llama-router-status >/dev/null; llama-router-status", check=False)
    report = json.loads(guest.root("cat /tmp/report; rm -f /tmp/report"))
    guest.root(f"kill {watching['pid']}")
    assert not rotated.failed, rotated.reason
    assert report["rounds"] > 10
    assert report["seen"] == []


# --- attacks ----------------------------------------------------------------------------------------------------------

CHANGED = {
    "llamacpp_models": [*VARIABLES["llamacpp_models"], ADDED],
    "llama_router_common_options": {"threads": 1},
}


@pytest.mark.usefixtures("victims")
@pytest.mark.parametrize("kind", [VICTIM, FOLDER, NOT_THERE, "fifo", "nested", "digests"])
def test_what_a_service_plants_leads_root_nowhere(guest: AttackedGuest, kind: str) -> None:
    """In every directory that it can write to, by every name that root uses: a link, a FIFO, a record.

    Not in the place of the models: see the exchanged directory below.
    """
    assert guest.attack(SERVICE, "plant", kind, *_names_of_root(guest))
    _is_clear(guest.again(**CHANGED))


@pytest.mark.usefixtures("victims")
@pytest.mark.parametrize("kind", [VICTIM, "fifo"])
def test_what_a_neighbour_plants_leads_root_nowhere(guest: AttackedGuest, kind: str) -> None:
    assert guest.attack("nobody", "plant", kind, *_names_of_root(guest))
    ended = guest.again("--tags", "all,trial", **CHANGED)
    _is_clear(ended)
    assert not ended.failed, ended.reason


@pytest.mark.usefixtures("victims")
def test_an_exchanged_directory_with_a_forged_record_leads_root_nowhere(guest: AttackedGuest) -> None:
    guest.attack(SERVICE, "exchange", VICTIM, "forged/a", "../../../../srv/victims/folder/a")
    _is_clear(guest.again(**CHANGED))
    _is_clear(guest.again(llama_models_verify=True))


@pytest.mark.usefixtures("victims")
def test_what_a_service_exchanges_meanwhile_leads_root_nowhere(guest: AttackedGuest) -> None:
    """A check before the use does not help against this one."""
    flipping = _background(guest, guest.attack(SERVICE, "flip", VICTIM, *_names_of_root(guest)))
    assert flipping["places"]
    _is_clear(guest.again("--tags", "all,trial", **CHANGED))


@pytest.mark.usefixtures("victims")
def test_a_held_lock_stops_no_play_without_end(guest: AttackedGuest) -> None:
    roots = ("/etc/llama-router", "/etc/llama-instance", "/var/lib", "/run", "/opt", "/usr/local/lib/homelab-llamacpp")
    held = _background(guest, guest.attack("nobody", "hold", *roots))
    assert held["locked"]
    _is_clear(guest.again(seconds=240, llama_router_common_options={"threads": 2}))


def test_whoever_has_the_port_is_not_told_the_key(guest: AttackedGuest) -> None:
    """The router is stopped, and a neighbour answers in its place: to the play, the keeper, exporter and command."""
    guest.converge()
    guest.root("systemctl stop llama-router llama-instance@own")
    heard = _background(guest, guest.attack("nobody", "listen", "/tmp/captured", "8012", "8101"))
    try:
        assert heard["ports"] == [8012, 8101]
        guest.root(
            "systemctl restart llama-router-keeper; llama-router-status; llama-router-status --json", check=False
        )
        scrape = "urllib.request.urlopen('http://127.0.0.1:9836/metrics', timeout=30).read()"
        guest.root(f'python3 -c "import urllib.request; {scrape}"', check=False)  # it may say that it cannot
        ended = guest.again()
        assert ended.failed
        _is_clear(ended)
        captured = guest.root("cat /tmp/captured || true")
        assert not [key for key in KEYS if key in captured], re.findall(r"(?:GET|POST) \S+", captured)
    finally:
        guest.root("rm -f /tmp/captured; systemctl reset-failed", check=False)
        _clean(guest)
    guest.converge()


def test_a_compromised_router_hands_no_environment_to_a_trial(guest: AttackedGuest) -> None:
    """It overwrites what /proc tells of it. A trial starts outside of the router's sandbox."""
    guest.converge()
    pid = guest.service_process()
    proof = "/var/cache/llama-router/loaded"
    words = ("LD_DEBUG=libs", f"LD_DEBUG_OUTPUT={proof}", "LLAMA_ARG_THREADS=1")
    done = guest.attack(SERVICE, "overwrite", pid, *words, beside=pid)
    assert done.get("environ", [])[:2] == list(words[:2]), done
    ended = guest.play("--tags", "trial")
    left = guest.root(f"ls {proof}* 2>/dev/null || true; rm -f {proof}*")
    guest.root("systemctl restart llama-router")
    _is_clear(ended)
    assert left == ""


# --- at the end -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("victims")
def test_a_removal_takes_away_what_is_the_routers_only(guest: AttackedGuest) -> None:
    for kind in (FOLDER, VICTIM):
        guest.attack(SERVICE, "plant", kind, *_names_of_root(guest))
    ended = guest.again(
        "--skip-tags", "monitoring", llama_router_state="absent", llama_models_state="absent",
        llama_models_remove=True,
    )  # fmt: skip
    _is_clear(ended)


def test_no_play_and_no_journal_has_shown_a_key(guest: AttackedGuest) -> None:
    assert guest.outputs
    shown = [line for output in guest.outputs for line in output.splitlines() if any(key in line for key in KEYS)]
    assert shown == []
    words = " ".join(f"--regexp {key}" for key in KEYS)
    assert guest.root(f"journalctl --no-pager | grep --count --fixed-strings {words} || true").strip() == "0"
