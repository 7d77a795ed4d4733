# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hub and a file server that answer whatever they like: each answer is a message, and none is without end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _download, _gguf, _http, _hub
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import Client, FetchError, PassingError
from ansible_collections.homelab.llamacpp.plugins.module_utils._remote_gguf import read_header

Answer = Callable[[str], bytes]  # by the path that is asked for


class Raw:
    """Answers with exactly these bytes, also what no HTTP server of Python's would send."""

    def __init__(self) -> None:
        self.answer: Answer = lambda path: b""
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += connection.recv(65536)
                path = asked.split(b" ")[1].decode()
                self.asked.append(path)
                connection.sendall(self.answer(path))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Raw]:
    monkeypatch.setattr(_http, "LONGEST_PAUSE", 0.0)
    one = Raw()
    yield one
    one.close()


def ok(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, f"Content-Length: {len(body)}", "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


CUT = [
    b"",
    b"HTTP/1.1 twohundred OK\r\n\r\n",
    b"\x00\xff\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    chunked(b"5\r\n{"),
    chunked(b"zz\r\n{}\r\n"),
    chunked(b"-5\r\n{}\r\n"),
    chunked(b"2"),
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("answer", CUT)
def test_what_is_cut_off_or_no_http_may_pass(server: Raw, answer: bytes) -> None:
    server.answer = lambda path: answer
    with pytest.raises(PassingError, match=rf"^{server.url}/x: "):
        Client().json(f"{server.url}/x")
    with pytest.raises(PassingError):
        _download.look(Client(), f"{server.url}/x")
    with pytest.raises((FetchError, _gguf.GGUFError)):
        read_header(Client(), f"{server.url}/x", 1000)


@pytest.mark.parametrize(
    "text", [b"[" * 100000, b'{"a":' * 100000, b"9" * 5000, b"[NaN]", b"\xff", b"", b"<html>", b'{"sha": "' + b"x" * 99]
)
def test_what_is_no_json(server: Raw, text: bytes) -> None:
    server.answer = lambda path: ok(text)
    with pytest.raises(FetchError, match="expected to answer JSON"):
        Client().json(f"{server.url}/x")


def test_an_answer_has_a_size(server: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "LARGEST_ANSWER", 1000)
    server.answer = lambda path: ok(b" " * 1000 + b"1")
    with pytest.raises(FetchError, match="at most 1000 bytes"):
        Client().json(f"{server.url}/x")
    server.answer = lambda path: ok(b" " * 999 + b"1")
    assert Client().json(f"{server.url}/x")[0] == 1


def test_an_answer_has_a_time(server: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "LONGEST_ANSWER", -1.0)
    server.answer = lambda path: ok(b"{}")
    with pytest.raises(PassingError, match="the answer took longer than"):
        Client().json(f"{server.url}/x")


@pytest.mark.parametrize("value", ["²", "٣", "1" * 400, "-1", "x", "Mon, 99 Foo 99999 00:00:00", "\xff"])
def test_odd_numbers_in_headers(server: Raw, value: str) -> None:
    header = f"Retry-After: {value}".encode("latin-1", "replace")
    server.answer = lambda path: b"HTTP/1.1 503 Busy\r\n" + header + b"\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(PassingError) as error:
        Client().open(f"{server.url}/x")
    assert error.value.asked in (None, 0)
    answer = f"HTTP/1.1 200 OK\r\nContent-Range: bytes 0-1/{value}\r\n\r\n".encode("latin-1", "replace")
    server.answer = lambda path: answer
    with Client().open(f"{server.url}/x") as response:
        assert _download.total_size(response) is None


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "//[::1/x", "http://h:port/", "http://me:pw@h/x"]
)
def test_a_redirection_to_what_is_no_address(server: Raw, to: str) -> None:
    server.answer = lambda path: f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()
    with pytest.raises(FetchError) as error:
        Client().open(f"{server.url}/x")
    assert "pw" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/x", "http://", "http://h:x/", "http://[::1/x", "http://h/a b", "http://h/ä",
            "http://h/\n", "https://me:s3cret@h/x", "//h/x", "x"]
)  # fmt: skip
def test_what_is_no_address_is_not_asked(url: str) -> None:
    with pytest.raises(FetchError) as error:
        Client().open(url)
    assert "s3cret" not in str(error.value)
    assert str(error.value).isprintable()


