# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of a repository a name means. The names are those of repositories that exist."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _hub
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._hub import (
    Artefact,
    RepoFile,
    Repository,
    artefacts,
    choose,
    look,
)

NAMES = [
    "README.md",
    "Qwen3-8B-Q4_K_M.gguf",
    "Qwen3-8B-UD-Q4_K_XL.gguf",
    "Qwen3-8B-IQ4_NL.gguf",
    "qwen3-8b.BF16.gguf",
    "UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL-00001-of-00002.gguf",
    "UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL-00002-of-00002.gguf",
    "Q8_0/Qwen3-8B-00001-of-00002.gguf",
    "Q8_0/Qwen3-8B-00002-of-00002.gguf",
    "broken/Qwen3-8B-Q6_K-00001-of-00003.gguf",
    "gpt-oss-20b-mxfp4.gguf",
    "Qwen3-8B.i1-Q5_K_S.gguf",
    "mmproj-F16.gguf",
    "mmproj-BF16.gguf",
    "mtp-Qwen3-8B-Q8_0.gguf",
]
FILES = [RepoFile(name, 1 << 30, "0" * 64) for name in NAMES]


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen3-8B-Q4_K_M", "Q4_K_M"),
        ("Qwen3-8B-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("Model.IQ3_XXS", "IQ3_XXS"),
        ("Model.i1-IQ1_S", "i1-IQ1_S"),
        ("model-bf16", "bf16"),
        ("Model-TQ1_0", "TQ1_0"),
        ("gpt-oss-20b-mxfp4", "mxfp4"),
        ("gpt-oss-20b-MXFP4_MOE", "MXFP4_MOE"),
        ("Q8_0/Model", "Q8_0"),
        ("Model-7B", ""),
        ("Phi-4", ""),
    ],
)
def test_the_quantization_is_in_the_name(name: str, quant: str) -> None:
    assert Artefact(name, []).quant == quant


def test_shards_are_one_and_a_set_that_lacks_some_is_none() -> None:
    found = {artefact.stem: len(artefact.files) for artefact in artefacts(FILES)}
    assert found["UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL"] == 2
    assert found["Qwen3-8B-Q4_K_M"] == 1
    assert not [stem for stem in found if stem.startswith("broken")]


@pytest.mark.parametrize(
    ("quant", "path"),
    [
        ("Q4_K_M", "Qwen3-8B-Q4_K_M.gguf"),
        ("q4_k_m", "Qwen3-8B-Q4_K_M.gguf"),
        ("UD-Q4_K_XL", "Qwen3-8B-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", "Qwen3-8B-UD-Q4_K_XL.gguf"),
        ("Q5_K_S", "Qwen3-8B.i1-Q5_K_S.gguf"),
        ("BF16", "qwen3-8b.BF16.gguf"),
        ("Q2_K_XL", "UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL-00001-of-00002.gguf"),
        ("Q8_0", "Q8_0/Qwen3-8B-00001-of-00002.gguf"),
    ],
)
def test_a_quant_means_one_model(quant: str, path: str) -> None:
    assert choose(FILES, "r", "model", None, quant).files[0].path == path


def test_kinds_are_kept_apart() -> None:
    assert choose(FILES, "r", "projector", None, "BF16").files[0].path == "mmproj-BF16.gguf"
    assert choose(FILES, "r", "draft", None, None).files[0].path == "mtp-Qwen3-8B-Q8_0.gguf"


def test_any_shard_names_its_model() -> None:
    second = "UD-Q2_K_XL/Qwen3-8B-UD-Q2_K_XL-00002-of-00002.gguf"
    assert len(choose(FILES, "r", "model", second, None).files) == 2


def test_several_with_one_quant_are_listed() -> None:
    files = [*FILES, RepoFile("old/Qwen3-8B-Q4_K_M.gguf", 3 << 30, "")]
    with pytest.raises(FetchError) as error:
        choose(files, "own/repo (main)", "model", None, "Q4_K_M")
    assert str(error.value) == (
        "own/repo (main) was expected to have one model with the quant 'Q4_K_M'; it has Qwen3-8B-Q4_K_M.gguf (Q4_K_M,"
        " 1.0 GiB), old/Qwen3-8B-Q4_K_M.gguf (Q4_K_M, 3.0 GiB). Name its file"
    )


