# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _http_service
from ansible_collections.homelab.llamacpp.plugins.module_utils._http_service import Limit, Service, base_url, kind
from ansible_collections.homelab.llamacpp.plugins.module_utils._peer import UntrustedPeer

URL = "http://192.0.2.20:8012/v1"


def service(url: str) -> Service:
    return Service(url, "a server", "its_url", "start it", "its journal")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("http://192.0.2.20:8012", URL),
        ("http://192.0.2.20:8012/", URL),
        (" HTTP://192.0.2.20:8012/v1/\n", URL),
        ("https://Llama.example.com:443", "https://llama.example.com/v1"),
        ("http://[2001:db8::1]:8012", "http://[2001:db8::1]:8012/v1"),
        ("https://example.com/llama", "https://example.com/llama/v1"),
    ],
)
def test_one_address_in_many_words(given: str, wanted: str) -> None:
    assert base_url(given, "url") == wanted


@pytest.mark.parametrize(
    "url",
    [
        "192.0.2.20:8012",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://x:0",
        "http://x?y=1",
        "http://x/#y",
        "http://[::1",
        "http://a b",
        "http://x/\n",
        "http://bücher.example",
        "",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="its_url: http://HOST:PORT or https://HOST:PORT was wanted, "):
        service(url).checked()


@pytest.mark.parametrize("url", ["http://me:secret@host:1", "http://me:s@cret/secret@host", "http://me:secret@h\u2100"])
def test_a_password_in_the_address_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="without a name and a password, 'h") as caught:
        base_url(url, "url")
    assert "secret" not in str(caught.value)


def test_upper_case_is_tls_as_well() -> None:
    def contexts(url: str) -> list[bool]:
        opener = service(url).opener(validate_certs=False, ca_path=None)
        handlers = [one for one in opener.handlers if isinstance(one, urllib.request.HTTPSHandler)]
        return [one._context.check_hostname for one in handlers]  # type: ignore[attr-defined]

    assert contexts("HTTPS://host") == contexts("https://host") == [False]


def test_what_an_answer_is_that_was_not_wanted() -> None:
    assert kind({"Content-Type": "text/html; charset=utf-8"}) == "a web page"
    assert kind({"Content-Type": "text/plain"}) == "text/plain, no JSON"
    assert kind({}) == "nothing, no JSON"
    assert kind({"WWW-Authenticate": "Basic", "Content-Type": "text/html"}).startswith("a login of its own")
    for ticket in ("", "?ticket=secret", "#ticket=secret"):
        sent_on = kind({"Location": f"https://login.example.org/in{ticket}", "Content-Type": "text/html"})
        assert sent_on == "a redirect to https://login.example.org/in"


HTTPS = "https://host:1"


@pytest.mark.parametrize(
    ("error", "told", "transient"),
    [
        (UntrustedPeer("another user answers there"), "was wanted at http://host:1, another user answers there", False),
        (ssl.SSLCertVerificationError("x"), "its certificate is not trusted: ", False),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "it does not speak TLS there", False),
        (socket.gaierror(-2, "Name or service not known"), "that host name is not known: Name or service not", False),
        (ConnectionRefusedError(), "nothing listens there; start it (start it) or correct its_url", True),
        (TimeoutError(), "it did not answer within 7 s; see whether it hangs (its journal), or raise", True),
        (http.client.BadStatusLine(""), "closed before an answer came (BadStatusLine)", True),
        (ConnectionResetError(), "closed before an answer came (ConnectionResetError)", True),
        (OSError(113, "No route to host"), "it cannot be reached: [Errno 113] No route to host; correct its_url", True),
        ("odd", "it cannot be reached: odd; correct its_url or the network", True),
    ],
)
def test_why_no_answer_came(error: object, told: str, transient: bool) -> None:
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = "self-signed certificate"
    elif isinstance(error, ssl.SSLError):
        error.reason = "WRONG_VERSION_NUMBER"
    silence = service("http://host:1").silence(error, 7)
    assert silence.message.startswith("a server was wanted at http://host:1, ")
    assert told in silence.message
    assert silence.transient is transient


