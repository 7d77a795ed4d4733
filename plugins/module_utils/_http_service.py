# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server of the operator's own, asked over HTTP directly: its address, its certificate, and why no answer comes."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._peer import Recipients, UntrustedPeer, connect


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like others: not even its address is read, which may be none."""

    def http_error_302(self, *_args: Any, **_kwargs: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class Limit:
    """Breaks a request off after so many `seconds` altogether, however slowly its answer drips; None for never.

    To whoever reads, that is the end of the answer: see `expired` after it.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self.expired = False
        self._timer: threading.Timer | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Limit:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()
        if self._socket:
            self._socket.close()

    def of(self, request: urllib.request.Request) -> None:
        """Hold for this request."""
        request.limit = self  # type: ignore[attr-defined]

    def watch(self, connection: socket.socket) -> None:
        """Begin to count for the request's connection."""
        if self._seconds is None or self._timer:
            return
        self._socket = connection.dup()  # TLS makes another object of the first one
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        self.expired = True
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def reason(self, error: object) -> object:
        """Why a request failed: for what the limit has done it is a timeout."""
        return TimeoutError() if self.expired else error


class _Connecting(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Connects by `_peer`: to recipients alone, on connections whose packets bear a mark of the kernel's."""

    def __init__(self, context: ssl.SSLContext, recipients: Recipients | None, mark: int) -> None:
        super().__init__(context=context)
        self._recipients = recipients
        self._mark = mark

    def do_open(self, http_class: Any, req: urllib.request.Request, **more: Any) -> Any:
        def connection(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
            made: Any = http_class(*args, **kwargs)
            made._create_connection = connected  # what the library has for who connects in a way of their own
            return made  # type: ignore[no-any-return]

        def connected(address: tuple[str, int], timeout: float, *_source: Any) -> socket.socket:
            made = connect(address, timeout, self._recipients, self._mark)
            limit: Limit | None = getattr(req, "limit", None)
            if limit:
                limit.watch(made)
            return made

        return super().do_open(connection, req, **more)


@dataclass(frozen=True)
class Silence:
    """Why no answer came, for the operator. `transient` when a server that is just starting looks the same."""

    message: str
    transient: bool


@dataclass(frozen=True)
class Service:
    """What is wanted at `url`, and the words that mend it: the option, what starts it, and its journal."""

    url: str
    name: str
    option: str
    start: str
    journal: str

    def checked(self) -> str:
        """The address without a slash at its end; ValueError unless it is scheme, host and port, and perhaps a path."""
        address(self.url, self.option)
        return self.url.rstrip("/")

    def opener(
        self, validate_certs: bool, ca_path: str | None, recipients: Recipients | None = None, mark: int = 0
    ) -> urllib.request.OpenerDirector:
        """Asks it directly: secrets go to nobody that a proxy or a redirect names. ValueError for a bad `ca_path`.

        With `recipients` nothing is sent to a server of this host that another user runs, see `_peer`; a certificate
        that is checked proves the server by itself. Packets have the `mark` (SO_MARK), if any.
        """
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
        # For http:// a context that is not used, without authorities: they take long to read.
        context = _tls_context(validate_certs, ca_path) if self._tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        proven = self._tls and validate_certs
        handlers.append(_Connecting(context, None if proven else recipients, mark))
        return urllib.request.build_opener(*handlers)

    @property
    def _tls(self) -> bool:
        return self.url.lower().startswith("https:")

    def silence(self, error: object, timeout: float) -> Silence:
        """What an error in connecting, sending or reading means; `timeout` is what it was given, in seconds."""
        start = f"{self.name} was wanted at {self.url}, "
        if isinstance(error, UntrustedPeer):
            return Silence(f"{start}{error}", transient=False)
        if isinstance(error, ssl.SSLCertVerificationError):
            return Silence(
                f"{start}its certificate is not trusted: {error.verify_message}; set ca_path to the certificate of the"
                " authority that signed it, use the host name that it is made for, or turn validate_certs off",
                transient=False,
            )
        if isinstance(error, ssl.SSLError):
            return Silence(
                f"{start}it does not speak TLS there ({error.reason}); use http:// in {self.option}, or give the server"
                " its certificate and key",
                transient=False,
            )
        if isinstance(error, socket.gaierror):
            return Silence(
                f"{start}that host name is not known: {error.strerror}; correct {self.option}", transient=False
            )
        if isinstance(error, ConnectionRefusedError):
            return Silence(
                f"{start}nothing listens there; start it ({self.start}) or correct {self.option}", transient=True
            )
        if isinstance(error, (TimeoutError, socket.timeout)):
            tls = f", whether it speaks TLS there at all (else use http:// in {self.option})"
            return Silence(
                f"{start}it did not answer within {timeout:g} s; see whether it hangs ({self.journal})"
                f"{tls if self._tls else ''}, or raise request_timeout",
                transient=True,
            )
        if isinstance(error, (http.client.HTTPException, ConnectionError)):
            return Silence(
                f"{start}the connection was closed before an answer came ({type(error).__name__}); either it has just"
                f" stopped ({self.journal}), or the port speaks another protocol, for instance TLS: then use https://"
                f" in {self.option}",
                transient=True,
            )
        return Silence(f"{start}it cannot be reached: {error}; correct {self.option} or the network", transient=True)


def address(url: str, option: str) -> urllib.parse.SplitResult:
    """The parts of an option's address: scheme, host, perhaps a port and a path. ValueError when it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that does not end
        good = False
    if not good or not re.fullmatch("[!-~]+", url) or parts.query or parts.fragment or "@" in parts.netloc:
        shown = url.rpartition("@")[2]  # what stands before it may be a password
        named = "" if shown == url else ", without a name and a password"
        raise ValueError(f"{option}: http://HOST:PORT or https://HOST:PORT was wanted{named}, {shown!r} was found")
    return parts


def base_url(url: str, option: str) -> str:
    """An address as clients of OpenAI's API want it, with `/v1`, one for all its spellings. ValueError as above."""
    parts = address(url.strip(), option)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    if parts.port not in (None, {"http": 80, "https": 443}[parts.scheme]):
        host += f":{parts.port}"
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{host}{path if path.endswith('/v1') else path + '/v1'}"


def _tls_context(validate_certs: bool, ca_path: str | None) -> ssl.SSLContext:
    try:
        folder = ca_path is not None and os.path.isdir(ca_path)
        context = ssl.create_default_context(
            cafile=None if folder else ca_path,
            capath=ca_path if folder else None,
        )
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"ca_path: certificates in PEM form were wanted in {ca_path}, they cannot be read: {error}"
        ) from None
    if not validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def kind(headers: Any) -> str:
    """What an answer is that is not the JSON that was wanted."""
    if headers.get("Location"):
        # Behind the path there may be a ticket of whoever is to sign in there.
        return f"a redirect to {printable(re.split('[?#]', str(headers['Location']))[0].rpartition('@')[2])}"
    if headers.get("WWW-Authenticate"):
        return "a login of its own; name the address behind it"
    named = str(headers.get("Content-Type") or "nothing").partition(";")[0]
    return "a web page" if named == "text/html" else f"{printable(named)}, no JSON"
