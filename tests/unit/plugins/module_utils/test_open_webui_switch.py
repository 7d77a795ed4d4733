# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Switches of Open WebUI's release, killed before and after each thing that they do.

The service is a stand-in that treats its database as the real one does: a newer release converts it, and an older one
does not start on what a newer one has converted. The real one is switched, and killed, in `make test-clients`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _open_webui_database as database
from ansible_collections.homelab.llamacpp.plugins.module_utils import _open_webui_switch as engine
from ansible_collections.homelab.llamacpp.plugins.module_utils._as_user import User
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_database import pour
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_switch import Places, Switch, SwitchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError

OLD, NEW, NEXT = "1-old", "2-new", "3-next"


class Killed(BaseException):
    """The end of the process, after which nothing of it is done."""


class Home:
    """A folder with releases, and the service that runs the current one."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "opt"
        self.database = folder / "data" / "webui.db"
        self.copies = folder / "backups"
        self.earlier = folder / "data" / "before-update"
        self.database.parent.mkdir(parents=True)
        self.bad: set[str] = set()
        self.runs = False
        self.left = 0  # things to be done before it is killed; below 0 it is not
        user = User(os.geteuid(), os.getegid(), "me")
        self.switch = Switch(
            Places(str(self.root), str(self.database), str(self.copies), user, str(self.earlier)), self
        )
        self.has(OLD)

    def has(self, release: str) -> None:
        (self.root / "releases" / release).mkdir(parents=True, exist_ok=True)

    def step(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise Killed

    def pour(self, source: int, target: int) -> None:
        """A copy that can be killed before it, in the middle, and after it."""
        self.step()
        os.write(target, b"half of it")
        self.step()
        os.truncate(target, 0)
        os.lseek(target, 0, os.SEEK_SET)
        pour(source, target)
        self.step()

    def stop(self) -> None:
        self.step()
        self.runs = False
        self.step()

    def start(self, patient: bool = False) -> None:
        self.step()
        release = self.switch.link("current")
        assert not self.switch.link("restoring"), "its database is nobody's"
        assert (self.root / "current").is_dir()
        self.boot()
        self.step()
        if release in self.bad or self.content["release"] != release:
            raise UnitError("no answer")
        self.runs = True
        self.step()

    def boot(self) -> None:
        """What a start does to the database."""
        release = self.switch.link("current")
        now = self.content if self.database.exists() else {"release": release, "chats": []}
        self.database.write_text(json.dumps({**now, "release": max(release, now["release"])}))

    def said(self) -> str:
        return "its last words"

    @property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.database.read_text())
        return found

    def talk(self, chat: str) -> None:
        self.database.write_text(json.dumps({**self.content, "chats": [*self.content["chats"], chat]}))

    def links(self) -> list[str]:
        return [self.switch.link(name) for name in ("current", "previous", "leaving", "restoring")]

    def kept(self, release: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.copies / release / "webui.db").read_text())
        return found


@pytest.fixture
def new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Home]:
    """Makes a home in which the old release has served. Each change of a file is a thing that is done."""
    homes: list[Home] = []

    def stepping(module: Any, name: str) -> None:
        real = getattr(module, name)

        def stepped(*args: Any, **more: Any) -> Any:
            homes[-1].step()
            done = real(*args, **more)
            homes[-1].step()
            return done

        monkeypatch.setattr(module, name, stepped)

    def make() -> Home:
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        home = Home(tmp_path / "home")
        homes.append(home)
        home.left = -1
        home.switch.forward(OLD)
        home.talk("of the old one")
        home.has(NEW)
        return home

    def pour(*paths: Any) -> None:
        homes[-1].pour(*paths)

    make()
    monkeypatch.setattr(database, "pour", pour)
    for name in ("symlink", "replace", "rename", "unlink", "mkdir"):
        stepping(engine.os, name)
    return make


def updated(home: Home) -> Home:
    home.switch.forward(NEW)
    home.talk("of the new one")
    home.has(NEXT)
    return home


def killed(make: Callable[[], Home], act: Callable[[Home], None], at: int) -> tuple[Home, bool]:
    """A home in which something was killed after so many things, and whether it was."""
    home = make()
    home.left = at
    try:
        act(home)
    except Killed:
        return home, True
    except SwitchError:
        pass
    finally:
        home.left = -1
    return home, False


def every_kill(make: Callable[[], Home], act: Callable[[Home], None]) -> Any:
    """Homes in which it was killed at one place after the other."""
    at = 0
    while True:
        home, was = killed(make, act, at)
        if not was:
            break
        yield home
        at += 1
    assert at > 10


def forward(to: str) -> Callable[[Home], None]:
    return lambda home: home.switch.forward(to)


def test_an_update_and_the_way_back(new_home: Callable[[], Home]) -> None:
    home = updated(new_home())
    assert home.links() == [NEW, OLD, "", ""]
    assert home.content == {"release": NEW, "chats": ["of the old one", "of the new one"]}
    assert not home.switch.unfinished()
    home.switch.back()
    assert sorted(os.listdir(home.root / "releases")) == [OLD, NEW]
    assert home.links() == [OLD, NEW, "", ""]
    assert home.content == {"release": OLD, "chats": ["of the old one"]}
    assert home.kept(NEW)["chats"] == ["of the old one", "of the new one"]
    home.switch.back()
    assert (home.links()[:2], home.content["chats"]) == ([NEW, OLD], ["of the old one", "of the new one"])


def test_an_update_killed_anywhere_is_finished_and_loses_nothing(new_home: Callable[[], Home]) -> None:
    for home in every_kill(new_home, forward(NEW)):
        served = home.runs and home.switch.link("current") == NEW
        if served:
            home.talk("since then")
        home.switch.forward(NEW)
        assert (home.links(), home.runs) == ([NEW, OLD, "", ""], True)
        assert home.content["chats"] == ["of the old one", *(["since then"] if served else [])]
        assert home.kept(OLD) == {"release": OLD, "chats": ["of the old one"]}


def test_an_update_killed_anywhere_goes_back_when_that_is_asked(new_home: Callable[[], Home]) -> None:
    for home in every_kill(new_home, forward(NEW)):
        if home.switch.unfinished():
            home.switch.back()
        elif home.switch.link("current") == OLD:
            with pytest.raises(SwitchError, match="it was never updated"):
                home.switch.back()
            home.start()
        assert home.links()[:2] in ([OLD, ""], [NEW, OLD])
        assert not home.switch.unfinished()
        assert home.runs
        assert home.content["chats"] == ["of the old one"]


@pytest.mark.parametrize("second", [6, 17, 28])
def test_a_bad_update_killed_anywhere_goes_back(new_home: Callable[[], Home], second: int) -> None:
    """And again: the run that finishes it is killed, too."""

    def bad() -> Home:
        home = updated(new_home())
        home.bad = {NEXT}
        return home

    for home in every_kill(bad, forward(NEXT)):
        home.left = second
        with contextlib.suppress(Killed, SwitchError):
            home.switch.forward(NEXT)
        home.left = -1
        if home.links()[0] != NEXT and not home.switch.unfinished() and home.runs:
            assert home.content["release"] == NEW
        with pytest.raises(SwitchError, match=f"{NEW} serves again, with the database from before"):
            home.switch.forward(NEXT)
        assert (home.links(), home.runs) == ([NEW, OLD, "", ""], True)
        assert home.content == {"release": NEW, "chats": ["of the old one", "of the new one"]}
        assert home.kept(OLD)["chats"] == ["of the old one"]


@pytest.mark.parametrize("second", [6, 17, 28])
def test_the_way_back_killed_anywhere_is_gone_to_its_end(new_home: Callable[[], Home], second: int) -> None:
    for home in every_kill(lambda: updated(new_home()), lambda home: home.switch.back()):
        if home.links() == [OLD, NEW, "", ""]:
            continue  # it was at its end
        home.left = second
        with contextlib.suppress(Killed):
            home.switch.back()
        home.left = -1
        if home.links() != [OLD, NEW, "", ""]:
            home.switch.back()
        assert (home.links(), home.runs) == ([OLD, NEW, "", ""], True)
        assert home.content == {"release": OLD, "chats": ["of the old one"]}
        assert home.kept(NEW) == {"release": NEW, "chats": ["of the old one", "of the new one"]}


def test_the_way_back_killed_and_forward_again(new_home: Callable[[], Home]) -> None:
    """As site.yml does, whose version is still the newer one: nothing of the newer one's is lost before it has left."""
    for home in every_kill(lambda: updated(new_home()), lambda home: home.switch.back()):
        begun = home.links() != [NEW, OLD, "", ""] and home.links() != [NEW, OLD, NEW, ""]
        home.switch.forward(NEW)
        assert (home.links(), home.runs) == ([NEW, OLD, "", ""], True)
        assert home.content["chats"] == ["of the old one", *([] if begun else ["of the new one"])]


