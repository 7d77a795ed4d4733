# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write each role's README.md from its meta/argument_specs.yml; with --check, only say which are not as they should be.

Also checks that a default in the specs is the one in defaults/main.yml: Ansible reads the one and people the other.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parent.parent / "roles"


def plain(text: str) -> str:
    """Ansible's markup as Markdown."""
    text = re.sub(r"\bP\(homelab\.llamacpp\.(\w+)#role\)", r"[\1](../\1/README.md)", text)
    return re.sub(r"\b[CVOMPF]\(([^)]*)\)", r"`\1`", text)


def sentences(value: str | list[str]) -> str:
    return " ".join(plain(line) for line in ([value] if isinstance(value, str) else value))


def rows(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        notes = "**required**" if option.get("required") else ""
        if "default" in option:
            notes = f"`{json.dumps(option['default'])}`"
        text = sentences(option["description"])
        if "choices" in option:
            text += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        yield f"| `{prefix}{name}` | {kind} | {notes} | {text} |".replace("|  |", "| |")
        yield from rows(option.get("options", {}), f"{prefix}{name}[]." if "elements" in option else f"{prefix}{name}.")


def readme(role: str, specs: dict[str, Any]) -> str:
    lines = [f"# homelab.llamacpp.{role}", ""]
    for entry, spec in specs.items():
        if entry != "main":
            lines += [f"## Entry point `{entry}`", ""]
        lines += [f"**{spec['short_description']}.**", "", *(f"- {plain(line)}" for line in spec["description"]), ""]
        if entry != "main" and spec.get("options") == specs.get("main", {}).get("options", {}):
            lines += ["The variables are those above.", ""]
        elif spec.get("options"):
            lines += ["| variable | type | default | what it is |", "|---|---|---|---|", *rows(spec["options"]), ""]
    lines += ["<!-- made from meta/argument_specs.yml by `make role-docs` -->", ""]
    return "\n".join(lines)


def problems(role: Path, write: bool) -> Iterator[str]:
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text()) or {}
    options = {name: option for spec in specs.values() for name, option in spec.get("options", {}).items()}
    for name in sorted(defaults.keys() | {name for name, option in options.items() if "default" in option}):
        written, documented = defaults.get(name), options.get(name, {}).get("default")
        templated = isinstance(written, str) and "{{" in written  # said in words in the description
        if name not in options or (written != documented and not templated):
            yield f"{role.name}: {name} is {written!r} in its defaults and {documented!r} in its argument_specs"
    text = readme(role.name, specs)
    target = role / "README.md"
    if write:
        target.write_text(text)
    elif not target.exists() or target.read_text() != text:
        yield f"{role.name}: README.md is not what meta/argument_specs.yml says: run `make role-docs`"


def main() -> int:
    found = [text for role in sorted(ROLES.iterdir()) for text in problems(role, write="--check" not in sys.argv)]
    print("\n".join(found) or "the roles' documentation agrees with their argument_specs")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
