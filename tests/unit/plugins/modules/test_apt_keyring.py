# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.module_utils import _openpgp
from ansible_collections.homelab.llamacpp.plugins.modules import apt_keyring
from hypothesis import given
from hypothesis import strategies as st


def packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, len(body)]) + body


def key(number: int) -> bytes:
    """The packets of a public key with a user id; its numbers are made up."""
    body = b"\x04" + bytes(4) + b"\x16" + bytes([number]) * 40
    return packet(6, body) + packet(13, b"lab <lab@example.org>")


def fingerprint(number: int) -> str:
    body = key(number)[2 : 2 + key(number)[1]]
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()


class Keyring:
    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.source, self.path, self.capfd = folder / "key", folder / "keyrings/lab.asc", capfd

    def run(self, served: bytes | None, **arguments: Any) -> dict[str, Any]:
        self.source.unlink(missing_ok=True)
        if served is not None:
            self.source.write_bytes(served)
        given_ = {"path": str(self.path), "url": self.source.as_uri(), "fingerprints": [fingerprint(1)], **arguments}
        with patch_module_args(given_), pytest.raises(SystemExit):
            apt_keyring.main()
        result: dict[str, Any] = json.loads(self.capfd.readouterr().out)
        return result


@pytest.fixture
def keyring(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Keyring:
    return Keyring(tmp_path, capfd)


@pytest.mark.parametrize("form", [bytes, _openpgp.armored])
def test_the_expected_key_is_installed_once(keyring: Keyring, form: Any) -> None:
    result = keyring.run(form(key(1)))
    assert (result["changed"], result["fingerprints"]) == (True, [fingerprint(1)])
    assert _openpgp.packets_of(keyring.path.read_bytes()) == key(1)
    assert keyring.path.stat().st_mode & 0o777 == 0o644
    assert keyring.run(None)["changed"] is False  # and nothing was downloaded


def test_in_check_mode_nothing_is_written(keyring: Keyring) -> None:
    assert keyring.run(key(1), _ansible_check_mode=True)["changed"] is True
    assert not keyring.path.exists()
    assert keyring.run(key(2), _ansible_check_mode=True)["failed"] is True


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (key(2), f"found {fingerprint(2)}; nothing was written"),
        (key(1) + key(2), f"found {fingerprint(2)}; nothing was written"),  # the expected one with another one behind
        (b"<html>not found</html>", "expected OpenPGP public keys"),
        (b"", "expected a public key, found none"),
        (key(1)[:-3], "cut off"),
        (packet(5, b"\x04" + bytes(45)), "found a secret one"),
        (packet(13, b"lab") + key(1), "expected a public key first"),
        (packet(6, b"\x03" + bytes(45)), "found version 3"),
        (_openpgp.armored(key(1)) + _openpgp.armored(key(2)), "expected one OpenPGP public key block"),
        (b"x\n" + _openpgp.armored(key(1)), "expected OpenPGP public keys"),
        (bytes([0xC6, 0xE0]), "partial length"),
        (bytes([0x9B]), "without a length"),
        (bytes(2 << 20), "found more than"),
        (None, "cannot be downloaded"),
    ],
)
def test_any_other_key_is_refused_and_the_keyring_stays(keyring: Keyring, served: bytes | None, message: str) -> None:
    keyring.path.parent.mkdir()
    keyring.path.write_bytes(_openpgp.armored(key(3)))
    result = keyring.run(served)
    assert result["failed"] is True
    assert message in result["msg"]
    assert keyring.path.read_bytes() == _openpgp.armored(key(3))


def test_a_keyring_that_an_earlier_version_has_downloaded_is_checked(keyring: Keyring) -> None:
    keyring.path.parent.mkdir()
    keyring.path.write_bytes(_openpgp.armored(key(2)))
    assert keyring.run(key(1))["changed"] is True
    assert _openpgp.packets_of(keyring.path.read_bytes()) == key(1)


def test_a_checksum_is_checked_besides(keyring: Keyring) -> None:
    right = "sha256:" + hashlib.sha256(key(1)).hexdigest()
    assert "expected sha256:0000" in keyring.run(key(1), checksum="sha256:" + "0" * 64)["msg"]
    assert keyring.run(key(1), checksum=right)["changed"] is True


@pytest.mark.parametrize("wanted", [[], ["8793F200"], ["x" * 40]])
def test_a_fingerprint_that_is_none(keyring: Keyring, wanted: list[str]) -> None:
    assert "expected 40 hexadecimal digits" in keyring.run(key(1), fingerprints=wanted)["msg"]


def test_a_fingerprint_as_people_write_it(keyring: Keyring) -> None:
    text = fingerprint(1).lower()
    spaced = " ".join(text[at : at + 4] for at in range(0, 40, 4))
    assert keyring.run(key(1), fingerprints=[spaced])["changed"] is True


@given(st.binary(max_size=200))
def test_any_bytes_are_keys_or_refused(data: bytes) -> None:
    refused = False
    try:
        assert _openpgp.fingerprints(_openpgp.packets_of(data))
    except _openpgp.BadKey:
        refused = True
    assert refused or data
