# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

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