def test_a_server_with_tls_that_does_not_answer_may_speak_none() -> None:
    assert "whether it speaks TLS there at all" in service(HTTPS).silence(TimeoutError(), 7).message
    assert "TLS" not in service("http://host").silence(TimeoutError(), 7).message


def recipients_of(opener: urllib.request.OpenerDirector) -> tuple[Any, int]:
    (handler,) = (one for one in opener.handlers if isinstance(one, _http_service._Connecting))
    return handler._recipients, handler._mark


def test_whom_secrets_go_to() -> None:
    """A certificate that is checked proves the server; without one it is the user who runs it."""
    recipients: Any = object()
    for url, checked, found in (
        ("http://host", True, recipients),
        ("http://host", False, recipients),
        (HTTPS, False, recipients),
        (HTTPS, True, None),
    ):
        assert recipients_of(service(url).opener(checked, None, recipients, 7)) == (found, 7)
    assert recipients_of(service(HTTPS).opener(True, None)) == (None, 0)


@pytest.mark.parametrize("checked", [True, False])
def test_what_is_asked_of_a_certificate(checked: bool) -> None:
    opener = service(HTTPS).opener(checked, None)
    (handler,) = (one for one in opener.handlers if isinstance(one, _http_service._Connecting))
    context = handler._context  # type: ignore[attr-defined]
    assert context.check_hostname is checked
    assert context.verify_mode == (ssl.CERT_REQUIRED if checked else ssl.CERT_NONE)


def test_authorities_in_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    for path in ("none.pem", "nowhere.pem"):
        with pytest.raises(ValueError, match=rf"ca_path: certificates in PEM form were wanted in .*{path}"):
            service(HTTPS).opener(True, str(tmp_path / path))
    service(HTTPS).opener(True, str(tmp_path))
    service("http://host").opener(True, str(tmp_path / "nowhere.pem"))  # not used there


def test_neither_a_proxy_nor_a_redirect_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        asked: list[bytes] = []

        def serve() -> None:
            for _time in range(2):
                connection, _client = listener.accept()
                with connection:
                    asked.append(connection.recv(9999))
                    connection.sendall(
                        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/x\r\nContent-Length: 0\r\n"
                        b"Connection: close\r\n\r\n" % port
                    )

        threading.Thread(target=serve, daemon=True).start()
        opener = service(f"http://127.0.0.1:{port}").opener(True, None)
        with pytest.raises(urllib.error.HTTPError) as caught:
            opener.open(f"http://127.0.0.1:{port}/", timeout=60)
        assert caught.value.code == 302
        assert len(asked) == 1


def test_a_limit_ends_a_request_whatever_arrives() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def drip() -> None:
            connection, _client = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    connection.sendall(b"X-Y: z\r\n")
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        request = urllib.request.Request(url)
        opener = service(url).opener(True, None)
        with Limit(0.3) as limit:
            limit.of(request)
            assert not limit.expired
            # The end of what arrives may look like the end of the headers: `expired` tells.
            with contextlib.suppress(OSError, http.client.HTTPException):
                opener.open(request, timeout=60).close()
            assert limit.expired
        assert isinstance(limit.reason(ConnectionResetError()), TimeoutError)


def test_a_limit_that_was_kept_changes_nothing() -> None:
    error = ConnectionResetError()
    first, second = socket.socketpair()
    with Limit(60) as limit:
        limit.watch(first)
        limit.watch(first)  # counted once
        first.sendall(b"x")
        assert second.recv(1) == b"x"
    assert limit.reason(error) is error
    with Limit(None) as without:
        without.watch(first)
    assert without.reason(error) is error
    assert first.send(b"x") == 1
    first.close()
    second.close()
    assert not [one for one in threading.enumerate() if isinstance(one, threading.Timer) and one.is_alive()]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("http://h:80", "http://h/v1"), ("https://h:80/x/", "https://h:80/x/v1"), ("http://h:443/v1", "http://h:443/v1")],
)
def test_the_usual_port_is_not_named(given: str, wanted: str) -> None:
    assert base_url(given, "url") == wanted
