# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of a database in a directory of another user, who plants links there: attacks by a real second user."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _open_webui_database as engine
from ansible_collections.homelab.llamacpp.plugins.module_utils._as_user import User, acting_as, user_named
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_database import Copies
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_switch import Places, Switch, SwitchError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as a second user, which needs root")

SERVICE = User(65534, 65534, "nobody")
SECRET = "root's secret"


class Guest:
    """What root has, and a directory that the service owns, with a database in it."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.etc = folder / "etc"
        self.etc.mkdir(mode=0o755)
        self.secret = self.etc / "webui.db"
        self.secret.write_text(SECRET)
        self.secret.chmod(0o600)
        self.copies = folder / "backups" / "open-webui"
        self.home = folder / "open-webui"
        self.home.mkdir()
        os.chown(self.home, SERVICE.uid, SERVICE.gid)
        self.data, self.database = self.home / "data", self.home / "data" / "webui.db"
        self.earlier = self.home / "before-update"
        self.root = folder / "opt"
        for release in ("1-old", "2-new"):
            (self.root / "releases" / release).mkdir(parents=True)
        (self.root / "current").symlink_to("releases/1-old")
        with acting_as(SERVICE):
            self.data.mkdir(mode=0o700)
            self.database.write_text("chats")
            (self.data / "webui.db-wal").write_text("newest")
        self.engine = Copies(str(self.database), str(self.copies), SERVICE)
        self.engine.prepare()
        self.attack: Callable[[], object] = lambda: None
        self.switch = Switch(
            Places(str(self.root), str(self.database), str(self.copies), SERVICE, str(self.earlier)), self
        )

    def stop(self) -> None:
        """The service does its worst while it stops."""
        with acting_as(SERVICE):
            self.attack()

    def start(self, patient: bool = False) -> None:
        pass

    def said(self) -> str:
        return ""

    def intact(self) -> None:
        assert self.secret.read_text() == SECRET
        assert os.listdir(self.etc) == ["webui.db"]
        assert stat.S_IMODE(self.secret.stat().st_mode) == 0o600
        assert self.secret.stat().st_uid == 0


@pytest.fixture
def guest() -> Iterator[Guest]:
    """In a directory that the second user can reach, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as folder:
        yield Guest(Path(folder))


def swapped(place: Path, target: Path) -> Callable[[], None]:
    """The service's: a link in place of what it owns."""

    def swap() -> None:
        place.rename(place.with_name("aside"))
        place.symlink_to(target)

    return swap


def test_a_copy_and_the_way_back(guest: Guest) -> None:
    guest.database.chmod(0o640)
    guest.engine.take("1-old")
    copy = guest.copies / "1-old"
    assert sorted(os.listdir(copy)) == ["webui.db", "webui.db-wal"]
    assert (copy / "webui.db").stat().st_uid == 0
    assert [stat.S_IMODE(place.stat().st_mode) for place in (guest.copies, copy)] == [0o700, 0o700]
    guest.database.write_text("of the newer one")
    (guest.data / "webui.db-journal").write_text("of the newer one")
    guest.engine.put_back("1-old")
    assert guest.database.read_text() == "chats"
    assert sorted(os.listdir(guest.data)) == ["webui.db", "webui.db-wal"]
    status = guest.database.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65534, 0o640)


def test_links_planted_while_it_stops_are_not_read(guest: Guest) -> None:
    """Neither of the database nor of the directory that it is in; and the release from before serves again."""
    for place, target in ((guest.database, guest.secret), (guest.data, guest.etc)):
        guest.attack = swapped(place, target)
        with pytest.raises(SwitchError, match=r"could not be copied .*1-old serves again"):
            guest.switch.forward("2-new")
        assert not [file for file in guest.copies.rglob("*") if SECRET in file.read_text()]
        assert guest.switch.link("current") == "1-old"
        guest.intact()
        with acting_as(SERVICE):
            place.unlink()
            place.with_name("aside").rename(place)


def test_a_name_of_roots_file_is_not_read(guest: Guest) -> None:
    """Where the kernel lets everybody make hard links: the service's own rights decide."""
    guest.database.unlink()
    os.link(guest.secret, guest.database)
    with pytest.raises(PermissionError):
        guest.engine.take("1-old")
    guest.intact()


def test_a_fifo_is_not_waited_for(guest: Guest) -> None:
    with acting_as(SERVICE):
        guest.database.unlink()
        os.mkfifo(guest.database)
    with pytest.raises(OSError, match="expected a regular file"):
        guest.engine.take("1-old")


