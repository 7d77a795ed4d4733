# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every template that root or a service reads, with hostile text in each variable: refused, or one word of its line.

A role's preflight is part of it: its asserts are evaluated as the play does before anything is written.
"""

from __future__ import annotations

import copy
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[2] / "roles"
SIGNS = ["\r", "\n", "\0", "\u2028", " ", ";", '"%n$X\\{{ 1 }}']
LOADER = DataLoader()
SANDBOX = {"refused": {"ProtectProc": "the machine's own words"}, "credentials": True}
GPU = {"uuid": "GPU-1", "device": "CUDA0", "index": 0, "pci_address": "0000:01:00.0"}
COMMON: dict[str, Any] = {
    "ansible_managed": "Made by a test",
    "inventory_hostname": "guest",
    "groups": {},
    "hostvars": {"guest": {}},
    "ansible_check_mode": False,
}
# What a role's own files do not define: the operator's variables without a default, and what its tasks register.
# The texts in it are made hostile too, as are those of the defaults.
CONTEXT: dict[str, dict[str, Any]] = {
    "llama_router": {
        "llama_router_options": {"timeout": "600", "slot-save-path": "/srv/slots"},
        "llama_router_environment": {"NAME": "value"},
        "llama_router_groups": ["video"],
        "llama_router_firewall_allow": ["192.0.2.0/24"],
        "llama_router_firewall_ports": ["9836"],
        "llama_router_models": [{"name": "chat", "pinned": True}],
        "llama_router_models_max": "2",
        "llama_router_cors_origin": "https://chat.example.org",
        "_llama_router_sandbox": SANDBOX,
        "_llama_router_gpus": [GPU],
        "_llama_router_plan": {"devices": [{"name": "CUDA0"}], "models": [], "presets": {}, "conflicts": []},
        "_llama_router_limit": 2,
    },
    "llama_instance": {
        "llama_instance_groups": ["video"],
        "llama_instance_requires": ["llama-router-firewall.service"],
        "_llama_instance_sandbox": SANDBOX,
        "_llama_instance_found_gpus": [GPU],
    },
    "llama_monitoring": {
        "llama_monitoring_allow": ["192.0.2.0/24"],
        "llama_monitoring_tls": ["127.0.0.1:443"],
        "llama_monitoring_groups": ["video"],
        "_llama_monitoring_sandbox": SANDBOX,
    },
    "llama_proxy": {
        "llama_proxy_server_names": ["llama.example.org"],
        "llama_proxy_certificate": "/etc/ssl/llama.pem",
        "llama_proxy_certificate_key": "/etc/ssl/llama.key",
        "_llama_proxy_sandbox": SANDBOX,
        "_llama_proxy_version": {"stderr": "nginx version: nginx/1.26.3"},
    },
    "open_webui": {
        "open_webui_environment": {"NAME": "value"},
        "llama_proxy_server_names": [],
        "_open_webui_clients": {
            "results": [{"base_url": "http://192.0.2.1:8012", "longest_load_seconds": 1, "models": []}]
        },
        "_open_webui_sandbox": SANDBOX,
        "_open_webui_lock": "package==1",
    },
    "nvidia_driver": {
        "_nvidia_driver_side": "guest",
        "_nvidia_driver_wanted": "580.95.05",
        "_nvidia_driver_apt_targets": {"stdout_lines": ["trixie"]},
        "_nvidia_driver_now": {"gpus": []},
        "_nvidia_driver_found": {"driver": {"kernel_version": "580.95.05"}, "cards": []},
    },
}
# For a person to read on the terminal, or pages with tests of their own (test_plan_page.py, test_client_sheet.py).
READ_BY_PEOPLE = {"plan.txt.j2", "plan.html.j2", "not_to_be_had.j2", "clients.md.j2"}
TEMPLATES: dict[str, list[Path]] = {}
for found in sorted(ROLES.glob("*/templates/*.j2")):
    if found.name not in READ_BY_PEOPLE:
        TEMPLATES.setdefault(found.parents[1].name, []).append(found)
# Not text of others: it is chosen from a fixed set, checked where it is read, or one of the lines of an output.
TRUSTED = {
    "_nvidia_driver_apt_targets",
    "ansible_managed",
    "_nvidia_driver_side",
    "_llama_proxy_version",
    "_open_webui_lock",
}


@functools.cache
def variables_of(role: str) -> dict[str, Any]:
    found: dict[str, Any] = dict(COMMON)
    for name in ("defaults", "vars"):
        path = ROLES / role / name / "main.yml"
        if path.exists():
            found.update(DataLoader().load_from_file(str(path), cache="none", trusted_as_template=True) or {})
    found.update(copy.deepcopy(CONTEXT[role]))
    return found


class Refused(Exception):
    """By an assert of the preflight, or by a filter."""


def rendered(role: str, variables: dict[str, Any]) -> dict[Path, str]:
    """The files that a role would write, by their templates."""
    try:
        for task in asserts(role):
            templar = Templar(LOADER, variables={**variables, **task.get("vars", {})})
            that = task["ansible.builtin.assert"]["that"]
            for condition in that if isinstance(that, list) else [that]:
                try:
                    if not templar.evaluate_conditional(condition):
                        raise Refused(task["name"])
                except AnsibleUndefinedVariable:
                    continue  # by what this test does not register
        templar = Templar(LOADER, variables=variables)
        return {path: str(templar.template(source(path), escape_backslashes=False)) for path in TEMPLATES[role]}
    except AnsibleError as error:
        raise Refused(str(error)) from error


@functools.cache
def source(template: Path) -> str:
    return trust_as_template(template.read_text())


@functools.cache
def asserts(role: str) -> list[dict[str, Any]]:
    tasks = []
    for name in ("preflight", "prometheus"):
        path = ROLES / role / "tasks" / f"{name}.yml"
        loaded = DataLoader().load_from_file(str(path), cache="none", trusted_as_template=True) if path.exists() else []
        tasks += [task for task in loaded if "ansible.builtin.assert" in task and "when" not in task]
    return tasks


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a variable's value there is a text or a number; the keys of a mapping, too."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from places(one, (*path, index))
    elif isinstance(value, (str, int)) and not isinstance(value, bool) and path:
        yield path


def hostile_variables(role: str) -> Iterator[tuple[Any, ...]]:
    variables = variables_of(role)
    defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text()) or {}
    for name in sorted({*defaults, *CONTEXT[role]} - TRUSTED):
        yield from places({name: variables[name]})


def with_text(variables: dict[str, Any], path: tuple[Any, ...], sign: str, before: str | None = None) -> dict[str, Any]:
    changed = {**variables, path[0]: copy.deepcopy(variables[path[0]])}
    at: Any = changed
    for step in path[:-1]:
        at = at[step]
    old = str(at[path[-1]])
    text = ("value" if "{{" in old else old) if before is None else before
    at[path[-1]] = text + sign + "X=1"
    return changed


def words(line: str) -> list[str]:
    """A line of a unit as systemd splits it."""
    split = shlex.shlex(line.rstrip("\\"), posix=True)
    split.whitespace_split, split.commenters, split.escapedquotes = True, "", '"'
    split.quotes = '"'
    return [word.replace("\\n", "\n").replace("%%", "%").replace("$$", "$") for word in split]


@pytest.mark.parametrize("role", TEMPLATES)
def test_hostile_text_is_refused_or_stays_one_word(role: str) -> None:
    variables = variables_of(role)
    plain = rendered(role, variables)
    for path in hostile_variables(role):
        try:
            benign = rendered(role, with_text(variables, path, ""))
        except Refused:
            benign = plain
        for sign in SIGNS:
            try:
                files = rendered(role, with_text(variables, path, sign))
            except Refused:
                continue
            for template, text in files.items():
                check(template, text, benign[template], sign, f"{template.name}: {path} with {sign!r}")


@pytest.mark.parametrize("allowed", [[], ["192.0.2.0/24"]])
def test_no_server_runs_without_the_rules(allowed: list[str]) -> None:
    """The unit requires the rules' unit, and starts after it."""
    wanted = [f"{key}=llama-router-firewall.service" for key in ("Requires", "After")] if allowed else []
    for role, changed in (
        ("llama_router", {"llama_router_firewall_allow": allowed}),
        ("llama_instance", {"llama_instance_requires": ["llama-router-firewall.service"] if allowed else []}),
    ):
        files = rendered(role, {**variables_of(role), **changed})
        (text,) = (
            text
            for path, text in files.items()
            if path.name in ("llama-router.service.j2", "llama-instance@.service.j2")
        )
        assert [line for line in text.splitlines() if "firewall" in line] == wanted


def check(template: Path, text: str, benign: str, sign: str, what: str) -> None:
    """`text` has the lines of `benign`, each with the same directive and as many words."""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", text), what
    lines, others = text.splitlines(), benign.splitlines()
    assert len(lines) == len(others), what
    for line, other in zip(lines, others):
        if line == other or line.startswith("#"):
            continue
        assert re.split("[= ]", line)[0] == re.split("[= ]", other)[0], (what, line)
        assert template.suffixes[-2] in (".service", ".path"), (what, line)
        assert len(words(line)) == len(words(other)), (what, line)
        assert any(f"{sign}X=1" in word for word in words(line)), (what, line)
