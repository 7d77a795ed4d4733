# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a part file believes of itself after a kill, and after a crash of the machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _part
from ansible_collections.homelab.llamacpp.plugins.module_utils._part import Part, arrived
from hypothesis import given
from hypothesis import strategies as st

SIZE = 20 << 20  # bytes: three pieces of 8 MiB and less
SHA256 = "0" * 64


def part(path: Path, size: int = SIZE, sha256: str = SHA256) -> Part:
    return Part(str(path), size, sha256, 0o644)


def test_a_new_one_has_nothing(tmp_path: Path) -> None:
    one = part(tmp_path / "a.part")
    assert one.unfinished() == [0, 1, 2]
    assert one.span(2) == (16 << 20, 20 << 20)
    assert (one.done, one.prefix(), arrived(one.path)) == (0, 0, 0)


def test_after_a_kill_what_was_written_is_there(tmp_path: Path) -> None:
    first = part(tmp_path / "a.part")
    first.write(0, b"x" * 1000)
    first.write(2, b"y" * 10)
    first.close()  # the kernel does no more for one that is killed
    assert arrived(first.path) == 1010
    again = part(tmp_path / "a.part")
    assert (again.done, again.prefix()) == (1010, 1000)
    assert again.span(0) == (1000, 8 << 20)
    assert again.read(16 << 20, 10) == b"y" * 10


def test_after_a_crash_only_what_was_on_the_disk_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = part(tmp_path / "a.part")
    first.write(0, b"x" * 1000)
    first.sync()
    first.write(0, b"x" * 500)
    first.close()
    monkeypatch.setattr(_part, "boot", lambda: "another")
    again = part(tmp_path / "a.part")
    assert again.written == [1000, 0, 0]
    again.write(0, b"z" * 7)
    again.close()
    assert part(tmp_path / "a.part").done == 1007, "in the new boot a kill is a kill again"


@pytest.mark.parametrize("change", [lambda one: one.begin(ranges=False), lambda one: one.forget(0)])
def test_what_a_thread_drops_while_it_goes_to_the_disk_is_not_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Part], None]
) -> None:
    one = part(tmp_path / "a.part")
    one.write(0, b"x" * 1000)
    with monkeypatch.context() as slow:
        slow.setattr(_part.os, "fdatasync", lambda _fd: change(one))
        one.sync()
    one.close()
    journal = _part.read_journal(one.path + _part.JOURNAL)
    assert journal is not None
    assert set(journal.counts) == {(0, 0)}


@pytest.mark.parametrize("other", [{"size": SIZE + 1}, {"sha256": "1" * 64}])
def test_another_content_begins_anew(tmp_path: Path, other: dict[str, int | str]) -> None:
    first = part(tmp_path / "a.part")
    first.write(0, b"x" * 1000)
    first.close()
    again = part(tmp_path / "a.part", **other)  # type: ignore[arg-type]
    assert again.done == 0


@pytest.mark.parametrize("journal", [b"", b"{}\n", b'{"format": 1}\n', b"\xff\xfe", b"[]\n1 2\n"])
def test_a_journal_that_cannot_be_read_is_none(tmp_path: Path, journal: bytes) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 100)
    (tmp_path / "a.part.journal").write_bytes(journal)
    assert arrived(str(tmp_path / "a.part")) == 0
    assert part(tmp_path / "a.part").done == 0


def test_without_ranges_it_is_one_piece(tmp_path: Path) -> None:
    one = part(tmp_path / "a.part")
    one.write(1, b"x" * 1000)
    one.begin(ranges=False)
    assert (one.unfinished(), one.span(0)) == ([0], (0, SIZE))


def test_put_is_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    one = part(tmp_path / "a.part", size=10)
    one.write(0, b"0123456789")
    assert one.unfinished() == []
    one.put(str(tmp_path / "a"))
    one.close()
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    assert os.listdir(tmp_path) == ["a"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3 << 20)), max_size=12))
def test_any_order_of_writes_is_what_the_next_run_finds(writes: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.part"
        one = part(path)
        for index, count in writes:
            one.write(index, bytes([index + 1]) * min(count, one.left(index)))
        one.close()
        again = part(path)
        assert again.written == one.written
        for index, written in enumerate(again.written):
            assert again.read(index * again.piece, written) == bytes([index + 1]) * written
        again.close()


def test_a_journal_without_its_file_is_none(tmp_path: Path) -> None:
    """As when somebody removed the part file to have it fetched anew: its zeros are not what had arrived."""
    first = part(tmp_path / "a.part")
    for index in range(3):
        first.write(index, b"x" * first.left(index))
    first.close()
    (tmp_path / "a.part").unlink()
    assert part(tmp_path / "a.part").done == 0


HEADING = '{"format": 1, "size": 20, "sha256": "x", "piece": 8, "version": "", "boot": "b"}'


def journal(*counts: str, heading: str = HEADING) -> bytes:
    return "\n".join([heading, *counts, ""]).encode()


ZERO = f"{0:015d} {0:015d}"


def test_a_journal_is_read() -> None:
    found = _part.parse_journal(journal(f"{8:015d} {7:015d}", ZERO, f"{4:015d} {4:015d}"))
    assert found
    assert found.counts == [(8, 7), (0, 0), (4, 4)]


@pytest.mark.parametrize(
    "data",
    [
        journal(ZERO, ZERO),
        journal(ZERO, ZERO, ZERO, ZERO),
        journal(f"{9:015d} {0:015d}", ZERO, ZERO),
        journal(ZERO, ZERO, f"{5:015d} {0:015d}"),
        journal(f"{1:015d} {2:015d}", ZERO, ZERO),
        journal(f"-{1:014d} {0:015d}", ZERO, ZERO),
        journal("x", ZERO, ZERO),
        journal(heading=HEADING.replace("8", "0")),
        journal(heading=HEADING.replace("8", "-8")),
        journal(heading=HEADING.replace("20", str(1 << 62))),
        journal(ZERO, ZERO, ZERO, heading=HEADING.replace('"x"', "7")),
        journal(ZERO, ZERO, ZERO, heading="[" * 100000),
        journal(ZERO, ZERO, ZERO, heading="[]"),
        b"",
    ],
)
def test_a_journal_that_no_run_wrote_is_none(data: bytes) -> None:
    assert _part.parse_journal(data) is None


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "another user's"])
@pytest.mark.parametrize("name", ["a.part", "a.part.journal", "a.part.journal.new"])
def test_what_only_has_a_part_file_s_name_is_replaced(tmp_path: Path, name: str, kind: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    victim, path = tmp_path / "victim", folder / name
    victim.write_text("kept")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "another user's":
        if os.geteuid() != 0:
            pytest.skip("gives a file to another user")
        path.touch()
        os.chown(path, 65534, 65534)
    else:
        (os.symlink if kind == "link" else os.link)(victim, path)
    one = part(folder / "a.part", size=10)
    one.write(0, b"0123456789")
    one.put(str(folder / "a"))
    one.close()
    assert victim.read_text() == "kept"
    assert (folder / "a").read_bytes() == b"0123456789"
    assert (folder / "a").stat().st_uid == os.geteuid()
    assert victim.stat().st_nlink == 1
