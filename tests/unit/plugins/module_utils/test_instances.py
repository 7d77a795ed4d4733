# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import getpass
import hashlib
import os
import pwd
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import (
    _instances,
    _model_store,
    _port_hold,
    _router_children,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._instances import (
    InstanceError,
    Instances,
    Places,
    secrets_of,
    shown,
)
from ports import free_port


class Machine:
    """Stands in for systemd and llama-server: a started unit records what it started with, and answers HTTP."""

    def __init__(self, root: Path) -> None:
        self.config, self.run_dir = root / "etc", root / "run"
        self.config.mkdir()
        self.servers: dict[str, ThreadingHTTPServer] = {}
        self.enabled: set[str] = set()
        self.said: list[str] = []
        self.breaks = ""  # the one that does not come up
        self.needs_reload = "no"
        self.gate = ""  # the one whose ExecStartPre= fails, which systemctl tells
        self.loading = False  # whether models are still being loaded
        self.refuses = self.open = self.killed = self.changed = False

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        if argv[0] == "timeout":
            return (1, "", "error: invalid argument" if self.refuses else "srv: couldn't bind HTTP server socket")
        if argv[0] == "journalctl":
            return 0, "error: no room\n", ""
        assert argv[0] == "systemctl"
        verb, name = argv[1], argv[2].split("@")[-1].replace(".service", "") if len(argv) > 2 else ""
        if verb == "show":
            up = name in self.servers
            state = {
                "LoadState": "loaded",
                "ActiveState": "active" if up else "inactive",
                "SubState": "running",
                "NeedDaemonReload": self.needs_reload,
                "MainPID": str(os.getpid()) if up else "0",
                "UnitFileState": "enabled" if name in self.enabled else "disabled",
            }
            return 0, "".join(f"{key}={value}\n" for key, value in state.items()), ""
        if verb == "restart" and self.killed:
            raise KeyboardInterrupt
        if verb == "daemon-reload":
            self.needs_reload = "no"
        if verb in ("enable", "disable", "restart", "stop"):
            self.said.append(f"{verb} {name}")
        if verb == "enable":
            self.enabled.add(name)
        if verb == "disable":
            self.enabled.discard(name)
        if verb in ("restart", "stop"):
            self.stop(name)
        if verb == "restart" and name == self.gate:
            told = "failed because the control process exited with error code."
            return 1, "", f"Job for llama-instance@{name}.service {told}\n"
        if verb == "restart" and name != self.breaks:
            self.start(name)
        return 0, "", ""

    def start(self, name: str) -> None:
        files = [self.config / f"{name}.env", self.config / f"{name}.keys"]
        lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file}\n" for file in files]
        self.run_dir.mkdir(exist_ok=True)
        (self.run_dir / f"llama-instance@{name}.service.applied").write_text("".join(lines))
        keys = [] if self.open else files[1].read_text().split()
        machine = self
        port = next(line for line in files[0].read_text().splitlines() if line.startswith("PORT="))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sent = str(self.headers.get("Authorization")).replace("Bearer ", "")
                good = self.path == "/health" or not keys or sent in keys
                body = b'{"data": []}' if good else b'{"error": {"message": "Invalid API Key"}}'
                status = 200 if good else 401
                if machine.loading:
                    status, body = (
                        503,
                        b'{"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}',
                    )
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", int(port[6:-1])), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.servers[name] = server

    def stop(self, name: str) -> None:
        server = self.servers.pop(name, None)
        if server:
            server.shutdown()
            server.server_close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    (tmp_path / "model.gguf").touch()
    yield machine
    for name in list(machine.servers):
        machine.stop(name)


def entry(machine: Machine, name: str, port: int, **more: Any) -> dict[str, Any]:
    model = str(machine.config.parent / "model.gguf")
    environment = {"MODEL": model, "HOST": "127.0.0.1", "PORT": str(port), "DEVICES": "", "OPTIONS": "--threads 1"}
    return {"name": name, "state": "started", "port": port, "environment": environment, **more}


