# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _pace
from ansible_collections.homelab.llamacpp.plugins.module_utils._download import Download, Wanted
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._pace import Limit
from ansible_collections.homelab.llamacpp.plugins.module_utils._part import Part

SIZE = 1 << 20
URL = "http://hub/model.gguf"


class Drip:
    """A model that brings a byte in ten milliseconds, for ever."""

    status = 206
    url = URL

    def __init__(self, start: int, end: int) -> None:
        self.headers = {"Content-Range": f"bytes {start}-{end - 1}/{SIZE}"}
        self.beginning = list(b"GGUF\3\0\0\0")

    def __enter__(self) -> Drip:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    close = __exit__

    def read1(self, _most: int) -> bytes:
        time.sleep(0.01)
        return bytes([self.beginning.pop(0)]) if self.beginning else b"x"


def test_a_server_that_drips_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pace, "WINDOW", 0.1)
    client: Any = SimpleNamespace(open=lambda url, start, end: Drip(start, end))
    part = Part(str(tmp_path / "model.gguf.part"), SIZE, "0" * 64, 0o644)
    download = Download([Wanted(URL, part)], client, 1, Limit(0), 8, lambda count: None)
    with pytest.raises(FetchError, match=r"expected at least 1024 bytes a second, found [0-9]+ bytes"):
        download.run()
    assert 0 < part.done < SIZE
    part.close()


def test_the_pace_is_judged_over_its_window() -> None:
    pace = _pace.Pace(URL)
    pace.count(299, 0)
    pace.count(2, 301 * 1024)  # late, but enough
    pace.count(299, 10)
    with pytest.raises(FetchError, match="10 bytes in 300 seconds"):
        pace.count(1, 0)
