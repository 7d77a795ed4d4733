# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module lxc_snapshot over HTTPS, against fakepve on 127.0.0.1. With real volumes: tests/functional/lab."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import stricter_pve
from ansible_collections.homelab.llamacpp.plugins.module_utils import _proxmox
from ansible_collections.homelab.llamacpp.plugins.modules import lxc_snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = [
    # fakepve leaves TLS connections to the garbage collector when its loop ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def pve(fakepve: Any) -> Any:
    """A node with the container 130, which has two volumes."""
    assert fakepve._routes_stricter.__func__ is stricter_pve._routes_stricter
    fakepve.add_ct(130, "llm")
    fakepve.ct(130).config["mp0"] = "local-lvm:vm-130-disk-1,mp=/models,size=4G"
    return fakepve


@pytest.fixture
def run(pve: Any, run_module: Callable[..., dict[str, Any]]) -> Run:
    """Run the module once."""
    return partial(run_module, lxc_snapshot)


def names(result: dict[str, Any]) -> list[str]:
    """The snapshots' names, oldest first."""
    return [each["name"] for each in result["snapshots"]]


def changes_made(pve: Any) -> list[str]:
    """The requests that were no reading and no login."""
    return [f"{method} {path}" for method, path, _body in pve.requests if method != "GET" and "ticket" not in path]


def test_check_make_make_again_and_take_away(pve: Any, run: Run) -> None:
    assert run() == {**run(), "changed": False, "snapshots": [], "removed": []}
    foretold = run(check=True, name="before", description="größer")
    assert (foretold["changed"], names(foretold), changes_made(pve)) == (True, ["before"], [])
    made = run(name="before", description="größer")
    assert (made["changed"], made["diff"], made["removed"]) == (True, foretold["diff"], [])
    assert made["snapshots"][0]["snaptime"] > 1_700_000_000
    assert {**made["snapshots"][0], "snaptime": None} == foretold["snapshots"][0]
    again = run(name="before", description="another")
    assert (again["changed"], again["snapshots"]) == (False, made["snapshots"])
    assert len(again["calls"]) == 1
    assert run(check=True, name="before", state="absent")["removed"] == ["before"]
    assert names(run()) == ["before"]
    gone = run(name="before", state="absent")
    assert (gone["changed"], gone["snapshots"], gone["removed"]) == (True, [], ["before"])
    assert not run(name="before", state="absent")["changed"]


def test_the_newest_are_kept(pve: Any, run: Run) -> None:
    run(name="by-hand")
    for number in range(4):
        made = run(name=f"update-{number}", prefix="update-", keep=2)
        assert made["changed"]
    assert (names(made), made["removed"]) == (["by-hand", "update-2", "update-3"], ["update-1"])
    assert made["snapshots"][1]["parent"] in ("by-hand", None)
    pve.requests.clear()
    fewer = run(name="update-3", prefix="update-", keep=1)
    assert (fewer["changed"], fewer["removed"], names(fewer)) == (True, ["update-2"], ["by-hand", "update-3"])
    assert not run(name="update-3", prefix="update-", keep=1)["changed"]


def test_the_named_one_is_never_the_one_to_go(pve: Any, run: Run) -> None:
    for name in ("update-old", "update-new"):
        run(name=name)
    pve.ct(130).snapshots["update-old"]["snaptime"] -= 100
    kept = run(name="update-old", prefix="update-", keep=1)
    assert (names(kept), kept["removed"]) == (["update-old"], ["update-new"])


def test_rollback(pve: Any, run: Run) -> None:
    run(name="before")
    pve.ct(130).config["memory"] = 4096
    foretold = run(check=True, name="before", state="rolled_back")
    assert pve.ct(130).config["memory"] == 4096
    back = run(name="before", state="rolled_back")
    assert (back["changed"], back["diff"]) == (True, foretold["diff"])
    assert back["diff"]["after"]["rolled_back_to"] == "before"
    assert (pve.ct(130).config["memory"], pve.ct(130).status) == (512, "stopped")
    pve.ct(130).status = "running"
    assert run(name="before", state="rolled_back")["changed"]
    assert pve.ct(130).status == "running"
    failed = run(name="never", state="rolled_back")
    assert "wanted to go back to the snapshot never of container 130, found before" in failed["msg"]


def test_bind_mount_and_storage_are_told_before_anything_changes(pve: Any, run: Run) -> None:
    config = pve.ct(130).config
    config["mp1"] = "/srv/models,mp=/srv"
    for check in (True, False):
        failed = run(check, name="before")
        assert "container 130 (llm) on node pve1 cannot have snapshots" in failed["msg"]
        assert "mp1 is a bind mount of /srv/models" in failed["msg"]
        skipped = run(check, name="before", if_unsupported="skip", prefix="be", keep=1)
        assert skipped["changed"] is False
        assert skipped["skipped_reason"] == failed["msg"]
    del config["mp1"]
    config["mp0"] = "local:130/vm-130-disk-1.raw,mp=/models"
    assert "(mp0 on local, rootfs on local-lvm)" in run(name="before")["msg"]
    assert changes_made(pve) == []
    # What is there can be gone back to and deleted all the same.
    assert not run(name="before", state="absent")["changed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "current"}, "none of current, vzdump, found 'current'"),
        ({"name": "1st"}, "wanted a letter"),
        ({"name": "a"}, "wanted a letter"),
        ({"name": "x" * 41}, "wanted a letter"),
        ({"name": "ok", "prefix": "o", "keep": 0}, "keep: wanted 1 or more, found 0"),
        ({"keep": 3, "prefix": "a"}, "missing parameter(s) required by 'keep': name"),
        ({"name": "ok", "keep": 3}, "missing parameter(s) required by 'keep': prefix"),
        ({"state": "absent"}, "missing: name"),
        ({"vmid": 131, "name": "ok"}, "container 131 does not exist on node pve1: is vmid right?"),
    ],
)
def test_bad_options(pve: Any, run: Run, options: dict[str, Any], words: str) -> None:
    assert words in run(**options)["msg"]
    assert changes_made(pve) == []


