# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_files, _unit_record


def start(folder: Path, *args: object, credential: bool = False) -> Path:
    """What systemd runs at the start of x.service."""
    script = _unit_record.script(credential, str(folder))
    # Of the strictest umask: the script sets its own.
    command = ["/bin/sh", "-c", f"umask 077; {script}", "record", "x.service", *map(str, args)]
    subprocess.run(command, check=False)
    return folder / "x.service.applied"


def test_record_is_roots_and_names_each_file(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("conf", "with a  blank", "100%$x'\"")]
    for file in files:
        file.write_text(file.name)
    record = start(tmp_path / "run", *files, tmp_path / "missing")
    assert _router_files.read_applied(str(record)) == _router_files.digests(map(str, files))
    assert (record.parent.stat().st_mode & 0o777, record.stat().st_mode & 0o777) == (0o755, 0o644)
    assert [path.name for path in record.parent.iterdir()] == ["x.service.applied"]


def test_copy_of_a_credential_is_recorded_as_its_file(tmp_path: Path) -> None:
    copy, file = tmp_path / "copy", tmp_path / "file"
    copy.write_text("what the process has")
    file.write_text("more")
    keys = "/etc/a|b&c/api-keys"
    record = start(tmp_path / "run", copy, keys, file, credential=True)
    digests = _router_files.digests([str(copy), str(file)])
    assert _router_files.read_applied(str(record)) == {keys: digests[str(copy)], str(file): digests[str(file)]}


def test_notes_of_the_process_before_go(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("x.service.offloaded", "x.service.applied", "xx.service.offloaded"):
        (folder / name).touch()
    start(folder, tmp_path / "missing")
    assert sorted(path.name for path in folder.iterdir()) == ["x.service.applied", "xx.service.offloaded"]
    assert _router_files.read_applied(str(folder / "x.service.applied")) == {}


def test_the_line_of_a_unit() -> None:
    """A shell of root's that may fail, with the unit's name; systemd puts the place of the credentials in."""
    line = _unit_record.record(["/etc/a"])
    script = _unit_record.script().replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    assert line == f'ExecStartPre=-+/bin/sh -c "{script}" record %n "/etc/a"'
    with_copy = _unit_record.record(["/etc/a"], credential="/etc/router/api-keys")
    assert with_copy.endswith('" record %n "%d/""api-keys" "/etc/router/api-keys" "/etc/a"')
    assert "/run/homelab-llamacpp/$$1" in line
    assert _unit_record.script() == _unit_record.script(False) != _unit_record.script(True)
