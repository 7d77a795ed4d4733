# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ranges of files by HTTP: what may pass and what will not, and a token that goes to its own server alone."""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

LONGEST_PAUSE = 30.0  # seconds, unless the server asks for a longer one
LONGEST_ASKED = 600.0  # seconds that a server may ask for
PASSING = (408, 425, 429, 500, 502, 503, 504)

Result = TypeVar("Result")


class FetchError(Exception):
    """What trying again does not mend; the text says what was wanted, what was found and what mends it."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status  # of HTTP; 0 where there is none
        self.code = code  # the hub's name for it


class PassingError(Exception):
    """What may be better in a while. `asked`: the pause in seconds that the server asks for."""

    def __init__(self, message: str, asked: float | None = None) -> None:
        super().__init__(message)
        self.asked = asked


class Backoff:
    """How long to wait before the next attempt; progress makes it begin anew."""

    def __init__(self, retries: int, sleep: Callable[[float], object] = time.sleep) -> None:
        self._retries = retries
        self._sleep = sleep
        self._failed = 0

    def progressed(self) -> None:
        self._failed = 0

    def wait(self, error: PassingError) -> None:
        """FetchError when there have been enough attempts, or when the server asks for too long a pause."""
        self._failed += 1
        if self._failed > self._retries:
            raise FetchError(f"{error}; tried {self._failed} times in a row. Run again later: what has arrived is kept")
        if error.asked is not None and error.asked > LONGEST_ASKED:
            raise FetchError(f"{error}; the server asks to wait for {error.asked:.0f} seconds. Run again after that")
        # A little chance keeps connections that failed together from coming back together.
        own = min(LONGEST_PAUSE, 2.0 ** (self._failed - 1)) * random.uniform(0.8, 1.2)
        self._sleep(max(own, error.asked or 0.0))


def patiently(call: Callable[[], Result], retries: int) -> Result:
    """The call's result, tried again after a PassingError."""
    backoff = Backoff(retries)
    while True:
        try:
            return call()
        except PassingError as error:
            backoff.wait(error)


def shown(url: str) -> str:
    """An address for a message: without a password, and without a query, which may be a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


class Client:
    """Asks servers for files. The token goes to the endpoint's own host and port, never on with a redirection."""

    def __init__(
        self,
        endpoint: str = "",
        token: str | None = None,
        validate_certs: bool = True,
        ca_path: str | None = None,
        timeout: float = 30,
    ) -> None:
        context = ssl.create_default_context()
        if ca_path:
            context.load_verify_locations(ca_path)
        if not validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.timeout = timeout
        self.named: dict[str, str] = {}  # address → SHA-256 that a hub's redirection named
        self._endpoint = endpoint
        self._token = token
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _Redirections(self.authorize, self.named)
        )

    def authorize(self, request: urllib.request.Request) -> None:
        if self._token and origin(request.full_url) == origin(self._endpoint):
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")

    def open(self, url: str, start: int | None = None, end: int | None = None) -> Any:
        """The answer, of the bytes from `start` to before `end`. Raises FetchError and PassingError."""
        request = urllib.request.Request(url, headers={"User-Agent": "homelab.llamacpp"})
        if start is not None:
            request.add_header("Range", f"bytes={start}-{'' if end is None else end - 1}")
        self.authorize(request)
        try:
            return self._opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(url, error) from None
        except urllib.error.URLError as error:
            raise self._unreachable(url, error.reason) from None
        except (OSError, http.client.HTTPException) as error:
            raise PassingError(f"{shown(url)}: the connection was lost ({error or type(error).__name__})") from None

    def json(self, url: str) -> tuple[Any, Any]:
        """What a JSON answer holds, and its headers."""
        with self.open(url) as response:
            try:
                return json.load(response), response.headers
            except ValueError:
                raise FetchError(f"{shown(url)} was expected to answer JSON; is the endpoint a hub?") from None
            except (OSError, http.client.HTTPException) as error:
                raise PassingError(f"{shown(url)}: the answer was cut off ({error})") from None

    def _refused(self, url: str, error: urllib.error.HTTPError) -> Exception:
        code, said = error.headers.get("X-Error-Code", ""), error.headers.get("X-Error-Message", "")
        message = f"{shown(url)}: {error.code} {said or error.reason}"
        if error.code in PASSING:
            return PassingError(message, _retry_after(error.headers.get("Retry-After")))
        if error.code in (401, 403):
            token = "the token was not accepted" if self._token else "no token was given"
            message += f" ({token}); a gated or private repository wants the token of a user who has been let in"
        return FetchError(message, error.code, code)

    def _unreachable(self, url: str, reason: Any) -> Exception:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return FetchError(
                f"{shown(url)}: its certificate is not trusted ({reason.verify_message}); name its authority in ca_path"
            )
        if isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN:
            return FetchError(
                f"{shown(url)}: there is no such host ({reason.strerror}); mend the address or the name service"
            )
        return PassingError(f"{shown(url)}: no connection ({reason})")


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows redirections, 308 too, with the token where it belongs; keeps the checksum that a hub names there."""

    def __init__(self, authorize: Callable[[urllib.request.Request], None], named: dict[str, str]) -> None:
        self._authorize = authorize
        self._named = named

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        schemes = ("https",) if origin(req.full_url)[0] == "https" else ("https", "http")
        if origin(newurl)[0] not in schemes:
            raise FetchError(
                f"{shown(req.full_url)} leads to {shown(newurl)}; {' or '.join(schemes)} was wanted: name another one"
            )
        first = getattr(req, "first_url", req.full_url)
        if headers.get("X-Linked-Etag"):
            self._named[first] = headers["X-Linked-Etag"].strip('"').lower()
        new = super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)
        if new is not None:
            new.first_url = first  # type: ignore[attr-defined]
            self._authorize(new)
        return new

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
