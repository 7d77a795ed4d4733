# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._as_user import User, acting_as, owner_of, user_named
from ansible_collections.homelab.llamacpp.plugins.module_utils._files import UntrustedPath

NOBODY = pwd.getpwnam("nobody")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as others")


def rights() -> tuple[int, int, list[int]]:
    return os.geteuid(), os.getegid(), os.getgroups()


def test_a_user_by_name() -> None:
    assert user_named("nobody") == User(NOBODY.pw_uid, NOBODY.pw_gid, "nobody")
    for name in ("no-such-user-here", "a\0b"):
        with pytest.raises(OSError, match=r"expected the user (no-such|a)") as caught:
            user_named(name)
        assert isinstance(caught.value, FileNotFoundError)


@ROOT
def test_another_users_rights_and_no_others() -> None:
    """Not those of root's groups either: a file of group disk or shadow is not this user's."""
    before = os.getgroups()
    os.setgroups([0, 42])
    try:
        own = rights()
        with acting_as(user_named("nobody")):
            assert rights() == (NOBODY.pw_uid, NOBODY.pw_gid, [])
            assert os.getresuid()[0] == os.getresuid()[2] == 0
        assert rights() == own == (0, os.getegid(), [0, 42])

        def broken() -> None:
            with acting_as(user_named("nobody")):
                raise KeyError

        with pytest.raises(KeyError):
            broken()
        assert rights() == own
        with acting_as(User(0, 0, "root")):
            assert rights() == own
    finally:
        os.setgroups(before)


@ROOT
def test_others_cannot_act_as_anybody() -> None:
    with acting_as(user_named("nobody")):
        with acting_as(User(NOBODY.pw_uid, NOBODY.pw_gid, "nobody")):
            assert os.geteuid() == NOBODY.pw_uid
        with pytest.raises(PermissionError, match=r"expected root or root, found user \d+; run as root"):
            acting_as(User(0, 0, "root")).__enter__()
        assert owner_of("/").uid == NOBODY.pw_uid
        assert os.geteuid() == NOBODY.pw_uid


@ROOT
def test_whose_rights_lead_to_a_directory(tmp_path: Path) -> None:
    own = User(0, os.getegid(), "0")
    theirs = tmp_path / "theirs"
    (theirs / "below").mkdir(parents=True)
    assert owner_of(str(theirs / "below")) == owner_of(str(tmp_path / "nowhere" / "x")) == own
    os.chown(theirs, NOBODY.pw_uid, NOBODY.pw_gid)
    nobody = User(NOBODY.pw_uid, NOBODY.pw_gid, "nobody")
    assert owner_of(str(theirs / "below")) == owner_of(str(theirs / "nowhere")) == nobody


@ROOT
def test_a_directory_of_nobody_known_or_of_several_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 54321, 54321)
    with pytest.raises(UntrustedPath, match="belongs to user 54321"):
        owner_of(str(theirs))
    os.chown(theirs, 0, 0)
    theirs.chmod(0o777)
    with pytest.raises(UntrustedPath):
        owner_of(str(theirs))
