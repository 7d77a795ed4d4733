# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dashboard by Grafana's own schema, of which its Foundation SDK has the types."""

from __future__ import annotations

import enum
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

FILE = Path(__file__).parents[2] / "roles/llama_monitoring/files/llamacpp.dashboard.json"


def read(data: dict[str, Any]) -> Dashboard:
    plugins.register_default_plugins()  # the panels, and Prometheus' queries
    return Dashboard.from_json(data)


def unknown(given: Any, taken: Any, where: str = "") -> Iterator[str]:
    """What of the file the schema has no place for, or takes for another value."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in taken:
                yield f"{where}/{key}"
            else:
                yield from unknown(value, taken[key], f"{where}/{key}")
    elif isinstance(given, list):
        for at, (value, other) in enumerate(zip(given, taken, strict=True)):
            yield from unknown(value, other, f"{where}/{at}")
    elif given != taken:
        yield where


def misfits(value: Any, kind: Any, where: str = "") -> Iterator[str]:
    """What is of another type than the schema's; reading does not check that."""
    origin, within = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        if all(list(misfits(value, one)) for one in within):
            yield f"{where}: {value!r}"
    elif origin is typing.Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        if value not in (within or [member.value for member in kind]):
            yield f"{where}: {value!r}"
    elif origin in (list, dict):
        if not isinstance(value, origin):
            yield f"{where}: {value!r}"
            return
        pairs = enumerate(value) if origin is list else value.items()
        for key, one in pairs:
            yield from misfits(one, within[-1], f"{where}/{key}")
    elif hasattr(value, "to_json"):
        if isinstance(kind, type) and not isinstance(value, kind):
            yield f"{where}: {value!r}"
        for name, hint in typing.get_type_hints(type(value)).items():
            yield from misfits(getattr(value, name), hint, f"{where}/{name}")
    elif isinstance(kind, type) and kind is not object:
        wanted = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            yield f"{where}: {value!r}"


def test_grafana_knows_all_that_is_in_the_dashboard() -> None:
    data = json.loads(FILE.read_text())
    dashboard = read(data)
    assert list(unknown(data, json.loads(JSONEncoder().encode(dashboard)))) == []
    assert list(misfits(dashboard, Dashboard)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("title", 7),
        ("schemaVersion", "39"),
        ("graphTooltip", 5),
        ("panels/0/gridPos/w", "6"),
        ("panels/0/options/colorMode", "rainbow"),
        ("panels/0/targets/0/expr", None),
        ("panels/0/targets/0/expression", "up"),
        ("panels/0/fieldConfig/defaults/unit", 1),
    ],
)
def test_what_grafana_would_not_know_is_found(path: str, value: Any) -> None:
    """The two checks themselves."""
    data = place = json.loads(FILE.read_text())
    *keys, last = path.split("/")
    for key in keys:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    try:
        dashboard = read(data)
    except ValueError:
        return  # an enumeration
    assert [*unknown(data, json.loads(JSONEncoder().encode(dashboard))), *misfits(dashboard, Dashboard)]
