# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold a server's port while that server is replaced, so that nobody who connects meanwhile is refused.

The server shares its port (SO_REUSEPORT), and so another socket can listen beside it. From the moment that this one
does, new connections go to it alone, where they wait in the kernel: the old server gets none any more and can finish
what it has begun. A new server that listens is for a moment not ready and refuses who asks, so it gets none either,
but those with the mark PROBE, by which it is seen to be ready. Then the kernel moves the connections that wait to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files

# Lets the kernel move connections that nobody has accepted from a closed listener to another one of the same port.
MIGRATE = "/proc/sys/net/ipv4/tcp_migrate_req"
LOCK = "/run/homelab-llamacpp/port-hold.lock"
# On the packets of a connection that is to reach the server although its port is held (SO_MARK).
PROBE = 0x6C6C616D
_ATTACH_REUSEPORT_CBPF = 51  # SO_ATTACH_REUSEPORT_CBPF, which Python has no name for
_BACKLOG = 4096
_HANDSHAKE = 0.1  # seconds; who is just connecting when the hold ends is moved when the connection is made
_ESTABLISHED, _LISTENING = 0x01, 0x0A


class HoldError(Exception):
    """Why the port cannot be held, to follow "because"."""


@dataclass(frozen=True)
class Connection:
    """One line of the kernel's table of TCP sockets; `uid` and `inode` are the socket's."""

    family: int
    address: str
    port: int
    state: int
    uid: int
    inode: int

    @property
    def established(self) -> bool:
        return self.state == _ESTABLISHED

    @property
    def listens(self) -> bool:
        return self.state == _LISTENING


class PortHold:
    """The port of one server. `take` and `give` may each be called again without effect.

    `seconds` is for how long it was held, all in all. `lock` is a file that only root can open, so that nobody else can
    hold it; another hold is waited for `patience` seconds.
    """

    def __init__(self, migrate: str = MIGRATE, lock: str | None = None, patience: float = _files.LOCK_SECONDS) -> None:
        self._migrate = migrate
        self._lock_file = lock or LOCK
        self._patience = patience
        self._lock = contextlib.ExitStack()
        self.seconds = 0.0
        self._since = 0.0
        self._switch: int | None = None
        self._before = b""
        self._sockets: list[socket.socket] = []
        self._listener: Connection | None = None

    @property
    def taken(self) -> bool:
        return bool(self._sockets)

    def take(self, pid: int) -> None:
        """Let new connections to this process's port wait from now on; HoldError when they would not be kept."""
        if self.taken:
            return
        self._listener = _listener(pid)
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PROBE)
        except OSError as error:
            raise HoldError(f"connections cannot be marked: {error.strerror} (it needs CAP_NET_ADMIN)") from None
        try:
            # One hold at a time: the first of two to be given would turn the switch off for the other one.
            self._lock.enter_context(_files.locked(self._lock_file, self._patience, create_mode=0o755))
        except OSError as error:
            raise HoldError(f"{error.filename or self._lock_file}: {error.strerror}") from None
        # First this: who connects to a socket that is closed again without it is cut off.
        try:
            self._switch = os.open(self._migrate, os.O_RDWR)
            self._before = os.pread(self._switch, 8, 0)
            os.pwrite(self._switch, b"1", 0)
        except OSError as error:
            self._leave_switch()
            raise HoldError(f"{self._migrate}: {error.strerror} (it needs Linux 5.14)") from None
        try:
            self._sockets = _listen_beside(self._listener)
        except HoldError:
            self._leave_switch()
            raise
        self._since = time.monotonic()

    def answered(self) -> bool:
        """Whether a server listens on the held port: before that nobody answers who connects."""
        held = self._listener
        listening = [(c.address, c.port) for c in listeners()]
        return held is not None and listening.count((held.address, held.port)) > len(self._sockets)

    def give(self) -> None:
        """Leave the port, and who waits there, to the server that listens on it: the old one, or a new one."""
        if self._sockets:
            while self._sockets:
                self._sockets.pop().close()  # the one with those who wait comes last: they are moved to the server
            self.seconds += time.monotonic() - self._since
            time.sleep(_HANDSHAKE)
            self._leave_switch()

    def _leave_switch(self) -> None:
        """As it was, and to the next one who wants it."""
        if self._switch is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._switch, self._before, 0)
            os.close(self._switch)
            self._switch = None
        self._lock.close()


