# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connect to a server of this host only if its own user listens there, before a secret is sent.

Any user can listen on a free port above 1023. The kernel's table of TCP sockets has the user of each listening socket.
It is read before and after connecting: a listener that is in both excludes listeners of other users in between, since
the kernel shares a port among sockets of one user only. So who accepts the connection has the socket from a trusted
user, and the check holds for the connection on which the secret is sent.

Not checked are servers on other hosts: without TLS nothing can be proven about them.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import pwd
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _port_hold
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError

_TRIES = 3  # a server that restarts between the two readings is asked again


class UntrustedPeer(OSError):
    """Nobody who is trusted with the secret has proven to listen. `strerror` has what was expected and found."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EPERM, message)

    def __str__(self) -> str:
        return str(self.strerror)


class Recipients:
    """The users that may get the secret: root, this process's own, and those of `users` (called when needed).

    `expected` describes them in messages.
    """

    def __init__(self, users: Callable[[], Iterable[int]] = tuple, expected: str = "") -> None:
        self._users = users
        self._known = {0, os.geteuid()}
        self._expected = expected

    @classmethod
    def of_unit(cls, run: Run, unit: str) -> Recipients:
        """The user that systemd starts this unit with."""

        def user() -> list[int]:
            try:
                name = Unit(run, unit).properties("User")["User"]
            except UnitError:
                return []
            return _ids(name)

        return cls(user, f"the user of {unit}")

    @classmethod
    def of_user(cls, name: str) -> Recipients:
        """A user by name or number."""
        return cls(lambda: _ids(name), f"user {name}")

    def strangers(self, users: Collection[int]) -> set[int]:
        """Those of these users that are not trusted."""
        if not self._known.issuperset(users):
            self._known = {0, os.geteuid(), *self._users()}
        return set(users) - self._known

    @property
    def known(self) -> Collection[int]:
        """Their numbers, as far as they were asked for."""
        return self._known

    @property
    def expected(self) -> str:
        names = [self._expected, "root"]
        if os.geteuid():
            names.append(f"user {_name(os.geteuid())}")
        return " or ".join(filter(None, names))


def connect(
    address: tuple[str, int], timeout: float, recipients: Recipients | None = None, mark: int = 0
) -> socket.socket:
    """Return a connection to a host and port. Its packets have the `mark` (SO_MARK), if any.

    With `recipients`, raise UntrustedPeer unless they listen there, or the server is on another host.
    """
    failed = OSError(errno.EADDRNOTAVAIL, f"{address[0]} has no address")
    for family, kind, proto, _canonical, there in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        try:
            for last in (*[False] * (_TRIES - 1), True):
                before = _listeners(address[1]) if recipients else []
                made = _connected(family, kind, proto, there, timeout, mark)
                if recipients is None or _proven(made, before, recipients, last):
                    return made
        except OSError as error:
            if not isinstance(failed, UntrustedPeer):
                failed = error
    raise failed


def _connected(family: int, kind: int, proto: int, there: Any, timeout: float, mark: int) -> socket.socket:
    made = socket.socket(family, kind, proto)
    try:
        made.settimeout(timeout)
        if mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        made.connect(there)
    except BaseException:
        made.close()
        raise
    return made


def _proven(
    made: socket.socket, before: Sequence[_port_hold.Connection], recipients: Recipients, last: bool
) -> bool:  # fmt: skip
    """Whether only recipients can accept this connection. Else it is closed; on the `last` try UntrustedPeer is raised.

    The listeners are those with the port of the connection, before it was made.
    """
    proven = False
    try:
        peer = made.getpeername()
        address = _plain(peer[0])
        if not _is_here(made.family, address, peer):
            proven = True
            return True
        after = _serving(_listeners(peer[1]), address)
        found = [*_serving(before, address), *after]
        strangers = recipients.strangers({one.uid for one in found})
        if strangers:
            raise UntrustedPeer(_of_strangers(peer, strangers, recipients))
        proven = bool({one.inode for one in found[: len(found) - len(after)]} & {one.inode for one in after})
        if not proven and last:
            raise UntrustedPeer(
                f"the key is not sent: expected a server of {recipients.expected} on {_shown(peer)}, found no listening"
                " socket of this host that was there before and after the connection was made; start the server on"
                " this host itself, or use https"
            )
        return proven
    finally:
        if not proven:
            made.close()


def _listeners(port: int) -> list[_port_hold.Connection]:
    try:
        return [one for one in _port_hold.listeners() if one.port == port]
    except (OSError, ValueError, IndexError) as error:
        raise UntrustedPeer(
            f"the key is not sent: expected the kernel's table of TCP sockets in /proc/self/net/tcp, to see whose"
            f" server listens, it cannot be read: {error}"
        ) from None


def _serving(listeners: Sequence[_port_hold.Connection], address: Any) -> list[_port_hold.Connection]:
    """Those that get a connection to this address.

    One of IPv6 for any address gets those of IPv4 only where no socket of IPv4 listens: the kernel allows it beside
    such a socket only if it is for IPv6 alone, or of the same user.
    """
    exact = [one for one in listeners if _plain(one.address) in (address, _any(address.version))]
    return exact or [one for one in listeners if _plain(one.address) == _any(6)]


def _any(version: int) -> Any:
    return ipaddress.ip_address("0.0.0.0" if version == 4 else "::")


def _plain(text: str) -> Any:
    """An address without its scope; one of IPv4 that is written as one of IPv6 is one of IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _is_here(family: int, address: Any, peer: Any) -> bool:
    """Whether this address is one of this host: a socket can be bound to it."""
    if address.is_loopback:
        return True
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((peer[0], 0, *peer[2:]))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def _of_strangers(peer: Any, strangers: Collection[int], recipients: Recipients) -> str:
    found = " and ".join(f"user {_name(user)}" for user in sorted(strangers))
    hint = "stop that program, or give the server another port"
    if _are_hidden(recipients.known):
        hint = f"if that is the server, this process cannot see its user (PrivateUsers=); else {hint}"
    return (
        f"the key is not sent: expected a server of {recipients.expected} on {_shown(peer)}, found one of {found};"
        f" {hint}"
    )


def _are_hidden(users: Collection[int]) -> bool:
    """Whether one of these users has no number in the user namespace of this process, and looks like nobody."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [(int(line.split()[0]), int(line.split()[2])) for line in file]
    except (OSError, ValueError, IndexError):
        return False
    return any(not any(start <= user < start + count for start, count in ranges) for user in users)


def _shown(peer: Any) -> str:
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _ids(name: str) -> list[int]:
    """The number of a user; none for root's and for one that does not exist."""
    if name.isdigit():
        return [int(name)]
    try:
        return [pwd.getpwnam(name).pw_uid] if name else []
    except KeyError:
        return []