def converge(
    machine: Machine, *wanted: dict[str, Any], check: bool = False, user: str = getpass.getuser(), timeout: float = 60
) -> dict[str, str]:
    places = Places(
        str(machine.config),
        str(machine.run_dir),
        "llama-instance",
        user,
        "/bin/llama-server",
        (),
        str(machine.config.parent),
        timeout,
    )
    instances = Instances(wanted, places, machine)
    instances.look()
    if not check:
        instances.converge()
    machine.changed = any(instance.changed for instance in instances.all)
    return {instance.name: instance.action for instance in instances.all}


def test_from_nothing_then_nothing_to_do(machine: Machine) -> None:
    coder = entry(machine, "coder", free_port())
    assert converge(machine, coder, check=True) == {"coder": "start"}
    assert list(machine.config.iterdir()) == []
    assert converge(machine, coder) == {"coder": "start"}
    assert machine.said == ["enable coder", "restart coder"]
    key = (machine.config / "coder.keys").read_text()
    assert len(key.strip()) >= 16
    assert (machine.config / "coder.keys").stat().st_mode & 0o777 == 0o400
    assert (machine.config / "coder.env").stat().st_mode & 0o777 == 0o640
    assert converge(machine, coder) == {"coder": "none"}
    assert machine.changed is False
    assert (machine.config / "coder.keys").read_text() == key


def test_the_changed_one_restarts_alone(machine: Machine) -> None:
    first, second = entry(machine, "first", free_port()), entry(machine, "second", free_port())
    converge(machine, first, second)
    second["environment"]["OPTIONS"] = "--threads 2"
    assert converge(machine, first, second) == {"first": "none", "second": "restart"}
    assert converge(machine, first, {**second, "keys": ["a-key-0123456789"]}) == {"first": "none", "second": "restart"}


def test_a_run_cut_off_between_file_and_restart_is_made_good(machine: Machine) -> None:
    coder = entry(machine, "coder", free_port())
    converge(machine, coder)
    coder["environment"]["OPTIONS"] = "--threads 2"
    machine.killed = True
    with pytest.raises(KeyboardInterrupt):
        converge(machine, coder)
    machine.killed = False
    assert "--threads 2" in (machine.config / "coder.env").read_text()
    assert converge(machine, coder) == {"coder": "restart"}
    assert converge(machine, coder) == {"coder": "none"}


def test_a_model_that_was_replaced_while_it_runs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    coder = entry(machine, "coder", free_port())
    converge(machine, coder)
    words = ("llama-server", "--model", coder["environment"]["MODEL"])
    monkeypatch.setattr(_router_children, "process", lambda pid: _router_children.Process(1, started, words))
    store = _model_store.Store(str(machine.config.parent), None)
    store.write("model", {"identity": "", "commit": None, "files": {}, "placed": 100.0})
    started = 101.0
    assert converge(machine, coder) == {"coder": "none"}
    started = 99.0
    assert converge(machine, coder, check=True) == {"coder": "restart"}
    assert converge(machine, coder) == {"coder": "restart"}


def test_a_file_that_somebody_touched_is_put_right_without_a_restart(machine: Machine) -> None:
    coder = entry(machine, "coder", free_port())
    converge(machine, coder)
    with (machine.config / "coder.env").open("a") as file:
        file.write("# by hand\n")
    assert converge(machine, coder) == {"coder": "none"}
    assert machine.changed is True
    assert "by hand" not in (machine.config / "coder.env").read_text()


def test_stopped_then_absent(machine: Machine) -> None:
    coder = entry(machine, "coder", free_port())
    converge(machine, coder)
    assert converge(machine, {**coder, "state": "stopped"}) == {"coder": "stop"}
    assert machine.enabled == set()
    assert len(list(machine.config.iterdir())) == 2
    assert converge(machine, {"name": "coder", "state": "absent"}) == {"coder": "remove"}
    assert list(machine.config.iterdir()) == []
    assert converge(machine, {"name": "coder", "state": "absent"}) == {"coder": "none"}


def test_a_port_can_go_from_one_to_another_in_one_run(machine: Machine) -> None:
    port = free_port()
    converge(machine, entry(machine, "old", port))
    gone, new = {"name": "old", "state": "absent"}, entry(machine, "new", port)
    assert converge(machine, new, gone) == {"new": "start", "old": "remove"}


