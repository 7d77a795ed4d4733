# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What site.yml has made is taken away, and nothing else: the guest's files before and after are compared."""

from __future__ import annotations

import pytest
import yaml
from hand_made import HandMade, changed
from plays import words

# What any run of Ansible's and apt's leaves, and what a machine writes by itself.
ALWAYS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/etc/.pwd.lock")
FILES = (
    "find /etc /opt /usr/local /var/lib /var/cache /srv -xdev"
    " -not -path '/var/lib/systemd/*' -not -path '/var/lib/apt/*'"
)


@pytest.fixture(scope="module")
def guest(hand_made: HandMade) -> HandMade:
    hand_made.again()
    hand_made.run("cp /srv/tiny/alpha-Q4_K_M.gguf /srv/alpha.gguf; cp /srv/tiny/gamma.gguf /srv/gamma.gguf")
    hand_made.host_vars.mkdir(parents=True, exist_ok=True)
    (hand_made.host_vars / "llamacpp.yml").write_text(
        yaml.safe_dump(
            {
                "llama_router_cpu_only": True,
                "llama_router_models_max": 1,
                "llamacpp_models": [
                    {"name": "linked", "source": {"path": "/srv/alpha.gguf"}},
                    {"name": "copied", "source": {"path": "/srv/gamma.gguf", "method": "copy"}},
                ],
            }
        )
    )
    return hand_made


def files(guest: HandMade) -> set[str]:
    return {path for path in guest.run(FILES).splitlines() if not path.rstrip("-").endswith(ALWAYS)}


def test_site_and_away_again(guest: HandMade) -> None:
    before = files(guest)
    guest.playbook("site.yml", "--skip-tags", "proxmox_lxc")
    there = files(guest)
    assert guest.is_active("llama-router")

    output = words(guest.playbook("remove.yml"))
    assert "old: unit llama-router.service, /etc/systemd/system/llama-router.service, " in output
    for path in ("/usr/local/bin/llama-router-status", "/etc/llama-router/api-keys"):
        assert path in output
    assert "/var/lib/llama-router/models/copied.gguf" in output
    assert "these stay: -e llama_models_remove=true" in output
    assert guest.is_active("llama-router")
    assert files(guest) == there

    guest.playbook("remove.yml", "-e", "llamacpp_remove=old")
    assert not guest.is_active("llama-router")
    assert files(guest) - before == {
        "/var/lib/llama-router",
        "/var/lib/llama-router/models",
        "/var/lib/llama-router/models/.model_file.json",
        "/var/lib/llama-router/models/.model_file.json.lock",
        "/var/lib/llama-router/models/copied.gguf",
        "/var/lib/llama-router/models/linked.gguf",
    }

    # The rest is gone already: the models, and their directory.
    assert changed(guest.playbook("remove.yml", "-e", "llamacpp_remove=old", "-e", "llama_models_remove=true")) == 2
    assert files(guest) == before
    assert guest.run("id llama-router", check=False).endswith("no such user")


def test_no_release_goes_that_runs(guest: HandMade) -> None:
    guest.role("llama_cpp")
    guest.run("systemd-run --quiet --unit by-hand /opt/llama.cpp/current/bin/llama-server --host 127.0.0.1 --port 9990")
    guest.until("python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 9990))'")
    output = words(guest.role("llama_cpp", ok=False, llama_cpp_state="absent"))
    assert "runs on old, so its files stay" in output
    guest.run("systemctl stop by-hand")
    assert changed(guest.role("llama_cpp", llama_cpp_state="absent")) == 1
