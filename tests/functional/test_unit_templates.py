# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every template of a unit has, or must not have."""

from __future__ import annotations

from pathlib import Path

import pytest

ROLES = Path(__file__).resolve().parents[2] / "roles"
TEMPLATES = sorted(ROLES.glob("*/templates/*.service.j2"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_unit(template: Path) -> None:
    text = template.read_text()
    directives = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in directives if "network-online" in line], "a guest's start would wait for two minutes"
    # A record lies in a directory of root's: the filter writes the line.
    assert "sha256sum" not in text
    assert "applied" not in text
    assert not [line for line in directives if "/tmp" in line]
    assert "homelab.llamacpp.unit_hardening" in text or "LimitCORE=0" in directives
    state = [line for line in directives if line.startswith("StateDirectory=")]
    assert "StateDirectory=llama-router" not in state, "root keeps the models in that directory"


def test_there_are_units() -> None:
    assert len(TEMPLATES) >= 6
