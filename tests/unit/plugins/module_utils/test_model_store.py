# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a models directory, its clock, and the lock of a model."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _json, _model_record
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_source import Item, Resolved
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_store import Store, sha256_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName

FILE: dict[str, Any] = {"role": "model", "size": 1, "mtime_ns": 1, "sha256": "0" * 64}
GOOD: dict[str, Any] = {"identity": "{}", "commit": None, "files": {"m.gguf": FILE}, "placed": 1.5}


def parsed(entry: Any, name: str = "m") -> dict[str, Any]:
    return _model_record.parse(json.dumps({"format": 1, "models": {name: entry}}).encode())


def test_a_good_entry_is_read_as_it_was_written() -> None:
    linked = {**GOOD, "commit": "c0ffee", "files": {"m": {"role": "model", "size": 7, "link": "/srv/m"}}}
    shared = {**GOOD, "files": {"m/x.gguf": {**FILE, "shared": True}, "m/draft/y.gguf": {**FILE, "role": "draft"}}}
    for entry in (GOOD, linked, shared, {**GOOD, **_model_record.now()}):
        assert parsed(entry) == {"m": entry}


@pytest.mark.parametrize(
    "change",
    [
        {"identity": 7}, {"commit": 7}, {"commit": "../x"}, {"files": []}, {"files": None}, {"placed": -1},
        {"placed": "1"}, {"placed": True}, {"uptime": "x"}, {"boot": "a/b"}, {"boot": 7},
        *({"files": {place: FILE}} for place in ("../m.gguf", "/m.gguf", "m/../x", "other.gguf", "m//x", "", "m/\n")),
        *({"files": {"m.gguf": {**FILE, **file}}} for file in (
            {"role": "root"}, {"role": []}, {"size": -1}, {"size": "1"}, {"size": True}, {"size": 1 << 63},
            {"size": 1.5}, {"mtime_ns": None}, {"sha256": "0"}, {"sha256": 7}, {"link": 7},
            {"link": "rel"}, {"link": "/a\0"})),
        {"files": {"m.gguf": "x"}}, {"files": {"m.gguf": {}}},
    ],
)  # fmt: skip
def test_a_bad_entry_is_unknown(change: dict[str, Any]) -> None:
    assert parsed({**GOOD, **change}) == {}
    both = {"format": 1, "models": {"m": {**GOOD, **change}, "n": {**GOOD, "files": {}}}}
    assert list(_model_record.parse(json.dumps(both).encode())) == ["n"]


@pytest.mark.parametrize("name", ["..", "", "a/b", "a\nb", "\ud800"])
def test_a_bad_name_is_unknown(name: str) -> None:
    assert parsed({**GOOD, "files": {}}, name) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[" * 100000, b"\xff", b"[]", b"7", b'{"format": 2, "models": {}}', b'{"format": 1, "models": []}',
        b'{"format": 1, "models": {"m": 7}}', b'{"format": 1, "models": {"m": null}}', b'{"format": 1}',
        b'{"format": 1, "models": {"m": {"identity": "", "commit": null, "files": {}, "placed": 1e999}}}',
        b'{"format": 1, "models": {"m": {"identity": "", "commit": null, "files": {}, "placed": ' + b"9" * 99 + b"}}}",
    ],
)  # fmt: skip
def test_what_is_no_record(data: bytes) -> None:
    assert _model_record.parse(data) == {}


def test_json_from_outside() -> None:
    assert _json.parse('{"a": [1, -2.5, null, "x"]}') == {"a": [1, -2.5, None, "x"]}
    for text in ("[" * 100000, "9" * 21, "NaN", "-Infinity", ""):
        with pytest.raises(ValueError, match=r"."):
            _json.parse(text)


def test_a_place_is_below_the_directory(tmp_path: Path) -> None:
    store = Store(str(tmp_path), None)
    for place in ("../x", "/etc/passwd", "a/../b", ""):
        with pytest.raises(BadName):
            store.path(place)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("old.gguf", "old"), ("old.gguf.part", "old"), ("old.gguf.part.journal", "old"), ("old.gguf.12.part", "old"),
        ("old.gguf.part.journal.new", "old"), ("old/x.gguf", "old"), ("old/draft/x.gguf.part", "old"), ("old", "old"),
        ("old.gguf.backup.gguf", "old.gguf.backup"), ("old.gguf.backup.gguf.part", "old.gguf.backup"),
        ("old.v2.gguf", "old.v2"), ("old.gguf/x.gguf", "old.gguf"),
    ],
)  # fmt: skip
def test_the_model_of_a_place(tmp_path: Path, place: str, name: str) -> None:
    assert Store(str(tmp_path), None).model_of(place) == name


