# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service behind a switch: what systemd is asked, when it counts as up, and what is told when it does not."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import open_webui_switch
from ansible_collections.homelab.llamacpp.tests.unit.http_double import JSON, Asked, HttpDouble, Told

Call = Callable[..., dict[str, Any]]


class WebUI(HttpDouble):
    def __init__(self) -> None:
        super().__init__()
        self.starting = 0  # requests that it is not ready for

    def answer(self, asked: Asked) -> Told:
        assert asked.path == "/health"
        self.starting -= 1
        return Told(503 if self.starting >= 0 else 200, JSON, "{}")


@pytest.fixture
def webui() -> Iterator[WebUI]:
    with WebUI() as one:
        yield one


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def release(tmp_path: Path) -> Callable[[str], None]:
    """Makes one."""
    return lambda name: (tmp_path / "releases" / name).mkdir(parents=True)


@pytest.fixture
def call(
    webui: WebUI,
    asked: list[str],
    release: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """The module on a host with the release `old`."""
    release("old")

    def command(_module: Any, argv: list[str], **_more: Any) -> tuple[int, str, str]:
        if argv[0] == "journalctl":
            return 0, "one\ntwo\n", ""
        assert argv[0] == "systemctl", argv
        asked.append(argv[1])
        return 0, "LoadState=loaded\nActiveState=active\n" if argv[1] == "show" else "", ""

    monkeypatch.setattr(AnsibleModule, "run_command", command)

    def run(check: bool = False, **params: Any) -> dict[str, Any]:
        user = pwd.getpwuid(os.geteuid()).pw_name
        places = {"root": str(tmp_path), "database": str(tmp_path / "db"), "copies": str(tmp_path / "copies")}
        places["user"] = user
        capsys.readouterr()
        with (
            patch_module_args({**places, "url": webui.url, **params, "_ansible_check_mode": check}),
            pytest.raises(SystemExit),
        ):
            open_webui_switch.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


def test_there_and_back(
    call: Call, webui: WebUI, asked: list[str], release: Callable[[str], None], tmp_path: Path
) -> None:
    seen = call(to="old", check=True)
    assert (seen["changed"], seen["before"], seen["release"], asked) == (True, "", "old", [])
    webui.starting = 2
    assert call(to="old")["diff"] == seen["diff"] == {"before": "\n", "after": "old\n"}
    assert asked == ["daemon-reload", "restart"]
    assert not call(to="old")["changed"]
    release("new")
    assert (call(to="new")["before"], asked[2:]) == ("old", ["show", "stop", "daemon-reload", "restart"])
    assert call(back=True, check=True)["release"] == "old"
    assert (tmp_path / "current").resolve().name == "new"
    assert call(back=True)["changed"]
    assert (tmp_path / "current").resolve().name == "old"


def test_one_that_does_not_answer(call: Call, webui: WebUI, release: Callable[[str], None]) -> None:
    call(to="old")
    webui.starting = 1
    release("new")
    told = call(to="new", timeout=0)["msg"]
    assert told.startswith(
        f"Open WebUI: new did not come up (no answer from {webui.url}/health in 0 s); it said: one / two"
    )
    assert "old serves again, with the database from before" in told


def test_what_is_not_there(call: Call) -> None:
    assert "expected the release newest in" in call(to="newest")["msg"]
    assert "expected to: a release, found '..'" in call(to="..")["msg"]
    assert "expected the user no-such-user" in call(to="old", user="no-such-user")["msg"]
    assert "url: expected http://HOST:PORT" in call(to="old", url="127.0.0.1:8080")["msg"]
    assert "it was never updated" in call(back=True)["msg"]
    assert "all of the following are missing: to" in call()["msg"]


@pytest.mark.parametrize(
    "odd",
    [
        b"220 mail.example ESMTP\r\n",
        b"\r\n\r\n",
        b"\0" * 5000,
        b"HTTP/1.1 \xb2\xb3 OK\r\n\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 2000 \r\n",
        b"",
    ],
)
def test_odd_answers_in_the_middle_of_a_switch(
    call: Call, release: Callable[[str], None], odd: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new release speaks something else: the old one is current again, and the module says so."""
    call(to="old")
    release("new")
    monkeypatch.setattr(open_webui_switch, "PATIENCE", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.recv(1000)
                        connection.sendall(odd)

        threading.Thread(target=speak, daemon=True).start()
        told = call(to="new", timeout=0, url=f"http://127.0.0.1:{server.getsockname()[1]}")
    assert "new did not come up (no answer from" in told["msg"]
    assert [(tmp_path / name).is_symlink() for name in ("leaving", "restoring")] == [False, False]
    assert (tmp_path / "current").resolve().name == "old"


def test_an_answer_that_never_ends(call: Call, release: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    call(to="old")
    release("new")
    monkeypatch.setattr(open_webui_switch, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(open_webui_switch, "PATIENCE", 0)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                while not over.wait(0.1):
                    connection.sendall(b" ")

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=speak, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        told = call(to="new", timeout=0, url=f"http://127.0.0.1:{server.getsockname()[1]}")
        over.set()
    assert "new did not come up (no answer from" in told["msg"]


def test_copies_of_an_earlier_version(call: Call, tmp_path: Path) -> None:
    call(to="old")
    before = tmp_path / "data" / "before-update" / "older"
    before.mkdir(parents=True)
    (before / "db").write_text("chats")
    given = {"to": "old", "earlier_copies": str(before.parent)}
    seen = call(check=True, **given)
    assert (seen["changed"], seen["moved"]) == (True, ["older"])
    assert (before / "db").exists()
    assert call(**given)["moved"] == ["older"]
    assert (tmp_path / "copies" / "older" / "db").read_text() == "chats"
    assert not before.parent.exists()
    assert not call(**given)["changed"]
