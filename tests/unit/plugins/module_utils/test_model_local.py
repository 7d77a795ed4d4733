# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_local import Found, at_path, cached, loaded_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def write(path: Path, number: int = 0, count: int = 0) -> Path:
    """A GGUF file with one tensor, perhaps a shard."""
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    if count:
        keys += [text("split.no") + struct.pack("<IH", 2, number), text("split.count") + struct.pack("<IH", 2, count)]
    tensor = text(f"t{number}") + struct.pack("<IQIQ", 1, 8, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys) + tensor
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(32))
    return path


def shards(folder: Path, stem: str, count: int = 2) -> list[Path]:
    return [write(folder / f"{stem}-{n + 1:05d}-of-{count:05d}.gguf", n, count) for n in range(count)]


def found(path: Path, method: str = "link") -> Found:
    return Found(path.name, path.stat().st_size, "", path=str(path), method=method)


def test_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    assert at_path(str(path), "copy") == [found(path, "copy")]
    assert loaded_of(str(path)) == str(path)


def test_all_shards_of_any_one(tmp_path: Path) -> None:
    paths = shards(tmp_path, "big")
    for path in paths:
        assert at_path(str(path), "link") == [found(one) for one in paths]


def test_a_folder_is_a_model_with_what_belongs_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    paths = shards(folder, "big")
    side = [write(folder / name) for name in ("mmproj-x.gguf", "mtp-y.gguf")]
    (folder / "README.md").write_text("x")
    assert at_path(str(folder), "copy") == [found(one, "copy") for one in [*paths, *side]]
    size = sum(path.stat().st_size for path in [*paths, *side])
    assert at_path(str(folder), "link") == [Found("", size, "", path=str(folder), method="link")]
    assert loaded_of(str(folder)) == str(paths[0])


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="was expected to hold one model, it has none; name its file"):
        at_path(str(tmp_path), "link")
    write(tmp_path / "mmproj.gguf")
    with pytest.raises(FetchError, match="it has none"):
        at_path(str(tmp_path), "link")
    for name in ("b.gguf", "a.gguf"):
        write(tmp_path / name)
    with pytest.raises(FetchError, match=r"it has a.gguf, b.gguf; name its file"):
        at_path(str(tmp_path), "link")


def test_what_is_not_there_or_not_whole(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"nothing is at .*nowhere.gguf. Is its storage mounted"):
        at_path(str(tmp_path / "nowhere.gguf"), "link")
    first, second = shards(tmp_path, "big")
    second.unlink()
    with pytest.raises(FetchError, match=f"must be whole; it lacks {second}. Bring it, or name another source"):
        at_path(str(first), "link")
    path = write(tmp_path / "m.gguf")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(FetchError, match="it lacks its end"):
        at_path(str(path), "link")
    path.write_text("junk")
    with pytest.raises(FetchError, match=r"m.gguf"):
        at_path(str(path), "link")


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(FetchError, match=r"the folder .* cannot be read: Permission denied"):
        loaded_of(str(tmp_path))


# --- caches -----------------------------------------------------------------------------------------------------------


def source(cache: Path, **more: Any) -> dict[str, Any]:
    return {"repo": "own/repo", "revision": "main", "cache": str(cache), "method": "link", **more}


def hub_cache(cache: Path, commit: str = "abc", revision: str | None = "main") -> Path:
    """As huggingface_hub has it: links of a snapshot into a store."""
    base = cache / "models--own--repo"
    if revision:
        (base / "refs" / revision).parent.mkdir(parents=True)
        (base / "refs" / revision).write_text(f"{commit}\n")
    blob = write(base / "blobs" / "0123")
    snapshot = base / "snapshots" / commit
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "sub" / "m-Q8_0.gguf").symlink_to(blob)
    write(snapshot / "mmproj-F16.gguf")
    (snapshot / "gone-Q4_K_M.gguf").symlink_to("nowhere")
    return blob


@pytest.mark.parametrize("revision", ["main", "refs/pr/1"])
def test_a_cache_of_the_hubs_library(tmp_path: Path, revision: str) -> None:
    blob = hub_cache(tmp_path, revision=revision)
    (one,) = cached(source(tmp_path, revision=revision), "model")
    assert one == Found("m-Q8_0.gguf", blob.stat().st_size, "", path=str(blob), method="link")
    (side,) = cached(source(tmp_path, revision=revision, method="copy"), "projector")
    assert (side.name, side.method) == ("mmproj-F16.gguf", "copy")


def test_a_revision_that_is_a_commit(tmp_path: Path) -> None:
    hub_cache(tmp_path, revision=None)
    assert cached(source(tmp_path, revision="abc"), "model")[0].name == "m-Q8_0.gguf"


def test_a_cache_of_an_older_llama_cpp(tmp_path: Path) -> None:
    path = write(tmp_path / "own_repo_m-Q4_K_M.gguf")
    write(tmp_path / "other_repo_m-Q8_0.gguf")
    (tmp_path / "own_repo_folder.gguf").mkdir()
    assert cached(source(tmp_path), "model") == [
        Found("m-Q4_K_M.gguf", path.stat().st_size, "", path=str(path), method="link")
    ]
    assert cached(source(tmp_path, quant="Q4_K_M"), "model")[0].name == "m-Q4_K_M.gguf"
    with pytest.raises(
        FetchError, match=r"the cache .* of own/repo was expected to have one model with the quant 'Q8_0'"
    ):
        cached(source(tmp_path, quant="Q8_0"), "model")


def test_a_cache_without_the_repository(tmp_path: Path) -> None:
    for cache in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FetchError, match="it has none"):
            cached(source(cache), "model")


def test_a_cache_that_leads_elsewhere(tmp_path: Path) -> None:
    hub_cache(tmp_path, revision=None)
    refs = tmp_path / "models--own--repo" / "refs"
    refs.mkdir()
    for said in ("../../../etc", "", "a/b"):
        (refs / "main").write_text(said)
        with pytest.raises(BadName):
            cached(source(tmp_path), "model")
    for revision in ("../x", "a/" * 8 + "b", "/x"):
        with pytest.raises(BadName):
            cached(source(tmp_path, revision=revision), "model")
