# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _peer, _port_hold
from ansible_collections.homelab.llamacpp.plugins.module_utils._peer import Recipients, UntrustedPeer, connect
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import Connection
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Unreachable

KEY = "a-secret-key"
OTHER, THIRD = 65534, 65533
LISTENING = 0x0A
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, and only root can become one")

# It answers like a router, and writes what it gets to its output.
SERVER = """
import os, socket, sys
os.setgroups([])
os.setresuid(*[int(sys.argv[5])] * 3)
family, host, port, reuse = getattr(socket, sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
listener = socket.socket(family)
if reuse == "shared":
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(reuse == "v6only"))
listener.bind((host, port))
listener.listen()
print(listener.getsockname()[1], flush=True)
while True:
    connection = listener.accept()[0]
    connection.settimeout(5)
    try:
        print(repr(connection.recv(65536)), flush=True)
        body = b'{"data": []}'
        connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Type: application/json\\r\\n\\r\\n" + body)
    except OSError:
        pass
    connection.close()
"""


class Served:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    def end(self) -> str:
        """What it got."""
        self._process.terminate()
        return self._process.communicate(timeout=60)[0]


@contextlib.contextmanager
def served(user: int, host: str = "127.0.0.1", port: int = 0, reuse: str = "alone") -> Iterator[Served]:
    """A server of this user."""
    family = "AF_INET6" if ":" in host else "AF_INET"
    argv = [sys.executable, "-c", SERVER, family, host, str(port), reuse, str(user)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Served(process, int(process.stdout.readline()))
        finally:
            process.kill()


def of(*users: int) -> Recipients:
    return Recipients(lambda: users, "the service's user")


@as_root
def test_a_key_does_not_go_to_another_user_who_has_the_port() -> None:
    with served(OTHER) as thief:
        client = Client(f"http://127.0.0.1:{thief.port}", KEY, request_timeout=60)
        assert client.healthy()  # this sends no key
        for call in (client.models, client.props, lambda: client.load("x", 60), lambda: client.events(60)):
            with pytest.raises(
                Unreachable, match=r"expected a server of root on .*, found one of user nobody"
            ) as caught:
                call()
            assert not caught.value.transient
            assert KEY not in str(caught.value)
        got = thief.end()
    assert "GET /health" in got
    assert KEY not in got
    assert "/models" not in got


@as_root
def test_a_key_goes_to_the_user_of_the_service() -> None:
    with served(OTHER) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert Client(url, KEY, request_timeout=60, recipients=of(OTHER)).models() == []
        with pytest.raises(Unreachable, match="expected a server of the service's user or root on"):
            Client(url, KEY, request_timeout=60, recipients=of(THIRD)).models()
        assert server.end().count(f"Authorization: Bearer {KEY}") == 1


@as_root
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:127.0.0.1", "::1"])
def test_all_kinds_of_addresses(host: str) -> None:
    """Any address, one of IPv6 for both, IPv4 in IPv6."""
    asked = "::1" if host == "::1" else "127.0.0.1"
    with served(OTHER, host) as thief:
        connect((asked, thief.port), 60, of(OTHER)).close()
        with pytest.raises(UntrustedPeer, match="found one of user nobody"):
            connect((asked, thief.port), 60, of())


@as_root
def test_a_stranger_on_the_other_family_is_no_obstacle() -> None:
    """And is not asked: `localhost` may mean ::1, where the router does not listen."""
    with (
        served(OTHER) as server,
        served(THIRD, "::1", server.port),
        connect(("localhost", server.port), 60, of(OTHER)) as made,
    ):
        assert made.getpeername()[0] == "127.0.0.1"
    with served(OTHER) as server, served(THIRD, "::", server.port, "v6only"):
        connect(("127.0.0.1", server.port), 60, of(OTHER)).close()


@as_root
def test_who_has_accepted_and_gone_is_not_taken_for_who_listens_now() -> None:
    """The stranger accepts, closes its listener, and the server takes the port before the table is read."""
    with served(OTHER) as thief:
        read: list[int] = []
        real = _port_hold.listeners

        def listeners() -> Iterator[Connection]:
            read.append(0)
            if len(read) % 2:  # before the connection nobody is seen, as the server of another user is about to start
                return iter(())
            found = [one for one in real() if one.port != thief.port]
            mine = Connection(socket.AF_INET, "127.0.0.1", thief.port, LISTENING, 0, 1)
            return iter([*found, mine])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_peer._port_hold, "listeners", listeners)
            with pytest.raises(UntrustedPeer, match="found no listening socket of this host that was there before"):
                connect(("127.0.0.1", thief.port), 60, of())
        assert len(read) == 6  # three tries: a server may restart meanwhile


