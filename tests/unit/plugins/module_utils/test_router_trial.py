# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import (
    _llama_dry_run,
    _router_quiet,
    _router_trial,
    _unit_twin,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._port_hold import Connection
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import Preset
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_trial import Trial, room_beside
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_twin import Ended, Settings, Twin


def plan(usable: int, **totals: int) -> dict[str, Any]:
    return {
        "devices": [{"name": "CUDA0", "usable_mib": usable}],
        "models": [{"name": n, "devices": [{"device": "CUDA0", "total_mib": t}]} for n, t in totals.items()],
    }


@pytest.mark.parametrize(
    ("usable", "limit", "room"),
    [(17, 2, False), (18, 2, True), (9, 1, False), (10, 1, True), (100, 0, False)],
)
def test_room_is_what_is_left_beside_any_models_that_run(usable: int, limit: int, room: bool) -> None:
    assert room_beside(plan(usable, small=1, big=9, middle=8), limit, "small") is room


def test_no_room_without_a_plan() -> None:
    assert not room_beside({"devices": [], "models": []}, 2, "small")
    assert not room_beside(plan(100, other=1), 2, "small")


def test_lines_of_options() -> None:
    text = "; comment\nversion = 1\n\n[a]\nctx-size = 1\n[x/y:UD-Q4_K_XL]\r\nthreads = 2\nctx-size = 3\nctx-size = 4\n"
    preset = Preset(text)
    assert preset.line_number("a", "ctx-size") == 5
    assert preset.line_number("x/y:Q4_K_XL", "threads") == 7
    assert preset.line_number("x/y:Q4_K_XL", "ctx-size") == 9
    assert preset.line_number("a", "threads") == preset.line_number("none", "threads") == 0


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


class Systemd:
    """A unit with one drop-in; keeps the units that are written and what was asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, unit: str = UNIT, drop_in: str = "") -> None:
        self.folder = folder
        self.asked: list[list[str]] = []
        self.written: list[str] = []
        (folder / "llama-router.service").write_text(unit)
        (folder / "more.conf").write_text(drop_in)
        places = {"UNITS": str(folder / "units"), "FOLDER": str(folder / "folder"), "RUNTIME": str(folder / "runtime")}
        for name, place in places.items():
            monkeypatch.setattr(_unit_twin, name, place)

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        self.asked.append(list(argv[1:]))
        shown = {
            "LoadState": "loaded",
            "ActiveState": "failed",
            "FragmentPath": str(self.folder / "llama-router.service"),
            "DropInPaths": str(self.folder / "more.conf"),
            "User": "",
            "Group": "",
            "ExecMainCode": "1",
            "ExecMainStatus": "1",
            "Result": "exit-code",
        }
        if argv[1] == "show":
            names = argv[3].partition("=")[2].split(",")
            return 0, "".join(f"{name}={shown[name]}\n" for name in names), ""
        if argv[1] == "start":
            (file,) = (self.folder / "units").iterdir()
            self.written.append(file.read_text())
            return 1, "", "failed"
        return 0, "", ""


def test_a_twin_has_the_settings_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User, environment and sandbox; not its dependencies, its other commands and its folders."""
    systemd = Systemd(tmp_path, monkeypatch, drop_in="[Service]\nMemoryMax=1G\n[Unit]\nConflicts=x.service\n")
    settings = Settings.of(systemd, "llama-router.service")
    assert settings.program == "/usr/bin/llama-server"
    assert settings.words.split()[2:4] == ["--api-key-file", "%d/api-keys"]
    assert settings.names("LLAMA_") == ["LLAMA_ARG_MODEL", "LLAMA_CACHE"]
    with Twin(systemd, settings).made() as twin:
        presets = Path(twin.write("models.ini", "hf-token = secret"))
        assert presets.stat().st_mode & 0o777 == 0o440
        command = twin.command("/new/llama-server", settings.words, ["--host", "a b"], {"A": "$1"}, ["LLAMA_X"])
        assert twin.to_its_end(command, 7) == Ended("1", "")
    (text,) = systemd.written
    lines = text.splitlines()
    for line in ("User=daemon", "NoNewPrivileges=true", "MemoryMax=1G", "SyslogIdentifier=llama-router"):
        assert line in lines
    assert [line for line in lines if line.startswith("ExecStart=")] == [
        'ExecStart="/usr/bin/env" "-u" "LLAMA_X" "A=$$1" "/new/llama-server" --host 127.0.0.1'
        '    --api-key-file %d/api-keys    --alias "two words" "--host" "a b"'
    ]
    assert "TimeoutStartSec=7" in lines
    for word in ("Requires", "Conflicts", "ExecStartPre", "WantedBy", "=llama-router\n"):
        assert word not in text.replace("SyslogIdentifier=llama-router\n", "")
    assert list((tmp_path / "folder").iterdir()) == list((tmp_path / "units").iterdir()) == []
    verbs = [asked[0] for asked in systemd.asked]
    assert verbs.count("daemon-reload") == 2
    assert verbs[-1] == "daemon-reload"


@pytest.mark.parametrize("command", ["", "+/usr/bin/llama-server", "!/usr/bin/llama-server", "@/bin/llama-server x"])
def test_units_that_have_no_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    systemd = Systemd(tmp_path, monkeypatch, drop_in=f"[Service]\nExecStart=\nExecStart={command}\n")
    with pytest.raises(UnitError, match="to start one program as its user"):
        Settings.of(systemd, "llama-router.service")