def test_a_server_s_words_are_one_short_line(server: Raw) -> None:
    words = b"X-Error-Message: " + b"\x1b[31m" + b"so " * 900
    server.answer = lambda path: b"HTTP/1.1 404 No\r\n" + words + b"\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(FetchError) as error:
        Client().open(f"{server.url}/x")
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 500


# --- the hub's lists ----------------------------------------------------------------------------------------------


class Tree:
    """A hub with one repository, whose list of files has these entries and headers."""

    def __init__(self, server: Raw) -> None:
        self.server = server
        self.sha: object = "c0ffee"
        self.entries: object = []
        self.header: Callable[[str], str] = lambda path: "X: y"
        server.answer = self.answer

    def answer(self, path: str) -> bytes:
        if "/revision/" in path:
            return ok(json.dumps({"sha": self.sha}).encode())
        return ok(json.dumps(self.entries).encode(), self.header(path))

    def look(self) -> _hub.Repository:
        return _hub.look(Client(), self.server.url, "own/x", "main")


@pytest.fixture
def tree(server: Raw) -> Tree:
    return Tree(server)


def file(path: object, **more: object) -> dict[str, object]:
    return {"type": "file", "path": path, "size": 7, **more}


def test_a_list_that_has_no_end(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hub, "MAX_PAGES", 5)
    tree.header = lambda path: f'Link: <{tree.server.url}{path}&x>; rel="next"'
    with pytest.raises(FetchError, match="more than 5 pages"):
        tree.look()
    assert len(tree.server.asked) == 6


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://other.invalid/x", "https://127.0.0.1/", "//[::1/x"])
def test_a_next_page_elsewhere(tree: Tree, to: str) -> None:
    tree.header = lambda path: f'Link: <{to}>; rel="next"'
    with pytest.raises(FetchError, match=r"on the same server|expected an address|in a form that is not the hub's"):
        tree.look()
    assert len(tree.server.asked) == 2


@pytest.mark.parametrize(
    "entry",
    [
        file("../../etc/x.gguf"), file("/etc/x.gguf"), file("a\0.gguf"), file("a\nb.gguf"), file("\ud800.gguf"),
        file("x" * 300 + ".gguf"), file("a/" * 40 + "x.gguf"), file("a//b.gguf"),
    ],
)  # fmt: skip
def test_a_file_whose_name_is_no_path(tree: Tree, entry: dict[str, object]) -> None:
    tree.entries = [entry]
    with pytest.raises(FetchError, match="the repository own/x: expected a file's path"):
        tree.look()


@pytest.mark.parametrize(
    "entries",
    [
        {}, None, 7, ["x"], [[]], [{}], [file(7)], [file("x.gguf", size=-1)], [file("x.gguf", size="7")],
        [file("x.gguf", size=1 << 70)], [file("x.gguf", size=True)], [file("x.gguf", lfs={"size": 7, "oid": "zz"})],
        [file("x.gguf", lfs={"size": 7, "oid": 7})], [file("x.gguf", lfs="x")],
    ],
)  # fmt: skip
def test_a_list_that_is_none(tree: Tree, entries: object) -> None:
    tree.entries = entries
    if entries == {}:
        assert tree.look().files == []
        return
    with pytest.raises(FetchError, match=r"in a form that is not the hub's|expected to answer JSON"):
        tree.look()


@pytest.mark.parametrize("sha", ["../../x", "", "a\nb", None, 7, ["x"], "a/b"])
def test_a_commit_that_is_none(tree: Tree, sha: object) -> None:
    tree.sha = sha
    with pytest.raises(FetchError):
        tree.look()
    assert len(tree.server.asked) == 1


def test_other_files_may_have_any_name(tree: Tree) -> None:
    large = file("x.gguf", lfs={"size": 9, "oid": "A" * 64})
    tree.entries = [file("a\nb.png"), large, {"type": "directory", "path": ".."}]
    assert tree.look().files == [_hub.RepoFile("x.gguf", 9, "a" * 64)]
