# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetches files in pieces over several connections, and takes their SHA-256 as they arrive.

Pieces are fetched in order, so that the one thread which takes the checksum can follow close behind and find what it
reads still in memory. A run that goes on where another one was reads what is there once, while the rest arrives.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import BEGINNING, GGUFError, check_beginning
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import (
    Backoff,
    Client,
    FetchError,
    PassingError,
    lost,
    number,
    read_some,
    shown,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._pace import Limit, Pace
from ansible_collections.homelab.llamacpp.plugins.module_utils._part import Part

HASH_BLOCK = 1 << 20  # bytes
HASH_INTERVAL = 0.02  # seconds
# Points from which a crashed machine goes on. Often enough that little is left to write when all has arrived.
SYNC_INTERVAL, SYNC_BYTES = 10.0, 64 << 20  # seconds, bytes
LOOK_INTERVAL = 0.5  # seconds
Result = TypeVar("Result")
EXPIRED = (400, 401, 403, 404, 410)  # what a storage server says of an address whose time is over


class _Stopped(Exception):
    """Another thread has failed."""


class Wanted(NamedTuple):
    """A file to fetch: its address, and where its bytes go."""

    url: str
    part: Part


def total_size(response: Any) -> int | None:
    """The whole file's bytes, by the answer to a request for some of them."""
    match = re.fullmatch(r"bytes [0-9]+-[0-9]+/([0-9]+)", response.headers.get("Content-Range") or "")
    return number(match[1] if match else response.headers.get("Content-Length"))


def _begin(client: Client, url: str, end: int) -> tuple[Any, bytes]:
    """The answer to a request for a file up to `end`, and its first bytes, which have been read from it.

    Raises FetchError when those are no model's.
    """
    response = client.open(url, 0, end)
    try:
        first = read_some(response, url, BEGINNING)
        check_beginning(first)
    except BaseException as error:
        response.close()
        if isinstance(error, GGUFError):
            raise FetchError(f"{shown(url)}: {error}") from None
        raise
    return response, first


def look(client: Client, url: str) -> Any:
    """The answer to a request for a file's first bytes. Raises FetchError when those are no model's."""
    response, _first = _begin(client, url, BEGINNING)
    response.close()
    return response


class _Source:
    """One file on its server: opened once, then asked for pieces by the address that the server led to."""

    def __init__(self, wanted: Wanted, client: Client) -> None:
        self.part = wanted.part
        self.url = self._found_at = wanted.url
        self._client = client

    def open(self) -> tuple[Any, bytes]:
        """Check the first bytes: is it a model, the one that is meant, and does its server support ranges?

        Returns the answer to read the first piece from, and what has been read from it. The answer is None where that
        piece was begun by an earlier run.
        """
        start, end = self.part.span(self.part.unfinished()[0])
        response, first = (look(self._client, self.url), b"") if start else _begin(self._client, self.url, end)
        self._found_at = response.url
        self._accept(response)
        if response.status != 206 and len(self.part.written) > 1:
            self.part.begin(ranges=False)
        return (None, b"") if start else (response, first)

    def piece(self, start: int, end: int) -> Any:
        try:
            response = self._client.open(self._found_at, start, end)
        except FetchError as error:
            if self._found_at == self.url or error.status not in EXPIRED:
                raise
            self._found_at = self.url
            response = self._client.open(self.url, start, end)
            self._found_at = response.url
        self._accept(response)
        return response

    def _accept(self, response: Any) -> None:
        try:
            self._same_version(response)
        except BaseException:
            response.close()
            raise

    def _same_version(self, response: Any) -> None:
        """Refuse a file that is not the one that was begun, by its size, and its ETag where the same host gave one."""
        host, size = urlsplit(response.url).hostname, total_size(response)
        etag = printable(response.headers.get("ETag") or "")
        was = self.part.version
        now = f"{host} {etag}" if etag else was
        if size == self.part.size and now.split(" ")[0] != was.split(" ")[0]:
            self.part.name_version(now)
        elif size != self.part.size or now != was:
            self.part.remove()
            raise FetchError(
                f"{shown(self.url)} is not the file that was wanted: it was expected to have {self.part.size} bytes"
                f" {was and f'(ETag {was})'}, it has {size} {now and f'(ETag {now})'}. What had arrived of it was"
                " removed; look at the source, then run again"
            )


class _Piece(NamedTuple):
    """A piece of a file to fetch, and where its file was just opened, the answer that has it."""

    source: _Source
    number: int
    response: Any = None
    first: bytes = b""  # what was read from it


class Download:
    """Fetches all files that are wanted. Raises FetchError, and what has arrived stays for the next run."""

    def __init__(
        self, wanted: Sequence[Wanted], client: Client, connections: int, limit: Limit, retries: int,
        report: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._sources = [_Source(one, client) for one in wanted]
        self._connections = connections
        self._limit = limit
        self._retries = retries
        self._report = report  # is told how many bytes are there, twice a second
        self._lock = threading.Lock()
        self._queue = threading.Lock()
        self._ends = threading.Event()
        self._error: BaseException | None = None
        self._arrived = threading.Event()  # a piece, or the end
        self._pieces: list[_Piece] = []
        self._next_source = 0
        self.fetched = 0  # bytes

    def run(self) -> None:
        pieces = sum(len(source.part.unfinished()) for source in self._sources)
        count = min(self._connections, pieces)
        workers = [threading.Thread(target=self._guarded, args=(self._fetch_all,)) for _one in range(count)]
        hasher = threading.Thread(target=self._guarded, args=(self._hash_all,))
        for thread in (*workers, hasher):
            thread.start()
        synced_at, synced = time.monotonic(), self.fetched
        try:
            while hasher.is_alive():
                hasher.join(LOOK_INTERVAL)
                self._report(sum(source.part.done for source in self._sources))
                if time.monotonic() - synced_at > SYNC_INTERVAL or self.fetched - synced > SYNC_BYTES:
                    synced_at, synced = time.monotonic(), self.fetched
                    self._sync()
        finally:
            self._end()
            for thread in (*workers, hasher):
                thread.join()
        if self._error:
            self._sync()
            raise self._error

    def _sync(self) -> None:
        for source in self._sources:
            try:
                source.part.sync()
            except OSError as error:
                raise self._full(source, error) from None

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Stopped:
            pass
        except BaseException as error:  # the main thread raises it again
            with self._lock:
                self._error = self._error or error
            self._end()

    def _end(self) -> None:
        self._ends.set()
        self._arrived.set()

    def _sleep(self, seconds: float) -> None:
        if self._ends.wait(seconds):
            raise _Stopped

    # --- its bytes ----------------------------------------------------------------------------------------------------

    def _fetch_all(self) -> None:
        while True:
            piece = self._next()
            if piece is None:
                return
            self._fetch(piece)
            self._arrived.set()

    def _next(self) -> _Piece | None:
        """The next piece, in the files' order. A file is opened by whoever comes to it first, while the others wait."""
        with self._queue:
            while not self._pieces and self._next_source < len(self._sources):
                source = self._sources[self._next_source]
                if source.part.unfinished():
                    opened = self._patiently(source.open)
                    first, *rest = source.part.unfinished()
                    self._pieces = [_Piece(source, first, *opened), *(_Piece(source, index) for index in rest)]
                self._next_source += 1
            return self._pieces.pop(0) if self._pieces else None

    def _patiently(self, call: Callable[[], Result]) -> Result:
        backoff = Backoff(self._retries, self._sleep)
        while not self._ends.is_set():
            try:
                return call()
            except PassingError as error:
                backoff.wait(error)
        raise _Stopped

    def _fetch(self, piece: _Piece) -> None:
        source, index, response, first = piece
        backoff = Backoff(self._retries, self._sleep)
        pace = Pace(source.url)
        while source.part.left(index):
            try:
                with response or self._ask(source, index) as answer:
                    self._pour(answer, first, source, index, backoff, pace)
            except PassingError as error:
                backoff.wait(error)
            response, first = None, b""

    def _ask(self, source: _Source, index: int) -> Any:
        """The answer to a request for what is left of a piece."""
        start, end = source.part.span(index)
        response = source.piece(start, end)
        if response.status != 206 and start > 0:
            if index > 0:
                response.close()
                raise PassingError(f"{shown(response.url)}: the server sent the whole file in place of a piece")
            source.part.forget(index)  # without ranges all of it comes again
        return response

    def _pour(
        self, response: Any, first: bytes, source: _Source, index: int, backoff: Backoff, pace: Pace
    ) -> None:  # fmt: skip
        """What the connection brings of a piece, after `first`."""
        count = source.part.left(index)
        while count:
            if self._ends.is_set():
                raise _Stopped
            asked = time.monotonic()
            try:
                block = first or response.read1(min(count, self._limit.block()))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise lost(response.url, error) from None
            first = b""
            if not block:
                raise PassingError(f"{shown(response.url)}: the connection ended {count} bytes early")
            try:
                source.part.write(index, block)
            except OSError as error:
                raise self._full(source, error) from None
            count -= len(block)
            with self._lock:
                self.fetched += len(block)
            backoff.progressed()
            pace.count(time.monotonic() - asked, len(block))
            pause = self._limit.pause(len(block))
            if pause:
                self._sleep(pause)

    def _full(self, source: _Source, error: OSError) -> FetchError:
        mend = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        return FetchError(
            f"{source.part.path} was wanted written: {error.strerror}; {mend}, then run again: it goes on where it was"
        )

    # --- their checksums ----------------------------------------------------------------------------------------------

    def _hash_all(self) -> None:
        for source in self._sources:
            found = self._hash(source.part)
            if found != source.part.sha256:
                source.part.remove()
                raise FetchError(
                    f"{shown(source.url)}: its SHA-256 was expected to be {source.part.sha256}, what arrived has"
                    f" {found}. It was removed; mend the checksum if that is the wrong one, or fetch it from elsewhere"
                )

    def _hash(self, part: Part) -> str:
        digest, at = hashlib.sha256(), 0
        while at < part.size:
            self._arrived.clear()
            there = part.prefix()
            if there == at:
                self._arrived.wait(HASH_INTERVAL)
                if self._ends.is_set():
                    raise _Stopped
            while at < there:
                if self._ends.is_set():
                    raise _Stopped
                block = part.read(at, min(HASH_BLOCK, there - at))
                digest.update(block)
                at += len(block)
        return digest.hexdigest()
