# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names from outside: what passes stays below its directory and fits one line, the rest is BadName."""

from __future__ import annotations

import os
import unicodedata

from ansible_collections.homelab.llamacpp.plugins.module_utils import _names

ROOT = "/srv/models"
HOSTILE = ("../../etc/passwd", "..", "%2Froot%2F.bashrc", "http://host/r/%2e%2e%2fx.gguf?x#y", "a/b/c/d", "a\nb", "\0")


def seeds() -> list[bytes]:
    return [name.encode() for name in (*HOSTILE, "model.gguf", "http://[::1/x.gguf", "\u2028", "x" * 300)]


def _is_safe(path: str) -> bool:
    parts = path.split("/")
    joined = os.path.normpath(os.path.join(ROOT, path))
    return (
        joined == f"{ROOT}/{path}"
        and all(0 < len(os.fsencode(part)) <= 255 for part in parts)
        and not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in path)
    )


def fuzz_one(data: bytes) -> None:
    for text in (data.decode("utf-8", "surrogateescape"), data.decode("utf-16", "replace")):
        for check in (_names.component, _names.below, _names.component_of_url):
            refusal = ""
            try:
                name = check(text)
            except _names.BadName as error:
                refusal = str(error)
            assert refusal.isprintable()
            assert len(refusal) < 4096
            assert refusal or _is_safe(name), name
            assert refusal or check is _names.below or "/" not in name, name
        shown = _names.printable(text)
        assert len(shown) <= 201
        assert len(shown.encode().splitlines()) <= 1