def test_a_way_back_that_leads_nowhere_killed_anywhere(new_home: Callable[[], Home]) -> None:
    def bad() -> Home:
        home = updated(new_home())
        home.bad = {OLD}
        return home

    for home in every_kill(bad, lambda home: home.switch.back()):
        if home.links() != [NEW, OLD, "", ""] or not home.runs:
            resumed = home.switch.way_back()
            if resumed == NEW:  # it was on its way forward again
                home.switch.back()
            else:
                with pytest.raises(SwitchError, match=f"{NEW} serves again"):
                    home.switch.back()
        assert (home.links(), home.runs) == ([NEW, OLD, "", ""], True)
        assert home.content == {"release": NEW, "chats": ["of the old one", "of the new one"]}


def test_what_is_not_the_databases_stays(new_home: Callable[[], Home]) -> None:
    home = new_home()
    own = home.database.with_name("webui.db.by-hand")
    own.write_text("mine")
    home.database.with_name("webui.db-wal").write_text("what the database had not taken in")
    home.switch.forward(NEW)
    home.database.with_name("webui.db-wal").write_text("of the new one")
    home.switch.back()
    assert own.read_text() == "mine"
    assert home.database.with_name("webui.db-wal").read_text() == "what the database had not taken in"
    assert home.copies.stat().st_mode & 0o777 == 0o700


