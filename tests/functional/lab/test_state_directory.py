# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest as an earlier version left it, where the service owns the directory above the models, is converted."""

from __future__ import annotations

import pytest
import yaml
from hand_made import HandMade, changed
from plays import words

STATE = "/var/lib/llama-router"
UNIT = "/etc/systemd/system/llama-router.service"
RECORD = "/run/homelab-llamacpp/llama-router.service.applied"
MODELS = [
    {"name": "linked", "source": {"path": "/srv/alpha.gguf"}},
    {"name": "copied", "source": {"path": "/srv/gamma.gguf", "method": "copy"}},
]
# What the earlier version's unit and role had, and what the router has written meanwhile.
EARLIER = f"""
systemctl stop llama-router
sed -i -e 's|^StateDirectory=.*|StateDirectory=llama-router|' -e 's|^Environment=HOME=.*|Environment=HOME={STATE}|' \
  -e 's|^ExecStartPre=.*record.*|ExecStartPre=-/bin/sh -c "sha256sum {UNIT} >/run/llama-router/applied"|' \
  -e '/^StateDirectory=/i RuntimeDirectory=llama-router' {UNIT}
rm -rf {STATE}/state /run/homelab-llamacpp
chown llama-router: {STATE}
systemctl daemon-reload
systemctl start llama-router
runuser -u llama-router -- sh -c 'mkdir -p {STATE}/.cache && echo kept >{STATE}/.cache/kept'
"""


@pytest.fixture(scope="module")
def guest(hand_made: HandMade) -> HandMade:
    hand_made.again()
    hand_made.run("cp /srv/tiny/alpha-Q4_K_M.gguf /srv/alpha.gguf; cp /srv/tiny/gamma.gguf /srv/gamma.gguf")
    hand_made.host_vars.mkdir(parents=True, exist_ok=True)
    variables = {"llama_router_cpu_only": True, "llama_router_models_max": 1, "llamacpp_models": MODELS}
    (hand_made.host_vars / "llamacpp.yml").write_text(yaml.safe_dump(variables))
    site(hand_made)
    return hand_made


def site(guest: HandMade, *options: str) -> str:
    return guest.playbook("site.yml", "--skip-tags", "proxmox_lxc", *options)


def unchanged(guest: HandMade) -> None:
    """Another run changes nothing."""
    output = site(guest)
    assert changed(output) == 0, output


def inodes(guest: HandMade) -> str:
    return guest.run(f"cd {STATE}/models && stat -c '%n %i %Y %U' * .model_file.json")


def as_service(guest: HandMade, script: str) -> bool:
    """Whether the service's user can do this."""
    return "it could" in guest.run(f"runuser -u llama-router -- sh -euc '{script}' 2>/dev/null && echo it could; true")


def test_service_changes_neither_the_models_nor_the_records(guest: HandMade) -> None:
    """What it owns is its own directory."""
    assert guest.run(f"stat -c '%U %a' {STATE} {STATE}/models {STATE}/state /run/homelab-llamacpp").splitlines() == [
        "root 755",
        "root 755",
        "llama-router 755",
        "root 755",
    ]
    for script in (
        f"mv {STATE}/models {STATE}/m",
        f"ln -s /etc/shadow {STATE}/pending.json",
        f"ln -s /etc/shadow {STATE}/models/.model_file.json.lock",
        f"rm {RECORD}",
        f"echo >>{RECORD}",
        "touch /run/homelab-llamacpp/x",
    ):
        assert not as_service(guest, script), script
    assert as_service(guest, f"touch {STATE}/state/own")
    # It is the same record that the next run compares.
    assert "/etc/llama-router/api-keys" in guest.run(f"cat {RECORD}")
    assert guest.run(f"sha256sum --check --strict {RECORD} >/dev/null && echo as recorded") == "as recorded"


def test_earlier_layout_is_converted_by_site(guest: HandMade) -> None:
    guest.run(EARLIER)
    files, keys = inodes(guest), guest.run("cat /etc/llama-router/api-keys")
    output = words(site(guest, "--check", "--diff"))
    assert "A run without check mode converts it and goes on" in output
    assert guest.run(f"stat -c %U {STATE}") == "llama-router"

    output = words(site(guest))
    assert "planted" not in output
    assert inodes(guest) == files
    assert guest.run("cat /etc/llama-router/api-keys") == keys
    assert guest.run(f"stat -c %U {STATE} {STATE}/state").splitlines() == ["root", "llama-router"]
    assert guest.run(f"cat {STATE}/state/.cache/kept") == "kept"
    assert guest.run("systemctl show llama-router --property StateDirectory --value") == "llama-router/state"
    unchanged(guest)


def test_role_of_the_models_alone_converts_too(guest: HandMade) -> None:
    """The unit is changed first: with the earlier one, systemd would give the models to the service at a start."""
    guest.run(EARLIER)
    files = inodes(guest)
    assert changed(guest.role("llama_models", llama_models_models=MODELS)) == 1
    guest.run("systemctl restart llama-router")
    assert inodes(guest) == files
    assert guest.run(f"stat -c %U {STATE} {STATE}/models").splitlines() == ["root", "root"]
    assert "Run site.yml first. Nothing was changed" in words(guest.playbook("update.yml", ok=False))
    site(guest)


def test_systemd_gives_all_in_a_state_directory_to_the_service(guest: HandMade) -> None:
    """The reason for that order, should systemd ever do otherwise."""
    guest.run(
        "mkdir -p /var/lib/probe/models && touch /var/lib/probe/models/one"
        " && systemd-run --quiet --wait --property User=llama-router --property StateDirectory=probe true"
    )
    assert guest.run("stat -c %U /var/lib/probe/models/one") == "llama-router"
    guest.run("rm -r /var/lib/probe")


def test_what_the_service_planted_before_is_not_followed(guest: HandMade) -> None:
    guest.run(EARLIER)
    guest.run("echo secret >/root/victim; chmod 600 /root/victim")
    attack = (
        f"cd {STATE}; mv models m; mkdir models; ln -s /root/victim models/.model_file.json.lock;"
        " mkfifo models/.model_file.json; ln -s /root/victim models/copied.gguf; ln -s /root pending.json;"
        " ln -s /root state"
    )
    assert as_service(guest, attack)
    output = words(site(guest))
    planted = ("models/.model_file.json", "models/.model_file.json.lock", "models/copied.gguf", "state")
    assert "which may have planted" in output
    assert all(path in output for path in planted)
    assert guest.run("stat -c '%U %a %s' /root/victim; stat -c '%U %a' /root").splitlines() == [
        "root 600 7",
        "root 700",
    ]
    assert guest.run(f"ls -A {STATE}/m").split() == [
        ".model_file.json",
        ".model_file.json.lock",
        "copied.gguf",
        "linked.gguf",
    ]
    assert guest.run(f"find {STATE}/models ! -user root") == ""
    assert guest.run(f"stat -c %a {STATE}/moved-aside-*") == "700"
    assert guest.is_active("llama-router")
    unchanged(guest)
