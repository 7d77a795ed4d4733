# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _port_hold
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
    held = PortHold(str(migrate), f"{migrate}.lock", 60)
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
    second = PortHold(str(migrate), f"{migrate}.lock", 60)
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


def test_a_lock_that_another_user_holds_stops_nobody(hold: PortHold, migrate: Path) -> None:
    """Every user can open the kernel's switch and lock it; the lock that counts is a file that nobody else can open."""
    with listen(), migrate.open() as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        hold.take(1)
        assert hold.taken
    assert os.stat(f"{migrate}.lock").st_mode & 0o777 == 0o600


def test_another_hold_is_not_waited_for_without_end(hold: PortHold, migrate: Path) -> None:
    with listen() as old:
        with _files.locked(f"{migrate}.lock"):
            late = PortHold(str(migrate), f"{migrate}.lock", 0.2)
            with pytest.raises(HoldError, match=r"another run has held it for 0\.2 seconds"):
                late.take(1)
            late.give()
        assert migrate.read_text() == "0\n"
        assert reaches(old) == 20
        late.take(1)  # and it is free again
        late.give()


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = open

    def without(path: str, **more: Any) -> Any:
        if path.endswith("tcp6"):
            raise FileNotFoundError(path)
        return real(path, **more)

    monkeypatch.setattr(_port_hold, "open", without, raising=False)
    with listen() as server:
        assert server.getsockname()[1] in {c.port for c in _port_hold.listeners()}


def test_who_is_connected_does_not_listen(hold: PortHold) -> None:
    """Connections have the address and port of the server's socket, too."""
    with listen() as old, connect(old) as client:
        accepted = old.accept()[0]
        hold.take(1)
        old.close()
        assert not hold.answered()
        assert client.getpeername()[1] not in {c.port for c in _port_hold.listeners() if c.established}
        accepted.close()


def test_who_may_not_mark_packets_holds_nothing(hold: PortHold, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAP_NET_ADMIN nobody sees when the new server is ready."""

    class Unmarked(socket.socket):
        def setsockopt(self, *args: Any) -> None:
            if args[1] == socket.SO_MARK:
                raise PermissionError(1, "Operation not permitted")
            super().setsockopt(*args)

    with listen() as old:
        monkeypatch.setattr(_port_hold.socket, "socket", Unmarked)
        with pytest.raises(HoldError, match="it needs CAP_NET_ADMIN"):
            hold.take(1)
        monkeypatch.undo()
        assert reaches(old) == 20


def test_a_process_that_listens_nowhere() -> None:
    with pytest.raises(HoldError, match="listens on 0 TCP ports"):
        PortHold().take(os.getpid())


def test_addresses_as_the_kernel_prints_them() -> None:
    with listen() as server:
        found = [c for c in _port_hold.connections() if c.port == server.getsockname()[1]]
    assert [(c.family, c.address, c.established) for c in found] == [(socket.AF_INET, "127.0.0.1", False)]
    assert _port_hold._address(socket.AF_INET6, "00000000000000000000000001000000") == "::1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes sockets as another user")
def test_a_socket_is_made_as_the_servers_user_and_this_process_stays_root() -> None:
    """The kernel shares a port among sockets of one user alone."""
    with listen() as server:
        port = server.getsockname()[1]
        own = next(c for c in _port_hold.listeners() if c.port == port)
    theirs = replace(own, uid=65534)
    with _port_hold._listen_as(theirs) as beside:
        assert os.geteuid() == 0
        (found,) = (c for c in _port_hold.listeners() if c.port == port)
        assert (found.uid, found.address) == (65534, "127.0.0.1")
        assert beside.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        with pytest.raises(OSError, match="in use"):
            _port_hold._listen_as(own)
        assert os.geteuid() == 0


def test_a_user_whom_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seteuid(user: int) -> None:
        asked.append(user)
        if user == 65534:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(_port_hold.os, "seteuid", seteuid)
    one = _port_hold.Connection(socket.AF_INET, "127.0.0.1", 1, 0x0A, 65534, 0)
    with pytest.raises(HoldError, match="no socket of user 65534 can be made: Operation not permitted"):
        _port_hold._listen_as(one)
    assert asked == [65534, os.geteuid()]


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_a_socket_of_ipv6_takes_ipv4_as_the_servers_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the machine's sockets of IPv6 are for that alone (net.ipv6.bindv6only)."""

    class Alone(socket.socket):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            if self.family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)

    monkeypatch.setattr(_port_hold.socket, "socket", Alone)
    with socket.socket(socket.AF_INET6) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
        server.bind(("::", 0))
        server.listen()
        port = server.getsockname()[1]
        (own,) = (c for c in _port_hold.listeners() if c.port == port)
    with _port_hold._listen_as(own), socket.create_connection(("127.0.0.1", port), 60) as client:
        assert client.getpeername()[1] == port


def test_what_cannot_be_shared_is_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    def listen_as(_listener: Any) -> socket.socket:
        if made:
            raise OSError(98, "Address already in use")
        made.append(listen())
        return made[0]

    monkeypatch.setattr(_port_hold, "_listen_as", listen_as)
    one = _port_hold.Connection(socket.AF_INET, "127.0.0.1", 1, 0x0A, 0, 0)
    with pytest.raises(HoldError, match=r"it does not share its port \(Address already in use\); start it with"):
        _port_hold._listen_beside(one)
    assert made[0].fileno() == -1


def test_the_files_of_a_process_that_has_ended_cannot_be_seen() -> None:
    with pytest.raises(HoldError, match="the files of process 4194304 cannot be seen: No such file"):
        _port_hold.listening(4194304)


def test_a_hold_that_was_never_taken() -> None:
    hold = PortHold()
    assert (hold.seconds, hold.taken, hold.answered()) == (0.0, False, False)
    hold.give()
    assert hold.seconds == 0.0


def test_how_long_it_was_held(hold: PortHold, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]

    class Time:
        monotonic = staticmethod(lambda: clock[0])
        sleep = staticmethod(lambda seconds: None)

    monkeypatch.setattr(_port_hold, "time", Time)
    with listen():
        for _time in range(2):
            hold.take(1)
            clock[0] += 2.5
            hold.give()
    assert hold.seconds == 5.0


def test_the_program_of_the_kernel() -> None:
    """Classic BPF: load the mark, compare, and return 2 for who bears it and else 1."""
    sent: list[tuple[int, int, bytes]] = []

    class Socket:
        def setsockopt(self, level: int, option: int, value: bytes) -> None:
            length, address = struct.unpack("HP", value)
            sent.append((level, option, ctypes.string_at(address, 8 * length)))

    one: Any = Socket()
    _port_hold._send_all_to_the_second(one)
    ((level, option, program),) = sent
    assert (level, option) == (socket.SOL_SOCKET, 51)
    assert list(struct.iter_unpack("=HBBI", program)) == [
        (0x20, 0, 0, 0xFFFFF014),
        (0x15, 0, 1, PROBE),
        (0x06, 0, 0, 2),
        (0x06, 0, 0, 1),
    ]
