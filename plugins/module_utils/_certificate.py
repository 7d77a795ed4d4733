# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Until when a server's certificate is valid, as it shows it to whoever connects.

What is served counts, and not what lies in a file: a renewed certificate that the server has not read helps nobody. The
certificate is not checked otherwise. Python's ssl tells a certificate's dates only when it is, and so not those of one
that has ended, or that was made by the operator.
"""

from __future__ import annotations

import calendar
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

SECONDS = 3.0  # for a handshake
_VERSION, _UTC_TIME, _TIME = 0xA0, 0x17, 0x18  # tags


def look(address: str) -> dict[str, Any]:
    """`address` (HOST:PORT), `expires` in seconds since the epoch, `reason` where that cannot be known."""
    try:
        return {"address": address, "expires": not_after(_served(address)), "reason": None}
    except (OSError, ValueError) as error:
        return {"address": address, "expires": None, "reason": str(error)}


def not_after(certificate: bytes) -> float:
    """The end of a certificate in DER, in seconds since the epoch. Raises ValueError when it is none."""
    try:
        ((_kind, whole),) = _parts(certificate)
        to_be_signed = next(_parts(whole))[1]
        # Serial number, algorithm, issuer, validity.
        fields = [content for kind, content in _parts(to_be_signed) if kind != _VERSION]
        kind, text = list(_parts(fields[3]))[1]
        year = {_UTC_TIME: b"19" if text[:2] >= b"50" else b"20", _TIME: b""}[kind]
        return float(calendar.timegm(time.strptime((year + text).decode(), "%Y%m%d%H%M%SZ")))
    except (LookupError, StopIteration, ValueError):
        raise ValueError("a certificate was wanted, and what the server shows is none") from None


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The values of a DER sequence's content: the tag and the content of each."""
    while data:
        kind, length, start = data[0], data[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            raise ValueError("cut off")
        yield kind, data[start : start + length]
        data = data[start + length :]


def _served(address: str) -> bytes:
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"an address as HOST:PORT was wanted, {address!r} was found")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    line = socket.create_connection((host, int(port)), SECONDS)
    with line, context.wrap_socket(line, server_hostname=host) as tls:
        return tls.getpeercert(binary_form=True) or b""