def test_a_unit_that_starts_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(tmp_path, monkeypatch, drop_in="[Service]\nExecStart=\nExecStart=/opt/start.sh\n")
    with pytest.raises(RouterError, match=r"to start llama-server itself, found /opt/start.sh"):
        Trial(systemd, "llama-router.service", "/new/llama-server", 1)


def test_the_last_command_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_in = "[Service]\nExecStart=\nExecStart=:/opt/llama-server --x $y\n"
    systemd = Systemd(tmp_path, monkeypatch, drop_in=drop_in)
    settings = Settings.of(systemd, "llama-router.service")
    assert (settings.words, settings.expands) == (" --x $y", False)
    command = Twin(systemd, settings).command("/new", settings.words, ["$z"], {})
    assert command == ':"/usr/bin/env" "/new" --x $y "$z"'


def test_a_word_that_ends_the_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router tells the arguments of a model, and they become a line of a unit."""
    systemd = Systemd(tmp_path, monkeypatch)
    settings = Settings.of(systemd, "llama-router.service")
    with Twin(systemd, settings).made() as twin:
        for word in ("a\rNoNewPrivileges=false", "a\0b"):
            with pytest.raises(UnitError, match="a command of one line"):
                twin.command("/new", "", [word], {})
        twin.to_its_end(twin.command("/new", "", ["a\nUser=root"], {}), 1)
    assert "User=root" not in [line for text in systemd.written for line in text.splitlines()]


def test_all_options_that_it_does_not_know_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below a character that ends a line for Python, and not for llama-server."""
    asked: list[str] = []

    def refusal(_twin: Twin, text: str) -> str:
        asked.append(text)
        assert len(asked) <= 3
        unknown = next((line.split(" = ")[0] for line in text.split("\n") if line.startswith("gone")), "")
        return f"option '{unknown}' not recognized in preset 'a'" if unknown else ""

    presets = tmp_path / "models.ini"
    presets.write_text(
        "; a page\fand a line\u2028of it\n[a]\r\ngone-1 = 1\nctx-size = 1\ngone-2 = 2\n", encoding="utf-8"
    )
    trial = Trial(Systemd(tmp_path, monkeypatch), "llama-router.service", "/bin/llama-server", 1)
    monkeypatch.setattr(trial, "_refusal", refusal)
    with pytest.raises(RouterError, match=r"preset 'a', line 3: .*'gone-1'; preset 'a', line 5: .*'gone-2'"):
        trial.reads(str(presets))
    assert "ctx-size = 1" in asked[-1]


@pytest.mark.parametrize("section", ["a", "none"])
def test_an_option_that_is_refused_for_ever_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str) -> None:
    """A build that names an option without a line, or one whose line was emptied already."""
    presets = tmp_path / "models.ini"
    presets.write_text("[a]\nctx-size = 1\n")
    asked: list[str] = []

    def refusal(_twin: Twin, text: str) -> str:
        asked.append(text)
        assert len(asked) < 10
        return f"option 'ctx-size' not recognized in preset '{section}'"

    trial = Trial(Systemd(tmp_path, monkeypatch), "llama-router.service", "/bin/llama-server", 1)
    monkeypatch.setattr(trial, "_refusal", refusal)
    with pytest.raises(RouterError, match="option 'ctx-size' not recognized"):
        trial.reads(str(presets))


def test_what_a_dry_run_says() -> None:
    refused = "0.00 E srv  llama_server: failed to initialize router models: option 'x' not recognized in preset 'm'\n"
    assert _llama_dry_run.refusal(refused) == "option 'x' not recognized in preset 'm'"
    assert _llama_dry_run.refusal("couldn't bind HTTP server socket") == ""
    assert _llama_dry_run.refusal("Segmentation fault") is None
    assert _llama_dry_run.last_words("a\nb\nc\nd\n") == "b / c / d"
    assert _llama_dry_run.last_words("") == "nothing"


@pytest.mark.parametrize(
    ("state", "ready", "busy"),
    [(0x01, True, True), (0x0A, True, False), (0x06, True, False), (0x0A, False, True)],
)
def test_an_answer_is_a_connection_to_a_models_process(
    monkeypatch: pytest.MonkeyPatch, state: int, ready: bool, busy: bool
) -> None:
    table = [Connection(2, "127.0.0.1", 50001, state, 0, 0), Connection(2, "127.0.0.1", 8012, 0x01, 0, 0)]
    child = _router_quiet._router_children.Process(1, 0.0, ("--alias", "a", "--port", "50001"))
    monkeypatch.setattr(_router_quiet._router_children, "children", lambda pid: {"a": child})
    monkeypatch.setattr(_router_quiet._port_hold, "connections", lambda: iter(table))
    monkeypatch.setattr(_router_quiet, "_ready", lambda port: ready)
    assert _router_quiet.busy(1) is busy
    assert _router_quiet.wait_until_quiet(1, 0) is not busy


def test_quiet_has_to_last(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False, True, False, False, False, False, False, False])
    seen: list[bool] = []
    monkeypatch.setattr(_router_quiet, "_PAUSE", 0.02)
    monkeypatch.setattr(_router_quiet, "busy", lambda pid: seen.append(next(answers)) or seen[-1])
    assert _router_quiet.wait_until_quiet(1, 5, 0.03)
    assert len(seen) >= 5


def test_arguments_without_some() -> None:
    args = ["--host", "127.0.0.1", "--alias", "a", "--port", "0", "--jinja"]
    assert _router_trial._without(args, ("--host", "--port")) == ["--alias", "a", "--jinja"]