# --- when it was placed -------------------------------------------------------------------------------------------


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.uptime, self.boot = 1e9, 1000.0, "one"
        monkeypatch.setattr(_model_record.time, "time", lambda: self.wall)
        monkeypatch.setattr(_model_record.time, "clock_gettime", lambda clock: self.uptime)
        monkeypatch.setattr(_model_record, "boot", lambda: self.boot)

    def passes(self, seconds: float) -> None:
        self.wall, self.uptime = self.wall + seconds, self.uptime + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("step", [0, -7200, 7200])
def test_a_clock_that_is_set_does_not_make_a_model_replaced(clock: Clock, step: float) -> None:
    entry = {**GOOD, **_model_record.now()}
    clock.passes(10)
    clock.wall += step
    started = clock.wall  # a process of now has the model that is in place
    clock.passes(5)
    assert _model_record.placed(entry) == started - 10
    assert _model_record.placed(entry) < started
    assert _model_record.placed({**GOOD, **_model_record.now()}) > started


def test_what_was_placed_before_a_boot_was_there_before_every_process(clock: Clock) -> None:
    entry = {**GOOD, **_model_record.now()}
    clock.boot, clock.uptime = "two", 1.0
    assert _model_record.placed(entry) == 0


def test_an_entry_of_an_earlier_version_has_the_clock_s_time(clock: Clock) -> None:
    assert _model_record.placed({"placed": clock.wall - 1}) == clock.wall - 1
    assert _model_record.placed({"placed": clock.wall + 7200}) == 0, "the clock was set back since"
    assert _model_record.placed({}) == 0


# --- the lock of a model ------------------------------------------------------------------------------------------

