# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's configuration file as Proxmox writes it: options, then pending changes, then one section a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

# The options whose values the API shows as numbers.
NUMBERS = {
    "cores",
    "cpuunits",
    "memory",
    "swap",
    "onboot",
    "unprivileged",
    "protection",
    "template",
    "tty",
    "console",
    "debug",
    "snaptime",
}
PENDING = "pve:pending"


def render(config: dict[str, Any], pending: dict[str, Any], snapshots: dict[str, dict[str, Any]]) -> str:
    """The text of the file."""
    parts = [_options(config)]
    if pending:
        gone = [key for key, value in pending.items() if value is None]
        section = {key: value for key, value in pending.items() if value is not None}
        if gone:
            section["delete"] = ",".join(gone)
        parts.append(f"[{PENDING}]\n" + _options(section))
    parts += [f"[{name}]\n" + _options(section) for name, section in snapshots.items()]
    return "\n".join(parts)


def _options(section: dict[str, Any]) -> str:
    description = "".join(f"#{encode(line)}\n" for line in str(section.get("description", "")).splitlines())
    return description + "".join(f"{key}: {section[key]}\n" for key in sorted(section) if key != "description")


def encode(line: str) -> str:
    """A line of a description as Proxmox writes it: bytes beyond plain text, and % and :, as %XX."""
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte not in b"%:" else f"%{byte:02X}" for byte in line.encode()
    )


def normalise(section: dict[str, Any]) -> None:
    """Make a section what it is once it has been through the file: a description then ends in a newline."""
    if section.get("description"):
        section["description"] = "".join(f"{line}\n" for line in str(section["description"]).splitlines())


def parse(text: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]:
    """The configuration, the pending changes (None for a deletion) and the snapshots of such a text."""
    sections: dict[str, dict[str, Any]] = {"": {}}
    current = sections[""]
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
        elif line.startswith("#"):
            current["description"] = f"{current.get('description', '')}{unquote(line[1:])}\n"
        elif ": " in line:
            key, value = line.split(": ", 1)
            current[key] = int(value) if key in NUMBERS and value.isdigit() else value
    pending = sections.pop(PENDING, {})
    for key in str(pending.pop("delete", "")).split(","):
        if key:
            pending[key] = None
    return sections.pop(""), pending, sections


def write(file: Path, text: str) -> None:
    """Replace the file in one step."""
    beside = file.with_suffix(".tmp")
    beside.write_text(text)
    beside.chmod(0o640)
    beside.rename(file)
