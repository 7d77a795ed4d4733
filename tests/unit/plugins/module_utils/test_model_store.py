# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a models directory, its clock, and the lock of a model."""

from __future__ import annotations

import fcntl
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
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_store import Store
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