HOLD = """
import fcntl, os, sys
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(handle, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Any:
    """Another process has the model m."""
    path = tmp_path / ".model_file.m.lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout
    other.stdout.readline()
    yield other
    other.communicate()


def test_a_lock_leaves_nothing_and_has_an_end(tmp_path: Path, held: Any) -> None:
    store, told = Store(str(tmp_path), None), []
    assert store.busy("m")
    with pytest.raises(TimeoutError, match="wait for that run or end it"), store.alone("m", told.append, 0.3):
        pass
    assert set(told) == {"m"}
    assert store.parts([]) == []
    (tmp_path / "m.gguf.part").touch()
    (tmp_path / "n.gguf.part").touch()
    assert store.parts([]) == ["n.gguf.part"], "what another run fetches is not to be pruned"
    held.communicate()
    assert not store.busy("m")
    with store.alone("m", seconds=0):
        assert (tmp_path / ".model_file.m.lock").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["m.gguf.part", "n.gguf.part"]


def test_a_run_that_gets_on_is_waited_for(tmp_path: Path, held: Any) -> None:
    store, part, turns = Store(str(tmp_path), None), tmp_path / "m.gguf.part", []

    def another_byte(name: str) -> None:
        turns.append(time.monotonic())
        if turns[-1] - turns[0] < 2:
            os.utime(part, ns=(len(turns), len(turns))) if part.exists() else part.touch()

    with pytest.raises(TimeoutError), store.alone("m", another_byte, 0.5):
        pass
    assert turns[-1] - turns[0] >= 2, "four times as long as one that stands still"


def test_the_lock_of_a_run_that_has_removed_it_is_taken_anew(tmp_path: Path) -> None:
    """The second waits for a file that is gone when it gets its lock: a third one may have made the next."""
    store, path = Store(str(tmp_path), None), tmp_path / ".model_file.m.lock"
    path.touch()
    stale = os.open(path, os.O_RDWR)
    fcntl.flock(stale, fcntl.LOCK_EX)

    def released(name: str) -> None:
        path.unlink(missing_ok=True)
        os.close(stale)

    with store.alone("m", released, 60):
        assert path.exists()
        assert store.busy("m")
    assert not path.exists()


# --- the record, beside other threads and other runs -----------------------------------------------------------------


def entry(number: int) -> dict[str, Any]:
    return {**GOOD, "files": {}, "placed": float(number)}


def test_a_record_that_is_unchanged_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = Store(str(tmp_path), None), Store(str(tmp_path), None)
    mine.write("m", entry(1))
    other.write("n", entry(2))
    read: list[bytes] = []
    parse = _model_record.parse
    monkeypatch.setattr(_model_record, "parse", lambda data: read.append(data) or parse(data))
    for _turn in range(2):
        mine.read()
        assert mine.record == {"m": entry(1), "n": entry(2)}
    assert len(read) == 1
    os.unlink(mine.record_path)
    mine.read()
    assert mine.record == {}


def test_threads_that_wait_to_write_are_written_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), None)
    written: list[str] = []
    replace = _files.replace

    def count(path: str, content: str, **more: Any) -> None:
        written.append(content)
        replace(path, content, **more)

    monkeypatch.setattr(_files, "replace", count)
    threads = [threading.Thread(target=store.write, args=(f"m{number}", entry(number))) for number in range(5)]
    with _files.locked(f"{store.record_path}.lock"):  # as if another run wrote
        for number, thread in enumerate(threads):
            thread.start()
            # The first one has taken its own and waits for that run, the others wait for the first.
            deadline = time.monotonic() + 60
            while not (store._writing.locked() and len(store._unwritten) == number):
                assert time.monotonic() < deadline
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert len(written) == 2
    assert set(Store(str(tmp_path), None).record) == {f"m{number}" for number in range(5)}


def test_what_could_not_be_written_is_written_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), None)
    with monkeypatch.context() as broken:

        def full(*_args: Any, **_more: Any) -> None:
            raise OSError(28, "No space left on device")

        broken.setattr(_files, "replace", full)
        with pytest.raises(OSError, match="No space"):
            store.write("m", entry(1))
    store.write("n", entry(2))
    assert set(Store(str(tmp_path), None).record) == {"m", "n"}
    store.write("m", None)
    assert set(Store(str(tmp_path), None).record) == {"n"}


def test_the_places_of_a_model_are_not_those_of_another(tmp_path: Path) -> None:
    for place in ("m.gguf", "m.gguf.part", "m2.gguf", "m/x.gguf", "m2/x.gguf", "m/draft/d.gguf", "other.gguf"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    store = Store(str(tmp_path), None)
    assert store.of_model("m") == ["m.gguf", "m.gguf.part", "m/draft/d.gguf", "m/x.gguf"]
    assert store.of_model("m2") == ["m2.gguf", "m2/x.gguf"]


# --- what is in place -------------------------------------------------------------------------------------------------


class Kept:
    """A models directory with a store, to whose record files are added as they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.folder.mkdir()
        self.store = Store(str(self.folder), None)

    def add(self, place: str, text: str = "weights", role: str = "model") -> Path:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        status = path.lstat()
        found = {"role": role, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        self.record(place, {**found, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        return path

    def link(self, place: str, target: Path) -> Path:
        (self.folder / place).symlink_to(target)
        self.record(place, {"role": "model", "size": 7, "link": str(target)})
        return self.folder / place

    def record(self, place: str, found: dict[str, Any]) -> None:
        name = self.store.model_of(place)
        entry = self.store.record.setdefault(name, {"identity": "{}", "commit": None, "files": {}})
        entry["files"][place] = found

    def in_place(self, name: str = "m") -> bool:
        return self.store.in_place(self.store.record[name])

    def verify(self) -> tuple[set[str], int]:
        """What is damaged, and how many bytes were read."""
        counts: list[int] = []
        self.store.verify(counts.append)
        return self.store.damaged, sum(counts)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_a_model_is_in_place_while_each_file_is_as_recorded(kept: Kept) -> None:
    kept.add("m/a.gguf")
    second = kept.add("m/b.gguf")
    assert kept.in_place()
    mtime = second.stat().st_mtime_ns
    second.write_text("others!")
    os.utime(second, ns=(mtime, mtime + 1))
    assert not kept.in_place()
    os.utime(second, ns=(mtime, mtime))
    assert kept.in_place()
    second.write_text("longer than it was")
    os.utime(second, ns=(mtime, mtime))
    assert not kept.in_place()
    second.unlink()
    assert not kept.in_place()


def test_a_model_without_a_model_file_is_not_in_place(kept: Kept) -> None:
    kept.add("m/mmproj.gguf", role="projector")
    assert not kept.in_place()
    kept.add("m/a.gguf")
    assert kept.in_place()


def test_a_link_is_in_place_while_it_leads_to_what_is_there(kept: Kept, tmp_path: Path) -> None:
    target, other = tmp_path / "target.gguf", tmp_path / "other.gguf"
    target.write_text("x")
    other.write_text("x")
    link = kept.link("m.gguf", target)
    assert kept.in_place()
    target.unlink()
    assert not kept.in_place(), "its target is gone"
    target.write_text("x")
    link.unlink()
    link.symlink_to(other)
    assert not kept.in_place(), "it leads elsewhere"
    link.unlink()
    link.write_text("x")
    assert not kept.in_place(), "it is no link"


def test_something_else_in_a_files_place(kept: Kept, tmp_path: Path) -> None:
    path = kept.add("m.gguf")
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert not kept.in_place()
    assert not kept.store.is_regular("m.gguf")
    path.unlink()
    path.mkdir()
    assert not kept.in_place()
    assert not kept.store.is_regular("m.gguf")
    kept.add("n.gguf")
    assert kept.store.is_regular("n.gguf")
    assert not kept.store.is_regular("nothing.gguf")


def test_a_place_behind_a_link_is_not_in_place(kept: Kept, tmp_path: Path) -> None:
    """The folder was exchanged for a link to another one with the same files."""
    kept.add("m/a.gguf")
    (kept.folder / "m").rename(tmp_path / "moved")
    (kept.folder / "m").symlink_to(tmp_path / "moved")
    assert not kept.in_place()
    assert not kept.store.is_regular("m/a.gguf")


def test_damage_is_found_by_reading(kept: Kept) -> None:
    path = kept.add("m.gguf", "weights")
    kept.add("n.gguf", "others")
    assert kept.verify() == (set(), 13)
    mtime = path.stat().st_mtime_ns
    path.write_text("weightz")
    os.utime(path, ns=(mtime, mtime))
    assert kept.in_place(), "a look does not tell"
    assert kept.verify() == ({"m.gguf"}, 13)
    assert not kept.in_place()
    assert kept.in_place("n")


def test_what_is_gone_or_only_linked_is_not_read(kept: Kept, tmp_path: Path) -> None:
    """It is no damage: it is not in place anyway."""
    kept.add("gone.gguf").unlink()
    (tmp_path / "target").write_text("x")
    kept.link("linked.gguf", tmp_path / "target")
    assert kept.verify() == (set(), 0)
    assert not kept.in_place("gone")
    assert kept.in_place("linked")


def test_the_same_content_at_another_place(kept: Kept) -> None:
    kept.add("m.gguf", "same")
    sha256 = hashlib.sha256(b"same").hexdigest()
    assert kept.store.twin(sha256, "m.gguf") is None
    kept.add("n/x.gguf", "same")
    found = kept.store.twin(sha256, "m.gguf")
    assert found is not None
    assert (found[0], found[1]["size"]) == ("n/x.gguf", 4)
    assert kept.store.twin("0" * 64, "m.gguf") is None
    kept.store.damaged = {"n/x.gguf"}
    assert kept.store.twin(sha256, "m.gguf") is None
    kept.store.damaged = set()
    (kept.folder / "n/x.gguf").unlink()
    assert kept.store.twin(sha256, "m.gguf") is None


def test_all_places_of_a_model(kept: Kept, tmp_path: Path) -> None:
    kept.add("m.gguf")
    kept.add("mm.gguf")
    for place in ("m.gguf.part", "m.gguf.part.journal", "m.gguf.12.part", "m.txt", "m/a.gguf", "m/draft/b.gguf", "m/x"):
        path = kept.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert kept.store.of_model("m") == [
        *("m.gguf", "m.gguf.12.part", "m.gguf.part", "m.gguf.part.journal", "m/a.gguf", "m/draft/b.gguf"),
    ]
    kept.link("folder", tmp_path)
    assert kept.store.of_model("folder") == ["folder"]
    assert kept.store.of_model("nobody") == []


def test_part_files_of_models_that_are_not_wanted_any_more(kept: Kept) -> None:
    for place in ("old.gguf.part", "old.gguf.part.journal", "m.gguf.part", "m.gguf", "busy.gguf.part"):
        (kept.folder / place).write_text("x")
    with kept.store.alone("busy", 0.1):
        assert Store(str(kept.folder), None).parts(["m"]) == ["old.gguf.part", "old.gguf.part.journal"]
    assert kept.store.parts([]) == ["busy.gguf.part", "m.gguf.part", "old.gguf.part", "old.gguf.part.journal"]


def test_what_is_removed_and_how_much_comes_free(kept: Kept, tmp_path: Path) -> None:
    for place in ("m/draft/b.gguf", "m/a.gguf", "n/c.gguf", "n/notes.txt"):
        (kept.folder / place).parent.mkdir(parents=True, exist_ok=True)
        (kept.folder / place).write_bytes(b"x" * 100_000)
    blocks = 512 * (kept.folder / "m/a.gguf").stat().st_blocks
    assert kept.store.size(["m/a.gguf", "n/c.gguf", "nowhere.gguf"]) == 2 * blocks > 0
    os.link(kept.folder / "m/a.gguf", tmp_path / "another name of it")
    assert kept.store.size(["m/a.gguf", "n/c.gguf"]) == blocks
    kept.store.remove(["m/draft/b.gguf", "m/a.gguf", "n/c.gguf", "nowhere/x.gguf", "n"])
    assert sorted(path.name for path in kept.folder.iterdir()) == ["n"]
    assert [path.name for path in (kept.folder / "n").iterdir()] == ["notes.txt"]


def test_nothing_behind_a_link_is_removed(kept: Kept, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "a.gguf").write_text("kept")
    (kept.folder / "m").symlink_to(theirs)
    kept.store.remove(["m/a.gguf"])
    assert (theirs / "a.gguf").read_text() == "kept"
    kept.store.remove(["m"])
    assert not (kept.folder / "m").exists()
    assert (theirs / "a.gguf").read_text() == "kept"


def test_the_sizes_of_all_that_was_placed(kept: Kept, tmp_path: Path) -> None:
    kept.add("m.gguf", "1234")
    kept.add("n/x.gguf", "12")
    kept.link("linked", tmp_path)
    assert kept.store.recorded_size() == 4 + 2 + 7
    assert 0 < kept.store.free() < 1 << 60


def test_what_is_recorded_of_a_placed_model(kept: Kept) -> None:
    for place in ("m/a.gguf", "m/b.gguf"):
        kept.add(place)
    (kept.folder / "m/c.gguf").symlink_to("/srv/c.gguf")
    items = [
        Item("m/a.gguf", "model", 7, "s"),
        Item("m/b.gguf", "draft", 7, "s", path="/srv/b.gguf", method="hardlink"),
        Item("m/c.gguf", "projector", 9, "", path="/srv/c.gguf", method="link"),
    ]
    entry = kept.store.entry_of("{}", Resolved(items, "c0ffee"), {"m/a.gguf": "1", "m/b.gguf": "2"}, {"m/b.gguf"})
    times = [(kept.folder / place).stat().st_mtime_ns for place in ("m/a.gguf", "m/b.gguf")]
    assert entry == {
        "identity": "{}",
        "commit": "c0ffee",
        "files": {
            "m/a.gguf": {"role": "model", "size": 7, "mtime_ns": times[0], "sha256": "1"},
            "m/b.gguf": {"role": "draft", "size": 7, "mtime_ns": times[1], "sha256": "2", "shared": True},
            "m/c.gguf": {"role": "projector", "size": 9, "link": "/srv/c.gguf"},
        },
    }


def test_the_record_is_amended_by_one_model(kept: Kept) -> None:
    other = Store(str(kept.folder), None)
    kept.store.write("m", GOOD)
    other.write("n", {**GOOD, "files": {}})
    assert sorted(Store(str(kept.folder), None).record) == ["m", "n"]
    kept.store.write("m", None)
    kept.store.write("nobody", None)
    found = Store(str(kept.folder), None)
    assert (sorted(found.record), found.placed("n"), found.placed("m")) == (["n"], 1.5, 0)


def test_a_sum_is_of_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    (tmp_path / "link").symlink_to("file")
    counts: list[int] = []
    for name in ("file", "link"):
        assert sha256_of(str(tmp_path / name), counts.append) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert sum(counts) == 6_000_000
    assert sha256_of(str(tmp_path / "file")) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    with pytest.raises(OSError, match="expected a regular file"):
        sha256_of(str(tmp_path))


def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "victim").write_text("x")
    (tmp_path / "link").symlink_to("victim")
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    with pytest.raises(OSError, match="it was exchanged for a link meanwhile"):
        sha256_of(str(tmp_path / "link"))
