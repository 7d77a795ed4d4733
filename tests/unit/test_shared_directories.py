# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No predictable names in directories that every user can write to, and no download without a check.

A file there may be somebody else's, who holds it open for writing while root reads, checks and runs it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHARED = re.compile(r"(?<![\w.}])/(?:var/)?tmp/|(?<![\w.}])/dev/shm/|(?<![\w.}])/run/lock/")
# What makes a name that nobody can foretell.
MADE = re.compile(r"mktemp(?! -d)(?!.*X{6})|tempfile\.mktemp\(|os\.tmpnam|NamedTemporaryFile\([^)]*dir=['\"]/tmp")


def files() -> Iterator[Path]:
    for folder in ("plugins", "roles", "playbooks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix not in (".pyc", ".md", ".json"):
                yield path


def code(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that do something: comments, documentation and examples left out."""
    text = path.read_text(encoding="utf-8")
    words = documentation(text) if path.suffix == ".py" else set()
    for number, line in enumerate(text.splitlines(), 1):
        if number not in words and not line.lstrip().startswith("#"):
            yield number, line


def documentation(text: str) -> set[int]:
    """The lines of docstrings, and of what modules say of themselves."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documents = isinstance(node, ast.Expr)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            documents = node.targets[0].id in ("DOCUMENTATION", "EXAMPLES", "RETURN")
        if documents and isinstance(node.value, ast.Constant):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def faults(path: Path) -> list[str]:
    found = [f"{path.name}:{number}: {line.strip()}" for number, line in code(path) if SHARED.search(line)]
    return found + [f"{path.name}:{number}: {line.strip()}" for number, line in code(path) if MADE.search(line)]


def test_no_predictable_name_in_a_shared_directory() -> None:
    assert [fault for path in files() for fault in faults(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "        dest: /var/tmp/NVIDIA-Linux-{{ version }}.run",
        'path = "/tmp/state"',
        "exec >/dev/shm/x",
        "file=$(mktemp /srv/x)",
        "name = tempfile.mktemp()",
    ],
)
def test_it_would_be_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(f"# of /tmp/x\n{line}\n")
    assert len(faults(tmp_path / "x.yml")) >= 1


def tasks(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for one in value:
            yield from tasks(one)
    elif isinstance(value, dict):
        yield value
        for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
            yield from tasks(value.get(key))


def unchecked(task: dict[str, Any]) -> str | None:
    """Why a task trusts what it downloads, None for one that does not."""
    for name, given in task.items():
        module = name.rpartition(".")[2]
        given = given if isinstance(given, dict) else {}
        if module == "get_url" and "checksum" not in given:
            return "get_url without a checksum"
        if module in ("unarchive", "apt_key", "rpm_key"):
            return f"{module} checks nothing: use a checked archive and llama_cpp_source, or apt_keyring"
        if module == "apt" and "deb" in given:
            return "a package from outside a signed repository"
        if module == "deb822_repository" and "://" in str(given.get("signed_by", "")):
            return "a key on the word of a server: use apt_keyring"
    return None


def test_every_download_is_checked() -> None:
    found = []
    for path in files():
        if path.suffix in (".yml", ".yaml") and "templates" not in path.parts:
            for task in tasks(yaml.safe_load(path.read_text(encoding="utf-8"))):
                reason = unchecked(task)
                if reason:
                    found.append(f"{path.relative_to(ROOT)}: {task.get('name')}: {reason}")
    assert found == []


@pytest.mark.parametrize(
    "task",
    [
        {"ansible.builtin.get_url": {"url": "https://x", "dest": "/x"}},
        {"ansible.builtin.unarchive": {"src": "https://x", "dest": "/x"}},
        {"ansible.builtin.apt": {"deb": "https://x/cuda-keyring.deb"}},
        {"ansible.builtin.deb822_repository": {"signed_by": "https://x/key"}},
    ],
)
def test_a_download_that_is_not_checked_would_be_found(task: dict[str, Any]) -> None:
    assert unchecked(task)
    assert unchecked({"ansible.builtin.get_url": {"url": "https://x", "checksum": "sha256:0"}}) is None


def test_the_tools_of_the_tests_have_hashes_and_no_hosts() -> None:
    for name in ("requirements.txt", "cores.txt", "lab/images/node.txt"):
        text = (ROOT / "tests" / name).read_text(encoding="utf-8")
        assert "://" not in text
        entries = re.split(r"\n(?=\S)", text.strip())
        pins = [entry for entry in entries if entry and not entry.startswith("#")]
        assert len(pins) >= 3
        for pin in pins:
            assert re.match(r"[\w.-]+==[^ ]+", pin), pin
            assert "--hash=sha256:" in pin, pin
    assert "--require-hashes" in (ROOT / "tests/bootstrap").read_text(encoding="utf-8")
