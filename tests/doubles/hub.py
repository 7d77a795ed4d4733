# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for huggingface.co, which the tests cannot reach: repositories from a folder, and the real world's faults.

ROOT/owner/name/ is a repository's `main`, ROOT/owner/name@v1/ its tag `v1`. As the real hub does it

- answers /api/models/REPO/revision/REV, /tree/REV (in pages), /refs with commits, sizes and SHA-256 of its files,
- redirects /REPO/resolve/REV/FILE to a storage server under another name, with X-Repo-Commit, X-Linked-Size and -Etag,
- tells 401 and 403 apart by X-Error-Code, and its storage refuses a request that carries the hub's token.

By hand: python tests/doubles/hub.py ROOT [--bind ADDRESS] [--port PORT] [--rate BYTES] [--token TOKEN]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

PAGE = 50  # entries of a tree in one answer
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"


@dataclass
class Faults:
    """What goes wrong in the storage server; each test sets what it wants."""

    cut_after: int = 0  # bytes after which each answer ends
    cuts: int = 1 << 30  # how many answers are cut off
    ignore_ranges: bool = False
    html: bool = False  # a web page for every file
    pointer: bool = False  # the Git LFS pointer in place of the file
    damage: bool = False  # one byte is not what it should be
    rate: float = 0  # bytes a second, of the whole server
    throttle: int = 0  # so many answers are 429
    retry_after: str = "1"
    broken: int = 0  # so many answers are 503
    change_after: int = 0  # bytes served, after which each file is another one
    expire_after: int = 0  # requests for storage after which its addresses have expired


@dataclass
class Seen:
    """What clients did."""

    sent: int = 0  # bytes of files
    api: int = 0  # requests to the hub
    storage: int = 0  # requests to the storage server
    connections: int = 0
    sending: int = 0  # files that are being sent now
    most_sending: int = 0
    tokens: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)


