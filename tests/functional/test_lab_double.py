# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the lab's double of Proxmox does in the moments in which LXC or a guest does not answer; no lab is needed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab/node/usr/lib/pve-double"))

from pve_double import engine
from pve_double.process import ProgramError

DROPPED = ProgramError("command 'lxc-info' failed: Connection reset by peer")
# Takes signals only once it is told to, as systemd does some time after its start.
DEAF = "import signal; input(); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 3]); input()"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str | ProgramError]:
    """What each program ends with, one after the other; the guest 101 has been started once."""
    given: list[str | ProgramError] = []

    async def run(*_command: str, input: str = "") -> str:
        answer = given.pop(0)
        if isinstance(answer, ProgramError):
            raise answer
        return answer

    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setattr(engine, "LXC", tmp_path)
    (tmp_path / "101").mkdir()
    (tmp_path / "101/config").touch()
    return given


def test_lxc_info_that_is_left_without_an_answer_is_asked_again(answers: list[str | ProgramError]) -> None:
    answers += [DROPPED, DROPPED, "4711\n", DROPPED, "STOPPED\n", "\n"]
    assert asyncio.run(engine.init_pid(101)) == 4711
    assert asyncio.run(engine.info(101, "-s")) == "STOPPED"
    assert asyncio.run(engine.init_pid(101)) is None
    assert not answers


def test_a_guest_that_was_never_started_has_no_process(answers: list[str | ProgramError]) -> None:
    answers += [ProgramError("102 doesn't exist")]
    assert asyncio.run(engine.init_pid(102)) is None


@pytest.fixture
def first_process() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdin=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_a_shutdown_waits_until_it_is_heard(
    answers: list[str | ProgramError], first_process: subprocess.Popen[str]
) -> None:
    answers += [f"{first_process.pid}\n", ""]
    told = threading.Event()

    def tell() -> None:
        assert first_process.stdin
        told.set()
        first_process.stdin.write("\n")
        first_process.stdin.flush()

    timer = threading.Timer(0.5, tell)
    timer.start()
    assert asyncio.run(engine.shutdown(101, timeout=300))
    assert told.is_set()
    timer.join()
