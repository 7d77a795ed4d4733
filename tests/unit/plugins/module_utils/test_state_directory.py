# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service is `nobody`, who really plants what it can."""

from __future__ import annotations

import os
import pwd
import stat
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files
from ansible_collections.homelab.llamacpp.plugins.module_utils._state_directory import (
    Outcome,
    Places,
    StateDirectory,
    StateError,
)

NOBODY = pwd.getpwnam("nobody")
UNIT = "[Service]\nUser=nobody\nStateDirectory=router\nCacheDirectory=router\nEnvironment=HOME=/var/lib/router\n"


class Guest:
    """What an earlier version has made: the service's directory, root's models in it, and a unit."""

    def __init__(self, root: Path) -> None:
        self.path = root / "router"
        self.models = self.path / "models"
        self.unit = root / "router.service"
        self.victim = root / "victim"
        self.drop_in = ""
        self.did: list[str] = []
        self.models.mkdir(parents=True)
        os.chown(self.path, NOBODY.pw_uid, NOBODY.pw_gid)
        (self.models / "one.gguf").write_text("weights")
        (self.models / ".model_file.json").write_text("{}")
        (self.models / "linked.gguf").symlink_to(self.victim)
        self.unit.write_text(UNIT)
        self.victim.write_text("root's")
        self.victim.chmod(0o600)

    def as_service(self, script: str) -> None:
        argv = ["setpriv", "--reuid", "nobody", "--regid", str(NOBODY.pw_gid), "--clear-groups", "/bin/sh", "-euc"]
        subprocess.run([*argv, script], check=True, cwd=self.path)

    def systemctl(self, argv: Sequence[str]) -> tuple[int, str, str]:
        self.did.append(argv[1])
        if argv[1] == "show":
            assert os.stat(self.path).st_uid == NOBODY.pw_uid, "the unit has to be right before the directory is root's"
            words = self.unit.read_text().split("StateDirectory=")[1].split("\n")[0] + self.drop_in
            return 0, f"LoadState=loaded\nStateDirectory={words}\n", ""
        return 0, "", ""

    def convert(self, check_mode: bool = False) -> Outcome:
        places = Places(str(self.path), "router.service", str(self.unit), "nobody")
        return StateDirectory(places, self.systemctl, check_mode).run()

    def tree(self) -> dict[str, tuple[int, int]]:
        paths = [self.path, *self.path.rglob("*")]
        return {str(path.relative_to(self.path)): (path.lstat().st_uid, path.lstat().st_mode) for path in paths}


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    if os.geteuid() != 0:
        pytest.skip("needs root, who gives files away")
    # The service reaches its directory; what is above belongs to root.
    for folder in (tmp_path, *tmp_path.parents):
        mode = folder.stat().st_mode
        if folder.stat().st_uid == 0 and mode & 0o011 != 0o011:
            folder.chmod(mode | 0o011)
    return Guest(tmp_path)


def test_state_becomes_a_directory_of_its_own(guest: Guest) -> None:
    guest.as_service("mkdir -p .cache/x && echo kept >.cache/x/y && echo kept >.history")
    outcome = guest.convert()
    assert (outcome.unit, outcome.owned, outcome.moved, outcome.aside) == (True, ["./"], [".cache", ".history"], [])
    assert guest.unit.read_text() == UNIT.replace("StateDirectory=router\n", "StateDirectory=router/state\n")
    assert guest.did == ["daemon-reload", "show"]
    assert (guest.path.stat().st_uid, guest.path.stat().st_mode & 0o777) == (0, 0o755)
    assert (guest.path / "state").stat().st_uid == NOBODY.pw_uid
    assert (guest.path / "state/.cache/x/y").read_text() == "kept\n"
    assert (guest.models / "one.gguf").read_text() == "weights"
    _files.check_folder(str(guest.models))

    before = guest.tree()
    assert not guest.convert().changed
    assert (guest.tree(), guest.did) == (before, ["daemon-reload", "show"])


def test_new_installation_is_left_alone(guest: Guest, tmp_path: Path) -> None:
    guest.convert()
    guest.as_service("mkdir state 2>/dev/null || true")  # it cannot: root made no such directory for it
    assert not (guest.path / "state").exists()
    assert not guest.convert().changed
    places = Places(str(tmp_path / "none"), "router.service", str(tmp_path / "none.service"), "no-such-user")
    assert not StateDirectory(places, guest.systemctl).run().changed


def test_user_that_is_gone_is_no_reason_to_fail(guest: Guest) -> None:
    guest.as_service("touch .cache")
    places = Places(str(guest.path), "router.service", str(guest.unit), "no-such-user")
    outcome = StateDirectory(places, guest.systemctl).run()
    assert (outcome.owned, outcome.moved) == (["./"], [".cache"])
    assert (guest.path / "state").stat().st_uid == NOBODY.pw_uid


def test_check_mode_names_the_same_and_changes_nothing(guest: Guest) -> None:
    guest.as_service(f"touch .cache; ln -s {guest.victim} pending.json; mv models m; mkdir models; mkfifo models/f")
    before, text = guest.tree(), guest.unit.read_text()
    foretold = guest.convert(check_mode=True)
    assert (guest.tree(), guest.unit.read_text(), guest.did) == (before, text, [])
    done = guest.convert()
    for name in ("unit", "owned", "moved", "aside"):
        assert getattr(foretold, name) == getattr(done, name)