def test_lock_and_failing_task(pve: Any, run: Run) -> None:
    pve.ct(130).lock = "backup"
    failed = run(name="before", timeout=0)
    assert "CT is locked (backup)" in failed["msg"]
    assert "pct unlock" in failed["msg"]
    pve.ct(130).lock = "create"
    assert "is half made (lock: create)" in run(name="before")["msg"]
    pve.ct(130).lock = None
    run(name="before")
    pve.ct(130).snapshots["before"]["snapstate"] = "prepare"
    failed = run(name="before", state="rolled_back")
    assert "task vzrollback of 130 on pve1 failed: unable to rollback to incomplete snapshot" in failed["msg"]


def test_token_without_the_privilege(pve: Any, run: Run) -> None:
    pve.users["bob@pve"] = "pw"
    pve.grant("bob@pve", "/", "VM.Audit")
    failed = run(name="before", api_user="bob@pve", api_password="pw")
    assert failed["msg"].startswith("POST nodes/pve1/lxc/130/snapshot: Permission check failed")
    assert "VM.Snapshot" in failed["msg"]


STEPS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["up-1", "up-2", "up-3", "own"])},
        optional={
            "state": st.sampled_from(["present", "present", "absent", "rolled_back"]),
            "kept": st.integers(1, 3),
        },
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STEPS)
def test_check_mode_foretells_any_run(pve: Any, run: Run, steps: list[dict[str, Any]]) -> None:
    pve.ct(130).snapshots.clear()
    pve.ct(130).config.pop("parent", None)
    for step in steps:
        # A second between each two: made within one after a rollback, their order could not be told.
        for snapshot in pve.ct(130).snapshots.values():
            snapshot["snaptime"] -= 1
        kept = step.pop("kept", None)
        options = {**step, **({"prefix": "up-", "keep": kept} if kept and step.get("state") != "absent" else {})}
        foretold, real = run(check=True, **options), run(**options)
        if real.get("failed"):
            assert foretold["msg"] == real["msg"]
            continue
        for key in ("changed", "removed", "diff"):
            assert foretold[key] == real[key], key
        assert names(foretold) == names(real)
        if kept and options.get("state", "present") == "present":
            assert len([name for name in names(real) if name.startswith("up-")]) <= max(kept, 1)
            assert options["name"] in names(real)
        if options.get("state") != "rolled_back":
            assert not run(**options)["changed"]


@pytest.mark.fakepve(time_scale=0.05)
def test_rollback_may_take_minutes(pve: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 waits before it is mounted again, for each volume; a make and a deletion keep the time limit."""
    run(name="before")
    monkeypatch.setattr(_proxmox, "GRACE", 0)
    pve.ct_secs["rollback"] = 60
    assert run(name="before", state="rolled_back", timeout=1)["changed"]
    pve.ct_secs["snapshot"] = 6000
    assert "still running after 1 seconds" in run(name="after", timeout=1)["msg"]


def test_guest_that_has_migrated(pve: Any, run: Run) -> None:
    pve.add_ct(132, "far", node="pve2")
    assert "found far on node pve2" in run(vmid=132, name="before")["msg"]
    assert run(vmid=132, node="pve2", name="before")["changed"]