def test_two_can_swap_their_ports(machine: Machine) -> None:
    one, two = free_port(), free_port()
    converge(machine, entry(machine, "first", one), entry(machine, "second", two))
    wanted = (entry(machine, "first", two), entry(machine, "second", one))
    assert converge(machine, *wanted) == {"first": "restart", "second": "restart"}
    assert {name: server.server_port for name, server in machine.servers.items()} == {"first": two, "second": one}
    assert converge(machine, *wanted) == {"first": "none", "second": "none"}


def test_a_swap_that_was_cut_off_is_made_good(machine: Machine) -> None:
    one, two = free_port(), free_port()
    converge(machine, entry(machine, "first", one), entry(machine, "second", two))
    wanted = (entry(machine, "first", two), entry(machine, "second", one))
    for instance in wanted:  # the files were written, and nothing was stopped
        path = machine.config / f"{instance['name']}.env"
        path.write_text(
            path.read_text().replace(f'"{one}"', "x").replace(f'"{two}"', f'"{one}"').replace("x", f'"{two}"')
        )
    assert converge(machine, *wanted) == {"first": "restart", "second": "restart"}


def test_one_that_does_not_come_up_keeps_no_other_one_down(machine: Machine) -> None:
    wanted = [entry(machine, "first", free_port()), entry(machine, "second", free_port())]
    converge(machine, *wanted)
    for instance in wanted:
        instance["environment"]["OPTIONS"] = "--threads 2"
    machine.breaks = "first"
    with pytest.raises(InstanceError, match="instance first was wanted running"):
        converge(machine, *wanted)
    assert list(machine.servers) == ["second"]
    machine.breaks = ""
    assert converge(machine, *wanted) == {"first": "start", "second": "none"}


def test_a_port_of_another_program_is_refused_before_anything_is_written(machine: Machine) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InstanceError, match=f"port {port} was wanted, another program listens there already"):
            converge(machine, entry(machine, "coder", port))
    assert list(machine.config.iterdir()) == []


def test_options_that_the_server_refuses_change_nothing(machine: Machine) -> None:
    machine.refuses = True
    with pytest.raises(InstanceError, match=r"refuses its options .1.: error: invalid argument"):
        converge(machine, entry(machine, "coder", free_port()))
    assert list(machine.config.iterdir()) == []


def test_one_that_does_not_come_up_is_told_with_its_journal(machine: Machine) -> None:
    machine.breaks = "coder"
    with pytest.raises(InstanceError, match=r"its process ended\. Its journal's last words: error: no room"):
        converge(machine, entry(machine, "coder", free_port()))


def test_one_that_answers_without_a_key_is_an_error(machine: Machine) -> None:
    machine.open = True
    with pytest.raises(InstanceError, match="it answers without a key"):
        converge(machine, entry(machine, "coder", free_port()))


def test_what_an_environment_file_would_read_otherwise_is_escaped(machine: Machine) -> None:
    coder = entry(machine, "coder", free_port())
    coder["environment"]["OPTIONS"] = r'--x "a\"b $HOME `id`"'
    converge(machine, coder)
    assert r'OPTIONS="--x \"a\\\"b \$HOME \`id\`\""' in (machine.config / "coder.env").read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"environment": {"OPTIONS": f"--threads 1{sign}X=1"}}
            for sign in ("\r", "\n", "\0", "\x85", "\u2028", "\ud800")
        ),
        {"environment": {"A\nB": "1"}},
        {"environment": {"A B": "1"}},
        *({"name": name} for name in ("../x", "a b", "a%b", "a\n", ".", "a/b", "-x")),
        *({"keys": [key]} for key in ("short", "a-key-0123456789\nx", "a-key-0123456789\0 ", "#key-0123456789abc")),
    ],
)
def test_text_that_would_be_another_line_or_file_is_refused(machine: Machine, wrong: dict[str, Any]) -> None:
    with pytest.raises(InstanceError):
        converge(machine, {**entry(machine, "coder", free_port()), **wrong})
    assert list(machine.config.iterdir()) == []
    assert machine.said == []


def test_a_secret_of_an_option_is_in_no_diff(machine: Machine) -> None:
    words = '--threads 1 --mcp-servers-json "{\\"env\\": {\\"T\\": \\"hidden\\"}}" --hf-token hidden'
    coder = entry(machine, "coder", free_port())
    coder["environment"]["OPTIONS"] = words
    converge(machine, coder)
    text = (machine.config / "coder.env").read_text()
    assert "hidden" in text
    assert "hidden" not in shown(text)
    assert "--threads 1" in shown(text)
    assert "hidden" in secrets_of(coder["environment"])
    assert shown('OPTIONS="--threads 1"\n') == 'OPTIONS="--threads 1"\n'


