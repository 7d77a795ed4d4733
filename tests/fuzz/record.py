# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a models directory and a part file's journal: whatever they say, no place is outside its model."""

from __future__ import annotations

import json
import os

from ansible_collections.homelab.llamacpp.plugins.module_utils import _model_record, _part

FILE = {"role": "model", "size": 7, "mtime_ns": 1, "sha256": "0" * 64}
LINK = {"role": "draft", "size": 7, "link": "/srv/a.gguf"}


def _record(*places: str, **more: object) -> bytes:
    files = dict.fromkeys(places, FILE) | {"m/draft/d.gguf": LINK}
    entry = {"identity": "", "commit": "c0ffee", "files": files, "placed": 1.5, "boot": "b", "uptime": 3, **more}
    return json.dumps({"format": 1, "models": {"m": entry}}).encode()


def seeds() -> list[bytes]:
    records = [_record("m.gguf"), _record("m/../../victim"), _record("/etc/passwd"), _record("m", placed=1e999)]
    heading = json.dumps({"format": 1, "size": 10, "sha256": "0" * 64, "piece": 8, "version": "", "boot": "b"})
    journals = [f"{heading}\n{'8'.zfill(15)} {'0' * 15}\n{'2'.zfill(15)} {'2'.zfill(15)}\n".encode()]
    return [*records, *journals, b"[" * 5000, b'{"format": 1, "models": ' + b"9" * 5000 + b"}"]


def fuzz_one(data: bytes) -> None:
    for name, entry in _model_record.parse(data).items():
        assert "/" not in name
        assert name not in ("", ".", "..")
        for place, file in entry["files"].items():
            path = os.path.join("/srv/models", place)
            assert os.path.normpath(path) == path
            assert place in (name, f"{name}.gguf") or place.startswith(f"{name}/")
            assert 0 <= file["size"] < 1 << 63
            assert ("link" in file) != ("sha256" in file)
        assert 0 <= _model_record.placed(entry) < float("inf")
        again = _model_record.parse(_model_record.text_of({name: entry}).encode())
        assert again == {name: entry}
    journal = _part.parse_journal(data)
    if journal:
        assert all(0 <= synced <= written <= journal.piece for written, synced in journal.counts)
        assert sum(written for written, _synced in journal.counts) <= journal.size
