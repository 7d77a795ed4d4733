# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fingerprints of OpenPGP public keys (RFC 9580), for keyrings of apt. It needs no gpg, which a guest may not have.

Only the primary keys are looked at: apt takes a subkey on the signature of its primary key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

_PUBLIC_KEY, _SECRET_KEY, _SECRET_SUBKEY, _SIGNATURE, _USER_ID, _PUBLIC_SUBKEY, _USER_ATTRIBUTE = 6, 5, 7, 2, 13, 14, 17
_TAKEN = (_PUBLIC_KEY, _SIGNATURE, _USER_ID, _PUBLIC_SUBKEY, _USER_ATTRIBUTE)
_ARMOR = re.compile(
    rb"\s*-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n(?:[A-Za-z]+: [^\r\n]*\r?\n)*[ \t]*\r?\n"
    rb"([A-Za-z0-9+/=\s]*?)(?:\n=[A-Za-z0-9+/]{4}\s*)?\n?-----END PGP PUBLIC KEY BLOCK-----\s*"
)


class BadKey(ValueError):
    """What is no keyring, in one message."""


def packets_of(data: bytes) -> bytes:
    """The packets of one armored block, or of data that is not armored. Text around the block is refused."""
    if not data.lstrip().startswith(b"-----"):
        return data
    found = _ARMOR.fullmatch(data)
    if not found:
        raise BadKey("expected one OpenPGP public key block, found something else")
    try:
        return base64.b64decode(b"".join(found[1].split()), validate=True)
    except binascii.Error:
        raise BadKey("expected one OpenPGP public key block, its base64 is broken") from None


def fingerprints(packets: bytes) -> list[str]:
    """The fingerprints of the primary keys, in capitals. Raises BadKey for anything but public keys."""
    found = []
    for tag, body in _packets(packets):
        if tag in (_SECRET_KEY, _SECRET_SUBKEY):
            raise BadKey("expected public keys, found a secret one")
        if tag not in _TAKEN:
            raise BadKey(f"expected public keys, found a packet of type {tag}")
        if tag == _PUBLIC_KEY:
            found.append(_fingerprint(body))
        elif not found:
            raise BadKey(f"expected a public key first, found a packet of type {tag}")
    if not found:
        raise BadKey("expected a public key, found none")
    return found


def armored(packets: bytes) -> bytes:
    """As a file that apt reads (`.asc`): what was checked, and nothing else of what was downloaded."""
    text = base64.b64encode(packets).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    check = base64.b64encode(_crc24(packets).to_bytes(3, "big")).decode()
    head, tail = ("-----BEGIN PGP PUBLIC KEY BLOCK-----", ""), (f"={check}", "-----END PGP PUBLIC KEY BLOCK-----", "")
    return "\n".join([*head, *lines, *tail]).encode()


def _fingerprint(body: bytes) -> str:
    version = body[0] if body else 0
    if version == 4:  # SHA-1 is what a fingerprint of this version is; a collision does not forge another's
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
    if version == 6:
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    raise BadKey(f"expected a public key of version 4 or 6, found version {version}")


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        try:
            tag, start, end = _header(data, at)
        except IndexError:
            raise BadKey("expected public keys, found data that is cut off") from None
        if end > len(data):
            raise BadKey("expected public keys, found data that is cut off")
        yield tag, data[start:end]
        at = end


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Type, begin and end of a packet's body."""
    first = data[at]
    if not first & 0x80:
        raise BadKey("expected OpenPGP public keys, found something else")
    if first & 0x40:
        length = data[at + 1]
        if length < 192:
            return first & 0x3F, at + 2, at + 2 + length
        if length < 224:
            return first & 0x3F, at + 3, at + 3 + ((length - 192) << 8) + data[at + 2] + 192
        if length == 255:
            return first & 0x3F, at + 6, at + 6 + int.from_bytes(data[at + 2 : at + 6], "big")
        raise BadKey("expected public keys, found a packet of partial length")
    size = (1, 2, 4, 0)[first & 3]
    if size == 0:
        raise BadKey("expected public keys, found a packet without a length")
    start = at + 1 + size
    return (first >> 2) & 0x0F, start, start + int.from_bytes(data[at + 1 : start], "big")


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _bit in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc
