# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _port_hold
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import PROBE, HoldError, PortHold


def listen(shared: bool = True, port: int = 0) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


@pytest.fixture
def migrate(tmp_path: Path) -> Path:
    """In the place of the kernel's switch, which belongs to the whole machine."""
    switch = tmp_path / "tcp_migrate_req"
    switch.write_text("0\n")
    return switch


@pytest.fixture
def hold(migrate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PortHold]:
    listener = _port_hold._listener
    monkeypatch.setattr(_port_hold, "_listener", lambda pid: listener(os.getpid()))
    held = PortHold(str(migrate))
    yield held
    held.give()


def connect(server: socket.socket, mark: int = 0) -> socket.socket:
    client = socket.socket()
    if mark:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    client.connect(server.getsockname())
    return client


def wait_for_the_server(ports: set[int]) -> None:
    """Until it has connections to all of these: a client may know of its connection before the server does."""
    deadline = time.monotonic() + 60
    while True:
        lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
        if ports <= {int(words[2].rpartition(":")[2], 16) for words in lines if words[3] == "01"}:
            return
        assert time.monotonic() < deadline


def reaches(server: socket.socket, times: int = 20, mark: int = 0) -> int:
    """How many of so many new connections come to this socket."""
    clients = [connect(server, mark) for _time in range(times)]
    names = {client.getsockname() for client in clients}
    wait_for_the_server({port for _address, port in names})
    server.setblocking(False)
    accepted = set()
    try:
        while True:
            connection, name = server.accept()
            accepted.add(name)
            connection.close()
    except BlockingIOError:
        pass
    for client in clients:
        client.close()
    # Others may wait there, moved from the hold: the kernel's own switch is on while some other program holds a port.
    return len(accepted & names)


def test_new_connections_wait_and_then_go_to_the_new_server(hold: PortHold, migrate: Path) -> None:
    with listen() as old:
        port = old.getsockname()[1]
        assert reaches(old) == 20
        hold.take(1)
        hold.take(1)
        assert hold.taken
        assert hold.answered()
        assert migrate.read_text() == "1\n"
        assert reaches(old) == 0
    waiting = socket.create_connection(("127.0.0.1", port), 60)
    assert not hold.answered()
    with listen(port=port) as new:
        assert hold.answered()
        # It may not be ready yet: who looks for that comes to it, and nobody else.
        assert reaches(new) == 0
        assert reaches(new, mark=PROBE) == 20
    assert not hold.answered()
    with listen(port=port) as new:
        assert reaches(new) == 0
        assert reaches(new, mark=PROBE) == 20
        hold.give()
        hold.give()
        assert migrate.read_text() == "0\n"
        assert reaches(new) == 20
        assert hold.seconds > 0
    waiting.close()


def test_it_can_be_given_back_to_the_old_server_and_taken_again(hold: PortHold) -> None:
    with listen() as old:
        for _time in range(2):
            hold.take(1)
            assert reaches(old) == 0
            hold.give()
            assert reaches(old) == 20


def test_a_second_hold_waits_for_the_first(hold: PortHold, migrate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first to be given would turn the kernel's switch off under the other."""
    second = PortHold(str(migrate))
    with listen() as old:
        found = _port_hold._listener(1)
        monkeypatch.setattr(_port_hold, "_listener", lambda pid: found)
        hold.take(1)
        waiting = threading.Thread(target=second.take, args=(1,))
        waiting.start()
        waiting.join(0.2)
        assert not second.taken
        hold.give()
        waiting.join(60)
        assert second.taken
        assert migrate.read_text() == "1\n"
        second.give()
        assert reaches(old) == 20
    assert migrate.read_text() == "0\n"


def test_a_server_that_does_not_share_its_port(hold: PortHold, migrate: Path) -> None:
    with listen(shared=False) as old:
        with pytest.raises(HoldError, match="does not share its port"):
            hold.take(1)
        assert reaches(old) == 20
    assert not hold.taken
    assert migrate.read_text() == "0\n"


def test_a_kernel_that_moves_no_connections(hold: PortHold, migrate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate.unlink()
    monkeypatch.setattr(_port_hold, "_listen_beside", lambda listener: pytest.fail("who comes now would be cut off"))
    with listen() as old:
        with pytest.raises(HoldError, match=r"Linux 5\.14"):
            hold.take(1)
        assert reaches(old) == 20


def test_a_process_that_listens_nowhere() -> None:
    with pytest.raises(HoldError, match="listens on 0 TCP ports"):
        PortHold().take(os.getpid())


def test_addresses_as_the_kernel_prints_them() -> None:
    with listen() as server:
        found = [c for c in _port_hold.connections() if c.port == server.getsockname()[1]]
    assert [(c.family, c.address, c.established) for c in found] == [(socket.AF_INET, "127.0.0.1", False)]
    assert _port_hold._address(socket.AF_INET6, "00000000000000000000000001000000") == "::1"
