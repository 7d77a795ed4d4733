# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a repository of the Hugging Face hub holds, and which of its files a model is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin

from ansible_collections.homelab.llamacpp.plugins.module_utils._http import (
    Client,
    FetchError,
    origin,
    patiently,
    shown,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import is_draft, is_projector
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, below, component
from ansible_collections.homelab.llamacpp.plugins.module_utils._progress import amount

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SHARD = re.compile(r"-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\Z")
# The last part of a name: a type with a number in it, after what some makers put before it.
QUANT = re.compile(r"(?:^|[-._])(?P<quant>(?:UD-|i1-)?(?:[A-Z]*Q|BF|F|FP|MXFP|NVFP)[0-9][A-Z0-9_]*)\Z", re.IGNORECASE)
MAKERS = re.compile(r"^(?:UD|i1)-", re.IGNORECASE)
SHA256 = re.compile(r"[0-9a-f]{64}")
METADATA_RETRIES = 3
MAX_PAGES = 200  # of a list of files; the hub's have up to 1000 files each
MAX_FOLDERS = 32  # components of a file's path in a repository


class RepoFile(NamedTuple):
    path: str  # in the repository
    size: int  # bytes
    sha256: str  # empty for a small file that is not in LFS


class Repository(NamedTuple):
    """A repository at one commit."""

    name: str
    commit: str
    files: list[RepoFile]
    endpoint: str

    def url(self, file: RepoFile) -> str:
        return f"{self.endpoint}/{self.name}/resolve/{quote(self.commit, safe='')}/{quote(file.path)}"


def look(client: Client, endpoint: str, name: str, revision: str) -> Repository:
    """The repository at a revision. Raises FetchError."""
    if not REPO.fullmatch(name):
        raise FetchError(f"repo must be owner/name, found: {name!r}")
    endpoint = endpoint.rstrip("/")
    base = f"{endpoint}/api/models/{name}"
    try:
        found, _headers = patiently(
            lambda: client.json(f"{base}/revision/{quote(revision, safe='')}"), METADATA_RETRIES
        )
        commit = component(found["sha"], "a commit")
        files: list[RepoFile] = []
        url = f"{base}/tree/{quote(commit, safe='')}?recursive=true"
        for _page in range(MAX_PAGES):
            this = url
            entries, headers = patiently(lambda: client.json(this), METADATA_RETRIES)  # noqa: B023  (called at once)
            files += [_file(entry) for entry in entries if entry["type"] == "file" and entry["path"].endswith(".gguf")]
            following = _next_page(this, headers.get("Link"))
            if following is None:
                break
            url = following
        else:
            raise FetchError(f"{endpoint}: the list of files of {name} has more than {MAX_PAGES} pages; is it a hub?")
    except FetchError as error:
        raise _explained(error, name, revision, endpoint) from None
    except BadName as error:
        raise FetchError(f"{endpoint}: the repository {name}: {error}; take another repository") from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise FetchError(f"{endpoint} answers about {name} in a form that is not the hub's; is it a hub?") from None
    return Repository(name, commit, files, endpoint)


def _file(entry: Mapping[str, Any]) -> RepoFile:
    """One file of a list. Raises BadName, KeyError, TypeError and ValueError for what is none."""
    lfs = entry.get("lfs") or {}
    size, sha256 = lfs.get("size", entry["size"]), lfs.get("oid", "").lower()
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise ValueError(size)
    if sha256 and not SHA256.fullmatch(sha256):
        raise ValueError(sha256)
    return RepoFile(below(entry["path"], "a file's path in the repository", MAX_FOLDERS), size, sha256)


def _next_page(url: str, link: str | None) -> str | None:
    """The address of a list's next page, which has to be on the same server."""
    match = re.search(r'<([^>]+)>;\s*rel="next"', link or "")
    if not match:
        return None
    following: str = urljoin(url, match[1])
    if origin(following) != origin(url):
        raise FetchError(f"{shown(url)}: the next page was expected on the same server, it is at {shown(following)}")
    return following


def _explained(error: FetchError, name: str, revision: str, endpoint: str) -> FetchError:
    if error.code == "RevisionNotFound":
        return FetchError(f"the repository {name} has no revision {revision!r}; name a branch, a tag or a commit of it")
    if error.code == "RepoNotFound" or error.status == 404:
        return FetchError(
            f"{endpoint} knows no repository {name}, or does not show it to who asks; mend repo, or give the token of a"
            " user who may see it"
        )
    return error


class Artefact(NamedTuple):
    """One model: a file, or all its shards in order."""

    stem: str  # of its files' names, with the folder, without shard numbers and .gguf
    files: list[RepoFile]

    @property
    def quant(self) -> str:
        """The quantization by the file's name, or else by its folder's."""
        for text in (self.stem.rpartition("/")[2], self.stem.rpartition("/")[0].rpartition("/")[2]):
            match = QUANT.search(text)
            if match:
                return match["quant"]
        return ""


def artefacts(files: Iterable[RepoFile]) -> list[Artefact]:
    """The models among files. A set that lacks shards is none."""
    sets: dict[tuple[str, int], dict[int, RepoFile]] = {}
    for file in files:
        if file.path.endswith(".gguf"):
            name = file.path[: -len(".gguf")]
            match = SHARD.search(name)
            stem, number, count = (
                (name[: match.start()], int(match["number"]), int(match["count"])) if match else (name, 1, 1)
            )
            sets.setdefault((stem, count), {})[number] = file
    return [
        Artefact(stem, [shards[number] for number in range(1, count + 1)])
        for (stem, count), shards in sorted(sets.items())
        if sorted(shards) == list(range(1, count + 1))
    ]


def kind_of(name: str) -> str:
    return "projector" if is_projector(name) else "draft" if is_draft(name) else "model"


def choose(files: Iterable[RepoFile], where: str, kind: str, file: str | None, quant: str | None) -> Artefact:
    """The one artefact that is meant; `kind` is model, projector or draft. FetchError tells what there is."""
    every = artefacts(files)
    if file:
        named = [one for one in every if any(part.path == file for part in one.files)]
        if not named:
            raise FetchError(f"{where} has no whole model with the file {file!r}; it has {_listed(every)}")
        return named[0]
    candidates = [one for one in every if kind_of(one.files[0].path.rpartition("/")[2]) == kind]
    found = candidates
    if quant:
        found = [one for one in candidates if one.quant.lower() == quant.lower()]
        found = found or [one for one in candidates if MAKERS.sub("", one.quant).lower() == quant.lower()]
    if len(found) != 1:
        wanted = f"one {kind} with the quant {quant!r}" if quant else f"one {kind}, as neither file nor quant is given"
        raise FetchError(f"{where} was expected to have {wanted}; it has {_listed(found or candidates)}. Name its file")
    return found[0]


def _listed(found: list[Artefact]) -> str:
    """For an error: each with its quantization and its size."""
    lines = [
        f"{one.files[0].path} ({one.quant or 'no quant in its name'}, {amount(sum(file.size for file in one.files))})"
        for one in found
    ]
    return ", ".join(lines) or "none"
