# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pwd
from collections.abc import Sequence

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._sandbox_probe import ProbeError, probe
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_hardening import DIRECTIVES

OWN = "mnt:[1]\nipc:[2]\nuts:[3]\nuser:[4]\n"


class Machine:
    """Stands in for systemd in a container: refuses some directives, passes over those of some namespaces."""

    def __init__(self, refuses: Sequence[str] = (), shares: Sequence[str] = (), dead: bool = False) -> None:
        self.refuses, self.shares, self.dead = set(refuses), shares, dead
        self.starts = 0

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        if argv[0] == "readlink":
            return 0, OWN, ""
        assert argv[0] == "systemd-run"
        self.starts += 1
        given = {word for before, word in zip(argv, argv[1:]) if before == "--property"}
        if self.dead:
            return 1, "", "Failed to connect to bus: No such file or directory\n"
        if given & self.refuses:
            return 226, "", "Main processes terminated with: code=exited, status=226/NAMESPACE\n"
        spaces = ["mnt", "ipc", "uts", "user"]
        seen = [line if space in self.shares else line + "0" for space, line in zip(spaces, OWN.split())]
        return 0, "\n".join(seen), ""


def test_where_all_works_one_start_tells() -> None:
    machine = Machine()
    assert probe(machine) == {}
    assert machine.starts == 1


def test_what_makes_a_start_fail_is_found_among_the_others() -> None:
    machine = Machine(refuses=["ProtectProc=invisible", "PrivateDevices=true"])
    assert probe(machine) == {"PrivateDevices": "226/NAMESPACE", "ProtectProc": "226/NAMESPACE"}
    assert machine.starts == len(DIRECTIVES) + 2


def test_what_is_passed_over_without_a_word_is_found_too() -> None:
    refused = probe(Machine(shares=["user", "ipc"]))
    assert set(refused) == {"PrivateUsers", "PrivateIPC"}
    assert "without effect" in refused["PrivateUsers"]
    everything = probe(Machine(shares=["mnt"]))
    assert set(everything) == {directive.name for directive in DIRECTIVES if directive.space == "mnt"}


def test_one_of_several_of_a_name_is_told_with_its_value() -> None:
    assert set(probe(Machine(refuses=["SystemCallFilter=~@resources"]))) == {"SystemCallFilter=~@resources"}


def test_a_machine_without_systemd() -> None:
    with pytest.raises(ProbeError, match=r"systemd-run was wanted .* found: Failed to connect to bus"):
        probe(Machine(dead=True))


def test_what_is_started() -> None:
    """A shell of a user who is not root, whose namespaces are told; with the directives that are asked for."""
    asked: list[list[str]] = []
    machine = Machine()

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        asked.append(list(argv))
        return machine(argv)

    probe(run)
    start, own = asked
    assert start[:6] == ["systemd-run", "--wait", "--collect", "--pipe", "--property", "User=daemon"]
    assert start[-4:] == [
        "--",
        "/bin/sh",
        "-c",
        "readlink /proc/self/ns/mnt /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/user",
    ]
    assert [word for word in start[6:-4] if word != "--property"] == [directive.line for directive in DIRECTIVES]
    assert own == ["readlink", "/proc/1/ns/mnt", "/proc/1/ns/ipc", "/proc/1/ns/uts", "/proc/1/ns/user"]
    assert pwd.getpwnam("daemon").pw_uid != 0


def test_one_that_refuses_only_together_with_another_is_the_later_of_the_two() -> None:
    """Each is tried with those before it that work."""
    first, second = DIRECTIVES[0].line, DIRECTIVES[3].line
    machine = Machine()

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        if first in argv and second in argv:
            return 1, "", "no\n"
        return machine(argv)

    assert list(probe(run).values()) == ["no"]


def test_reasons() -> None:
    machine = Machine()
    for errors, reason in (("", "systemd-run ended with 7"), (" two\n words ", "two words"), ("x status=9/X y", "9/X")):

        def run(argv: Sequence[str], said: str = errors) -> tuple[int, str, str]:
            return (7, "", said) if DIRECTIVES[0].line in argv else machine(argv)

        assert next(iter(probe(run).values())) == reason


def test_namespaces_that_cannot_be_seen() -> None:
    machine = Machine()

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        return (1, "", "denied\n") if argv[0] == "readlink" else machine(argv)

    with pytest.raises(ProbeError, match="root's rights were wanted, to see the namespaces of /proc/1; found: denied"):
        probe(run)
