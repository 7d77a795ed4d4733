# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _bounded
from ansible_collections.homelab.llamacpp.plugins.module_utils._bounded import run_bounded, runner

IGNORES = "trap '' TERM; echo $$; while :; do sleep 0.1; done"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_status_and_output() -> None:
    assert run_bounded(["sh", "-c", "echo $LC_ALL; echo no >&2; exit 3"]) == (3, "C\n", "no\n")
    status, output, errors = runner()(["/nonexistent"])
    assert (status, output) == (_bounded.NOT_FOUND, "")
    assert "No such file" in errors


def test_output_that_is_no_text() -> None:
    assert run_bounded(["printf", r"a\377"]) == (0, "a\ufffd", "")
    assert run_bounded(["sh", "-c", r"printf 'b\376' >&2"]) == (0, "", "b\ufffd")


def test_it_has_no_input() -> None:
    assert run_bounded(["cat"]) == (0, "", "")


def test_a_command_that_is_late_is_ended() -> None:
    assert run_bounded(["sleep", "600"], 0.1, 60)[0] == _bounded.TIMED_OUT


def test_a_command_that_ignores_sigterm_is_killed() -> None:
    """`timeout` without -k waits for it without end."""
    status, output, _errors = run_bounded(["sh", "-c", IGNORES], 1, 0.2)
    assert status == _bounded.TIMED_OUT
    assert not alive(int(output))


def test_its_children_are_ended_as_well() -> None:
    """The shell ends; what it has started holds the output open and ignores SIGTERM."""
    child = IGNORES.replace("$$", "$pid")
    started = f"sh -c 'pid=$$; {child}' & exit 0".replace("trap ''", 'trap ""')
    status, output, _errors = run_bounded(["sh", "-c", started], 1, 0.2)
    assert status == _bounded.TIMED_OUT
    assert not alive(int(output))


@pytest.fixture
def unkillable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """No signal arrives, as in an uninterruptible sleep. The signals that were sent."""
    sent: list[int] = []
    kill = os.killpg
    monkeypatch.setattr(_bounded.os, "killpg", lambda _group, number: sent.append(number))
    yield sent
    for process in _bounded._left.values():
        kill(process.pid, signal.SIGKILL)
        process.wait(60)
    _bounded._left.clear()


def test_a_command_that_cannot_be_killed_is_left_behind_and_not_started_again(
    unkillable: list[int], tmp_path: Path
) -> None:
    program = tmp_path / "hangs"
    program.write_text(f"#!/bin/sh\necho >>{tmp_path}/started\nexec sleep 600\n")
    program.chmod(0o755)
    begin = time.monotonic()
    status, _output, errors = run_bounded([str(program)], 1, 0.1)
    assert time.monotonic() - begin < 60
    assert status == _bounded.LEFT_BEHIND
    assert "nor by SIGKILL" in errors
    assert unkillable == [signal.SIGTERM, signal.SIGKILL]
    assert len(_bounded._left) == 1
    left = next(iter(_bounded._left.values()))
    assert left.stdout is not None
    assert left.stderr is not None
    assert (left.stdout.closed, left.stderr.closed) == (True, True), "its pipes would stay open for as long as it hangs"
    status, _output, errors = run_bounded([str(program)], 1, 0.1)
    assert status == _bounded.LEFT_BEHIND
    assert "still hangs" in errors
    assert (tmp_path / "started").read_text() == "\n"

    process = next(iter(_bounded._left.values()))  # the kernel lets it go at last
    process.kill()
    process.wait(60)
    program.write_text("#!/bin/sh\necho back\n")
    assert run_bounded([str(program)], 60) == (0, "back\n", "")


def test_a_process_outside_its_group_that_holds_its_output_is_not_waited_for(tmp_path: Path) -> None:
    """The command itself has ended: it may be started again."""
    pid = tmp_path / "pid"
    daemon = f"setsid sh -c 'echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 600' &"
    daemon += f" until [ -e {pid} ]; do sleep 0.01; done"
    try:
        status, _output, errors = run_bounded(["sh", "-c", daemon], 1, 0.1)
        assert status == _bounded.TIMED_OUT
        assert errors == "sh did not end within 1 seconds"
        assert _bounded._left == {}
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_no_command_of_the_gpus_waits_for_timeout() -> None:
    """coreutils' timeout waits for a child that cannot be killed."""
    engines = Path(_bounded.__file__).parent
    for name in ("_nvidia", "_gpu_load", "_router_report", "_router_places", "_tool_exporter", "_tool_status"):
        text = (engines / f"{name}.py").read_text()
        assert '"timeout"' not in text, name
        assert "subprocess.run" not in text, name


def test_a_run_in_a_session_of_its_own() -> None:
    status, output, _errors = run_bounded(["sh", "-c", "ps -o sid= -p $$; echo $$"])
    session, pid = output.split()
    assert (status, session) == (0, pid)
    assert subprocess.check_output(["ps", "-o", "sid=", "-p", str(os.getpid())]).strip() != session.encode()