def test_a_first_one_that_does_not_come_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.left, home.bad = -1, {OLD}
    with pytest.raises(SwitchError, match="it said: its last words; there is none to go back to"):
        home.switch.forward(OLD)
    assert home.links() == [""] * 4


def test_neither_comes_up(new_home: Callable[[], Home]) -> None:
    home = new_home()
    home.bad = {OLD, NEW}
    with pytest.raises(SwitchError, match=f"nor did {OLD}, which is current again"):
        home.switch.forward(NEW)
    assert home.links() == [OLD, "", "", ""]


def full(_source: int, _target: int) -> None:
    raise OSError(errno.ENOSPC, "no room")


def test_a_copy_that_cannot_be_made(new_home: Callable[[], Home], monkeypatch: pytest.MonkeyPatch) -> None:
    home = new_home()
    monkeypatch.setattr(database, "pour", full)
    with pytest.raises(SwitchError, match=f"could not be copied .no room.; {OLD} serves again"):
        home.switch.forward(NEW)
    assert (home.links(), home.runs, os.listdir(home.copies)) == ([OLD, "", "", ""], True, [])


def test_a_copy_that_cannot_be_put_back(new_home: Callable[[], Home], monkeypatch: pytest.MonkeyPatch) -> None:
    home = updated(new_home())
    real = home.switch.copies.put_back
    monkeypatch.setattr(home.switch.copies, "put_back", lambda _release: full(0, 0))
    with pytest.raises(SwitchError, match=r"could not be put in place .*: no room\. .* and nothing serves"):
        home.switch.back()
    assert not home.runs
    monkeypatch.setattr(home.switch.copies, "put_back", real)
    home.switch.back()
    assert (home.links(), home.content["chats"]) == ([OLD, NEW, "", ""], ["of the old one"])


