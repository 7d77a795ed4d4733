# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a wrong list, when a model counts as another one, and which files it has, without a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _model_source
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._hub import RepoFile, Repository
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_local import Found
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_source import (
    Item,
    Resolved,
    Resolver,
    _placed,
    check,
    identity,
)

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


def sums(number: int) -> str:
    return f"{number:x}" * 64


class Server:
    """Files by address, with their sizes and the SHA-256 that the server names; repositories by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[str, int | None] = {}
        self.named: dict[str, str] = {}
        self.asked: list[str] = []
        self.repositories: dict[tuple[str, str], Repository] = {}
        monkeypatch.setattr(_model_source, "look", self._look)
        client: Any = self
        self.resolver = Resolver(client, "https://hub.example")

    @contextlib.contextmanager
    def open(self, url: str, start: int, end: int) -> Iterator[Any]:
        assert (start, end) == (0, 1)
        self.asked.append(url)
        size = self.sizes[url]
        yield SimpleNamespace(headers={} if size is None else {"Content-Range": f"bytes 0-0/{size}"})

    def _look(self, client: Any, endpoint: str, name: str, revision: str) -> Repository:
        assert client is self
        self.asked.append(f"{endpoint} {name} {revision}")
        return self.repositories[name, revision]

    def has(self, name: str, *paths: str, revision: str = "main") -> None:
        files = [RepoFile(path, 10 + number, sums(number)) for number, path in enumerate(paths)]
        self.repositories[name, revision] = Repository(name, f"commit-of-{revision}", files, "https://hub.example")

    def resolve(self, source: dict[str, Any], name: str = "m", **more: Any) -> Resolved:
        base = {"repo": None, "url": None, "path": None, "revision": "main", "method": "link"}
        given: dict[str, Any] = {
            role: None if more.get(role) is None else {**base, **more[role]} for role in ("projector", "draft")
        }
        return self.resolver.resolve({"name": name, "source": {**base, **source}, **given})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def test_a_model_of_one_file_has_its_name(server: Server) -> None:
    server.has("own/repo", "sub/Any-Q4_K_M.gguf", "Any-Q8_0.gguf")
    found = server.resolve({"repo": "own/repo", "quant": "Q8_0"})
    url = "https://hub.example/own/repo/resolve/commit-of-main/Any-Q8_0.gguf"
    assert found == Resolved([Item("m.gguf", "model", 11, sums(1), url)], "commit-of-main")


def test_each_repository_is_asked_once_for_each_revision(server: Server) -> None:
    server.has("own/repo", "a-Q4_K_M.gguf", "a-Q8_0.gguf")
    server.has("own/repo", "b-Q4_K_M.gguf", revision="v1")
    for quant in ("Q4_K_M", "Q8_0"):
        server.resolve({"repo": "own/repo", "quant": quant})
    assert server.resolve({"repo": "own/repo", "revision": "v1"}).commit == "commit-of-v1"
    assert server.asked == ["https://hub.example own/repo main", "https://hub.example own/repo v1"]


SHARDS = [f"https://h.example/x/Big-{number:05d}-of-00003.gguf?sig=s" for number in (1, 2, 3)]


@pytest.mark.parametrize("given", SHARDS)
def test_the_address_of_any_shard_means_all(server: Server, given: str) -> None:
    for number, url in enumerate(SHARDS):
        server.sizes[url] = 100 + number
        server.named[url] = sums(number)
    found = server.resolve({"url": given})
    assert [(item.place, item.role, item.size, item.sha256, item.url) for item in found.items] == [
        (f"m/Big-{number + 1:05d}-of-00003.gguf", "model", 100 + number, sums(number), url)
        for number, url in enumerate(SHARDS)
    ]
    assert found.commit is None


def test_checksums_of_an_address(server: Server) -> None:
    for url in SHARDS:
        server.sizes[url] = 1
    with pytest.raises(FetchError, match=r"^m: https://h.example/x/Big-00001-of-00003.gguf: a checksum was wanted"):
        server.resolve({"url": SHARDS[0]})
    given = [f"sha256:{sums(10).upper()}", sums(11), sums(12)]
    found = server.resolve({"url": SHARDS[0], "checksum": given})
    assert [item.sha256 for item in found.items] == [sums(10), sums(11), sums(12)]
    with pytest.raises(FetchError, match="one SHA-256 for each of 3 files, found: 4"):
        server.resolve({"url": SHARDS[0], "checksum": [*given, sums(1)]})
    server.sizes[SHARDS[2]] = None
    with pytest.raises(FetchError, match="the server does not say how long the file is; fetch it from elsewhere"):
        server.resolve({"url": SHARDS[0], "checksum": given})


def test_a_checksum_against_the_hubs(server: Server) -> None:
    server.has("own/repo", "a.gguf")
    assert server.resolve({"repo": "own/repo", "checksum": [sums(0)]}).items[0].sha256 == sums(0)
    with pytest.raises(FetchError, match=f"m: a.gguf: checksum says {sums(5)}, its server {sums(0)}; one of them is"):
        server.resolve({"repo": "own/repo", "checksum": [sums(5)]})
    with pytest.raises(FetchError, match="one SHA-256 for each of 1 files, found: 2"):
        server.resolve({"repo": "own/repo", "checksum": [sums(0), sums(1)]})


def test_a_projector_and_a_draft_are_in_the_models_folder(server: Server) -> None:
    server.has("own/repo", "a-Q4_K_M.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf")
    server.has("other/small", "b-Q8_0.gguf")
    found = server.resolve(
        {"repo": "own/repo", "quant": "Q4_K_M"},
        projector={"quant": "F16"},
        draft={"repo": "other/small"},
    )
    assert [(item.place, item.role, item.size) for item in found.items] == [
        ("m/a-Q4_K_M.gguf", "model", 10),
        ("m/mmproj-F16.gguf", "projector", 11),
        ("m/draft/b-Q8_0.gguf", "draft", 10),
    ]
    assert found.commit == "commit-of-main"


def test_a_projector_of_the_models_own_repository_has_its_own_checksum(server: Server) -> None:
    server.has("own/repo", "a-Q4_K_M.gguf", "mmproj-F16.gguf")
    source = {"repo": "own/repo", "quant": "Q4_K_M", "checksum": [sums(0)]}
    assert [item.sha256 for item in server.resolve(source, projector={}).items] == [sums(0), sums(1)]
    with pytest.raises(FetchError, match=r"mmproj-F16.gguf: checksum says"):
        server.resolve(source, projector={"checksum": [sums(7)]})


def test_a_projector_by_an_address(server: Server) -> None:
    server.has("own/repo", "a.gguf")
    server.sizes["https://h.example/p.gguf"] = 5
    server.named["https://h.example/p.gguf"] = sums(3)
    found = server.resolve({"repo": "own/repo"}, projector={"url": "https://h.example/p.gguf"})
    assert found.items[1] == Item("m/mmproj-p.gguf", "projector", 5, sums(3), "https://h.example/p.gguf")
    server.sizes["https://h.example/m.gguf"] = 6
    server.named["https://h.example/m.gguf"] = sums(4)
    with pytest.raises(FetchError, match="m: its draft was expected to name a repo, a url or a path, as the model"):
        server.resolve({"url": "https://h.example/m.gguf"}, draft={"quant": "Q8_0"})


def test_names_that_the_router_would_take_for_something_else() -> None:
    with pytest.raises(FetchError, match=r"the router would not take mmproj-x.gguf for a model, by its name"):
        _placed("m", [("model", Found("mmproj-x.gguf", 1, "")), ("model", Found("b.gguf", 1, ""))])
    with pytest.raises(FetchError, match=r"two of its files would be m/a.gguf; name other files"):
        _placed("m", [("model", Found("a.gguf", 1, "")), ("model", Found("a.gguf", 2, ""))])
    (one,) = _placed("m", [("model", Found("mmproj-x.gguf", 1, "s", "u", "p", "link"))])
    assert one == Item("m.gguf", "model", 1, "s", "u", "p", "link")
    places = [
        item.place for item in _placed("m", [("model", Found("a.gguf", 1, "")), ("draft", Found("mtp-b.gguf", 1, ""))])
    ]
    assert places == ["m/a.gguf", "m/mtp-b.gguf"]


def test_a_folder_that_is_linked_takes_nothing_more(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_model_source, "at_path", lambda path, method: [Found("", 30, "", path=path, method=method)])
    source = {"path": str(tmp_path)}
    assert server.resolve(source).items == [Item("m", "model", 30, "", path=str(tmp_path), method="link")]
    for role in ("projector", "draft"):
        with pytest.raises(FetchError, match="was wanted linked, and a projector or draft model put into it; name the"):
            server.resolve(source, **{role: {"path": "/x.gguf"}})


def test_facts_are_of_the_model_with_its_projector_and_draft(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the headers alone; a projector is only as large as its files."""
    read: list[str] = []

    def read_model(first: str, header: Any, exists: Any) -> Any:
        assert exists(first)
        assert not exists("other.gguf")
        read.append(f"{first} of {header(first)}")
        return first

    monkeypatch.setattr(_model_source._gguf, "read_model", read_model)
    monkeypatch.setattr(_model_source, "facts_of", lambda model: {"of": model})
    monkeypatch.setattr(_model_source, "read_header", lambda client, url, size: f"{url} with {size}")
    monkeypatch.setattr(_model_source._gguf, "read_header", lambda path: path)
    items = [
        Item("m/a-00002-of-00002.gguf", "model", 20, "", "u2"),
        Item("m/a-00001-of-00002.gguf", "model", 10, "", "u1"),
        Item("m/mmproj-x.gguf", "projector", 5, "", "u3"),
        Item("m/mmproj-y.gguf", "projector", 6, "", "u4"),
        Item("m/draft/d.gguf", "draft", 7, "", path="/d.gguf"),
    ]
    assert server.resolver.facts(items) == {
        "of": "a-00001-of-00002.gguf",
        "projector": 11,
        "draft": {"of": "d.gguf"},
    }
    assert read == ["a-00001-of-00002.gguf of u1 with 10", "d.gguf of /d.gguf"]
    assert server.resolver.facts(items[:2]) == {"of": "a-00001-of-00002.gguf"}
    assert server.resolver.facts(items[2:]) is None
    assert server.resolver.facts([]) is None


def test_a_model_without_facts_has_none_of_its_projector(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_model_source._gguf, "read_model", lambda *given: "odd")
    monkeypatch.setattr(_model_source, "facts_of", lambda model: None)
    items = [Item("m/a.gguf", "model", 10, "", "u1"), Item("m/mmproj-x.gguf", "projector", 5, "", "u3")]
    assert server.resolver.facts(items) is None