@pytest.mark.parametrize(
    ("plant", "aside", "moved"),
    [
        ("mv models m; ln -s {above} models", ["models"], []),
        ("mv models m; mkfifo models", ["models"], []),
        ("mv models m; echo x >models", ["models"], []),
        (
            "mv models m; mkdir models; ln -s {victim} models/.model_file.json.lock",
            ["models/.model_file.json.lock"],
            [],
        ),
        ("mv models m; mkdir models; mkfifo models/.model_file.json", ["models/.model_file.json"], []),
        ("mv models m; mkdir models; ln -s {victim} models/x.gguf", ["models/x.gguf"], []),
        ("mv models m; mkdir -p models/a/b; ln -s {above} models/a/b/c", ["models/a/b/c"], []),
        ("mv models m; mkdir -p models/a/b/c/d/e", ["models/a/b/c/d/e"], []),
        ("ln -s {above} state", ["state"], []),
        ("ln -s {victim} state; touch .cache", ["state"], [".cache"]),
        ("ln -s {victim} pending.json", [], ["pending.json"]),
        ("mkfifo pending.json", [], ["pending.json"]),
        ("mkdir state; touch state/x x", ["x"], []),
    ],
)
def test_what_the_service_planted_is_not_followed(guest: Guest, plant: str, aside: list[str], moved: list[str]) -> None:
    guest.as_service(plant.format(victim=guest.victim, above=guest.victim.parent))
    above = guest.path.parent.stat()
    outcome = guest.convert()
    assert (outcome.aside, outcome.moved) == (aside, moved)
    kept = guest.path / outcome.aside_in
    if aside:
        assert (kept.stat().st_uid, stat.S_IMODE(kept.stat().st_mode)) == (0, 0o700)
        assert len(list(kept.iterdir())) == len(aside)
    assert (guest.victim.read_text(), stat.S_IMODE(guest.victim.stat().st_mode)) == ("root's", 0o600)
    assert (guest.path.parent.stat().st_uid, guest.path.parent.stat().st_mode) == (above.st_uid, above.st_mode)
    # What is root's was renamed at most.
    assert any(path.read_text() == "weights" for path in guest.path.rglob("one.gguf"))
    for path in guest.models.rglob("*") if guest.models.exists() else ():
        assert path.lstat().st_uid == 0, path
    assert not guest.convert().changed


def test_models_that_systemd_gave_to_the_service_become_roots(guest: Guest) -> None:
    (guest.models / "big").mkdir()
    (guest.models / "big/part.gguf").write_text("weights")
    for path in [guest.models, *guest.models.rglob("*")]:
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)
    (guest.models / "one.gguf").chmod(0o4777)
    guest.models.chmod(0o777)
    outcome = guest.convert()
    assert outcome.owned == ["./", "models/", "models/big/", "models/big/part.gguf", "models/one.gguf"]
    assert outcome.aside == ["models/.model_file.json", "models/linked.gguf"]
    assert stat.S_IMODE((guest.models / "one.gguf").stat().st_mode) == 0o644
    assert stat.S_IMODE(guest.models.stat().st_mode) == 0o755
    assert (guest.models / "big/part.gguf").stat().st_uid == 0


def test_files_of_an_operator_and_links_of_root_stay(guest: Guest) -> None:
    (guest.models / "theirs.gguf").write_text("weights")
    os.chown(guest.models / "theirs.gguf", 12345, 12345)
    assert guest.convert().aside == []
    assert (guest.models / "theirs.gguf").stat().st_uid == 12345
    assert (guest.models / "linked.gguf").is_symlink()


def test_models_directory_that_is_a_link_of_roots_stays(guest: Guest) -> None:
    guest.models.rename(guest.path.parent / "elsewhere")
    guest.models.symlink_to(guest.path.parent / "elsewhere")
    outcome = guest.convert()
    assert (outcome.owned, outcome.aside) == (["./"], [])
    assert guest.models.is_symlink()


def test_setting_in_another_file_of_the_unit_is_told_before_the_directory_changes(guest: Guest) -> None:
    guest.drop_in = " router"
    for _run in range(2):
        with pytest.raises(StateError, match=r"found it in another file of the unit \(systemctl cat router.service\)"):
            guest.convert()
        assert guest.path.stat().st_uid == NOBODY.pw_uid
    guest.drop_in = ""
    assert guest.convert().changed


@pytest.mark.parametrize("at", ["replace", "fchown", "rename", "mkdir"])
def test_run_that_was_broken_off_is_finished_by_the_next(
    guest: Guest, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.as_service(f"touch .cache; mv models m; mkdir models; ln -s {guest.victim} models/x")

    class Killed(BaseException):
        pass

    def killed(*_args: object, **_options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(_files if at == "replace" else os, at, killed)
        with pytest.raises(Killed):
            guest.convert()
    guest.convert()
    assert (guest.path / "state/.cache").exists()
    assert not (guest.models / "x").is_symlink()
    assert "StateDirectory=router/state\n" in guest.unit.read_text()
    assert not guest.convert().changed


def test_access_lists_of_the_service_go(guest: Guest) -> None:
    everyone = 0xFFFFFFFF
    entries = [(1, 7, everyone), (2, 7, NOBODY.pw_uid), (4, 5, everyone), (16, 7, everyone), (32, 5, everyone)]
    access_list = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    for name in ("access", "default"):
        try:
            os.setxattr(guest.path, f"system.posix_acl_{name}", access_list)
        except OSError as error:
            pytest.skip(f"no access lists here: {error.strerror}")
    guest.convert()
    names = os.listxattr(guest.path)
    assert not [name for name in names if name.startswith("system.posix_acl")]