def test_a_server_that_restarts_meanwhile_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, read = _port_hold.listeners, []

    def listeners() -> Iterator[Connection]:
        read.append(0)
        return iter(()) if len(read) == 1 else real()

    monkeypatch.setattr(_peer._port_hold, "listeners", listeners)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connect(listener.getsockname(), 60, of()).close()
    assert len(read) == 4


@as_root
def test_all_that_share_a_port_have_to_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(OTHER, reuse="shared") as one, served(OTHER, port=one.port, reuse="shared"):
        connect(("127.0.0.1", one.port), 60, of(OTHER)).close()
        real = _port_hold.listeners

        def one_differs() -> Iterator[Connection]:
            found = [entry for entry in real() if entry.port == one.port]
            assert len(found) == 2
            last = found[-1]
            return iter([found[0], Connection(last.family, last.address, last.port, last.state, THIRD, last.inode)])

        monkeypatch.setattr(_peer._port_hold, "listeners", one_differs)
        with pytest.raises(UntrustedPeer, match="found one of user"):
            connect(("127.0.0.1", one.port), 60, of(OTHER))


def test_a_server_on_another_host_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_peer, "_is_here", lambda *_args: False)
    monkeypatch.setattr(_peer._port_hold, "listeners", lambda: iter(()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connect(listener.getsockname(), 60, of()).close()


def test_which_addresses_are_this_hosts() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), 60) as made,
    ):
        assert _peer._is_here(made.family, _peer._plain("127.0.0.1"), made.getpeername())
    assert not _peer._is_here(socket.AF_INET, _peer._plain("192.0.2.1"), ("192.0.2.1", 80))
    assert not _peer._is_here(socket.AF_INET6, _peer._plain("2001:db8::1"), ("2001:db8::1", 80, 0, 0))


def test_a_table_that_cannot_be_read_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> Iterator[Connection]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_peer._port_hold, "listeners", unreadable)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(UntrustedPeer, match="cannot be read"):
        connect(listener.getsockname(), 60, of())


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        connect(address, 60, of())


def test_the_user_of_a_unit() -> None:
    answers: list[Callable[[Any], tuple[int, str, str]]] = [
        lambda argv: (0, "User=daemon\n", ""),
        lambda argv: (0, "User=\n", ""),
        lambda argv: (0, "User=no-such-user\n", ""),
        lambda argv: (127, "", "no systemctl"),
    ]
    strangers = [Recipients.of_unit(answer, "x.service").strangers([0, 1, os.geteuid()]) for answer in answers]
    assert strangers == [set(), {1}, {1}, {1}]
    assert Recipients.of_user("daemon").strangers([1, THIRD]) == {THIRD}
    assert Recipients.of_user(str(THIRD)).strangers([1, THIRD]) == {1}


def test_the_unit_is_asked_only_about_others() -> None:
    def run(argv: Any) -> tuple[int, str, str]:
        raise AssertionError(argv)

    assert Recipients.of_unit(run, "x.service").strangers([0, os.geteuid()]) == set()


@as_root
def test_a_user_that_a_namespace_hides_is_named_as_such() -> None:
    """The exporter would have it with PrivateUsers=: the router's user looks like everybody else."""
    code = (
        "from ansible_collections.homelab.llamacpp.plugins.module_utils._peer import Recipients, connect\n"
        f"try: connect(('127.0.0.1', PORT), 60, Recipients(lambda: [{THIRD}], 'the service'))\n"
        "except OSError as error: print(error)\n"
    )
    with served(THIRD) as server:
        argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code.replace("PORT", str(server.port))]
        env = {**os.environ, "PYTHONPATH": str(Path(_peer.__file__).parents[5])}
        told = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=env)
    if "unshare" in told.stderr:
        pytest.skip(told.stderr)
    assert "this process cannot see its user (PrivateUsers=)" in told.stdout, told