def test_there_is_no_way_back(new_home: Callable[[], Home]) -> None:
    home = new_home()
    with pytest.raises(SwitchError, match=r"expected a release before 1-old in .*/previous, found none"):
        home.switch.back()
    home = updated(home)
    shutil.rmtree(home.copies / OLD)
    with pytest.raises(SwitchError, match=r"found none\. Nothing was changed"):
        home.switch.back()
    assert home.runs


def test_a_link_in_place_of_the_copies(new_home: Callable[[], Home], tmp_path: Path) -> None:
    home = new_home()
    shutil.rmtree(home.copies)
    (tmp_path / "others").mkdir(mode=0o777)
    (tmp_path / "others").chmod(0o777)
    home.copies.symlink_to(tmp_path / "others")
    with pytest.raises(SwitchError, match=r"can be written to by every user.*Nothing was changed"):
        home.switch.forward(NEW)
    assert (home.links(), home.runs) == ([OLD, "", "", ""], True)


def test_one_run_at_a_time(new_home: Callable[[], Home]) -> None:
    home = new_home()
    other = os.open(home.root / ".lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(SwitchError, match="another run switches its release"):
        home.switch.forward(NEW)
    os.close(other)
    # What everybody can open everybody can lock.
    world = os.open(home.root, os.O_RDONLY)
    fcntl.flock(world, fcntl.LOCK_EX)
    home.switch.forward(NEW)
    os.close(world)
    assert (home.root / ".lock").stat().st_mode & 0o777 == 0o600


def test_a_downgrade_is_refused(new_home: Callable[[], Home]) -> None:
    """Nothing is stopped, and the copy that the rollback needs stays."""
    home = updated(new_home())
    with pytest.raises(SwitchError, match=r"1-old was requested, found 2-new: .* entry point rollback .*Nothing was"):
        home.switch.forward(OLD)
    assert (home.links(), home.runs) == ([NEW, OLD, "", ""], True)
    assert home.kept(OLD)["chats"] == ["of the old one"]
    home.has("0.9-older")
    with pytest.raises(SwitchError, match="Restore a snapshot or a backup"):
        home.switch.forward("0.9-older")
    home.switch.back()
    assert (home.runs, home.content["chats"]) == (True, ["of the old one"])


def test_an_update_killed_anywhere_and_the_old_version_again(new_home: Callable[[], Home]) -> None:
    """As when the inventory gets the old version back. The old release never starts on the new one's database."""
    for home in every_kill(new_home, forward(NEW)):
        if home.links()[0] == OLD:
            home.switch.forward(OLD)
        else:
            if home.runs:
                home.talk("since then")
            begun = home.content
            with pytest.raises(SwitchError, match="entry point rollback"):
                home.switch.forward(OLD)
            assert home.content == begun
            assert home.kept(OLD) == {"release": OLD, "chats": ["of the old one"]}
            home.switch.back()
            served = "since then" in begun["chats"]
            aside = [json.loads((Path(place) / "webui.db").read_text()) for place in home.switch.kept]
            assert not served or begun in [*aside, home.kept(NEW) if (home.copies / NEW).exists() else None]
        assert (home.links()[0], home.runs, home.switch.unfinished()) == (OLD, True, False)
        assert home.content == {"release": OLD, "chats": ["of the old one"]}


def test_an_update_killed_anywhere_and_a_third_version(new_home: Callable[[], Home]) -> None:
    """The second one may have left half a conversion: its outcome is known before the third one gets the database."""
    for home in every_kill(new_home, forward(NEW)):
        home.bad = {NEW}
        home.has(NEXT)
        home.switch.forward(NEXT)
        assert (home.links()[0], home.runs, home.switch.unfinished()) == (NEXT, True, False)
        assert home.content == {"release": NEXT, "chats": ["of the old one"]}
        assert home.links()[1] in (OLD, NEW)
        assert home.kept(home.links()[1])["chats"] == ["of the old one"]


def test_a_resumed_update_that_fails_keeps_what_was_written_meanwhile(new_home: Callable[[], Home]) -> None:
    home, _was = killed(new_home, forward(NEW), 10_000)
    home.switch._point("leaving", OLD)  # as if it had been killed after the start
    home.switch._unlink("previous")
    home.talk("since then")
    home.bad = {NEW}
    with pytest.raises(SwitchError, match=f"{OLD} serves again"):
        home.switch.forward(NEW)
    (place,) = home.switch.kept
    home.bad = set()
    home.switch.forward(NEW)
    home.has(NEXT)
    home.switch.forward(NEXT)
    assert json.loads((Path(place) / "webui.db").read_text())["chats"] == ["of the old one", "since then"]


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.9.1-x", "0.10.0-x"), ("1.0rc1-x", "1.0-x"), ("1.0.dev3-x", "1.0b1-x"), ("1.0-x", "1.0.post1-x")],
)
def test_versions_in_order(older: str, newer: str) -> None:
    assert engine._age(older) < engine._age(newer)
    assert engine._age("1.0-aaaa") == engine._age("1.0.0-b0c1d2e3")


