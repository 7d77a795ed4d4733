# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A router that somebody set up by hand after the guide, with the real llama-server, becomes one of the inventory's."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import yaml
from hand_made import HandMade, changed
from plays import words

KEY = "sk-of-the-old-days-0123456789"
UNIT = f"""\
[Unit]
Description=llama.cpp Server (Router Mode)
After=network.target

[Service]
Type=simple
User=root
WorkingDirectory=/root
Environment="CUDA_VISIBLE_DEVICES=0,1"
Environment="GGML_CUDA_ENABLE_UNIFIED_MEMORY=1"
ExecStart=/usr/bin/llama-server \\
    --models-dir /root/models \\
    --models-preset "/root/my models.ini" \\
    --models-max 3 --threads 2 \\
    --host 0.0.0.0 --port 8012 --metrics \\
    --api-key {KEY}
Restart=on-failure
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
PRESETS = """\
version = 1

[*]
jinja = true
ctx-size = 512
threads = 12
fit = on

; the one that answers at once
[chat]
model = /root/models/alpha-Q4_K_M.gguf
load-on-startup = true
stop-timeout = 5

[small:q8]
model = models/beta-Q8_0.gguf
alias = small,tiny
"""


@pytest.fixture(scope="module")
def guest(hand_made: HandMade) -> HandMade:
    hand_made.again()
    shutil.rmtree(hand_made.host_vars, ignore_errors=True)
    hand_made.run("cp -r /srv/tiny /root/models; rm -rf /root/models/broken* /root/models/truncated*")
    hand_made.put("/root/my models.ini", PRESETS)
    hand_made.put("/etc/systemd/system/llama-server.service", UNIT)
    hand_made.run("systemctl daemon-reload; systemctl enable --now llama-server")
    return hand_made


def served(guest: HandMade, key: str = KEY) -> dict[str, list[str]]:
    """What answers on the port, once it does."""
    models = guest.until(f"python3 -c {shlex.quote(ASK)} {key}")
    return {model["id"]: model["aliases"] for model in json.loads(models)["data"]}


ASK = """\
import sys, urllib.request as u
request = u.Request("http://127.0.0.1:8012/v1/models", headers={"Authorization": "Bearer " + sys.argv[1]})
print(u.urlopen(request).read().decode())
"""


def inodes(guest: HandMade, folder: str) -> set[str]:
    return set(guest.run(f"find -L {folder} -name '*.gguf' -printf '%i\\n'").split())


def test_read_into_an_inventory(guest: HandMade) -> None:
    """And nothing is changed there; the key is in no output."""
    before = served(guest)
    output = guest.playbook("adopt.yml", "-e", f"llamacpp_adopt_into={guest.folder}", "-vvv", "--diff")
    assert KEY not in output
    assert changed(output) == 3
    assert "[*] threads = 12 had no effect, since --threads is on the command line" in words(output)
    found = yaml.safe_load((guest.host_vars / "llamacpp.yml").read_text())
    names = {model["name"] for model in found["llamacpp_models"]}
    aliases = {name for model in found["llamacpp_models"] for name in model.get("aliases", ())}
    assert before.keys() <= names | aliases
    assert found["llama_router_common_options"] == {"ctx-size": 512, "fit": "on", "jinja": True, "threads": 2}
    assert (found["llama_router_models_max"], found["llama_router_gpus"]) == (3, [0, 1])
    vault = guest.host_vars / "vault.yml"
    assert vault.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(vault.read_text()) == {"vault_llama_router_api_keys": [KEY]}
    assert KEY not in (guest.host_vars / "llamacpp.yml").read_text()
    assert served(guest) == before
    # A second look leaves alone what an operator may have encrypted.
    assert changed(guest.playbook("adopt.yml", "-e", f"llamacpp_adopt_into={guest.folder}")) == 0


def test_a_model_that_would_be_lost(guest: HandMade) -> None:
    file = guest.host_vars / "llamacpp.yml"
    kept = file.read_text()
    found = yaml.safe_load(kept)
    found["llamacpp_models"] = [model for model in found["llamacpp_models"] if model["name"] != "chat"]
    file.write_text(yaml.safe_dump(found))
    output = words(guest.playbook("adopt.yml", "-e", "llamacpp_adopt_apply=true", ok=False))
    assert "serves chat which the inventory does not name" in output
    assert guest.is_active("llama-server")
    file.write_text(kept)


def test_a_take_over_that_fails(guest: HandMade) -> None:
    """The new router does not start; the old one serves again, with its key and from the next boot on."""
    before = served(guest)
    output = words(
        guest.playbook(
            "adopt.yml",
            "-e",
            "llamacpp_adopt_apply=true",
            "-e",
            '{"llama_router_options": {"no-such-option": true}}',
            ok=False,
        )
    )
    assert "was not taken over" in output
    assert "It serves again: " in output
    assert served(guest) == before
    assert guest.run("systemctl is-enabled llama-server llama-router", check=False).split() == ["enabled", "disabled"]


def test_taken_over(guest: HandMade) -> None:
    before, files = served(guest), inodes(guest, "/root/models")
    output = guest.playbook("adopt.yml", "-e", "llamacpp_adopt_apply=true", "-vvv", "--diff")
    assert KEY not in output
    assert (guest.is_active("llama-router"), guest.is_active("llama-server")) == (True, False)
    after = served(guest)
    answers = {name for one, aliases in after.items() for name in (one, *aliases)}
    assert before.keys() <= answers
    assert {alias for aliases in before.values() for alias in aliases} <= answers
    # No file was copied, none is gone.
    assert inodes(guest, "/var/lib/llama-router/models") == files == inodes(guest, "/root/models")
    assert KEY not in guest.run("cat /proc/*/cmdline | tr '\\0' ' '")


def test_site_goes_on_with_it(guest: HandMade) -> None:
    """Nothing is left to do, also after the old folder is gone."""
    guest.run("rm -r /root/models")
    before = served(guest)
    assert changed(guest.playbook("site.yml", "--skip-tags", "proxmox_lxc")) == 0
    assert served(guest) == before
