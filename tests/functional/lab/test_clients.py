# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What clients are told of a real router in a guest: the sheet, OpenClaw's file, and where Open WebUI cannot run.

Open WebUI itself is installed in test_open_webui.py, by `make test-clients`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._json5 import loads
from hand_made import HandMade, changed, lab
from plays import words

KEY = "the-key-of-the-clients-0123456789"
UNIT = """\
[Service]
ExecStart=/usr/bin/llama-server --host 0.0.0.0 --port 8012 --models-preset /etc/llama-router/models.ini \\
    --models-max 2 --api-key-file /etc/llama-router/api-keys
"""
PRESETS = """\
[chat]
model = /srv/tiny/alpha-Q4_K_M.gguf
ctx-size = 65536
parallel = 2
kv-unified = true
alias = small
override-kv = llama.context_length=int:65536
load-on-startup = true

[shared]
model = /srv/tiny/Sharded-Q4_K_M/Sharded-Q4_K_M-00001-of-00003.gguf
ctx-size = 4096
parallel = 4
kv-unified = false

[vectors]
model = /srv/tiny/beta-Q8_0.gguf
ctx-size = 512
embedding = true
"""
ASK = """
import sys, urllib.request as u
u.urlopen(u.Request("http://127.0.0.1:8012/v1/models", headers=dict([sys.argv[1].split(": ")])))
"""
THEIRS = '{\n  // mine\n  channels: { telegram: { botToken: "123:secret" } },\n}\n'


@pytest.fixture(scope="module")
def guest(hand_made: HandMade) -> HandMade:
    """A router that this collection has not made, with the unit's name."""
    hand_made.again()
    hand_made.put("/etc/llama-router/api-keys", f"# a comment\n{KEY}\n", "400")
    hand_made.put("/etc/llama-router/models.ini", PRESETS)
    hand_made.put("/etc/systemd/system/llama-router.service", UNIT)
    hand_made.run("systemctl daemon-reload; systemctl start llama-router")
    header = f"Authorization: Bearer {KEY}"
    hand_made.until(f"python3 -c {shlex.quote(ASK)} {shlex.quote(header)}")
    return hand_made


def url(guest: HandMade) -> str:
    return f"http://{lab.address.rpartition('.')[0]}.{guest.vmid}:8012"


def blocks(sheet: str) -> dict[str, str]:
    """What is to be pasted, by its heading."""
    parts = (part.partition("\n") for part in sheet.split("\n## ")[1:])
    found = {head: re.search(r"```\w*\n(.*?)```", rest, re.DOTALL) for head, _newline, rest in parts}
    return {head: code[1] for head, code in found.items() if code}


def test_the_sheet(guest: HandMade, tmp_path: Path) -> None:
    file = tmp_path / "llama.md"
    output = guest.role("llama_clients", "--check", "--diff", llama_clients_sheet=str(file))
    assert changed(output) == 1
    assert not file.exists()
    output = guest.role("llama_clients", llama_clients_sheet=str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert changed(guest.role("llama_clients", llama_clients_sheet=str(file))) == 0
    sheet = file.read_text()
    assert KEY not in sheet + output
    assert f"`{url(guest)}/v1`" in sheet
    assert "| `chat` | `small` | 65536 | loaded at start |" in sheet
    assert "| `shared` | - | 512 | 31 s |" in sheet  # 1024, and no more than it was trained for
    assert "task model is to be `chat`" in words(sheet)
    assert "the first one in `/etc/llama-router/api-keys` on old" in sheet


def test_what_the_sheet_says_works(guest: HandMade, tmp_path: Path) -> None:
    """As somebody pastes it, with the key that stands in it and nowhere else."""
    file = tmp_path / "llama.md"
    assert KEY not in guest.role("llama_clients", "--diff", llama_clients_sheet=str(file), llama_clients_show_key=True)
    sheet = file.read_text()
    export = re.search(r"^export .*", sheet, re.MULTILINE)
    assert export
    curl = blocks(sheet)["curl"].replace("curl ", "curl -s ").replace('"messages"', '"max_tokens": 4, "messages"')
    done = subprocess.run(["sh", "-c", f"{export[0]}\n{curl}"], capture_output=True, text=True, check=True)
    assert "choices" in json.loads(done.stdout), done.stdout
    compile(blocks(sheet)["OpenAI's Python client"], "sheet", "exec")
    provider = loads(blocks(sheet)["OpenClaw"])["models"]["providers"]["llama-server"]
    assert [model["id"] for model in provider["models"]] == ["chat", "shared"]
    # Nor is it told when it goes.
    without = guest.role("llama_clients", "--diff", llama_clients_sheet=str(file))
    assert changed(without) == 1
    assert KEY not in without + file.read_text()


def openclaw(guest: HandMade, *options: str, ok: bool = True, **variables: Any) -> str:
    return guest.role("openclaw", *options, ok=ok, **{f"openclaw_{name}": value for name, value in variables.items()})


def test_openclaw(guest: HandMade) -> None:
    output = words(openclaw(guest, ok=False))
    assert "OpenClaw's folder /root/.openclaw was wanted, it is not there" in output
    guest.put("/root/.openclaw/openclaw.json", THEIRS, "600")
    output = openclaw(guest, "--check", "--diff", primary="chat")
    assert f'"baseUrl": "{url(guest)}/v1"' in output
    assert "secret" not in output
    assert guest.run("cat /root/.openclaw/openclaw.json") == THEIRS.strip()

    output = openclaw(guest, primary="chat")
    assert "shared has 512 tokens of context; OpenClaw wants 40000 or more" in words(output)
    assert changed(openclaw(guest, primary="chat")) == 0
    text = guest.run("cat /root/.openclaw/openclaw.json")
    assert text.startswith(THEIRS[: -len("}\n")])
    assert KEY not in text + output
    data = loads(text)
    models = {model["id"]: model["contextWindow"] for model in data["models"]["providers"]["llama-server"]["models"]}
    assert models == {"chat": 65536, "shared": 512}
    assert data["agents"]["defaults"]["model"]["primary"] == "llama-server/chat"

    assert changed(openclaw(guest, state="absent")) == 1
    assert "llama-server" not in loads(guest.run("cat /root/.openclaw/openclaw.json"))["models"]["providers"]


def test_open_webui_says_what_it_needs(guest: HandMade) -> None:
    output = words(guest.role("open_webui", ok=False))
    assert "Wanted for Open WebUI 0.12.4 on old: Python 3.11 or 3.12, 1500 MiB of memory, 5000 MiB of disk" in output
    assert "proxmox_lxc_ostemplate: local:vztmpl/debian-12-standard" in output
    assert guest.run("ls -d /opt/open-webui /etc/open-webui; id open-webui", check=False).count("o such") == 3
    output = words(guest.role("open_webui", ok=False, open_webui_version="0.12.99"))
    assert "requirements-0.12.99.txt was not found" in output
    output = words(guest.role("open_webui", ok=False, open_webui_routers=[]))
    assert "open_webui_routers of old was wanted as hosts of the inventory" in output


def test_a_router_that_is_down_is_said(guest: HandMade, tmp_path: Path) -> None:
    guest.run("systemctl stop llama-router")
    output = words(guest.role("llama_clients", ok=False, llama_clients_sheet=str(tmp_path / "llama.md")))
    assert "http://127.0.0.1:8012" in output
    assert not (tmp_path / "llama.md").exists()
