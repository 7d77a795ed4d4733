# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which certificates are trusted, and what is sent; what the API makes of it is in tests/functional."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _proxmox_https
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import (
    FingerprintError,
    LoginError,
    NotFoundError,
    ParameterError,
    ProxmoxError,
    TlsError,
    UnreachableError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_https import Https, Trust, fingerprint
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = ("root@pam!ansible", "0000-1111")
TICKET = {"ticket": "PVE:root@pam:1", "CSRFPreventionToken": "csrf:1"}


class Node(http.server.ThreadingHTTPServer):
    """Answers over TLS; `answers` has the next ones (status, body), the last one for ever."""

    daemon_threads = True

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.certificate = certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked: list[tuple[str, str, dict[str, str], dict[str, list[str]]]] = []
        self.answers: list[tuple[int, Any]] = [(200, {"data": "x"})]
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def fingerprint(self) -> str:
        return fingerprint(ssl.PEM_cert_to_DER_cert(self.certificate.read_text().partition("-----BEGIN EC")[0]))

    def connect(self, login: str = TOKEN[0], secret: str = TOKEN[1], **trust: Any) -> Https:
        given = {"validate": True, "ca_path": str(self.certificate), "fingerprint": None, **trust}
        return Https("127.0.0.1", self.server_port, login, secret, Trust(**given))

    def handle_error(self, *_args: Any) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    server: Node

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.asked.append(
            (self.command, self.path, dict(self.headers), parse_qs(body, strict_parsing=bool(body)))
        )
        answers = self.server.answers
        status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_args: object) -> None:
        pass


