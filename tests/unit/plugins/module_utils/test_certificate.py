# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._certificate import look, not_after
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(end: datetime.datetime, begin: int = 1980) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "llama.example.org" * 3)])
    made = x509.CertificateBuilder(name, name, KEY.public_key(), x509.random_serial_number())
    made = made.not_valid_before(datetime.datetime(begin, 1, 1)).not_valid_after(end)
    return made.sign(KEY, hashes.SHA256())


# Until 2049 a date is written with two digits for the year, from 2050 on with four.
@given(st.datetimes(datetime.datetime(1981, 1, 1), datetime.datetime(2199, 12, 31)))
def test_the_end(end: datetime.datetime) -> None:
    end = end.replace(microsecond=0)
    data = certificate(end).public_bytes(serialization.Encoding.DER)
    assert not_after(data) == end.replace(tzinfo=datetime.timezone.utc).timestamp()


@pytest.mark.parametrize("year", [1950, 1951, 1999, 2000, 2049, 2050])
def test_years_of_two_digits(year: int) -> None:
    """RFC 5280, 4.1.2.5.1: 50 to 99 are of the last century."""
    end = datetime.datetime(year, 6, 1, 12, 30, 59)
    data = certificate(end, 1950).public_bytes(serialization.Encoding.DER)
    assert not_after(data) == end.replace(tzinfo=datetime.timezone.utc).timestamp()


@given(st.binary() | st.integers(0, 200).map(lambda at: WHOLE[:at]))
def test_what_is_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError, match="a certificate was wanted"):
        not_after(data)


WHOLE = certificate(datetime.datetime(2030, 1, 1)).public_bytes(serialization.Encoding.DER)


def test_what_a_server_shows_though_it_has_ended(tmp_path: Path) -> None:
    shown = certificate(datetime.datetime(2001, 9, 9, 1, 46, 40))
    (tmp_path / "pem").write_bytes(
        shown.public_bytes(serialization.Encoding.PEM)
        + KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")

    def serve(listener: socket.socket) -> None:
        line, _client = listener.accept()
        with contextlib.suppress(OSError), context.wrap_socket(line, server_side=True) as tls:
            tls.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        assert look(address) == {"address": address, "expires": 1e9, "reason": None}
        thread.join()
    gone = look(address)
    assert gone["expires"] is None
    assert "refused" in gone["reason"]


@pytest.mark.parametrize("address", ["llama.example.org", ":443", "localhost:https"])
def test_an_address_that_is_none(address: str) -> None:
    told = f"an address as HOST:PORT was wanted, {address!r} was found"
    assert look(address) == {"address": address, "expires": None, "reason": told}
