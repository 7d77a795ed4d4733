# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write data that came from a guest as variables of an inventory.

Ansible trusts the strings of an inventory as templates. So only variables that the caller names are written, PyYAML's
dumper writes the data, and a string with any sign of a template gets the tag `!unsafe`. A comment is one line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable

# Each template has one of these: {{, {%, {# and the header #jinja2:. No text that YAML takes for a number, a date or
# null has one, so with the tag a string stays a string.
_MARKERS = frozenset("{#")
# Ansible trusts keys too, and no tag is of use there.
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_VARIABLE = re.compile(r"[a-z][a-z0-9_]*")
_DEEPEST = 16
_LONGEST_COMMENT = 2000


class InventoryError(ValueError):
    """Data that does not belong in an inventory. The text says what was expected and what was found."""


class _Unsafe(str):
    """A string that gets the tag `!unsafe`."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _tagged(dumper: _Dumper, text: _Unsafe) -> yaml.Node:
    return dumper.represent_scalar("!unsafe", str(text), style='"')


_Dumper.add_representer(_Unsafe, _tagged)


def to_inventory(
    variables: Any,
    allowed: Collection[str],
    references: Mapping[str, str] | None = None,
    comments: Sequence[Any] = (),
) -> str:
    """Return YAML in ASCII that Ansible reads back as these variables, with nothing in them taken for a template.

    `references` are variables whose value is that of another one, which the caller names. Raises InventoryError.
    """
    if not isinstance(variables, Mapping):
        raise InventoryError(f"expected a mapping of variables, found {type(variables).__name__}")
    foreign = sorted(printable(name) for name in variables if not isinstance(name, str) or name not in allowed)
    if foreign:
        raise InventoryError(
            f"expected no other variables than {', '.join(sorted(allowed))}; found {', '.join(foreign)}."
            " The guest may be compromised: do not use its answer"
        )
    for name in [*(references or {}), *(references or {}).values()]:
        if not _VARIABLE.fullmatch(name):
            raise InventoryError(f"expected the name of a variable, found {printable(name)!r}")
    lines = ["---", *(f"# {comment(text)}" for text in comments)]
    data = {str(name): _checked(value, str(name), 1) for name, value in variables.items()}
    body = "".join(_dumped({name: value}) for name, value in data.items())
    body += "".join(f'{name}: "{{{{ {other} }}}}"\n' for name, other in (references or {}).items())
    return "\n".join(lines) + "\n" + (body or "{}\n")


def comment(text: Any) -> str:
    """Return foreign text as one line of printable ASCII."""
    return printable(text, _LONGEST_COMMENT).encode("ascii", "backslashreplace").decode()


def _dumped(data: Any) -> str:
    text: str = yaml.dump(data, Dumper=_Dumper, width=1 << 30, sort_keys=False, default_flow_style=False)
    return text


def _checked(value: Any, where: str, depth: int) -> Any:
    """Return the data in plain types, its strings tagged where need be."""
    if depth > _DEEPEST:
        raise InventoryError(f"{where}: expected at most {_DEEPEST} levels of data")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(str(value), where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise InventoryError(f"{where}: expected a key of letters, digits and _ . -; found {printable(key)!r}")
        return {str(key): _checked(one, f"{where}.{key}", depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_checked(one, where, depth + 1) for one in value]
    raise InventoryError(f"{where}: expected text, numbers, lists and mappings, found {type(value).__name__}")


def _text(text: str, where: str) -> str:
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InventoryError(f"{where}: expected text, found bytes that are none: {printable(text)!r}")
    return _Unsafe(text) if _MARKERS.intersection(text) else text