def test_links_planted_while_it_stops_are_not_written_to(guest: Guest) -> None:
    guest.switch.forward("2-new")
    guest.attack = swapped(guest.data, guest.etc)
    with pytest.raises(SwitchError):
        guest.switch.back()
    guest.intact()
    with acting_as(SERVICE):
        guest.data.unlink()
        (guest.home / "aside").rename(guest.data)
        guest.attack = swapped(guest.database, guest.secret)
        guest.attack()
    guest.engine.put_back("1-old")  # without a copy first: a link in the database's place is the service's, and goes
    assert guest.database.read_text() == "chats"
    guest.intact()


def test_a_directory_of_roots_in_place_of_the_copies_is_not_pruned(guest: Guest) -> None:
    """The finding itself: `before-update` leads to /etc when the update tidies up."""
    guest.attack = lambda: guest.earlier.symlink_to(guest.etc)
    guest.switch.forward("2-new")
    guest.intact()
    assert (guest.copies / "1-old" / "webui.db").read_text() == "chats"


def earlier(guest: Guest, *releases: str) -> None:
    """As an earlier version of the collection left it: root's directories, the service's files."""
    guest.earlier.mkdir(mode=0o700)
    for release in releases:
        (guest.earlier / release).mkdir(mode=0o700)
        for part in ("", "-wal"):
            file = guest.earlier / release / f"webui.db{part}"
            file.write_text(f"of {release}")
            os.chown(file, SERVICE.uid, SERVICE.gid)


def test_earlier_copies_are_moved(guest: Guest) -> None:
    earlier(guest, "0-first", "1-old")
    (guest.earlier / "0-first.new").mkdir()
    (guest.root / "previous").symlink_to("releases/0-first")
    assert guest.switch.earlier() == (["0-first", "1-old"], [])
    assert guest.switch.way_back() == "0-first"
    guest.switch.adopt()
    assert not guest.earlier.exists()
    assert sorted(os.listdir(guest.copies)) == ["0-first", "1-old"]
    assert (guest.copies / "0-first" / "webui.db-wal").read_text() == "of 0-first"
    guest.switch.adopt()
    assert guest.switch.earlier() == ([], [])


