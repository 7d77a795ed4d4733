# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _progress
from ansible_collections.homelab.llamacpp.plugins.module_utils._progress import Progress, amount, duration, line

GIB = 1 << 30


def test_a_line() -> None:
    assert line(3 * GIB, 12 * GIB, 100 * 2**20, "m") == "m: 25 % of 12.0 GiB, 100 MiB/s, 92 s left"
    assert line(0, 0, 0.0, "m") == "m: 0 % of 0 bytes"


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 bytes"), (1536, "1.5 KiB"), (28.4 * GIB, "28.4 GiB"), (2048 * GIB, "2.0 TiB")]
)
def test_amounts(count: float, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (240, "4 min"), (7200, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_rate_is_that_of_the_last_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setenv(_progress.VARIABLE, str(tmp_path / "line"))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    progress = Progress(100 << 20)
    done = 0
    for second in range(60):
        now[0] += 1
        done += (1 << 20) if second >= 30 else 1
        progress.report(done, "m")
    assert (tmp_path / "line").read_text() == "m: 30 % of 100 MiB, 1.0 MiB/s, 70 s left\n"


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_progress.VARIABLE, raising=False)
    Progress(1).report(1, "m")
