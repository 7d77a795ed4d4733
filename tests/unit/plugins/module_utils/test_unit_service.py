# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_service import UnitService


class Host:
    """systemd with one unit. One of ours notes its file at each start, a `foreign` one nothing."""

    def __init__(self, folder: Path) -> None:
        self.file, self.applied = folder / "conf", folder / "applied"
        self.file.write_text("one")
        self.shown = {
            "LoadState": "loaded",
            "ActiveState": "inactive",
            "UnitFileState": "disabled",
            "NeedDaemonReload": "no",
        }
        self.foreign = False
        self.fails = ""
        self.did: list[str] = []

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        verb = argv[1]
        if verb == "show":
            return 0, "".join(f"{name}={value}\n" for name, value in self.shown.items()), ""
        self.did.append(verb)
        if verb == self.fails:
            return 1, "", "Job failed."
        if verb == "enable":
            self.shown["UnitFileState"] = "enabled"
        if verb == "restart":
            self.shown["ActiveState"] = "active"
            if not self.foreign:
                self.applied.write_text(f"{hashlib.sha256(self.file.read_bytes()).hexdigest()}  {self.file}\n")
        return 0, "", ""

    def service(self, *files: Path, restart: bool = False) -> UnitService:
        return UnitService(self, "x.service", str(self.applied), [str(path) for path in files], restart)

    def run(self, *files: Path, restart: bool = False) -> list[str]:
        service = self.service(*files, restart=restart)
        steps = list(service.wanting())
        service.apply(steps)
        return steps


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_unit_that_is_new_is_enabled_and_started_once(host: Host) -> None:
    assert host.run() == ["enable", "start"]
    assert host.run() == []
    assert host.did == ["enable", "restart"]


def test_a_changed_file_is_taken_up_however_it_came(host: Host) -> None:
    host.run()
    host.file.write_text("two")
    assert host.run() == ["restart"]
    assert host.run() == []
    host.file.unlink()
    assert list(host.service().wanting()) == ["restart"]


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_record_nobody_knows(host: Host, text: str | None) -> None:
    host.run()
    host.applied.unlink()
    if text is not None:
        host.applied.write_text(text)
    assert host.run() == ["restart"]


def test_systemd_reads_its_files_where_it_has_to(host: Host) -> None:
    host.run()
    host.shown["NeedDaemonReload"] = "yes"
    assert host.run() == ["daemon-reload"]
    host.shown.update(NeedDaemonReload="no", LoadState="not-found", ActiveState="inactive", UnitFileState="")
    assert host.run() == ["daemon-reload", "enable", "start"]
    assert host.did[-3:] == ["daemon-reload", "enable", "restart"]


def test_a_failed_unit_is_started(host: Host) -> None:
    host.run()
    host.shown["ActiveState"] = "failed"
    assert host.run() == ["start"]


def test_a_unit_that_notes_nothing_is_told(host: Host) -> None:
    host.foreign = True
    with pytest.raises(UnitError, match=f"x.service was wanted to note in {host.applied} .*an ExecStartPre= of it"):
        host.run()


# --- a server that others have set up ---------------------------------------------------------------------------


@pytest.fixture
def foreign(host: Host) -> Host:
    """It runs, and has read nothing of ours yet."""
    host.foreign = True
    host.shown.update(ActiveState="active", UnitFileState="enabled")
    return host


def test_a_foreign_one_is_reloaded_once_for_each_change(foreign: Host) -> None:
    assert foreign.run(foreign.file) == ["reload"]
    assert foreign.run(foreign.file) == []
    foreign.file.write_text("two")
    assert foreign.run(foreign.file) == ["reload"]
    foreign.file.unlink()
    assert foreign.run(foreign.file) == ["reload"]
    assert foreign.run(foreign.file) == []
    assert foreign.did == ["reload"] * 3


def test_a_foreign_one_that_reads_at_its_start_alone_is_restarted_once_for_each_change(foreign: Host) -> None:
    assert foreign.run(foreign.file, restart=True) == ["restart"]
    assert foreign.run(foreign.file, restart=True) == []
    foreign.file.write_text("two")
    foreign.fails = "restart"  # and a run that is broken off here is made good by the next
    with pytest.raises(UnitError):
        foreign.run(foreign.file, restart=True)
    foreign.fails = ""
    assert foreign.run(foreign.file, restart=True) == ["restart"]
    assert foreign.run(foreign.file, restart=True) == []


def test_what_was_another_one_in_between_may_have_been_read(foreign: Host) -> None:
    foreign.run(foreign.file)
    os.utime(foreign.applied, (1, 1))
    assert foreign.run(foreign.file) == ["reload"]
    assert foreign.run(foreign.file) == []


def test_the_entries_of_a_folder_count(foreign: Host, tmp_path: Path) -> None:
    folder = tmp_path / "sites"
    folder.mkdir()
    (folder / "default").write_text("")
    foreign.run(foreign.file, folder)
    assert foreign.run(foreign.file, folder) == []
    (folder / "default").unlink()
    os.utime(foreign.applied, (folder.stat().st_ctime - 0.001,) * 2)  # the kernel's clock of files is a coarse one
    assert foreign.run(foreign.file, folder) == ["reload"]


def test_a_reload_that_fails_is_tried_again(foreign: Host) -> None:
    foreign.run(foreign.file)
    foreign.file.write_text("two")
    foreign.fails = "reload"
    for _run in range(2):
        with pytest.raises(UnitError, match=r"reload x\.service failed: Job failed"):
            foreign.run(foreign.file)
    foreign.fails = ""
    assert foreign.run(foreign.file) == ["reload"]
    assert foreign.run(foreign.file) == []
