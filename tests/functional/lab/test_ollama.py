# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role ollama in real systemd, with a stand-in for Ollama (tests/doubles/ollama.py) behind the real unit file."""

from __future__ import annotations

import json
import shlex

import pytest
from hand_made import HandMade, changed
from plays import CHECKOUT, words

UNIT = """\
[Unit]
Description=Ollama Service
After=network-online.target

[Service]
ExecStart=/usr/local/bin/ollama serve
User=ollama
Group=ollama
Restart=always
RestartSec=3
Environment="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

[Install]
WantedBy=default.target
"""
ROUTER = "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
FILE = "/etc/systemd/system/ollama.service"
API = "http://127.0.0.1:11434/api"


@pytest.fixture(scope="module")
def guest(hand_made: HandMade) -> HandMade:
    hand_made.again()
    program = (CHECKOUT / "tests/doubles/ollama.py").read_text()
    hand_made.put("/usr/local/bin/ollama", f"#!/usr/bin/python3\n{program}", "755")
    hand_made.put(FILE, UNIT)
    hand_made.put("/etc/systemd/system/llama-router.service", ROUTER)
    hand_made.run(
        "useradd -r -s /bin/false ollama; systemctl daemon-reload; systemctl enable --now ollama llama-router"
    )
    return hand_made


def ask(guest: HandMade, path: str, request: dict[str, object] | None = None) -> str:
    """Ollama's answer, once it answers."""
    body = "None" if request is None else repr(json.dumps(request).encode())
    program = f"import urllib.request as u; print(u.urlopen({API + path!r}, {body}).read().decode())"
    return guest.until(f"python3 -c {shlex.quote(program)}")


def generate(guest: HandMade, **request: object) -> None:
    ask(guest, "/generate", {"model": "qwen3:8b", **request})


def loaded(guest: HandMade) -> list[str]:
    return [model["name"] for model in json.loads(ask(guest, "/ps"))["models"]]


def is_enabled(guest: HandMade) -> str:
    return guest.run("systemctl is-enabled ollama", check=False)


def as_before(guest: HandMade) -> bool:
    return (
        guest.is_active("ollama")
        and is_enabled(guest) == "enabled"
        and guest.run(f"cat {FILE}") == UNIT.strip()
        and guest.run("ls -d /etc/systemd/system/ollama* /var/lib/homelab-llamacpp/*", check=False).count("ollama") == 1
    )


def test_nothing_was_asked_for(guest: HandMade) -> None:
    assert changed(guest.role("ollama")) == 0
    assert as_before(guest)


def test_fallback_keeps_no_model(guest: HandMade) -> None:
    """Also where the operator's own drop-in says otherwise, and has the line that many take for the one to have."""
    guest.put(f"{FILE}.d/override.conf", "[Service]\nEnvironment=OLLAMA_KEEP_ALIVE=1h OLLAMA_MAX_LOADED_MODELS=0\n")
    guest.run("systemctl daemon-reload; systemctl restart ollama")
    generate(guest)
    assert loaded(guest) == ["qwen3:8b"]
    output = guest.role("ollama", "--check", "--diff", ollama_mode="fallback")
    assert "OLLAMA_KEEP_ALIVE=0" in output
    assert loaded(guest) == ["qwen3:8b"]
    output = guest.role("ollama", ollama_mode="fallback")
    assert "OLLAMA_MAX_LOADED_MODELS=0 of ollama.service means automatic, not none" in words(output)
    generate(guest)
    assert loaded(guest) == []
    assert changed(guest.role("ollama", ollama_mode="fallback")) == 0
    guest.run(f"rm {FILE}.d/override.conf; systemctl daemon-reload")


def test_an_environment_file_that_has_the_last_word(guest: HandMade) -> None:
    guest.put("/etc/ollama.env", "OLLAMA_KEEP_ALIVE=24h\n")
    guest.put(f"{FILE}.d/override.conf", "[Service]\nEnvironmentFile=/etc/ollama.env\n")
    guest.run("systemctl daemon-reload; systemctl restart ollama")
    output = words(guest.role("ollama", ok=False, ollama_mode="fallback"))
    assert "its process has '24h'" in output
    assert "EnvironmentFile=, says so" in output
    guest.run(f"rm {FILE}.d/override.conf; systemctl daemon-reload")


def test_disabled_is_for_good(guest: HandMade) -> None:
    generate(guest, keep_alive="1h")
    output = guest.role("ollama", ollama_mode="disabled")
    assert "Whether VRAM came free was not checked" in words(output)
    assert is_enabled(guest) == "masked"
    assert not guest.is_active("ollama")
    assert "masked" in guest.run("systemctl start ollama", check=False)
    assert changed(guest.role("ollama", ollama_mode="disabled")) == 0


def test_a_guest_that_does_not_run(guest: HandMade) -> None:
    guest.stop()
    output = guest.role("ollama", ollama_mode="untouched")
    assert changed(output) == 0
    output = words(guest.role("ollama", ollama_mode="fallback"))
    assert "does not run, so its Ollama holds no VRAM" in output
    guest.role("ollama", ollama_mode="fallback", ollama_stopped_guest="start")
    assert "stopped" in guest.status()
    guest.start_again()
    assert guest.is_active("ollama")
    assert is_enabled(guest) == "enabled"
    generate(guest)
    assert loaded(guest) == []


def test_exclusive_starting_one_stops_the_other(guest: HandMade) -> None:
    """Whoever asks for it; and the next boot is the router's."""
    guest.role("ollama", ollama_mode="exclusive")
    assert (guest.is_active("ollama"), guest.is_active("llama-router")) == (False, True)
    assert changed(guest.role("ollama", ollama_mode="exclusive")) == 0
    guest.run("systemctl start ollama")
    assert (guest.is_active("ollama"), guest.is_active("llama-router")) == (True, False)
    assert changed(guest.role("ollama", ollama_mode="exclusive")) == 0
    assert guest.is_active("ollama")
    guest.run("systemctl start llama-router")
    assert (guest.is_active("ollama"), guest.is_active("llama-router")) == (False, True)
    guest.reboot()
    assert (guest.is_active("ollama"), guest.is_active("llama-router")) == (False, True)


def test_untouched_brings_back_what_was(guest: HandMade) -> None:
    assert changed(guest.role("ollama")) == 1
    assert as_before(guest)
    assert guest.is_active("llama-router")
    assert changed(guest.role("ollama")) == 0


def test_none_there(guest: HandMade) -> None:
    """Nor an Ollama that no unit stands for, as one in Docker: it is said."""
    guest.run(f"systemctl disable --now ollama; rm {FILE}; systemctl daemon-reload")
    assert "old has no ollama.service: nothing to do" in words(guest.role("ollama", ollama_mode="disabled"))
    guest.run("systemd-run --quiet --unit by-hand /usr/local/bin/ollama serve")
    guest.until("python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 11434))'")
    output = words(guest.role("ollama", ollama_mode="disabled"))
    assert "an Ollama answers at http://127.0.0.1:11434, and there is no ollama.service" in output
