# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for systemd with one unit of llama-server, and for the twins of it that are started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _unit_twin

UNIT = """
[Unit]
Requires=other.service
[Service]
User=daemon
Environment=LLAMA_CACHE=/var/cache "LLAMA_ARG_MODEL=/x.gguf"
# ExecStart=/bin/commented
ExecStartPre=/bin/gate
ExecStart=/usr/bin/llama-server --host 127.0.0.1 \\
  # a comment within
  --api-key-file %d/api-keys \\
  --alias "two words"
RuntimeDirectory=llama-router
SyslogIdentifier=%N
NoNewPrivileges=true
[Install]
WantedBy=multi-user.target
"""


FAILED = {"ActiveState": "failed", "ExecMainCode": "1", "ExecMainStatus": "1", "Result": "exit-code"}
RUNNING = {"ActiveState": "active", "ExecMainCode": "0", "ExecMainStatus": "0", "Result": "success"}


class Systemd:
    """A unit with one drop-in; keeps the units that are written and what was asked.

    A twin that is started writes `says` to its output and is then in the state `ends`; `serves` gets the twin's unit.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, unit: str = UNIT, drop_in: str = "") -> None:
        self.folder = folder
        self.asked: list[list[str]] = []
        self.written: list[str] = []
        self.shown = {
            "LoadState": "loaded",
            "FragmentPath": str(folder / "llama-router.service"),
            "DropInPaths": str(folder / "more.conf"),
            "User": "",
            "Group": "",
        }
        self.ends = dict(FAILED)
        self.says = ""
        self.serves: Callable[[str], None] = lambda text: None
        (folder / "llama-router.service").write_text(unit)
        (folder / "more.conf").write_text(drop_in)
        places = {"UNITS": str(folder / "units"), "FOLDER": str(folder / "folder"), "RUNTIME": str(folder / "runtime")}
        for name, place in places.items():
            monkeypatch.setattr(_unit_twin, name, place)

    @property
    def verbs(self) -> list[str]:
        return [asked[0] for asked in self.asked]

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        assert argv[0] == "systemctl"
        self.asked.append(list(argv[1:]))
        if argv[1] == "show":
            names = argv[3].partition("=")[2].split(",")
            shown = {**self.shown, **self.ends}
            return 0, "".join(f"{name}={shown[name]}\n" for name in names), ""
        if argv[1] == "start":
            (file,) = (self.folder / "units").glob("*.service")
            text = file.read_text()
            assert argv[2] == file.name
            assert ["daemon-reload"] in self.asked, "systemd does not know the unit yet"
            self.written.append(text)
            output = Path(text.partition("StandardOutput=file:")[2].partition("\n")[0])
            assert not output.exists(), "it would be added to what an earlier one said"
            output.write_text(self.says)
            self.serves(text)
            return (0, "", "") if self.ends["ActiveState"] == "active" else (1, "", "failed")
        return 0, "", ""
