# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a wrong list, and when a model counts as another one; the functional tests do the rest."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_source import check, identity

GOOD = {"repo": "own/repo", "revision": "main", "quant": "Q4_K_M", "method": "link"}


def model(name: str = "m", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": "present", "source": GOOD, **more}


def test_a_good_list() -> None:
    projector = {"file": "mmproj.gguf", "revision": "main"}
    assert check([model(), model("n", projector=projector), {"name": "gone", "state": "absent"}]) == []


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (model(".hidden"), "found: '.hidden'"),
        (model("a/b"), "found: 'a/b'"),
        (model("q:8b"), "found: 'q:8b'"),
        (model(source=None), "m: a model that is to be present wants a source"),
        (model(source={}), "m: a model that is to be present wants a source"),
        (model(source={"method": "link"}), "source must have one of repo, url and path, found: none"),
        (model(source={"url": "https://x/y.gguf", "quant": "Q8_0"}), "has url, with which quant mean nothing"),
        (model(source={**GOOD, "file": "x.gguf"}), "has file and quant"),
        (model(source={"url": "ftp://x/y.gguf"}), "url must begin with https:// or http://"),
        (model(source={**GOOD, "checksum": ["md5:1"]}), "checksum must be a SHA-256"),
        (model(projector={"repo": "x"}), "projector repo must be owner/name"),
        (model(draft={"path": "rel.gguf"}), "draft path must be absolute"),
    ],
)
def test_what_is_wrong_is_said(entry: dict[str, Any], words: str) -> None:
    problems = check([entry])
    assert len(problems) == 1
    assert words in problems[0]


def test_a_name_twice() -> None:
    assert check([model(), model()]) == ["the name 'm' is there more than once"]


def test_identity_changes_with_the_source_and_not_with_a_signature() -> None:
    signed = [model(source={"url": f"https://h/m.gguf?signature={text}"}) for text in "ab"]
    assert identity(signed[0]) == identity(signed[1])
    assert "signature" not in identity(signed[0])
    assert identity(model()) != identity(model(source={**GOOD, "quant": "Q8_0"}))
    assert identity(model()) != identity(model(projector={"revision": "main"}))