def test_none_lists_all_of_the_kind() -> None:
    with pytest.raises(FetchError) as error:
        choose(FILES, "r", "projector", None, "F32")
    assert "it has mmproj-BF16.gguf (BF16, 1.0 GiB), mmproj-F16.gguf (F16, 1.0 GiB)" in str(error.value)
    with pytest.raises(FetchError, match="has no whole model with the file"):
        choose(FILES, "r", "model", "broken/Qwen3-8B-Q6_K-00001-of-00003.gguf", None)


COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASE = "https://hub.example/api/models/own/repo"
TREE = f"{BASE}/tree/{COMMIT}?recursive=true"
SUM = "ab" * 32


def entry(path: str, total: Any = 7, /, **lfs: Any) -> dict[str, Any]:
    """One of a tree. Large files are in LFS; small ones, as in every real repository, are not."""
    return {"type": "file", "oid": "0" * 40, "size": total, "path": path} | ({"lfs": lfs} if lfs else {})


class Hub:
    """Answers by address; each answer is JSON, or JSON and the address of the next page, or an error."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {f"{BASE}/revision/main": {"sha": COMMIT}, TREE: []}
        self.asked: list[str] = []

    def json(self, url: str) -> tuple[Any, dict[str, str]]:
        self.asked.append(url)
        answer = self.answers[url]
        if isinstance(answer, Exception):
            raise answer
        more = {}
        if isinstance(answer, tuple):
            answer, following = answer
            more["Link"] = f'<{BASE}/first>; rel="first", <{following}>; rel="next"'
        return answer, more

    def look(self, endpoint: str = "https://hub.example", name: str = "own/repo", revision: str = "main") -> Repository:
        client: Any = self
        return look(client, endpoint, name, revision)


@pytest.fixture
def hub() -> Hub:
    return Hub()


def test_a_repository_at_a_commit(hub: Hub) -> None:
    hub.answers[TREE] = [
        {"type": "directory", "oid": "0" * 40, "size": 0, "path": "Q8_0"},
        entry("README.md", 3),
        entry("a b/m.gguf", 134, oid=SUM.upper(), size=9 << 30, pointerSize=134),
        entry("small.gguf", 0),
    ]
    found = hub.look()
    assert found.files == [RepoFile("a b/m.gguf", 9 << 30, SUM), RepoFile("small.gguf", 0, "")]
    assert (found.name, found.commit, found.endpoint) == ("own/repo", COMMIT, "https://hub.example")
    assert found.url(found.files[0]) == f"https://hub.example/own/repo/resolve/{COMMIT}/a%20b/m.gguf"
    assert hub.asked == [f"{BASE}/revision/main", TREE]


@pytest.mark.parametrize("endpoint", ["https://hub.example/", "https://hub.example//"])
def test_a_slash_behind_the_endpoint(hub: Hub, endpoint: str) -> None:
    assert hub.look(endpoint).endpoint == "https://hub.example"


def test_a_revision_is_one_part_of_the_address(hub: Hub) -> None:
    hub.answers[f"{BASE}/revision/refs%2Fpr%2F1"] = {"sha": COMMIT}
    assert hub.look(revision="refs/pr/1").commit == COMMIT


def test_all_pages_are_read(hub: Hub) -> None:
    hub.answers[TREE] = ([entry("1.gguf")], f"{BASE}/tree/x?cursor=2")
    hub.answers[f"{BASE}/tree/x?cursor=2"] = ([entry("2.gguf")], "/api/models/own/repo/tree/x?cursor=3")
    hub.answers[f"{BASE}/tree/x?cursor=3"] = [entry("3.gguf")]
    assert [file.path for file in hub.look().files] == ["1.gguf", "2.gguf", "3.gguf"]


@pytest.mark.parametrize("following", ["https://other.example/x", "http://hub.example/x", "https://hub.example:1/x"])
def test_a_next_page_elsewhere_is_not_asked(hub: Hub, following: str) -> None:
    hub.answers[TREE] = ([], following)
    with pytest.raises(FetchError, match="the next page was expected on the same server, it is at "):
        hub.look()
    assert len(hub.asked) == 2


def test_pages_without_end(hub: Hub) -> None:
    hub.answers[TREE] = ([entry("1.gguf")], TREE)
    with pytest.raises(FetchError, match="of own/repo has more than 200 pages; is it a hub"):
        hub.look()
    assert len(hub.asked) == 1 + _hub.MAX_PAGES == 201


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FetchError("x", 404, "RevisionNotFound"), "own/repo has no revision 'main'; name a branch, a tag or a commit"),
        (FetchError("x", 401, "RepoNotFound"), "https://hub.example knows no repository own/repo, or does not show it"),
        (FetchError("x", 404), "https://hub.example knows no repository own/repo, or does not show it"),
        (FetchError("it is down", 500), "^it is down"),
        (FetchError("no certificate"), "^no certificate"),
    ],
)
def test_refusals_are_explained(hub: Hub, error: FetchError, told: str) -> None:
    hub.answers[f"{BASE}/revision/main"] = error
    with pytest.raises(FetchError, match=told):
        hub.look()


@pytest.mark.parametrize(
    "tree",
    [
        {"error": "x"},
        ["x"],
        [None],
        [{"type": "file"}],
        [{"path": "m.gguf", "size": 1}],
        [entry("m.gguf", "7")],
        [entry("m.gguf", True)],
        [entry("m.gguf", -1)],
        [entry("m.gguf", 1 << 63)],
        [entry("m.gguf", 7.0)],
        [entry("m.gguf", oid="abc", size=1)],
        [entry("m.gguf", oid=7, size=1)],
        [entry("m.gguf", size=None, oid=SUM)],
        [{"type": "file", "path": 7, "size": 1}],
    ],
)
def test_what_is_no_hub(hub: Hub, tree: Any) -> None:
    hub.answers[TREE] = tree
    with pytest.raises(FetchError, match=r"https://hub.example answers about own/repo in a form that is not the hub's"):
        hub.look()


@pytest.mark.parametrize("answer", [{}, [], None, "x", {"sha": None}])
def test_a_revision_of_no_hub(hub: Hub, answer: Any) -> None:
    hub.answers[f"{BASE}/revision/main"] = answer
    with pytest.raises(FetchError, match=r"https://hub.example.*own/repo"):
        hub.look()


@pytest.mark.parametrize("path", ["../m.gguf", "/m.gguf", "a/../../m.gguf", "a\n.gguf", "x/" * 32 + "m.gguf"])
def test_a_path_that_leads_elsewhere(hub: Hub, path: str) -> None:
    hub.answers[TREE] = [entry(path)]
    with pytest.raises(FetchError, match=r"https://hub.example: the repository own/repo: .*; take another repository"):
        hub.look()


def test_a_deep_path_and_a_large_file(hub: Hub) -> None:
    path = "x/" * 31 + "m.gguf"
    hub.answers[TREE] = [entry(path, (1 << 63) - 1)]
    assert hub.look().files == [RepoFile(path, (1 << 63) - 1, "")]


@pytest.mark.parametrize("commit", ["../x", "a/b", "", ".", "a\nb"])
def test_a_commit_that_is_a_path(hub: Hub, commit: str) -> None:
    hub.answers[f"{BASE}/revision/main"] = {"sha": commit}
    with pytest.raises(FetchError, match="take another repository"):
        hub.look()


@pytest.mark.parametrize(
    "name", ["repo", "own/repo/more", "own/", "/repo", ".own/repo", "own/re po", "own/repo\n", "a/b?c"]
)
def test_names_of_no_repository(hub: Hub, name: str) -> None:
    with pytest.raises(FetchError, match=r"repo must be owner/name, found"):
        hub.look(name=name)
    assert hub.asked == []


def test_a_file_without_a_quant_is_listed_as_such() -> None:
    with pytest.raises(FetchError, match=r"one model, as neither file nor quant is given; it has a.gguf \(no quant in"):
        choose([RepoFile("a.gguf", 1, ""), RepoFile("b.gguf", 1, "")], "r", "model", None, None)
    with pytest.raises(FetchError, match="it has none"):
        choose([], "r", "model", None, "Q8_0")
    with pytest.raises(FetchError, match=r"has no whole model with the file 'x.gguf'; it has none"):
        choose([RepoFile("x.txt", 1, "")], "r", "model", "x.gguf", None)


def test_the_exact_quant_goes_before_the_makers_own() -> None:
    files = [RepoFile("m-UD-Q4_K_M.gguf", 1, ""), RepoFile("m-Q4_K_M.gguf", 1, "")]
    assert choose(files, "r", "model", None, "Q4_K_M").files == [files[1]]
    assert choose(files[:1], "r", "model", None, "Q4_K_M").files == [files[0]]


def test_a_set_with_shards_that_it_does_not_count_is_none() -> None:
    files = [RepoFile(f"m-{number:05d}-of-00002.gguf", 1, "") for number in (2, 1)]
    assert [one.files for one in artefacts(files)] == [[files[1], files[0]]]
    assert artefacts([*files, RepoFile("m-00003-of-00002.gguf", 1, "")]) == []
    assert artefacts([*files, RepoFile("m-00000-of-00002.gguf", 1, "")]) == []
