# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a GGUF file that is on a server, without the file."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from ansible_collections.homelab.llamacpp.plugins.module_utils import _gguf
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import (
    Client,
    FetchError,
    PassingError,
    patiently,
    read_some,
    shown,
)

WINDOW = 2 << 20  # bytes that are fetched at once
RETRIES = 3


def read_header(client: Client, url: str, size: int) -> _gguf.Header:
    """The header of a file of `size` bytes. Raises FetchError and GGUFError."""
    try:
        return _gguf.header_of(cast(BinaryIO, _Remote(client, url, size)), size)
    except _gguf.GGUFError as error:
        raise _gguf.GGUFError(f"{shown(url)}: {error}") from None


class _Remote(io.RawIOBase):
    """A file on a server for reading its header: some MiB at a time, and only those that are asked for."""

    def __init__(self, client: Client, url: str, size: int) -> None:
        self._client, self._url, self._size = client, url, size
        self._start, self._window = 0, b""
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        end = min(self._at + size, self._size)
        if not self._start <= self._at or end > self._start + len(self._window):
            self._window = patiently(lambda: self._fetch(max(end, min(self._at + WINDOW, self._size))), RETRIES)
            self._start = self._at
        data = self._window[self._at - self._start : end - self._start]
        self._at = end
        return data

    def _fetch(self, end: int) -> bytes:
        with self._client.open(self._url, self._at, end) as response:
            if response.status != 206 and self._at:
                raise FetchError(f"{shown(self._url)}: its header cannot be read alone, the server gives no ranges")
            data = read_some(response, self._url, end - self._at)
        if len(data) < end - self._at:
            raise PassingError(f"{shown(self._url)}: the connection ended early")
        return data
