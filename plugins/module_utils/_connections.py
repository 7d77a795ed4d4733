# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeps HTTP connections open for the next request, which urllib does not.

Only a connection whose answer was read to its end is used again. Redirections, proxies and errors stay urllib's.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Optional, cast
from urllib.parse import urlsplit

IDLE_SECONDS = 15.0  # after which an unused connection is not trusted to be open any more

_Key = tuple[str, str, Optional[str]]  # scheme and host of the address, and the proxy


class _Answer(http.client.HTTPResponse):
    """Reports once, when it is closed, whether its connection can take another request."""

    closed_by: Callable[[bool], None] | None = None

    def read1(self, n: int = -1) -> bytes:
        """As ever, and at the end of an answer it waits for nothing; before Python 3.12 it did."""
        if self.chunked or self.length is None:
            return super().read1(n)
        left = self.length
        data = super().read1(n) if left else b""
        if self.length == left:
            self.length -= len(data)
        return data

    def close(self) -> None:
        reusable = not self.will_close and self.length == 0
        super().close()
        report, self.closed_by = self.closed_by, None
        if report:
            report(reusable)


class KeptConnections(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """A handler for urllib's openers; thread-safe."""

    def __init__(self, context: Any) -> None:
        urllib.request.HTTPSHandler.__init__(self, context=context)
        self._context = context
        self._lock = threading.RLock()  # an answer that nobody closed is closed at any moment, also inside of it
        self._idle: dict[_Key, list[tuple[float, http.client.HTTPConnection]]] = {}

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(req, lambda: http.client.HTTPConnection(req.host, timeout=req.timeout))

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(
            req, lambda: http.client.HTTPSConnection(req.host, timeout=req.timeout, context=self._context)
        )

    def _open(
        self, request: urllib.request.Request, new: Callable[[], http.client.HTTPConnection]
    ) -> http.client.HTTPResponse:
        """The answer. Raises URLError where no request could be sent, and OSError and HTTPException after that."""
        parts = urlsplit(request.full_url)
        tunnel: str | None = getattr(request, "_tunnel_host", None)
        key = (parts.scheme, parts.netloc, request.host)
        headers = {name.title(): value for name, value in {**request.headers, **request.unredirected_hdrs}.items()}
        login = {name: headers.pop(name) for name in ("Proxy-Authorization",) if tunnel and name in headers}
        kept = self._take(key)
        if kept is not None:
            try:
                return self._ask(kept, key, request, headers)
            except socket.timeout:
                raise
            except (OSError, http.client.HTTPException):
                pass  # the server has closed it meanwhile; a GET can be sent again
        connection = new()
        connection.response_class = _Answer
        if tunnel:
            connection.set_tunnel(tunnel, headers=login)
        return self._ask(connection, key, request, headers)

    def _ask(
        self, connection: http.client.HTTPConnection, key: _Key, request: urllib.request.Request, headers: Any
    ) -> http.client.HTTPResponse:
        try:
            try:
                connection.request(request.get_method(), request.selector, headers=headers)
            except OSError as error:
                raise urllib.error.URLError(error) from error
            answer = cast(_Answer, connection.getresponse())
        except BaseException:
            connection.close()
            raise
        answer.url = request.full_url
        answer.msg = answer.reason  # type: ignore[assignment]  # as urllib's own handlers do
        answer.closed_by = lambda reusable: self._give_back(key, connection) if reusable else connection.close()
        return answer

    def _take(self, key: _Key) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(key, [])
            while idle:
                since, connection = idle.pop()
                if time.monotonic() - since < IDLE_SECONDS:
                    return connection
                connection.close()
        return None

    def _give_back(self, key: _Key, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.setdefault(key, []).append((time.monotonic(), connection))