def test_a_move_that_was_broken_off_goes_on(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier(guest, "0-first", "1-old")
    real, calls = engine._empty, []

    def once(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise OSError("killed")
        real(*args)

    monkeypatch.setattr(engine, "_empty", once)
    with pytest.raises(SwitchError, match="could not be moved"):
        guest.switch.adopt()
    assert (guest.copies / "0-first" / "webui.db").exists()
    guest.switch.adopt()
    assert not guest.earlier.exists()
    assert sorted(os.listdir(guest.copies)) == ["0-first", "1-old"]


def links(guest: Guest) -> None:
    (guest.earlier / "1-old" / "webui.db").unlink()
    (guest.earlier / "1-old" / "webui.db").symlink_to(guest.secret)


def second_name(guest: Guest) -> None:
    (guest.earlier / "1-old" / "webui.db").unlink()
    os.link(guest.secret, guest.earlier / "1-old" / "webui.db")


def other_owner(guest: Guest) -> None:
    os.chown(guest.earlier / "1-old" / "webui.db", 12345, 12345)


def release_of_theirs(guest: Guest) -> None:
    os.chown(guest.earlier / "1-old", SERVICE.uid, SERVICE.gid)


def other_files(guest: Guest) -> None:
    (guest.earlier / "1-old" / "notes").write_text("mine")


@pytest.mark.parametrize("plant", [links, second_name, other_owner, release_of_theirs, other_files])
def test_what_is_no_copy_of_ours_stays(guest: Guest, plant: Callable[[Guest], None]) -> None:
    earlier(guest, "0-first", "1-old")
    plant(guest)
    releases, strange = guest.switch.earlier()
    assert releases == ["0-first"]
    assert len(strange) == 1
    assert f"{guest.earlier}/1-old" in strange[0]
    guest.switch.adopt()
    assert os.listdir(guest.copies) == ["0-first"]
    assert (guest.earlier / "1-old").exists()
    guest.intact()


@pytest.mark.parametrize("target", ["etc", "data"])
def test_earlier_copies_of_the_services_own_making(guest: Guest, target: str) -> None:
    with acting_as(SERVICE):
        if target == "etc":
            guest.earlier.symlink_to(guest.etc)
        else:
            (guest.earlier / "1-old").mkdir(parents=True)
            (guest.earlier / "1-old" / "webui.db").symlink_to(guest.secret)
    releases, strange = guest.switch.earlier()
    assert releases == []
    assert str(guest.earlier) in strange[0]
    guest.switch.adopt()
    assert os.listdir(guest.copies) == []
    guest.intact()


def test_more_than_the_disk_has(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with nothing in it can be as large as its owner likes."""
    with acting_as(SERVICE):
        os.truncate(guest.database, 8 << 40)
    monkeypatch.setattr(engine, "_FICLONE", 0)
    with pytest.raises(OSError, match="expected 8388608 MiB of free disk for the database, found"):
        guest.engine.take("1-old")
    assert os.listdir(guest.copies) == []


def test_acting_as(guest: Guest) -> None:
    with contextlib.suppress(ZeroDivisionError), acting_as(SERVICE):
        with pytest.raises(PermissionError):
            guest.secret.read_text()
        assert os.getgroups() == []
        raise ZeroDivisionError
    assert (os.geteuid(), os.getegid(), guest.secret.read_text()) == (0, 0, SECRET)
    with acting_as(SERVICE), pytest.raises(PermissionError, match="run as root"), acting_as(User(1, 1, "daemon")):
        pass
    with pytest.raises(OSError, match="expected the user no-such-user"):
        user_named("no-such-user")


def test_all_files_of_a_database_are_copied_and_no_others(guest: Guest) -> None:
    with acting_as(SERVICE):
        for part in ("-shm", "-journal", "-other", ".bak"):
            (guest.data / f"webui.db{part}").write_text(part)
        guest.database.chmod(0o4777)
    guest.engine.take("1-old")
    copy = guest.copies / "1-old"
    assert sorted(os.listdir(copy)) == ["webui.db", "webui.db-journal", "webui.db-shm", "webui.db-wal"]
    assert (copy / "webui.db-shm").read_text() == "-shm"
    assert stat.S_IMODE((copy / "webui.db").stat().st_mode) == 0o666, "nothing of it runs"


def test_a_copy_that_was_cut_off_is_made_anew(guest: Guest) -> None:
    left = guest.copies / "1-old.new"
    left.mkdir()
    (left / "webui.db").write_text("half")
    old = guest.copies / "1-old"
    old.mkdir()
    (old / "webui.db-journal").write_text("of an earlier copy")
    guest.engine.take("1-old")
    assert sorted(os.listdir(guest.copies)) == ["1-old"]
    assert sorted(os.listdir(old)) == ["webui.db", "webui.db-wal"]


def test_a_copy_is_on_the_disk_before_it_has_its_name(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(handle: int) -> None:
        did.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", lambda *names: (did.append("rename"), rename(*names)))
    guest.engine.take("1-old")
    assert did == ["webui.db", "webui.db-wal", "1-old.new", "rename", "open-webui"]


def test_a_database_of_some_blocks_is_copied_whole(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a write takes a part of what it is given."""
    content = os.urandom((5 << 20) + 17)
    with acting_as(SERVICE):
        guest.database.write_bytes(content)
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, block: write(handle, block[:300_000]))
    guest.engine.take("1-old")
    assert (guest.copies / "1-old" / "webui.db").read_bytes() == content


def test_no_room_for_a_copy_is_said_before_it_is_begun(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    class Room:
        f_bavail, f_frsize = 1, 1

    def nothing_shared(*_given: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(engine.fcntl, "ioctl", nothing_shared)
    monkeypatch.setattr(os, "fstatvfs", lambda handle: Room)
    with pytest.raises(OSError, match="expected 0 MiB of free disk for the database, found 0 MiB"):
        guest.engine.take("1-old")
    assert os.listdir(guest.copies) == []


def test_what_was_set_aside_is_kept_and_other_copies_go(guest: Guest) -> None:
    place = guest.engine.set_aside("1-old")
    for release in ("1-old", "2-new", "0-older"):
        guest.engine.take(release)
    assert re.fullmatch(r".*/1-old\.kept-\d{8}T\d{6}", place)
    guest.engine.prune(("1-old", "2-new"))
    assert sorted(os.listdir(guest.copies)) == ["1-old", os.path.basename(place), "2-new"]
    assert (Path(place) / "webui.db").read_text() == "chats"


def test_no_descriptor_is_left_open_after_copies(guest: Guest) -> None:
    before = os.listdir("/proc/self/fd")
    guest.engine.take("1-old")
    guest.engine.put_back("1-old")
    with acting_as(SERVICE):
        (guest.data / "webui.db-wal").unlink()
        (guest.data / "webui.db-wal").mkdir()
    with pytest.raises(OSError, match="expected a regular file"):
        guest.engine.take("1-old")
    assert os.listdir("/proc/self/fd") == before


def test_a_copy_of_no_database_puts_nothing_back(guest: Guest) -> None:
    """It lies elsewhere then, and its owner keeps it."""
    elsewhere = Copies(str(guest.home / "nowhere" / "webui.db"), str(guest.copies), SERVICE)
    elsewhere.take("1-old")
    assert os.listdir(guest.copies / "1-old") == []
    guest.engine.put_back("1-old")
    assert guest.database.read_text() == "chats"
    assert (guest.data / "webui.db-wal").read_text() == "newest"
