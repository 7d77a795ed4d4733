# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""model_file as root against what another user, a hub or a URL plants: victims stay as they are, and the run ends.

The other user is a real one (setpriv): what it plants, it plants with the rights of uid 65534.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

import gguf_files

NOBODY = 65534
LIMIT = 90  # seconds: a run that has not ended then hangs
MODULE = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import {module}
with patch_module_args(json.load(sys.stdin)):
    {module}.main()
"""
RECORD = ".model_file.json"
SUM = "0" * 64

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root is the one who is attacked")


def run(module: str = "model_file", **args: Any) -> dict[str, Any]:
    code = MODULE.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(args), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.stdout.lstrip().startswith("{"), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def as_nobody(script: str, folder: Path) -> None:
    command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "sh", "-ec", script]
    subprocess.run(command, cwd=folder, check=True)


class Guest:
    """A state directory of a service (uid 65534) with root's models directory in it, and files that must not change."""

    def __init__(self, root: Path) -> None:
        self.state = root / "llama-router"
        self.models = self.state / "models"
        self.models.mkdir(parents=True)
        self.source = root / "source.gguf"
        gguf_files.write(self.source, 1 << 16)
        self.victim = root / "victim"
        self.victim.write_text("kept")
        self.victim.chmod(0o600)

    def opened(self) -> Guest:
        """As an earlier version installed it: the service owns what is above."""
        os.chown(self.state, NOBODY, NOBODY)
        return self

    def place(self, *, name: str = "m", method: str = "copy", **args: Any) -> dict[str, Any]:
        return run(models_dir=str(self.models), models=[self.entry(name, method)], **args)

    def entry(self, name: str = "m", method: str = "copy") -> dict[str, Any]:
        return {"name": name, "source": {"path": str(self.source), "method": method}}

    def record(self, *places: str, name: str = "m") -> None:
        status = self.victim.stat()
        file = {"role": "model", "size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": SUM}
        entry = {"identity": "", "commit": None, "files": dict.fromkeys(places, file), "placed": 1.0}
        (self.models / RECORD).write_text(json.dumps({"format": 1, "models": {name: entry}}))

    def assert_unharmed(self) -> None:
        status = self.victim.stat()
        assert self.victim.read_text() == "kept"
        assert (status.st_mode & 0o777, status.st_uid, status.st_nlink) == (0o600, 0, 1)


@pytest.fixture
def guest() -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="attacked-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        yield Guest(root)


# --- the directory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_directory_below_another_user_s_is_refused(guest: Guest, state: str) -> None:
    guest.opened()
    script = (
        f"mv models old; mkdir models; ln -s {guest.victim} models/{RECORD}.lock; ln -s {guest.victim} models/m.gguf"
    )
    as_nobody(script, guest.state)
    result = run(models_dir=str(guest.models), models=[{**guest.entry(), "state": state}], prune="models")
    assert result.get("failed"), result
    assert f"belongs to user {NOBODY}, who could lead this task to another file; make it root's" in result["msg"]
    assert sorted(os.listdir(guest.models)) == [f"{RECORD}.lock", "m.gguf"]
    guest.assert_unharmed()


def test_a_look_warns_of_it(guest: Guest) -> None:
    """The role looks first, and makes the directory root's before it places anything."""
    guest.opened()
    result = guest.place(_ansible_check_mode=True)
    assert result["changed"], result
    assert f"a real run would fail: {guest.state} belongs to user" in json.dumps(result["warnings"])
    os.chown(guest.state, 0, 0)
    assert guest.place()["changed"]


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_directory_that_others_write_to_is_refused(guest: Guest, mode: int) -> None:
    os.chown(guest.models, 0, NOBODY)
    guest.models.chmod(mode)
    assert "can be written to by" in guest.place()["msg"]


def test_a_model_s_folder_of_another_user_is_refused(guest: Guest) -> None:
    (guest.models / "m").mkdir()
    os.chown(guest.models / "m", NOBODY, NOBODY)
    os.chmod(guest.models / "m", 0o755)
    assert f"/m belongs to user {NOBODY}" in guest.place()["msg"]


def test_a_folder_stays_root_s_whoever_owns_the_files(guest: Guest) -> None:
    folder = guest.source.parent / "shards"
    gguf_files.write_shards(folder / "S", 2, 1 << 16)
    wanted = {"name": "m", "source": {"path": str(folder), "method": "copy"}}
    args = {"models_dir": str(guest.models), "models": [wanted], "owner": "nobody", "mode": "0664"}
    assert run(**args)["changed"]
    files = sorted((guest.models / "m").iterdir())
    assert [file.stat().st_uid for file in files] == [NOBODY, NOBODY]
    status = (guest.models / "m").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o755)
    assert not run(**args)["changed"]