def test_a_full_disk_is_an_error_and_leaves_what_was(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = entry(machine, "coder", free_port())
    converge(machine, first)
    before = {path.name: path.read_bytes() for path in machine.config.iterdir()}
    first["environment"] = {**first["environment"], "OPTIONS": "--threads 2"}

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            converge(machine, first)
    assert {path.name: path.read_bytes() for path in machine.config.iterdir()} == before


def test_files_in_a_folder_of_another_user_are_not_written(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(machine.config, 65534, 65534)
    with pytest.raises(OSError, match="belongs to user 65534"):
        converge(machine, entry(machine, "coder", free_port()))
    assert list(machine.config.iterdir()) == []


def test_a_key_does_not_go_to_another_user_on_its_port(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says so of the test's own server."""
    port = free_port()
    real = _port_hold.listeners

    def listeners() -> Iterator[Any]:
        return (replace(one, uid=65533) if one.port == port else one for one in real())

    monkeypatch.setattr(_port_hold, "listeners", listeners)
    with pytest.raises(InstanceError, match="the key is not sent"):
        converge(machine, entry(machine, "coder", port))


def test_a_start_that_systemd_refuses_keeps_no_other_one_down(machine: Machine) -> None:
    """As one whose ExecStartPre= fails: then systemctl itself fails."""
    wanted = [entry(machine, "first", free_port()), entry(machine, "second", free_port())]
    machine.gate = "first"
    with pytest.raises(InstanceError) as caught:
        converge(machine, *wanted)
    assert "instance first was wanted running: systemctl restart llama-instance@first.service failed: Job for" in str(
        caught.value
    )
    assert "Its journal's last words: error: no room" in str(caught.value)
    assert list(machine.servers) == ["second"]
    machine.gate = ""
    assert converge(machine, *wanted) == {"first": "start", "second": "none"}


def test_earlier_failures_that_systemd_does_not_know_keep_no_other_one_down(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [entry(machine, "first", free_port()), entry(machine, "second", free_port())]

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        if argv[1:] == ["reset-failed", "llama-instance@first.service"]:
            return 1, "", "Failed to reset failed state of unit: Unit not loaded."
        return Machine.__call__(machine, argv)

    places = Places(
        str(machine.config), str(machine.run_dir), "llama-instance", getpass.getuser(), "/bin/x", (), None, 60
    )
    instances = Instances(wanted, places, run)
    instances.look()
    with pytest.raises(InstanceError, match=r"instance first was wanted running: systemctl reset-failed .* not loaded"):
        instances.converge()
    assert list(machine.servers) == ["second"]


def test_a_model_that_takes_too_long(machine: Machine) -> None:
    machine.loading = True
    with pytest.raises(InstanceError, match=r"running: its model is not loaded in 0\.2 s\. Its journal's last words"):
        converge(machine, entry(machine, "coder", free_port()), timeout=0.2)
    assert list(machine.servers) == ["coder"]


@pytest.mark.parametrize("left", ["env", "keys"])
def test_what_is_left_of_one_that_is_absent_goes(machine: Machine, left: str) -> None:
    """As after a run that was cut off."""
    (machine.config / f"coder.{left}").write_text("left")
    gone = {"name": "coder", "state": "absent"}
    assert converge(machine, gone, check=True) == {"coder": "remove"}
    assert converge(machine, gone) == {"coder": "remove"}
    assert list(machine.config.iterdir()) == []


def test_whom_the_files_belong_to(machine: Machine) -> None:
    """The key is the service's own; its environment is root's, for it to read."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    nobody = pwd.getpwnam("nobody")
    converge(machine, entry(machine, "coder", free_port()), user="nobody")
    keys, env = (os.stat(machine.config / f"coder.{kind}") for kind in ("keys", "env"))
    assert (keys.st_uid, keys.st_gid, keys.st_mode & 0o777) == (nobody.pw_uid, 0, 0o400)
    assert (env.st_uid, env.st_gid, env.st_mode & 0o777) == (0, nobody.pw_gid, 0o640)


def test_a_model_that_cannot_be_read_is_refused_before_anything_is_written(machine: Machine) -> None:
    coder = entry(machine, "coder", free_port())
    coder["environment"]["MODEL"] = "/nowhere/model.gguf"
    with pytest.raises(InstanceError, match=r"instance coder: its model /nowhere/model.gguf was wanted, it cannot be"):
        converge(machine, coder)
    assert list(machine.config.iterdir()) == []


def test_a_key_that_the_server_does_not_take(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    start = machine.start
    coder = entry(machine, "coder", free_port())
    (machine.config / "coder.keys").write_text("a-key-of-some-length\n")

    def started(name: str) -> None:
        (machine.config / "coder.keys").chmod(0o600)
        (machine.config / "coder.keys").write_text("another-key-of-length\n")
        start(name)
        (machine.config / "coder.keys").write_text("a-key-of-some-length\n")

    monkeypatch.setattr(machine, "start", started)
    with pytest.raises(InstanceError, match=r"instance coder: it refuses the first key of .*coder.keys"):
        converge(machine, coder)


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("::", "[::1]"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_where_an_instance_is_reached(host: str, reached: str) -> None:
    assert _instances._reachable(host) == reached


OFFLOADED = "load_tensors: offloaded {}/33 layers to GPU"


@pytest.mark.parametrize(
    ("lines", "options", "wrong"),
    [
        ([OFFLOADED.format(33)], "--threads 1", False),
        ([OFFLOADED.format(0)], "--threads 1", True),
        ([OFFLOADED.format(10)], "--n-gpu-layers 10", False),
        ([], "--threads 1", False),
    ],
)
def test_an_instance_that_computes_on_the_cpu_is_an_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, lines: list[str], options: str, wrong: bool
) -> None:
    asked: list[tuple[Any, ...]] = []

    def complaint(what: str, seen: Any, devices: list[str], layers: str) -> str | None:
        asked.append((what, seen, devices, layers))
        return "on the CPU" if wrong else None

    monkeypatch.setattr(_instances._offload, "complaint", complaint)
    monkeypatch.setattr(_instances._offload, "read", lambda journal: lines or None)
    coder = entry(machine, "coder", free_port())
    coder["environment"].update(OPTIONS=options, DEVICES="CUDA0 CUDA1")
    if wrong:
        with pytest.raises(InstanceError, match=r"\Aon the CPU\Z"):
            converge(machine, coder)
    else:
        converge(machine, coder)
    layers = "10" if "10" in options else "all"
    assert asked == ([("the instance coder", lines, ["CUDA0", "CUDA1"], layers)] if lines else [])


@pytest.mark.parametrize(("state", "action"), [("absent", "remove"), ("stopped", "stop")])
def test_one_between_two_tries_is_stopped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, state: str, action: str
) -> None:
    """It is not up, and would start again by itself."""

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        status, out, err = Machine.__call__(machine, argv)
        return status, out.replace("ActiveState=inactive", "ActiveState=activating"), err

    places = Places(
        str(machine.config), str(machine.run_dir), "llama-instance", getpass.getuser(), "/bin/x", (), None, 60
    )
    instances = Instances([entry(machine, "coder", free_port(), state=state)], places, run)
    instances.look()
    assert instances.all[0].action == action
    instances.converge()
    assert machine.said[-1] == "stop coder"


def test_one_that_is_removed_does_not_start_with_the_machine(machine: Machine) -> None:
    coder = entry(machine, "coder", free_port())
    converge(machine, coder)
    machine.said.clear()
    converge(machine, {"name": "coder", "state": "absent"})
    assert machine.said == ["stop coder", "disable coder"]
    assert machine.enabled == set()
    assert list(machine.run_dir.iterdir()) == []


def test_a_changed_unit_restarts_it(machine: Machine) -> None:
    """Which systemd tells, before it has read it again."""
    coder = entry(machine, "coder", free_port())
    converge(machine, coder)
    machine.needs_reload = "yes"
    assert converge(machine, coder, check=True) == {"coder": "restart"}
    assert converge(machine, coder) == {"coder": "restart"}
    assert converge(machine, coder) == {"coder": "none"}