@pytest.mark.parametrize(
    ("release", "numbers"),
    [
        ("0.12.4-1a2b", (0, 12, 4)),
        ("0.12.0-1a2b", (0, 12)),
        ("0.12", (0, 12)),
        ("0.12rc1", (0, 12)),
        ("old", ()),
        ("-x", ()),
    ],
)
def test_the_age_of_a_release(release: str, numbers: tuple[int, ...]) -> None:
    """A version may stand alone, without a build; what is no version is older than all."""
    assert engine._age(release)[0] == numbers
    assert (engine._age(release) == ((), 0, 0)) is (numbers == ())
    assert engine._age("1.0-x")[2] == engine._age("1.0rc-x")[2] == 0
    assert engine._age("1.0rc2-x")[2] == 2


def cut_off_after_the_start(new_home: Callable[[], Home]) -> Home:
    """An update to NEW that was killed after the start, before it was finished; NEW does not start any more."""
    home, _was = killed(new_home, forward(NEW), 10_000)
    home.switch._point("leaving", OLD)
    home.switch._unlink("previous")
    home.talk("since then")
    home.bad = {NEW}
    return home


def test_a_database_that_cannot_be_set_aside_is_not_replaced(
    new_home: Callable[[], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = cut_off_after_the_start(new_home)
    before = home.content

    def full(_release: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(home.switch.copies, "set_aside", full)
    with pytest.raises(SwitchError, match=r"could not be copied .*, so it was not replaced. Nothing serves"):
        home.switch.forward(NEW)
    assert home.content == before
    assert not home.runs


def test_a_third_version_begins_from_the_database_of_the_one_that_serves(new_home: Callable[[], Home]) -> None:
    """The one that was cut off is tried first: it may be the one with the good database, and here it is not."""
    home = cut_off_after_the_start(new_home)
    (home.root / "releases" / NEXT).mkdir(exist_ok=True)
    home.switch.forward(NEXT)
    assert home.links()[0] == NEXT
    assert home.content["chats"] == ["of the old one"]
    (place,) = home.switch.kept
    assert json.loads((Path(place) / "webui.db").read_text())["chats"] == ["of the old one", "since then"]
