# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.filter.instance_plan import FilterModule as InstancePlan
from ansible_collections.homelab.llamacpp.plugins.filter.markdown_code import markdown_code
from ansible_collections.homelab.llamacpp.plugins.filter.networks import networks
from ansible_collections.homelab.llamacpp.plugins.filter.plain_words import plain_words
from ansible_collections.homelab.llamacpp.plugins.filter.refused_options import refused_options
from ansible_collections.homelab.llamacpp.plugins.filter.unit_hardening import FilterModule
from ansible_collections.homelab.llamacpp.plugins.filter.unit_word import FilterModule as UnitWord

unit_hardening = FilterModule().filters()["unit_hardening"]
unit_word = UnitWord().filters()["unit_word"]
instance_plan = InstancePlan().filters()["instance_plan"]


def test_a_kind_or_the_devices_it_follows_from() -> None:
    assert unit_hardening(["CUDA0"]) == unit_hardening("cuda")
    assert unit_hardening([]) == unit_hardening("cpu")
    assert "#   ProtectProc: this machine: 226/NAMESPACE" in unit_hardening("cpu", {"ProtectProc": "226/NAMESPACE"})


@pytest.mark.parametrize(
    "given", [{"writable": "/srv"}, {"devices": [1]}, {"refused": ["ProtectProc"]}, {"left_out": "x"}]
)
def test_what_is_of_another_type_is_an_error_of_the_filter(given: dict[str, object]) -> None:
    with pytest.raises(AnsibleFilterError, match=f"unit_hardening: {next(iter(given))}: .* was wanted|were wanted"):
        unit_hardening("cpu", **given)
    with pytest.raises(AnsibleFilterError, match="unit_hardening: kind"):
        unit_hardening("gpu")


def test_a_word_is_made_of_anything() -> None:
    assert unit_word(8012) == '"8012"'
    assert unit_word("A=$B", variables=False) == '"A=$B"'


def test_instances_that_cannot_run_are_an_error_of_the_filter() -> None:
    with pytest.raises(AnsibleFilterError, match="a list of instances"):
        instance_plan({"name": "coder"})
    with pytest.raises(AnsibleFilterError, match="instance coder: port"):
        instance_plan([{"name": "coder", "path": "/srv/coder.gguf"}])


CONTROLS = ["\r", "\0", "\x0b", "\x1b", "\x85", "\u2028", "\ud800"]


@pytest.mark.parametrize("sign", CONTROLS)
def test_a_word_of_a_unit_ends_no_line(sign: str) -> None:
    """`A=1\\rNoNewPrivileges=false` was two lines for systemd."""
    with pytest.raises(AnsibleFilterError, match="unit_word: expected a word of a unit"):
        unit_word(f"A=1{sign}NoNewPrivileges=false", variables=False)
    assert unit_word("a\nb") == '"a\\nb"'


@pytest.mark.parametrize("sign", [*CONTROLS, "\n", "$", ":", "'", " "])
def test_a_path_of_the_hardening_is_one_word(sign: str) -> None:
    with pytest.raises(AnsibleFilterError, match="writable: an absolute path"):
        unit_hardening("cpu", writable=[f"/srv/{sign}x"])
    with pytest.raises(AnsibleFilterError, match="devices: "):
        unit_hardening("cpu", devices=[f"/dev/{sign} x"])


def test_a_reason_of_the_machine_is_one_line() -> None:
    lines = unit_hardening("cpu", {"ProtectProc": "no\r\nUser=root\x85User=root\0"}).splitlines()
    assert [line for line in lines if "User=root" in line and not line.startswith("#")] == []


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.0/24\n",
        " 192.0.2.1",
        "192.0.2.0/24 accept",
        "0/0",
        "1",
        "fe80::1%eth0",
        "fe80::1%a accept",
        "",
        7,
        None,
        "any",
    ],
)
def test_what_is_no_network_is_refused(text: object) -> None:
    with pytest.raises(AnsibleFilterError, match="allow: expected addresses and networks"):
        networks([text], "allow")


def test_networks_are_written_in_one_way() -> None:
    given = ["192.0.2.9/24", "2001:DB8:0::/64", "192.0.2.0/24", "198.51.100.7", "2001:db8:0:1::1", "198.51.100.7/32"]
    assert networks(given) == ["192.0.2.0/24", "198.51.100.7", "2001:db8:0:1::1", "2001:db8::/64"]
    with pytest.raises(AnsibleFilterError, match="allow: expected a list"):
        networks("192.0.2.0/24", "allow")


def test_words_that_are_none_are_named() -> None:
    words = {
        "a_user": "root\n",
        "a_list": ["x", "y z"],
        "a_port": 80,
        "a_port_text": "80\n",
        "none": None,
        "no": "",
        "yes": True,
    }
    assert [fault.partition(":")[0] for fault in plain_words(words)] == ["a_user", "a_list", "a_port_text"]
    assert plain_words({"names": ["*.example.org"]}, also="*") == []
    (fault,) = plain_words({"mirror": "http://me:hidden@example.org/"})
    assert fault.startswith("mirror: expected a URL without a user")
    assert "hidden" not in fault
    with pytest.raises(AnsibleFilterError):
        plain_words(["x"])


def test_options_that_no_server_gets_are_named() -> None:
    faults = refused_options(
        {"tools": "all", "hf-token": "hidden", "a\nb": 1, "ctx-size": 1, "agent": True}, ["agent"], "x"
    )
    assert [fault.split()[:2] for fault in faults] == [["x:", "tools"], ["x:", "hf-token"], ["x:", "expected"]]
    assert "hidden" not in str(faults)
    with pytest.raises(AnsibleFilterError, match="x: expected a mapping"):
        refused_options(["tools"], where="x")


@pytest.mark.parametrize(
    ("text", "code"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a|b\n<c>", "`a\\|b\N{REPLACEMENT CHARACTER}<c>`"), ("", "")],
)
def test_code_of_markdown(text: str, code: str) -> None:
    assert markdown_code(text) == code
