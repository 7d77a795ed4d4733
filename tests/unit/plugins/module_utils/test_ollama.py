# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _ollama
from ansible_collections.homelab.llamacpp.plugins.module_utils._ollama import MANAGED, TEXTS, Ollama, OllamaError, State
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError
from ansible_collections.homelab.llamacpp.tests.unit.http_double import Asked, HttpDouble, Told

ROUTER = "llama-router.service"
FALLBACK = MANAGED + TEXTS["fallback"]
EXCLUSIVE = MANAGED + TEXTS["exclusive"].format(router=ROUTER)


class Host:
    """systemctl, for Ollama's unit (and a router that runs or not), whose file lies in /etc."""

    def __init__(self, root: Path, router: str = "inactive") -> None:
        self.file = root / "etc/systemd/system/ollama.service"
        self.file.parent.mkdir(parents=True)
        self.file.write_text("[Service]\n")
        self.enabled, self.active, self.router = "enabled", "active", router
        self.environment = self.fails = ""
        self.verbs: list[str] = []

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        verb = argv[1]
        if verb == "show":
            mine = argv[2] == "ollama.service"
            shown = {
                "LoadState": "loaded",
                "ActiveState": self.active if mine else self.router,
                "SubState": "",
                "NeedDaemonReload": "no",
                "MainPID": "0",
                "UnitFileState": "masked" if self.file.is_symlink() else self.enabled,
                "Environment": self.environment,
            }
            names = argv[3].partition("=")[2].split(",")
            return 0, "".join(f"{name}={shown[name]}\n" for name in names), ""
        self.verbs.append(verb)
        if verb == self.fails:
            return 1, "", "it broke"
        if verb in ("enable", "disable"):
            self.enabled = f"{verb}d"
        elif verb in ("stop", "restart"):
            self.active = {"stop": "inactive", "restart": "active"}[verb]
        return 0, "", ""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def ollama(host: Host, tmp_path: Path) -> Ollama:
    return Ollama(host, "ollama.service", ROUTER, "/var/lib/x/ollama.json", str(tmp_path))


def test_disabled_and_back(host: Host, ollama: Ollama) -> None:
    ollama.apply("disabled")
    assert ollama.now() == State(enabled=False, active=False, masked=True)
    assert os.readlink(host.file) == os.devnull
    assert host.verbs == ["stop", "disable", "daemon-reload"]
    host.verbs.clear()
    ollama.apply("disabled")
    assert host.verbs == []
    ollama.apply("untouched")
    assert ollama.now() == State(enabled=True, active=True, masked=False)
    assert host.file.read_text() == "[Service]\n"
    assert host.verbs == ["daemon-reload", "enable", "restart"]
    assert [path.name for path in host.file.parent.iterdir()] == ["ollama.service"]


def test_a_unit_of_a_package_has_no_file_in_etc(host: Host, ollama: Ollama) -> None:
    host.file.unlink()
    ollama.apply("disabled")
    assert host.file.is_symlink()
    ollama.apply("untouched")
    assert not os.path.lexists(host.file)


def test_fallback_restarts_what_runs_and_only_that(host: Host, ollama: Ollama) -> None:
    ollama.apply("fallback")
    assert ollama.now() == State(True, True, False, FALLBACK)
    assert host.verbs == ["daemon-reload", "restart"]
    ollama.apply("untouched")
    assert host.verbs[2:] == ["daemon-reload", "restart"]
    host.active = "inactive"
    ollama.apply("fallback")
    assert ollama.now().active is False


@pytest.mark.parametrize(("router", "runs"), [("active", False), ("inactive", True)])
def test_exclusive(tmp_path: Path, router: str, runs: bool) -> None:
    host = Host(tmp_path, router)
    ollama = Ollama(host, "ollama.service", ROUTER, "/var/lib/x/ollama.json", str(tmp_path))
    ollama.apply("exclusive")
    assert ollama.now() == State(False, runs, False, EXCLUSIVE)
    ollama.apply("untouched")
    assert ollama.now() == State(True, True, False)


def test_what_was_before_the_first_mode_is_what_comes_back(host: Host, ollama: Ollama) -> None:
    host.enabled, host.active = "disabled", "inactive"
    for mode in ("fallback", "disabled", "exclusive", "disabled", "fallback"):
        ollama.apply(mode)
        assert ollama.now().active is False
    ollama.apply("untouched")
    assert ollama.now() == State(False, False, False)


@pytest.mark.parametrize("fails", ["daemon-reload", "enable", "restart"])
def test_what_runs_again_after_a_mode_does_so_in_the_next_run_too(host: Host, ollama: Ollama, fails: str) -> None:
    """When the first one was cut off, or Ollama did not start."""
    ollama.apply("disabled")
    host.fails = fails
    with pytest.raises(UnitError):
        ollama.apply("fallback")
    host.fails = ""
    ollama.apply("fallback")
    assert ollama.now() == State(True, True, False, FALLBACK)
    host.active = "inactive"
    assert ollama.wanted("fallback") == ollama.now()


def test_a_first_mode_that_was_cut_off_stopped_what_ran_before(host: Host, ollama: Ollama) -> None:
    host.fails = "disable"
    with pytest.raises(UnitError):
        ollama.apply("disabled")
    host.fails = ""
    ollama.apply("fallback")
    assert ollama.now() == State(True, True, False, FALLBACK)