def test_https_that_is_checked_needs_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The certificate proves the server; where it is not checked the table has to."""
    asked = []

    def listeners() -> Iterator[Connection]:
        asked.append(0)
        return iter(())

    monkeypatch.setattr(_peer._port_hold, "listeners", listeners)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Unreachable, match="did not answer within"):
            Client(url, KEY, request_timeout=0.1).props()
        assert not asked
        with pytest.raises(Unreachable, match="the key is not sent"):
            Client(url, KEY, validate_certs=False, request_timeout=60).props()
        assert asked


@pytest.mark.parametrize(
    ("error", "here"),
    [(None, True), (errno.EADDRNOTAVAIL, False), (errno.EADDRINUSE, True), (errno.EACCES, True)],
)
def test_an_address_that_a_socket_can_be_bound_to_is_this_hosts(
    error: int | None, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any error but that the address is of another host: then it is not trusted unseen."""
    bound: list[Any] = []

    class Probe(socket.socket):
        def bind(self, place: Any) -> None:
            bound.append(place)
            if error:
                raise OSError(error, os.strerror(error))

    monkeypatch.setattr(_peer.socket, "socket", Probe)
    address = _peer._plain("192.0.2.1")
    assert _peer._is_here(socket.AF_INET, address, ("192.0.2.1", 8012)) is here
    assert _peer._is_here(socket.AF_INET6, _peer._plain("fe80::1"), ("fe80::1%eth0", 8012, 0, 3)) is here
    assert bound == [("192.0.2.1", 0), ("fe80::1%eth0", 0, 0, 3)]
    assert _peer._is_here(socket.AF_INET, _peer._plain("127.0.0.5"), ("127.0.0.5", 8012))
    assert len(bound) == 2


@pytest.mark.parametrize(
    ("table", "users", "hidden"),
    [
        ("         0          0 4294967295\n", {0, 65534}, False),
        ("         0     100000      65536\n", {0, 65535}, False),
        ("         0     100000      65536\n", {0, 65536}, True),
        ("      1000       1000          1\n", {1000}, False),
        ("      1000       1000          1\n", {999}, True),
        ("      1000       1000          1\n", {1001}, True),
        ("0 0 1\n5 5 2\n", {0, 5, 6}, False),
        ("0 0 1\n5 5 2\n", {7}, True),
        ("0 0 1\n", set(), False),
        ("", {0}, True),
        ("odd\n", {0}, False),
        ("0 0\n", {0}, False),
        ("0 0 x\n", {0}, False),
    ],
)
def test_users_that_a_namespace_has_no_number_for(
    table: str, users: set[int], hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "uid_map"
    path.write_text(table)
    real = open

    def opened(name: str, **more: Any) -> Any:
        assert name == "/proc/self/uid_map"
        return real(path, **more)

    monkeypatch.setattr(_peer, "open", opened, raising=False)
    assert _peer._are_hidden(users) is hidden
    path.unlink()
    assert not _peer._are_hidden(users)


@pytest.mark.parametrize("error", [OSError("x"), ValueError("x"), IndexError("x")])
def test_an_odd_table_sends_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr(_peer._port_hold, "listeners", broken)
    with pytest.raises(UntrustedPeer, match="the key is not sent: expected the kernel's table of TCP sockets"):
        _peer._listeners(1)


def test_words_of_messages() -> None:
    assert _peer._shown(("192.0.2.1", 1)) == "192.0.2.1:1"
    assert _peer._shown(("2001:db8::1", 1, 0, 0)) == "[2001:db8::1]:1"
    assert (_peer._name(0), _peer._name(54321)) == ("root", "54321")
    assert (_peer._ids("root"), _peer._ids("54321"), _peer._ids(""), _peer._ids("no-such-user")) == (
        [0],
        [54321],
        [],
        [],
    )
    assert str(UntrustedPeer("words")) == "words"
    assert Recipients.of_user("llama").expected.startswith("user llama or root")
    assert Recipients().expected.startswith("root")


def test_whom_a_recipient_is() -> None:
    asked: list[int] = []

    def users() -> list[int]:
        asked.append(1)
        return [OTHER]

    recipients = Recipients(users)
    assert recipients.strangers({0, os.geteuid()}) == set()
    assert asked == []
    assert recipients.strangers({OTHER}) == set()
    assert recipients.strangers({OTHER, THIRD}) == {THIRD}
    assert set(recipients.known) == {0, os.geteuid(), OTHER}


def listener(address: str, family: int = socket.AF_INET) -> Connection:
    return Connection(family, address, 1, LISTENING, 0, 0)


@pytest.mark.parametrize(
    ("there", "asked", "serving"),
    [
        (["127.0.0.1", "0.0.0.0", "192.0.2.1", "::"], "127.0.0.1", ["127.0.0.1", "0.0.0.0"]),
        (["192.0.2.1", "::"], "127.0.0.1", ["::"]),
        (["::1", "::", "0.0.0.0"], "::1", ["::1", "::"]),
        (["::ffff:127.0.0.1"], "127.0.0.1", ["::ffff:127.0.0.1"]),
        (["0.0.0.0"], "::1", []),
        ([], "::1", []),
    ],
)
def test_who_gets_a_connection_to_an_address(there: list[str], asked: str, serving: list[str]) -> None:
    found = _peer._serving([listener(address) for address in there], _peer._plain(asked))
    assert [one.address for one in found] == serving
