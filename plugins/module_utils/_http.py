# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ranges of files by HTTP: what may pass and what will not, and a token that goes to its own server alone."""

from __future__ import annotations

import email.utils
import http.client
import random
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import IO, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from ansible_collections.homelab.llamacpp.plugins.module_utils import _json
from ansible_collections.homelab.llamacpp.plugins.module_utils._connections import KeptConnections
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable

LONGEST_PAUSE = 30.0  # seconds, unless the server asks for a longer one
LONGEST_ASKED = 600.0  # seconds that a server may ask for
LARGEST_ANSWER = 16 << 20  # bytes of an answer that is read whole
LONGEST_ANSWER = 300.0  # seconds that such an answer may take
_BLOCK = 64 << 10  # bytes
_LONGEST_SHOWN = 300  # characters of an address in a message
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
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is no URL"
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", _LONGEST_SHOWN)


def split(url: str) -> SplitResult:
    """The parts of an http or https address. FetchError for any other, and for one with a user name or a password."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and url.isascii()
    except ValueError:
        valid = False
    if not valid or any(sign <= " " for sign in url):
        raise FetchError(f"{shown(url)}: expected an address of http:// or https:// and a host")
    if "@" in parts.netloc:
        raise FetchError(f"{shown(url)}: expected an address without user name and password; use token or token_file")
    return parts


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Raises FetchError, as `split` does."""
    parts = split(url)
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
            try:
                context.load_verify_locations(ca_path)
            except OSError as error:  # ssl.SSLError too
                raise FetchError(f"ca_path must be a file of certificates; {ca_path}: {error.strerror}") from None
        if not validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.timeout = timeout
        self.named: dict[str, str] = {}  # address → SHA-256 that a hub's redirection named
        self._endpoint = endpoint
        self._token = token
        self._opener = urllib.request.build_opener(KeptConnections(context), _Redirections(self.authorize, self.named))

    def authorize(self, request: urllib.request.Request) -> None:
        if self._token and origin(request.full_url) == origin(self._endpoint):
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")

    def open(self, url: str, start: int | None = None, end: int | None = None) -> Any:
        """The answer, of the bytes from `start` to before `end`. Raises FetchError and PassingError."""
        split(url)
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
            raise lost(url, error) from None
        except ValueError:  # of an odd redirection; its text may hold anything
            raise FetchError(f"{shown(url)}: the server's answer leads to what is no address") from None

    def json(self, url: str) -> tuple[Any, Any]:
        """What a JSON answer holds, and its headers."""
        with self.open(url) as response:
            data = read_whole(response, url)
            try:
                return _json.parse(data), response.headers
            except ValueError:
                raise FetchError(f"{shown(url)} was expected to answer JSON; is the endpoint a hub?") from None

    def _refused(self, url: str, error: urllib.error.HTTPError) -> Exception:
        code, said = error.headers.get("X-Error-Code", ""), error.headers.get("X-Error-Message", "")
        message = f"{shown(url)}: {error.code} {printable(said or error.reason)}"
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
        return PassingError(f"{shown(url)}: no connection ({printable(reason)})")


def lost(url: str, error: Exception) -> PassingError:
    """For a connection that broke off, or an answer that is not HTTP."""
    return PassingError(f"{shown(url)}: the connection was lost ({printable(error) or type(error).__name__})")


def read_whole(response: Any, url: str) -> bytes:
    """An answer's content. FetchError for one that is too long, PassingError for one that is cut off or too slow."""
    data = read_some(response, url, LARGEST_ANSWER + 1)
    if len(data) > LARGEST_ANSWER:
        raise FetchError(f"{shown(url)}: expected an answer of at most {LARGEST_ANSWER} bytes, it is longer")
    return data


def read_some(response: Any, url: str, most: int) -> bytes:
    """An answer's first bytes, at most so many; fewer where it is shorter.

    PassingError for one that is cut off or too slow.
    """
    deadline = time.monotonic() + LONGEST_ANSWER
    data = bytearray()
    try:
        while len(data) < most:
            block = response.read1(min(_BLOCK, most - len(data)))
            if not block:
                break
            data += block
            if time.monotonic() > deadline:
                raise PassingError(f"{shown(url)}: the answer took longer than {LONGEST_ANSWER:.0f} seconds")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise lost(url, error) from None
    length = number(response.headers.get("Content-Length"))
    if length is not None and len(data) < min(length, most):
        raise PassingError(f"{shown(url)}: the answer was cut off after {len(data)} of {length} bytes")
    return bytes(data)


def number(text: str | None) -> int | None:
    """A whole number of a header, None for anything else. str.isdigit takes more than the ten digits."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows redirections, 308 too, with the token where it belongs; keeps the checksum that a hub names there."""

    def __init__(self, authorize: Callable[[urllib.request.Request], None], named: dict[str, str]) -> None:
        self._authorize = authorize
        self._named = named

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        schemes = ("https",) if origin(req.full_url)[0] == "https" else ("https", "http")
        if newurl.partition(":")[0].lower() not in schemes:
            raise FetchError(
                f"{shown(req.full_url)} leads to {shown(newurl)}; {' or '.join(schemes)} was wanted: name another one"
            )
        split(newurl)
        first = getattr(req, "first_url", req.full_url)
        if headers.get("X-Linked-Etag"):
            self._named[first] = headers["X-Linked-Etag"].strip('"').lower()[:_LONGEST_SHOWN]
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
    seconds = number(value)
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