def made(path: Path, address: str = "127.0.0.1") -> Path:
    """A certificate for this address, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pve")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    text = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    path.write_bytes(text + key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("node") / "node.pem")


@pytest.fixture
def node(certificate: Path) -> Iterator[Node]:
    with Node(certificate) as one:
        yield one
        one.shutdown()


def test_reads_and_changes_over_the_api(node: Node) -> None:
    api = node.connect()
    assert api.request("GET", "nodes/pve/lxc/130/pending", {}) == "x"
    api.request("GET", "cluster/resources", {"type": "vm", "x": "a b&c"})
    api.request("DELETE", "nodes/pve/lxc/130", {"purge": "1"})
    api.request("PUT", "nodes/pve/lxc/130/config", {"description": "a=b&c d", "tags": "x;y"})
    api.request("POST", "nodes/pve/storage/local:x y/content", {})
    asked = [(method, path, body) for method, path, _headers, body in node.asked]
    assert asked == [
        ("GET", "/api2/json/nodes/pve/lxc/130/pending", {}),
        ("GET", "/api2/json/cluster/resources?type=vm&x=a+b%26c", {}),
        ("DELETE", "/api2/json/nodes/pve/lxc/130?purge=1", {}),
        ("PUT", "/api2/json/nodes/pve/lxc/130/config", {"description": ["a=b&c d"], "tags": ["x;y"]}),
        ("POST", "/api2/json/nodes/pve/storage/local:x%20y/content", {}),
    ]
    headers = [headers for _method, _path, headers, _body in node.asked]
    assert {one["Authorization"] for one in headers} == {"PVEAPIToken=root@pam!ansible=0000-1111"}
    kinds = [one.get("Content-Type") for one in headers]
    assert kinds == [None, None, None, "application/x-www-form-urlencoded", None]


def test_a_password_buys_a_ticket(node: Node) -> None:
    node.answers = [(200, {"data": TICKET}), (200, {"data": None})]
    assert node.connect("root@pam", "secret").request("GET", "version", {}) is None
    first, second = node.asked
    assert first[:2] == ("POST", "/api2/json/access/ticket")
    assert first[3] == {"username": ["root@pam"], "password": ["secret"]}
    assert "Authorization" not in first[2]
    assert second[2]["Cookie"] == "PVEAuthCookie=PVE:root@pam:1"
    assert second[2]["CSRFPreventionToken"] == "csrf:1"


def test_a_login_that_is_refused(node: Node) -> None:
    node.answers = [(401, {"data": None, "message": "authentication failure"})]
    with pytest.raises(LoginError, match="refused the login of root@pam: wrong password, unknown user, or no realm"):
        node.connect("root@pam", "secret")
    with pytest.raises(LoginError, match=r"refused root@pam!ansible: .* Is the secret right and not expired"):
        node.connect().request("GET", "version", {})
    node.answers = [(200, {"data": {**TICKET, "NeedTFA": 1}})]
    with pytest.raises(LoginError, match="wants a second factor of root@pam: use a token, or run on the node"):
        node.connect("root@pam", "secret")


@pytest.mark.parametrize(
    ("status", "answer"),
    [(200, "<html>"), (200, {"x": 1}), (200, [1]), (200, ""), (399, {"data": None, "x": 1}), (500, [1]), (400, "[]")],
)
def test_another_service(node: Node, status: int, answer: Any) -> None:
    node.answers = [(status, answer)]
    if status == 399:
        assert node.connect().request("GET", "version", {}) is None
        return
    with pytest.raises(UnreachableError, match=f"wanted Proxmox VE's API, found something else \\({status} "):
        node.connect().request("GET", "version", {})


@pytest.mark.parametrize(
    ("status", "answer", "kind", "told"),
    [
        (500, {"data": None, "message": "Configuration file 'x/130.conf' does not exist\n"}, NotFoundError, "130.conf"),
        (
            400,
            {"data": None, "message": "Parameter verification failed.", "errors": {"cores": "no"}},
            ParameterError,
            "cores",
        ),
        (500, "", ProxmoxError, "Internal Server Error"),
        (400, {"data": 1, "message": "no"}, ProxmoxError, "no"),
    ],
)
def test_a_refusal_says_what_the_node_says(
    node: Node, status: int, answer: Any, kind: type[Exception], told: str
) -> None:
    node.answers = [(status, answer)]
    with pytest.raises(kind, match=told):
        node.connect().request("GET", "version", {})


def test_a_certificate_of_nobody(node: Node) -> None:
    api = node.connect(ca_path=None)
    with pytest.raises(TlsError) as caught:
        api.request("GET", "version", {})
    assert f"Its SHA-256 fingerprint is {node.fingerprint}. If" in str(caught.value)
    assert node.asked == []
    assert node.connect(ca_path=None, validate=False).request("GET", "version", {}) == "x"


def test_a_certificate_of_another_name(tmp_path: Path) -> None:
    with Node(made(tmp_path / "other.pem", "192.0.2.1")) as other:
        with pytest.raises(TlsError, match="is not trusted"):
            other.connect().request("GET", "version", {})
        assert other.asked == []
        other.shutdown()


def test_a_fingerprint_that_nobody_can_ask_for_is_unknown(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_address: object) -> str:
        raise ValueError("no PEM")

    api = node.connect(ca_path=None)
    for error in (fails, lambda address: "no PEM"):
        monkeypatch.setattr(_proxmox_https.ssl, "get_server_certificate", error)
        with pytest.raises(TlsError, match="Its SHA-256 fingerprint is unknown"):
            api.request("GET", "version", {})


@pytest.mark.parametrize("form", [str, str.lower, lambda text: text.replace(":", "")])
def test_a_pinned_certificate_needs_no_authority(node: Node, form: Callable[[str], str]) -> None:
    api = node.connect(ca_path=None, fingerprint=form(node.fingerprint))
    assert api.request("GET", "version", {}) == "x"


def test_another_certificate_than_the_pinned_one_gets_no_secret(node: Node, tmp_path: Path) -> None:
    """Also if it is one that would be trusted."""
    pinned = node.fingerprint.replace("A", "B").replace("1", "2")
    for trust in ({}, {"validate": False}):
        api = node.connect(fingerprint=pinned, **trust)
        with pytest.raises(FingerprintError) as caught:
            api.request("GET", "version", {})
        assert f"wanted the fingerprint {pinned}, found {node.fingerprint}. If" in str(caught.value)
        with pytest.raises(FingerprintError):
            node.connect("root@pam", "secret", fingerprint=pinned)
    assert node.asked == []


@pytest.mark.parametrize("bad", ["AB:CD", "G" * 64, "A" * 63, "A" * 65, "A" * 64 + "\n"])
def test_what_is_no_fingerprint(node: Node, bad: str) -> None:
    with pytest.raises(ProxmoxError, match="api_fingerprint: wanted SHA-256, 32 pairs of hexadecimal digits, found"):
        node.connect(fingerprint=bad)


def test_an_authority_that_is_none(node: Node, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path in ("nowhere", "empty"):
        with pytest.raises(ProxmoxError, match="ca_path: wanted a PEM file with certificates, found"):
            node.connect(ca_path=str(tmp_path / path))


def test_nobody_there(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    api = node.connect()
    node.shutdown()
    node.server_close()
    with pytest.raises(UnreachableError, match=r"cannot be reached: .*refused.* Is the node up"):
        api.request("GET", "version", {})

    def hangs(*_args: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(_proxmox_https.Connection, "request", hangs)
    with pytest.raises(UnreachableError, match="did not answer within 60 seconds"):
        api.request("GET", "version", {})

    def breaks_off(*_args: object) -> None:
        raise _proxmox_https.http.client.BadStatusLine("")

    monkeypatch.setattr(_proxmox_https.Connection, "request", breaks_off)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        api.request("GET", "version", {})


def test_every_request_has_an_end(node: Node) -> None:
    connection = _proxmox_https.Connection(("192.0.2.1", 8006), Trust(True, None, None), ssl.create_default_context())
    assert connection.timeout == _proxmox_https.REQUEST_TIMEOUT


def test_an_address_of_ipv6() -> None:
    assert Https("[2001:db8::1]", 8006, *TOKEN, Trust(True, None, None))._address == ("2001:db8::1", 8006)