# --- what was planted while the directory was another user's ----------------------------------------------------------


@pytest.mark.parametrize("name", [f"{RECORD}.lock", ".model_file.m.lock"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_planted_lock(guest: Guest, name: str, kind: str) -> None:
    path = guest.models / name
    path.symlink_to(guest.victim) if kind == "link" else os.mkfifo(path)
    result = guest.place()
    assert f"{path}: expected a regular file, found " in result["msg"]
    assert "remove it" in result["msg"]
    guest.assert_unharmed()


@pytest.mark.parametrize(
    "place", ["../../victim", "m/../../../victim", "/victim", "m//victim", "m/\0", "other.gguf", ""]
)
def test_a_planted_place_of_the_record(guest: Guest, place: str) -> None:
    if place == "/victim":
        place = str(guest.victim)  # such a one looped for ever
    other = guest.models / "other.gguf"
    other.write_text("kept")
    guest.record(place)
    result = run(models_dir=str(guest.models), models=[guest.entry("n")], prune="models", mode="0644", verify=True)
    assert result["removed"] == []
    guest.record(place, "m.gguf")
    assert run(models_dir=str(guest.models), models=[{"name": "m", "state": "absent"}])["removed"] == []
    assert other.read_text() == "kept"
    guest.assert_unharmed()


def test_a_recorded_place_behind_a_link(guest: Guest) -> None:
    (guest.models / "m").symlink_to(guest.victim.parent)
    guest.record("m/victim")
    run(models_dir=str(guest.models), models=[{"name": "m", "state": "absent"}])
    guest.assert_unharmed()
    assert not (guest.models / "m").is_symlink()


def test_a_recorded_file_that_is_a_link_keeps_its_target_s_owner_and_mode(guest: Guest) -> None:
    assert guest.place()["changed"]
    os.replace(guest.models / "m.gguf", guest.source.parent / "moved.gguf")
    (guest.models / "m.gguf").symlink_to(guest.victim)
    guest.place(owner="nobody", mode="0644")
    guest.assert_unharmed()


@pytest.mark.parametrize("suffix", ["", ".part", ".part.journal", ".part.journal.new"])
@pytest.mark.parametrize("kind", ["link", "hardlink", "fifo"])
def test_planted_files_beside_a_download(guest: Guest, suffix: str, kind: str) -> None:
    path = guest.models / f"m.gguf{suffix}"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        (os.symlink if kind == "link" else os.link)(guest.victim, path)
    checksum = hashlib.sha256(guest.source.read_bytes()).hexdigest()
    with serving({"/m.gguf": guest.source.read_bytes()}) as address:
        wanted = {"name": "m", "source": {"url": f"{address}/m.gguf", "checksum": [checksum]}}
        result = run(models_dir=str(guest.models), models=[wanted])
    if result.get("failed"):
        assert "was not put there by this module" in result["msg"]
        path.unlink()
    else:
        assert (guest.models / "m.gguf").read_bytes() == guest.source.read_bytes()
    guest.assert_unharmed()


@pytest.mark.parametrize("name", [RECORD, "other.gguf", "m.gguf", "f/x.gguf"])
def test_fifos_hold_nobody(guest: Guest, name: str) -> None:
    path = guest.models / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    guest.place(verify=True)
    run("gguf_info", path=str(guest.models), cache="")
    run("gguf_collection_info", paths=[str(guest.models)])
    run(models_dir=str(guest.models), models=[{"name": "m", "state": "absent"}], prune="models")
    path.unlink(missing_ok=True)
    assert guest.place()["changed"] in (True, False)


def test_a_fifo_as_a_source_or_a_token(guest: Guest) -> None:
    fifo = guest.victim.parent / "fifo.gguf"
    os.mkfifo(fifo)
    for method in ("link", "copy", "move", "hardlink"):
        wanted = {"name": "m", "source": {"path": str(fifo), "method": method}}
        assert "not a regular file" in run(models_dir=str(guest.models), models=[wanted])["msg"]
    assert "expected a regular file" in guest.place(token_file=str(fifo))["msg"]


# --- names from outside -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[str]:
    """A server of these paths, as they are asked for, and of whatever is after /r/."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            content = files.get(self.path, next(iter(files.values())) if self.path.startswith("/r/") else None)
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["%2F{victim}", "%2e%2e%2f%2e%2e%2f%2e%2e%2fvictim", "..", "%00", "a%0Ab.gguf", "%C3"])
@pytest.mark.parametrize("role", ["source", "projector", "draft"])
def test_a_url_names_no_path(guest: Guest, name: str, role: str) -> None:
    name = name.format(victim=str(guest.victim)[1:].replace("/", "%2F"))
    content = guest.source.read_bytes()
    checksum = [hashlib.sha256(content).hexdigest()]
    with serving({"/m.gguf": content}) as address:
        good = {"url": f"{address}/m.gguf", "checksum": checksum}
        wanted = {"name": "m", "source": good, role: {"url": f"{address}/r/{name}", "checksum": checksum}}
        result = run(models_dir=str(guest.models), models=[wanted])
    assert "end in a file's name" in result.get("msg", ""), result
    assert os.listdir(guest.models) == []
    guest.assert_unharmed()


def test_a_password_in_a_url_is_refused_and_not_shown(guest: Guest) -> None:
    wanted = {"name": "m", "source": {"url": "https://me:s3cretword@h.invalid/m.gguf", "checksum": [SUM]}}
    result = run(models_dir=str(guest.models), models=[wanted], endpoint="https://you:0therword@h.invalid")
    assert "without user name and password; use token or token_file" in result["msg"]
    assert "s3cretword" not in json.dumps(result)
    assert "0therword" not in json.dumps(result)


def test_a_cache_s_commit_is_no_path(guest: Guest) -> None:
    base = guest.state / "cache" / "models--own--x"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(f"../../../../{guest.source.parent.name}")
    source = {"repo": "own/x", "cache": str(guest.state / "cache"), "file": "source.gguf"}
    result = run(models_dir=str(guest.models), models=[{"name": "m", "source": source}])
    assert "a commit in the cache's refs" in result["msg"]


# --- other models, and other runs -------------------------------------------------------------------------------------


def test_absent_takes_the_model_of_exactly_this_name(guest: Guest) -> None:
    for name in ("old.gguf.backup.gguf", "old.gguf.backup.gguf.part", "older.gguf", "old.gguf.part", "old.gguf"):
        (guest.models / name).write_bytes(b"x")
    result = run(models_dir=str(guest.models), models=[{"name": "old", "state": "absent"}])
    assert sorted(map(os.path.basename, result["removed"])) == ["old.gguf", "old.gguf.part"]
    assert sorted(set(os.listdir(guest.models)) - {RECORD, f"{RECORD}.lock"}) == [
        "old.gguf.backup.gguf",
        "old.gguf.backup.gguf.part",
        "older.gguf",
    ]


class Slow:
    """A server that sends a file's beginning, and the rest when it may."""

    def __init__(self, content: bytes) -> None:
        slow = self
        self.asked, self.go = threading.Event(), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                start, _dash, end = (self.headers["Range"] or "bytes=0-").partition("=")[2].partition("-")
                part = content[int(start) : int(end) + 1 if end else None]
                self.send_response(206)
                self.send_header("Content-Length", str(len(part)))
                self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}")
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(part[:4096])
                    if len(part) > 4096:
                        slow.asked.set()
                        slow.go.wait(LIMIT)
                        self.wfile.write(part[4096:])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/x.gguf"


@pytest.fixture
def slow(guest: Guest) -> Iterator[Slow]:
    one = Slow(guest.source.read_bytes())
    yield one
    one.go.set()
    one.server.shutdown()
    one.server.server_close()


def started(guest: Guest, *entries: dict[str, Any], **args: Any) -> subprocess.Popen[str]:
    one = subprocess.Popen(
        [sys.executable, "-c", MODULE.format(module="model_file")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "HOMELAB_LLAMACPP_PROGRESS": str(guest.state / "progress")},
    )  # fmt: skip
    assert one.stdin
    one.stdin.write(json.dumps({"models_dir": str(guest.models), "models": list(entries), **args}))
    one.stdin.close()
    one.stdin = None
    return one


def waits(guest: Guest, one: subprocess.Popen[str]) -> str:
    """What a run says that waits for another one; empty when it ends without."""
    path, deadline = guest.state / "progress", time.monotonic() + LIMIT
    while one.poll() is None:
        assert time.monotonic() < deadline
        with contextlib.suppress(FileNotFoundError):
            if path.read_text().startswith("waits"):
                return path.read_text()
        time.sleep(0.02)
    return ""


def ended(one: subprocess.Popen[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(one.communicate(timeout=LIMIT)[0])
    return result


@pytest.fixture
def fetched(guest: Guest, slow: Slow) -> dict[str, Any]:
    checksum = hashlib.sha256(guest.source.read_bytes()).hexdigest()
    return {"name": "m", "source": {"url": slow.url, "checksum": [checksum]}}


def test_prune_leaves_what_another_run_fetches(guest: Guest, slow: Slow, fetched: dict[str, Any]) -> None:
    other = started(guest, fetched)
    assert slow.asked.wait(LIMIT)
    for prune in ("parts", "models"):
        for check in (True, False):
            result = run(models_dir=str(guest.models), models=[], prune=prune, _ansible_check_mode=check)
            assert result["removed"] == [], result
    slow.go.set()
    assert ended(other)["changed"]
    assert (guest.models / "m.gguf").read_bytes() == guest.source.read_bytes()
    assert run(models_dir=str(guest.models), models=[], prune="models")["removed"] == [str(guest.models / "m.gguf")]


def test_absent_waits_for_a_run_that_fetches_it(guest: Guest, slow: Slow, fetched: dict[str, Any]) -> None:
    other = started(guest, fetched)
    assert slow.asked.wait(LIMIT)
    gone = started(guest, {"name": "m", "state": "absent"})
    assert waits(guest, gone) == "waits for another run that places m\n"
    slow.go.set()
    assert ended(other)["changed"]
    assert ended(gone)["removed"] == [str(guest.models / "m.gguf")]
    assert [name for name in os.listdir(guest.models) if not name.startswith(RECORD)] == []


def test_one_content_under_two_names_in_two_orders(guest: Guest, slow: Slow, fetched: dict[str, Any]) -> None:
    """A run that can link what another one still fetches under the same name leaves that one its part file."""
    second = {**fetched, "name": "n"}
    one = started(guest, second)
    assert slow.asked.wait(LIMIT)
    assert guest.place()["changed"], "m has the content that n is to have"
    other = started(guest, guest.entry(), second)
    assert waits(guest, other) == "waits for another run that places n\n"
    slow.go.set()
    results = [ended(one), ended(other)]
    assert not any(result.get("failed") for result in results), results
    assert (guest.models / "n.gguf").read_bytes() == guest.source.read_bytes()
    assert sorted(name for name in os.listdir(guest.models) if not name.startswith(RECORD)) == ["m.gguf", "n.gguf"]


# --- method hardlink ----------------------------------------------------------------------------------------------


def test_a_hard_link_leaves_the_operator_s_owner_and_mode(guest: Guest) -> None:
    os.chown(guest.source, NOBODY, NOBODY)
    guest.source.chmod(0o664)
    wanted = [guest.entry("m", "hardlink"), {**guest.entry("n", "hardlink")}]
    for turn in range(2):
        result = run(models_dir=str(guest.models), models=wanted, owner="root", group="root", mode="0644")
        assert result["changed"] == (turn == 0), result
        status = guest.source.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777, status.st_nlink) == (NOBODY, NOBODY, 0o664, 3)


def test_a_twin_of_a_hard_link_leaves_them_too(guest: Guest) -> None:
    os.chown(guest.source, NOBODY, NOBODY)
    assert guest.place(method="hardlink")["changed"]
    checksum = hashlib.sha256(guest.source.read_bytes()).hexdigest()
    twin = {"name": "n", "source": {"path": str(guest.source), "method": "copy", "checksum": [checksum]}}
    for turn in range(2):
        result = run(models_dir=str(guest.models), models=[twin], owner="root", mode="0600")
        assert result["changed"] == (turn == 0), result
        assert (guest.source.stat().st_uid, guest.source.stat().st_mode & 0o777) == (NOBODY, 0o644)


def test_a_hard_link_that_the_router_could_not_read_is_refused_before(guest: Guest) -> None:
    guest.source.chmod(0o640)
    for check in (True, False):
        result = guest.place(method="hardlink", _ansible_check_mode=check)
        assert "method hardlink keeps a file's owner and mode" in result["msg"]
        assert "take method copy" in result["msg"]
    assert os.listdir(guest.models) == []
    assert guest.place(method="hardlink", mode="0640")["changed"]
