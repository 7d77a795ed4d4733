# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit, UnitError, UnitState, runner, word

SHOWN = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nNeedDaemonReload=yes\nMainPID=0\n"


class Host:
    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        self.asked.append(list(argv))
        return self.answers.pop(0)


def test_the_state() -> None:
    host = Host((0, SHOWN, ""))
    assert Unit(host, "x.service").state() == UnitState("loaded", "activating", "auto-restart", True, 0)
    assert host.asked == [
        ["systemctl", "show", "x.service", "--property=LoadState,ActiveState,SubState,NeedDaemonReload,MainPID"]
    ]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((1, "", "System has not been booted with systemd\n"), "show x.service .*failed: System has not been booted"),
        ((4, "", ""), "failed: exit status 4"),
        ((127, "", "No such file"), "this host has none"),
        ((0, "MainPID=1\n", ""), "names no LoadState, ActiveState"),
    ],
)
def test_a_host_that_does_not_tell(answer: tuple[int, str, str], told: str) -> None:
    with pytest.raises(UnitError, match=told):
        Unit(Host(answer), "x.service").state()


def test_verbs() -> None:
    host = Host(*[(0, "", "")] * 3, (1, "", "Job for x.service failed."))
    unit = Unit(host, "x.service")
    unit.daemon_reload()
    unit.reset_failed()
    unit.restart()
    with pytest.raises(UnitError, match=r"systemctl restart x\.service failed: Job for x\.service failed"):
        unit.restart()
    assert [argv[1:] for argv in host.asked[:3]] == [
        ["daemon-reload"],
        ["reset-failed", "x.service"],
        ["restart", "x.service"],
    ]


def test_the_journal_of_one_process() -> None:
    text = "[41] one\nrouter line\n[42] two\n[41]   \n[411] other\n[41] three\n"
    host = Host((0, text, ""), (0, text, ""), (1, "", "no"), (127, "", "none"))
    unit = Unit(host, "x.service")
    assert unit.journal(1700000000.9, prefix="[41] ") == ["one", "three"]
    assert unit.journal(0, lines=2) == ["[411] other", "[41] three"]
    assert unit.journal(0) == []
    assert unit.journal(0) == []
    assert host.asked[0][:5] == ["journalctl", "--unit", "x.service", "--since", "@1700000000"]


def test_a_command_that_is_not_there_is_a_status() -> None:
    def run_command(argv: list[str], handle_exceptions: bool) -> tuple[int, str, str]:
        assert not handle_exceptions
        if argv == ["here"]:
            return 0, "out", ""
        raise FileNotFoundError(2, "No such file or directory")

    run = runner(run_command)
    assert run(("here",)) == (0, "out", "")
    assert run(["gone"])[0] == 127


@pytest.mark.parametrize(
    ("load", "active", "stopped"),
    [("loaded", "active", True), ("loaded", "failed", False), ("not-found", "inactive", False)],
)
def test_stopping_what_may_not_run(load: str, active: str, stopped: bool) -> None:
    host = Host((0, f"LoadState={load}\nActiveState={active}\n", ""), (0, "", ""))
    Unit(host, "x.service").stop()
    assert (["systemctl", "stop", "x.service"] in host.asked) == stopped


def test_a_word_of_a_unit() -> None:
    assert word("a b") == '"a b"'
    assert word('50% of "$HOME"\\\n') == '"50%% of \\"$$HOME\\"\\\\\\n"'
    assert word("KEY=$1%", variables=False) == '"KEY=$1%%"'


def test_each_verb_is_systemctls_own() -> None:
    host = Host(*[(0, "", "")] * 4)
    unit = Unit(host, "x.service")
    unit.start()
    unit.reload()
    unit.enable(True)
    unit.enable(False)
    assert [" ".join(argv) for argv in host.asked] == [
        "systemctl start x.service",
        "systemctl reload x.service",
        "systemctl enable --quiet x.service",
        "systemctl disable --quiet x.service",
    ]


def test_what_is_asked_of_the_journal() -> None:
    """Its text alone, without a pager and without words of its own."""
    host = Host((0, "", ""))
    assert Unit(host, "x.service").journal(1.5, read=7) == []
    assert " ".join(host.asked[0]) == (
        "journalctl --unit x.service --since @1 --lines 7 --output cat --no-pager --quiet"
    )


@pytest.mark.parametrize(
    ("active", "up"),
    [("active", True), ("reloading", True), ("refreshing", True), ("activating", False), ("inactive", False)],
)
def test_a_unit_that_runs(active: str, up: bool) -> None:
    shown = f"LoadState=loaded\nActiveState={active}\nSubState=x\nNeedDaemonReload=no\nMainPID=4711\n"
    state = Unit(Host((0, shown, "")), "x.service").state()
    assert (state.up, state.main_pid, state.needs_daemon_reload) == (up, 4711, False)
    nothing = shown.replace("4711", "")
    assert Unit(Host((0, nothing, "")), "x.service").state().main_pid == 0


def test_what_systemctl_says_on_its_output_is_told() -> None:
    with pytest.raises(UnitError, match=r"systemctl restart x.service failed: two words"):
        Unit(Host((1, "two\n words\n", " ")), "x.service").restart()


@pytest.mark.parametrize("sign", ["\r", "\0", "\x1b", "\u2028"])
def test_a_word_that_would_end_a_line(sign: str) -> None:
    with pytest.raises(BadName):
        word(f"a{sign}b")
