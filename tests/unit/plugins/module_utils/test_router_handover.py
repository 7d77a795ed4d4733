# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said, and remembered, when a release does not serve; with the real router in tests/functional/router."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_handover
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import FALLBACK, Releases
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_handover import Handover
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_service import Outcome


def _run(_argv: Sequence[str]) -> tuple[int, str, str]:
    return 0, "", ""


class Guest:
    """Releases old and new, of which `bad` do not serve; `served` has those that were started."""

    def __init__(self, root: Path, bad: tuple[str, ...] = ()) -> None:
        self.root, self.bad = root, bad
        self.served: list[str] = []
        self.outcome = Outcome()
        for name in ("old", "new"):
            server = root / "releases" / name / "bin" / "llama-server"
            server.parent.mkdir(parents=True)
            server.write_text("#!/bin/sh\n")
            server.chmod(0o755)
            (server.parent.parent / "stamp.json").write_text(f'{{"name": "{name}"}}\n')
        self.link("current", "old")
        releases = Releases(_run, str(root))
        self.handover = Handover(_run, releases, lambda hold: self)  # type: ignore[arg-type, return-value]

    def link(self, name: str, release: str) -> None:
        (self.root / name).unlink(missing_ok=True)
        (self.root / name).symlink_to(f"releases/{release}")

    def linked(self, name: str) -> str | None:
        return os.path.basename(os.readlink(self.root / name)) if (self.root / name).is_symlink() else None

    def run(self, restart: bool = False) -> None:
        """The convergence."""
        current = str(self.linked("current"))
        self.served.append(current)
        if current in self.bad:
            raise RouterError(f"{current} is broken")
        self.outcome.changed = True


@pytest.fixture(autouse=True)
def no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_router_handover, "prove", lambda *_args: None)


def made(tmp_path: Path, **more: Any) -> Guest:
    return Guest(tmp_path / "root", **more)


def test_the_old_one_serves_again(tmp_path: Path) -> None:
    guest = made(tmp_path, bad=("new",))
    with pytest.raises(RouterError, match=r"new was wanted to serve: new is broken. old serves again"):
        guest.handover.switch("new")
    assert guest.served == ["new", "old"]
    assert (guest.linked("current"), guest.linked(FALLBACK)) == ("old", None)


def test_the_old_one_does_not_serve_any_more_either(tmp_path: Path) -> None:
    """It is not said to serve, and the next run still knows the way back."""
    guest = made(tmp_path, bad=("new", "old"))
    with pytest.raises(RouterError) as caught:
        guest.handover.switch("new")
    assert "old, which served before, does not serve any more: old is broken" in str(caught.value)
    assert "serves again" not in str(caught.value)
    assert (guest.linked("current"), guest.linked(FALLBACK)) == ("old", "old")
    guest.bad = ()
    assert guest.handover.revert()
    assert guest.linked(FALLBACK) is None


def test_the_one_that_serves_fails_itself(tmp_path: Path) -> None:
    guest = made(tmp_path, bad=("old",))
    with pytest.raises(RouterError, match=r"^old is broken$"):
        guest.handover.switch("old")
    assert guest.served == ["old"]
    assert (guest.linked("current"), guest.linked(FALLBACK)) == ("old", None)


def test_a_switch_that_was_taken_back_is_confirmed_without_another_way_back(tmp_path: Path) -> None:
    """The current one is the fallback itself: it is not its own previous one."""
    guest = made(tmp_path)
    guest.link(FALLBACK, "old")
    assert guest.handover.confirm()
    assert (guest.linked("previous"), guest.linked(FALLBACK)) == (None, None)
    assert guest.handover.switch("new")
    assert guest.handover.confirm()
    assert guest.linked("previous") == "old"
    assert not guest.handover.confirm()