@pytest.mark.parametrize("mode", ["fallback", "untouched"])
def test_a_drop_in_that_was_written_and_not_taken_up_is_taken_up(host: Host, ollama: Ollama, mode: str) -> None:
    if mode == "untouched":
        ollama.apply("fallback")
    host.fails = "daemon-reload"
    with pytest.raises(UnitError):
        ollama.apply(mode)
    host.fails = ""
    host.verbs.clear()
    ollama.apply(mode)
    assert host.verbs == ["daemon-reload", "restart"]
    host.verbs.clear()
    ollama.apply(mode)
    assert host.verbs == []


def test_what_an_operator_stops_stays_so(host: Host, ollama: Ollama) -> None:
    ollama.apply("fallback")
    host.active = "inactive"
    assert ollama.wanted("fallback") == ollama.now()


def test_untouched_without_a_mode_before_changes_nothing(host: Host, ollama: Ollama, tmp_path: Path) -> None:
    ollama.apply("untouched")
    assert host.verbs == []
    assert not (tmp_path / "var").exists()


def test_a_state_before_that_cannot_be_read(ollama: Ollama, tmp_path: Path) -> None:
    (tmp_path / "var/lib/x").mkdir(parents=True)
    (tmp_path / "var/lib/x/ollama.json").write_text("{}")
    with pytest.raises(OllamaError, match="cannot be read; remove it"):
        ollama.apply("untouched")


def test_a_line_that_frees_nothing_is_warned_of(host: Host, ollama: Ollama) -> None:
    host.environment = '"PATH=/a b" OLLAMA_MAX_LOADED_MODELS=0'
    (warning,) = ollama.warnings("fallback", "http://127.0.0.1:9")
    assert "means automatic, not none" in warning
    assert ollama.warnings("disabled", "http://127.0.0.1:9") == []


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"models": null}', b'{"models": [1, {"name": "a", "size_vram": "x"}]}', b"[" * 100_000, b"\xff"],
)
def test_odd_answers_of_an_ollama(body: bytes) -> None:
    class Odd(HttpDouble):
        def answer(self, asked: Asked) -> Told:
            return Told(200, {}, body.decode("latin-1"))

    with Odd() as odd:
        names, size = _ollama.held_mib(odd.url)
    assert (set(names) <= {"a"}, size) == (True, 0)


def test_something_that_is_no_ollama() -> None:
    def close() -> None:
        connection = listener.accept()[0]
        connection.recv(65536)
        connection.sendall(b"hello\r\n\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=close)
        thread.start()
        assert _ollama.held_mib(f"http://127.0.0.1:{listener.getsockname()[1]}") == ([], 0)
        thread.join(60)


class Alive:
    """Processes with what they keep of a model, one answer after the other; time goes by only in pauses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.answers = list(answers)
        self.clock = 1000.0
        monkeypatch.setattr(_ollama, "_keep_alive", self.keep_alive)
        monkeypatch.setattr(_ollama.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(_ollama.time, "sleep", self.sleep)

    def keep_alive(self, pid: int) -> str:
        assert pid == 4711
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def sleep(self, seconds: float) -> None:
        self.clock += seconds


def running(host: Host, tmp_path: Path) -> Ollama:
    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        status, out, err = host(argv)
        return status, out.replace("MainPID=0", "MainPID=4711"), err

    return Ollama(run, "ollama.service", ROUTER, "/var/lib/x/ollama.json", str(tmp_path))


def test_a_process_that_has_just_started_is_waited_for(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it runs its program it has systemd's environment."""
    alive = Alive(monkeypatch, "", "", "0")
    running(host, tmp_path).check_environment()
    assert alive.clock > 1000


def test_an_environment_that_something_else_decides_is_an_error(
    host: Host, ollama: Ollama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = Alive(monkeypatch, "5m")
    with pytest.raises(
        OllamaError, match=r"its process has '5m': a drop-in that is read after zz-homelab-llamacpp.conf"
    ):
        running(host, tmp_path).check_environment()
    assert 1002 <= alive.clock < 1003
    alive.answers = [""]
    with pytest.raises(OllamaError, match="its process has 'none'"):
        running(host, tmp_path).check_environment()
    ollama.check_environment()  # nothing runs


def test_what_a_process_keeps_is_read_from_its_environment() -> None:
    argv = [sys.executable, "-c", "print(flush=True); input()"]
    for environment, found in (({"OLLAMA_KEEP_ALIVE": "0"}, "0"), ({"OLLAMA_KEEP_ALIVE_X": "1"}, "")):
        with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            assert _ollama._keep_alive(process.pid) == found
            process.communicate(b"\n")


def test_the_modes_of_the_role() -> None:
    assert _ollama.MODES == ("disabled", "fallback", "exclusive", "untouched")


@pytest.mark.parametrize("modes", [("fallback",), ("exclusive", "fallback"), ("disabled", "exclusive")])
def test_untouched_leaves_nothing_behind(host: Host, ollama: Ollama, tmp_path: Path, modes: tuple[str, ...]) -> None:
    for mode in modes:
        ollama.apply(mode)
    assert (tmp_path / "var/lib/x/ollama.json").exists()
    ollama.apply("untouched")
    assert not (tmp_path / "var/lib/x/ollama.json").exists()
    assert sorted(path.name for path in host.file.parent.iterdir()) == ["ollama.service"]
    assert ollama.now() == State(enabled=True, active=True, masked=False)
    host.verbs.clear()
    ollama.apply("untouched")
    assert host.verbs == []
