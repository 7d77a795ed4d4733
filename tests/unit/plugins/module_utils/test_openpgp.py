# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import hashlib

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _openpgp
from ansible_collections.homelab.llamacpp.plugins.module_utils._openpgp import (
    BadKey,
    armored,
    fingerprints,
    packets_of,
)
from hypothesis import given
from hypothesis import strategies as st


def long_form(tag: int, body: bytes, octets: int) -> bytes:
    """A packet in the format of RFC 9580, its length in so many octets."""
    size = len(body)
    lengths = {
        1: bytes([size % 256]),
        2: bytes([((size - 192) >> 8) % 32 + 192, (size - 192) % 256]),
        5: b"\xff" + size.to_bytes(4, "big"),
    }
    return bytes([0xC0 | tag]) + lengths[octets] + body


def old_form(tag: int, body: bytes, octets: int) -> bytes:
    """A packet in the format of PGP 2."""
    kinds = {1: 0, 2: 1, 4: 2}
    return bytes([0x80 | tag << 2 | kinds[octets]]) + len(body).to_bytes(octets, "big") + body


def key_body(length: int, version: int = 4) -> bytes:
    return bytes([version]) + bytes(index % 251 for index in range(length - 1))


def version_4(body: bytes) -> str:
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()


@given(
    st.integers(40, 9000),
    st.sampled_from([(long_form, 2), (long_form, 5), (old_form, 2), (old_form, 4)]),
)
def test_every_way_to_write_a_length(length: int, way: tuple[object, int]) -> None:
    form, octets = way
    length = max(length, 192)  # the least that two octets can say
    body = key_body(min(length, 8383))
    user = long_form(13, b"x" * 191, 1)
    packets = form(6, body, octets) + user  # type: ignore[operator]
    assert fingerprints(packets) == [version_4(body)]
    assert fingerprints(packets + form(6, body[:200], octets)) == [version_4(body), version_4(body[:200])]  # type: ignore[operator]


@pytest.mark.parametrize("length", [40, 191])
def test_lengths_of_one_octet(length: int) -> None:
    body = key_body(length)
    assert fingerprints(long_form(6, body, 1)) == fingerprints(old_form(6, body, 1)) == [version_4(body)]


@pytest.mark.parametrize("length", [192, 193, 447, 448, 8383])
def test_the_ends_of_two_octets(length: int) -> None:
    body = key_body(length)
    assert fingerprints(long_form(6, body, 2)) == [version_4(body)]


def test_a_key_of_version_6() -> None:
    """RFC 9580, appendix A.3: the fingerprint of the sample key is given there."""
    packet = bytes.fromhex("c62a0663877fe31b00000020f94da7bb48d60a61e567706a6587d0331999bb9d891a08242ead84543df895a3")
    assert fingerprints(packet) == ["CB186C4F0609A697E4D52DFA6C722B0C1F1E27C18A56708F6525EC27BAD9ACC9"]


KEY = long_form(6, key_body(50), 1)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "expected a public key, found none"),
        (b"\x00" + KEY, "expected OpenPGP public keys, found something else"),
        (long_form(6, b"", 1), "found version 0"),
        (long_form(6, key_body(50, 3), 1), "of version 4 or 6, found version 3"),
        (long_form(5, key_body(50), 1), "found a secret one"),
        (KEY + long_form(7, key_body(50), 1), "found a secret one"),
        (KEY + long_form(11, b"x", 1), "found a packet of type 11"),
        *(
            (long_form(tag, b"x", 1) + KEY, f"a public key first, found a packet of type {tag}")
            for tag in (2, 13, 14, 17)
        ),
        (bytes([0xC6, 224]) + bytes(60), "found a packet of partial length"),
        (bytes([0xC6, 254]) + bytes(60), "found a packet of partial length"),
        (bytes([0x9B]) + bytes(60), "found a packet without a length"),
        *((KEY + KEY[:end], "found data that is cut off") for end in (1, 2, 20, len(KEY) - 1)),
        (bytes([0xC6, 192]), "found data that is cut off"),
        (long_form(6, key_body(200), 5)[:-1], "found data that is cut off"),
    ],
)
def test_what_is_no_keyring(data: bytes, told: str) -> None:
    with pytest.raises(BadKey, match=told):
        fingerprints(data)


def test_all_that_belongs_to_a_key_is_taken() -> None:
    more = b"".join(long_form(tag, b"x", 1) for tag in (2, 13, 14, 17))
    assert fingerprints(KEY + more) == [version_4(key_body(50))]


@given(st.binary(min_size=1, max_size=300))
def test_armor_and_back(packets: bytes) -> None:
    text = armored(packets)
    assert packets_of(text) == packets
    assert all(len(line) <= 64 for line in text.splitlines())
    assert packets_of(text.replace(b"\n", b"\r\n")) == packets


def test_the_checksum_is_that_of_openpgp() -> None:
    """Of the catalogue of CRC algorithms: the check value of CRC-24/OPENPGP."""
    assert _openpgp._crc24(b"123456789") == 0x21CF02
    assert _openpgp._crc24(b"") == 0xB704CE
    assert f"={base64.b64encode(bytes.fromhex('21cf02')).decode()}\n".encode() in armored(b"123456789")


def test_headers_of_the_armor_are_passed_over() -> None:
    text = armored(KEY).replace(b"BLOCK-----\n\n", b"BLOCK-----\nVersion: GnuPG v2\nComment: a key\n\n", 1)
    assert packets_of(b"\n" + text) == KEY


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"some words\n" + armored(KEY), None),
        (armored(KEY) + b"more\n", "found something else"),
        (armored(KEY) * 2, "found something else"),
        (armored(KEY).replace(b"PUBLIC", b"PRIVATE"), "found something else"),
        (armored(KEY).replace(b"\n\n", b"\n", 1), "found something else"),
        (armored(b"12345").replace(b"MTIzNDU=", b"MTIzNDU"), "its base64 is broken"),
    ],
)
def test_text_that_is_not_one_block(text: bytes, told: str | None) -> None:
    if told is None:  # not armored: the packets are refused
        with pytest.raises(BadKey):
            fingerprints(packets_of(text))
        return
    with pytest.raises(BadKey, match=told):
        packets_of(text)