def listeners() -> Iterator[Connection]:
    """The listening TCP sockets of this network namespace."""
    return connections(_LISTENING)


def connections(state: int | None = None) -> Iterator[Connection]:
    """The TCP sockets of this network namespace (in this state), with their local addresses."""
    mark = None if state is None else f" {state:02X} "
    # Its own, since a hardened service has no /proc/net.
    for path, family in (("/proc/self/net/tcp", socket.AF_INET), ("/proc/self/net/tcp6", socket.AF_INET6)):
        try:
            with open(path, encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            if mark and mark not in line:
                continue
            words = line.split()
            address, _colon, port = words[1].partition(":")
            yield Connection(
                family, _address(family, address), int(port, 16), int(words[3], 16), int(words[7]), int(words[9])
            )


def _address(family: int, text: str) -> str:
    """The kernel prints addresses as 32-bit words in the machine's own byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))


def listening(pid: int) -> list[Connection]:
    """The sockets on which this process listens; HoldError when its files cannot be seen."""
    sockets = set()
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                sockets.add(os.readlink(f"/proc/{pid}/fd/{entry}"))
    except OSError as error:
        raise HoldError(f"the files of process {pid} cannot be seen: {error.strerror}") from None
    return [c for c in listeners() if f"socket:[{c.inode}]" in sockets]


def _listener(pid: int) -> Connection:
    found = listening(pid)
    if len(found) != 1:
        raise HoldError(f"process {pid} listens on {len(found)} TCP ports, one was expected")
    return found[0]


def _listen_beside(listener: Connection) -> list[socket.socket]:
    """The socket where new connections wait, and one that keeps its place among the port's sockets, see below."""
    beside: list[socket.socket] = []
    try:
        beside.append(_listen_as(listener))
        _send_all_to_the_second(beside[0])
        beside.append(_listen_as(listener))
    except OSError as error:
        for one in beside:
            one.close()
        raise HoldError(
            f"it does not share its port ({error.strerror}); start it with LLAMA_ARG_REUSE_PORT=1"
        ) from None
    return beside


def _listen_as(listener: Connection) -> socket.socket:
    # The kernel shares a port only among sockets of one user: theirs is made as the server's.
    root = os.geteuid()
    try:
        os.seteuid(listener.uid)
        beside = socket.socket(listener.family)
    except OSError as error:
        raise HoldError(f"no socket of user {listener.uid} can be made: {error.strerror}") from None
    finally:
        os.seteuid(root)
    try:
        beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if listener.family == socket.AF_INET6:
            beside.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        beside.bind((listener.address, listener.port))
        beside.listen(_BACKLOG)
    except OSError:
        beside.close()
        raise
    return beside


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def _send_all_to_the_second(beside: socket.socket) -> None:
    """A program that says who gets a connection: the second of the port's sockets, and the third if it bears the mark.

    The kernel counts them in the order of listening: the old server, this socket, the other one of the hold. When the
    old server closes, the last takes its place, and the second stays where it is; a new server comes third. Where there
    is no third one the kernel chooses among all that listen.
    """
    instructions = (_Instruction * 4)(
        _Instruction(0x20, 0, 0, 0xFFFFF000 + 20),  # BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_MARK
        _Instruction(0x15, 0, 1, PROBE),  # BPF_JMP | BPF_JEQ | BPF_K: on to the next if so, else over it
        _Instruction(0x06, 0, 0, 2),  # BPF_RET | BPF_K
        _Instruction(0x06, 0, 0, 1),
    )
    program = _Program(len(instructions), instructions)
    beside.setsockopt(socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, bytes(program))