class Hub(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, root: Path, bind: str = "127.0.0.1", port: int = 0, storage: str = "", token: str = "", gated: str = ""
    ) -> None:
        super().__init__((bind, port), Handler)
        self.root = root
        self.token = token  # of a user who has been let into every gated repository
        self.gated = gated  # a repository that wants it
        self.storage = storage  # the storage server's name; by default the hub's own
        self.faults = Faults()
        self.seen = Seen()
        self.latency = 0.0  # seconds before each answer
        self.lock = threading.Lock()
        self._known: dict[tuple[str, int, int], str] = {}
        self.commits: dict[Path, str] | None = None  # set to {} where no file changes any more, as the real hub is fast
        self._next_send = 0.0

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.seen.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none."""

    def sha256(self, path: Path) -> str:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._known:
            with path.open("rb") as file:
                digest = hashlib.sha256()
                for block in iter(lambda: file.read(1 << 20), b""):
                    digest.update(block)
            self._known[key] = digest.hexdigest()
        return self._known[key]

    def folder(self, repo: str, revision: str) -> Path | None:
        folders = [self.root / repo, *self.root.glob(f"{repo}@*")]
        names = ["main", *(folder.name.rpartition("@")[2] for folder in folders[1:])]
        for name, folder in zip(names, folders):
            if folder.is_dir() and revision in (name, self.commit(folder)):
                return folder
        return None

    def files(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def commit(self, folder: Path) -> str:
        if self.commits is not None and folder in self.commits:
            return self.commits[folder]
        text = "".join(f"{path.relative_to(folder)} {self.sha256(path)}\n" for path in self.files(folder))
        commit = hashlib.sha1(text.encode()).hexdigest()
        if self.commits is not None:
            self.commits[folder] = commit
        return commit

    def pace(self, count: int) -> None:
        """Wait until so many bytes may go out."""
        if self.faults.rate:
            with self.lock:
                now = time.monotonic()
                self._next_send = max(now, self._next_send) + count / self.faults.rate
                wait = self._next_send - now
            time.sleep(wait)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        with hub.lock:
            hub.seen.paths.append(f"{self.command} {self.path}")
            hub.seen.tokens.update([self.headers["Authorization"]] if self.headers["Authorization"] else [])
        query = parse_qs(parts.query)
        time.sleep(hub.latency)
        if path.startswith("/storage/"):
            self.storage(path, query)
            return
        with hub.lock:
            hub.seen.api += 1
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/([^/]+))?)?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            self.api(api[1], api[2] or "revision", api[3] or "main", query)
        elif resolve:
            self.resolve(resolve[1], resolve[2], resolve[3])
        else:
            self.refuse(404, "", "no such page")

    # --- the hub ------------------------------------------------------------------------------------------------------

    def admitted(self, repo: str, file: bool = False) -> bool:
        """Whether the request may go on; otherwise it has been answered."""
        hub = self.server
        known = hub.token and self.headers["Authorization"] == f"Bearer {hub.token}"
        if not (hub.root / repo).is_dir():
            # The real hub tells a stranger nothing about what exists.
            self.refuse(404 if known else 401, "RepoNotFound", "Repository not found")
        elif file and repo == hub.gated and not known:
            if self.headers["Authorization"]:
                self.refuse(
                    403, "GatedRepo", f"Access to model {repo} is restricted and you are not in the authorized list."
                )
            else:
                self.refuse(
                    401, "GatedRepo", f"Access to model {repo} is restricted. You must be authenticated to access it."
                )
        else:
            return True
        return False

    def api(self, repo: str, what: str, revision: str, query: dict[str, list[str]]) -> None:
        if not self.admitted(repo):
            return
        hub = self.server
        if what == "refs":
            tags = [
                {"name": folder.name.rpartition("@")[2], "ref": f"refs/tags/{folder.name.rpartition('@')[2]}"}
                | {"targetCommit": hub.commit(folder)}
                for folder in sorted(hub.root.glob(f"{repo}@*"))
            ]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": hub.commit(hub.root / repo)}
            self.answer_json({"branches": [main], "converts": [], "tags": tags})
            return
        folder = hub.folder(repo, revision)
        if folder is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = [self.described(folder, path) for path in hub.files(folder)]
        if what == "revision":
            siblings = [
                {"rfilename": one["path"], "size": one["size"], "blobId": one["oid"]}
                | {"lfs": {"sha256": one["lfs"]["oid"], "size": one["size"], "pointerSize": 134}}
                for one in files
            ]
            if not query.get("blobs"):
                siblings = [{"rfilename": one["rfilename"]} for one in siblings]
            gated: str | bool = "manual" if repo == hub.gated else False
            self.answer_json({"_id": "0" * 24, "id": repo, "modelId": repo, "sha": hub.commit(folder), "private": False}
                             | {"gated": gated, "disabled": False, "tags": ["gguf"], "siblings": siblings})  # fmt: skip
            return
        folders = sorted({str(parent) for one in files for parent in Path(one["path"]).parents} - {"."})
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name} for name in folders] + files
        start = int(query.get("cursor", ["0"])[0])
        more = {}
        if start + PAGE < len(entries):
            more["Link"] = (
                f'<{self.own_url()}/api/models/{repo}/tree/{revision}?recursive=true&cursor={start + PAGE}>; rel="next"'
            )
        self.answer_json(entries[start : start + PAGE], more)

    def described(self, folder: Path, path: Path) -> dict[str, Any]:
        size, sha256 = path.stat().st_size, self.server.sha256(path)
        blob = hashlib.sha1(sha256.encode()).hexdigest()
        lfs = {"oid": sha256, "size": size, "pointerSize": len(POINTER.format(sha256=sha256, size=size))}
        return {"type": "file", "oid": blob, "size": size, "lfs": lfs, "path": str(path.relative_to(folder))}

    def resolve(self, repo: str, revision: str, name: str) -> None:
        if not self.admitted(repo, file=True):
            return
        hub = self.server
        folder = hub.folder(repo, revision)
        if folder is None or not (folder / name).is_file():
            self.refuse(404, "RevisionNotFound" if folder is None else "EntryNotFound", "Not found")
            return
        path = folder / name
        address = f"{self.own_url(hub.storage)}/storage/{quote(str(path.relative_to(hub.root)))}"
        headers = {
            "X-Repo-Commit": hub.commit(folder),
            "X-Linked-Size": str(path.stat().st_size),
            "X-Linked-Etag": f'"{hub.sha256(path)}"',
            "Accept-Ranges": "bytes",
            "Location": f"{address}?Signature=s3cret&at={hub.seen.storage}",
        }
        self.answer(302, headers, f"Found. Redirecting to {headers['Location']}".encode())

    # --- its storage server -------------------------------------------------------------------------------------------

    def storage(self, path: str, query: dict[str, list[str]]) -> None:
        hub, faults = self.server, self.server.faults
        with hub.lock:
            hub.seen.storage += 1
            throttled, faults.throttle = faults.throttle > 0, max(0, faults.throttle - 1)
            broken, faults.broken = (
                not throttled and faults.broken > 0,
                faults.broken - (not throttled and faults.broken > 0),
            )
        expired = faults.expire_after and hub.seen.storage - int(query.get("at", ["0"])[0]) > faults.expire_after
        file = hub.root / path.removeprefix("/storage/")
        if self.headers["Authorization"]:
            self.refuse(400, "", "Only one auth mechanism allowed")
        elif query.get("Signature") != ["s3cret"] or expired:
            self.refuse(403, "", "Request has expired")
        elif throttled:
            self.answer(429, {"Retry-After": faults.retry_after}, b"slow down")
        elif broken:
            self.answer(503, {}, b"try again")
        elif not file.is_file():
            self.refuse(404, "", "no such object")
        elif faults.html:
            self.answer(
                200,
                {"Content-Type": "text/html", "ETag": '"page"'},
                b"<!DOCTYPE html><html>Log in first</html>" + b" " * 4000,
            )
        elif faults.pointer:
            self.answer(
                200, {"ETag": '"pointer"'}, POINTER.format(sha256=hub.sha256(file), size=file.stat().st_size).encode()
            )
        else:
            self.content(file)

    def content(self, path: Path) -> None:
        hub, faults = self.server, self.server.faults
        size = path.stat().st_size
        changed = bool(faults.change_after) and hub.seen.sent >= faults.change_after
        etag = f'"{hub.sha256(path)[:32]}{"-changed" if changed else ""}"'
        start, end, status = 0, size, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if wanted and not faults.ignore_ranges and self.headers.get("If-Range", etag) == etag:
            start, end, status = int(wanted[1]), min(size, int(wanted[2] or size) + 1), 206
            if start >= size:
                self.answer(416, {"Content-Range": f"bytes */{size}"}, b"")
                return
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(end - start))
        if not faults.ignore_ranges:
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        with hub.lock:
            hub.seen.sending += 1
            hub.seen.most_sending = max(hub.seen.most_sending, hub.seen.sending)
            cut, faults.cuts = faults.cut_after if faults.cuts > 0 else 0, faults.cuts - bool(faults.cut_after)
        with path.open("rb") as file, contextlib.suppress(ConnectionError):
            self.send(file, start, min(end, start + cut) if cut else end, size)
        with hub.lock:
            hub.seen.sending -= 1
        if cut and start + cut < end:
            self.close_connection = True

    def send(self, file: Any, start: int, end: int, size: int) -> None:
        hub, faults = self.server, self.server.faults
        step = 32 << 10 if faults.rate else 4 << 20
        if faults.rate:  # what was sent has arrived, but for so much: no more lies in between when the client is killed
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        while start < end:
            count = min(step, end - start)
            hub.pace(count)
            if faults.damage and start <= size // 2 < start + count:
                block = bytearray(os.pread(file.fileno(), count, start))
                block[size // 2 - start] ^= 1
                self.wfile.write(block)
            else:
                self.connection.sendfile(file, start, count)
            start += count
            with hub.lock:
                hub.seen.sent += count

    # --- answers ------------------------------------------------------------------------------------------------------

    def own_url(self, host: str = "") -> str:
        name, port = (self.headers["Host"] or ":").rsplit(":", 1)
        return f"http://{host or name}:{port}"

    def answer_json(self, data: Any, headers: dict[str, str] | None = None) -> None:
        self.answer(
            200, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, json.dumps(data).encode()
        )

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        if code:
            headers["X-Error-Code"] = code
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        self.answer(status, headers, json.dumps({"error": message}).encode())

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for huggingface.co")
    parser.add_argument("root", type=Path)
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--storage", default="", help="name of the storage server, when it is to be another one")
    parser.add_argument("--rate", type=float, default=0, help="bytes a second")
    parser.add_argument("--token", default="")
    parser.add_argument("--gated", default="", help="the repository that wants the token")
    parser.add_argument("--latency", type=float, default=0, help="seconds before each answer")
    parser.add_argument("--frozen", action="store_true", help="no file changes any more, so that each answer is fast")
    args = parser.parse_args()
    hub = Hub(args.root, args.bind, args.port, args.storage, args.token, args.gated)
    hub.faults.rate = args.rate
    hub.latency = args.latency
    hub.commits = {} if args.frozen else None
    print(hub.url, flush=True)
    hub.serve_forever()


if __name__ == "__main__":
    main()
