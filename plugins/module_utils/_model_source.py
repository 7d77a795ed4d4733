# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what an operator says of a model to its files: where each comes from, and its place in the models directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from ansible_collections.homelab.llamacpp.plugins.module_utils import _gguf
from ansible_collections.homelab.llamacpp.plugins.module_utils._download import total_size
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import facts_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import (
    Client,
    FetchError,
    patiently,
    shown,
    split,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._hub import (
    METADATA_RETRIES,
    REPO,
    Repository,
    choose,
    kind_of,
    look,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_local import Found, at_path, cached, loaded_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._models_dir import is_draft, is_projector
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, component, component_of_url
from ansible_collections.homelab.llamacpp.plugins.module_utils._remote_gguf import read_header

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]*")
LONGEST_NAME = 200  # characters; a part file's journal has a longer name
DIGEST = re.compile(r"[0-9a-f]{64}")
SHA256 = re.compile(r"(?:sha256:)?(?P<digest>[0-9a-fA-F]{64})")
ROLES = ("model", "projector", "draft")


class Item(NamedTuple):
    """One file of a model."""

    place: str  # in the models directory
    role: str  # model, projector or draft
    size: int  # bytes
    sha256: str  # empty where only reading the file tells it
    url: str = ""
    path: str = ""  # on the target; of a model that is a linked folder, the folder
    method: str = ""  # what becomes of `path`


class Resolved(NamedTuple):
    items: list[Item]
    commit: str | None


def identity(model: Mapping[str, Any]) -> str:
    """A text that changes when the model's sources do; without secrets, as an address may be signed by its query."""
    told: dict[str, Any] = {}
    for role, key in zip(ROLES, ("source", "projector", "draft")):
        source = {name: value for name, value in (model.get(key) or {}).items() if value is not None}
        if "url" in source:
            source["url"] = shown(source["url"])
        if model.get(key) is not None:
            told[role] = source
    return json.dumps(told, sort_keys=True)


def check(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the list itself."""
    names = [model["name"] for model in models]
    problems = [
        f"the name {name!r} is there more than once" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for model in models:
        name = model["name"]
        if not NAME.fullmatch(name) or ".gguf" in name or len(name) > LONGEST_NAME:
            problems.append(
                "a name must be of letters, digits and . _ + @ -, begin with one of the first, be without .gguf and"
                f" have at most {LONGEST_NAME} characters; found: {name!r}"
            )
        if model["state"] == "absent":
            continue
        if not model.get("source"):
            problems.append(f"{name}: a model that is to be present wants a source")
            continue
        problems += [f"{name}: source {text}" for text in _check_source(model["source"], ("repo", "url", "path"))]
        for role in ("projector", "draft"):
            own = dict(model.get(role) or {})
            if own and not any(own.get(key) for key in ("repo", "url", "path")):
                own["repo"] = model["source"].get("repo")
            if model.get(role) is not None:
                problems += [f"{name}: {role} {text}" for text in _check_source(own, ("url", "path", "repo"), role)]
    return problems


def _check_source(source: Mapping[str, Any], kinds: Sequence[str], role: str = "model") -> list[str]:
    given = [kind for kind in kinds if source.get(kind)]
    if len(given) != 1:
        if role != "model" and not given:
            return []  # the model's own repository, or an error when that has none
        return [f"must have one of repo, url and path, found: {' and '.join(given) or 'none'}"]
    problems = []
    kind = given[0]
    repo_only = [key for key in ("file", "quant", "cache") if source.get(key)]
    if kind != "repo" and repo_only:
        problems.append(f"has {kind}, with which {' and '.join(repo_only)} mean nothing")
    if source.get("file") and source.get("quant"):
        problems.append("has file and quant; one of them names the model")
    if kind == "repo" and not REPO.fullmatch(source["repo"]):
        problems.append(f"repo must be owner/name, found: {source['repo']!r}")
    if kind == "url":
        problems += _check_url(source["url"])
    if kind == "path" and not os.path.isabs(source["path"]):
        problems.append(f"path must be absolute, found: {source['path']!r}")
    problems += [
        f"checksum must be a SHA-256 of 64 hexadecimal digits, found: {text!r}"
        for text in source.get("checksum") or []
        if not SHA256.fullmatch(text)
    ]
    return problems


def _check_url(url: str) -> list[str]:
    try:
        split(url)
        component_of_url(url)
    except (FetchError, BadName) as error:
        return [f"url must begin with https:// or http:// and end in a file's name: {error}"]
    return []


class Resolver:
    """Asks each repository once, whatever the number of models from it."""

    def __init__(self, client: Client, endpoint: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self._repositories: dict[tuple[str, str], Repository] = {}

    def resolve(self, model: Mapping[str, Any]) -> Resolved:
        """The model's files and their places. Raises FetchError."""
        name, source = model["name"], model["source"]
        try:
            own, commit = self._files(source, "model")
            if len(own) == 1 and os.path.isdir(own[0].path):
                if model.get("projector") is None and model.get("draft") is None:
                    return Resolved([Item(name, "model", own[0].size, "", path=own[0].path, method="link")], None)
                raise FetchError(
                    f"the folder {own[0].path} was wanted linked, and a projector or draft model put into it; name the"
                    " model's file in path instead, or take method copy"
                )
            parts = [(kind_of(file.name) if os.path.isdir(source["path"] or "") else "model", file) for file in own]
            for role in ("projector", "draft"):
                if model.get(role) is not None:
                    parts += [(role, file) for file in self._side(source, model[role], role)]
            return Resolved(_placed(name, parts), commit)
        except FetchError as error:
            raise FetchError(f"{name}: {error}", error.status, error.code) from None
        except BadName as error:
            raise FetchError(f"{name}: {error}; rename the file in its source") from None

    def _side(self, source: Mapping[str, Any], own: Mapping[str, Any], role: str) -> list[Found]:
        if any(own.get(kind) for kind in ("repo", "url", "path")):
            kind = "model" if role == "draft" else role  # a draft from elsewhere is a model like others
            return self._files(own, kind)[0]
        if not source.get("repo"):
            raise FetchError(f"its {role} was expected to name a repo, a url or a path, as the model has no repository")
        inherited = {key: own.get(key) for key in ("file", "quant", "checksum")}
        return self._files({**source, **inherited}, role)[0]

    def _files(self, source: Mapping[str, Any], role: str) -> tuple[list[Found], str | None]:
        sums = [
            cast("re.Match[str]", SHA256.fullmatch(text))["digest"].lower() for text in source.get("checksum") or []
        ]
        commit = None
        if source.get("repo") and source.get("cache"):
            found = cached(source, role)
        elif source.get("repo"):
            repository = self._repository(source["repo"], source["revision"])
            commit = repository.commit
            chosen = choose(
                repository.files,
                f"{repository.name} ({source['revision']})",
                role,
                source.get("file"),
                source.get("quant"),
            )
            found = [
                Found(os.path.basename(one.path), one.size, one.sha256, url=repository.url(one)) for one in chosen.files
            ]
        elif source.get("url"):
            found = self._at_url(source["url"], sums)
        else:
            found = at_path(source["path"], source["method"])
        if not sums:
            return found, commit
        if len(sums) != len(found):
            raise FetchError(f"checksum must name one SHA-256 for each of {len(found)} files, found: {len(sums)}")
        for one, checksum in zip(found, sums):
            if one.sha256 not in ("", checksum):
                raise FetchError(f"{one.name}: checksum says {checksum}, its server {one.sha256}; one of them is wrong")
        return [one._replace(sha256=checksum) for one, checksum in zip(found, sums)], commit

    def _repository(self, name: str, revision: str) -> Repository:
        key = (name, revision)
        if key not in self._repositories:
            self._repositories[key] = look(self._client, self._endpoint, name, revision)
        return self._repositories[key]

    def _at_url(self, url: str, sums: Sequence[str]) -> list[Found]:
        found = []
        for number, one in enumerate(_shard_urls(url)):
            size = patiently(lambda: self._size(one), METADATA_RETRIES)  # noqa: B023  (called at once)
            sha256 = sums[number] if number < len(sums) else self._client.named.get(one, "")
            if not DIGEST.fullmatch(sha256):
                raise FetchError(f"{shown(one)}: a checksum was wanted, and the server names none; give checksum")
            found.append(Found(component_of_url(one), size, sha256, url=one))
        return found

    def _size(self, url: str) -> int:
        with self._client.open(url, 0, 1) as response:
            size = total_size(response)
        if size is None:
            raise FetchError(f"{shown(url)}: the server does not say how long the file is; fetch it from elsewhere")
        return size

    def facts(self, items: Sequence[Item]) -> dict[str, Any] | None:
        """What the planner needs, from the headers alone, wherever the files are. Raises FetchError and GGUFError."""
        facts: dict[str, Any] | None = None
        for role in ROLES:
            own = {os.path.basename(item.place): item for item in items if item.role == role}
            if not own or (role != "model" and facts is None):
                continue
            if role == "projector":
                cast("dict[str, Any]", facts)["projector"] = sum(item.size for item in own.values())
                continue
            first = min(own)
            if os.path.isdir(own[first].path):
                model = _gguf.read_model(loaded_of(own[first].path))
            else:
                model = _gguf.read_model(first, lambda name: self._header(own[name]), own.__contains__)  # noqa: B023
            if role == "model":
                facts = facts_of(model)
            else:
                cast("dict[str, Any]", facts)["draft"] = facts_of(model)
        return facts

    def _header(self, item: Item) -> _gguf.Header:
        return _gguf.read_header(item.path) if item.path else read_header(self._client, item.url, item.size)


def _placed(name: str, parts: Sequence[tuple[str, Found]]) -> list[Item]:
    """The places of a model's files: one file has the model's name, several are in a folder of that name."""
    if len(parts) == 1:
        return [Item(f"{name}.gguf", "model", *parts[0][1][1:])]
    items = []
    for role, file in parts:
        place = component(file.name)
        if role == "projector" and not is_projector(place):
            place = f"mmproj-{place}"
        if role == "draft" and not is_draft(place):
            place = os.path.join("draft", place)
        if role == "model" and (is_projector(place) or is_draft(place)):
            raise FetchError(f"the router would not take {place} for a model, by its name; rename it in its source")
        items.append(Item(os.path.join(name, place), role, *file[1:]))
    places = [item.place for item in items]
    for place in places:
        if places.count(place) > 1:
            raise FetchError(f"two of its files would be {place}; name other files")
    return items


def _shard_urls(url: str) -> list[str]:
    """The addresses of all shards by that of any one; of a file that is none, its own."""
    parts = urlsplit(url)
    match = _gguf.SHARD.fullmatch(parts.path)
    if not match:
        return [url]
    paths = (f"{match['stem']}-{number:05d}-of-{match['count']}.gguf" for number in range(1, int(match["count"]) + 1))
    return [parts._replace(path=path).geturl() for path in paths]
