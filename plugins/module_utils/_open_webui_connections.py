# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open WebUI's list of OpenAI connections, kept by it as three lists that belong together by their places.

What is not ours in it stays as it is: other connections, in their order, and fields that are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._http_service import base_url
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui import OpenWebUI, OpenWebUIError, Refused
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_answers import (
    mapping,
    mappings,
    model_id,
    texts,
)

# What Open WebUI's own page writes for a connection that is new.
FRESH: dict[str, Any] = {
    "enable": True,
    "tags": [],
    "prefix_id": "",
    "model_ids": [],
    "connection_type": "external",
    "auth_type": "bearer",
}


@dataclass(frozen=True)
class Connection:
    """One of them. `settings` are its entry in the third list, empty where there is none."""

    url: str
    key: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a connection is to be; None where it may be as it is."""

    url: str
    key: str | None
    provider: str
    enabled: bool
    prefix_id: str | None = None
    tags: list[str] | None = None
    model_ids: list[str] | None = None

    def settings(self) -> dict[str, Any]:
        """Its entry in the third list, as far as it is wanted."""
        wanted: dict[str, Any] = {"enable": self.enabled, "provider": self.provider}
        if self.key is not None:
            wanted["auth_type"] = "bearer"  # with another one the key would not be sent
        if self.prefix_id is not None:
            wanted["prefix_id"] = self.prefix_id
        if self.tags is not None:
            wanted["tags"] = [{"name": tag} for tag in self.tags]
        if self.model_ids is not None:
            wanted["model_ids"] = self.model_ids
        return wanted


def same(one: str, other: str) -> bool:
    """Whether two addresses are those of one server."""
    try:
        return base_url(one, "") == base_url(other, "")
    except ValueError:
        return one == other


def connections(config: Mapping[str, Any]) -> list[Connection]:
    """Open WebUI's lists as one. Older versions named a connection's settings by its address, and these still count."""
    keys = list(texts(config.get("OPENAI_API_KEYS") or [], "OPENAI_API_KEYS"))
    settings = mapping(config.get("OPENAI_API_CONFIGS") or {}, "OPENAI_API_CONFIGS")
    urls = texts(config.get("OPENAI_API_BASE_URLS") or [], "OPENAI_API_BASE_URLS")
    keys += [""] * (len(urls) - len(keys))
    return [
        Connection(url, key, mapping(settings.get(str(place), settings.get(url)) or {}, f"OPENAI_API_CONFIGS.{place}"))
        for place, (url, key) in enumerate(zip(urls, keys))
    ]


def configured(config: Mapping[str, Any], wanted: Iterable[Connection], enable: bool) -> dict[str, Any]:
    """The configuration with these connections in it, each one's settings under its place."""
    listed = list(wanted)
    return {
        **config,
        "ENABLE_OPENAI_API": enable,
        "OPENAI_API_BASE_URLS": [one.url for one in listed],
        "OPENAI_API_KEYS": [one.key for one in listed],
        "OPENAI_API_CONFIGS": {str(place): dict(one.settings) for place, one in enumerate(listed) if one.settings},
    }


def places(listed: list[Connection], url: str) -> list[int]:
    """Where the connections to an address are; the one that counts comes first."""
    found = [place for place, one in enumerate(listed) if same(one.url, url)]
    return sorted(found, key=lambda place: listed[place].url != url)


def present(listed: list[Connection], wanted: Wanted) -> list[Connection]:
    """With the connection that is wanted: where there is one to its address, or else at the end."""
    found = places(listed, wanted.url)
    if not found:
        return [*listed, Connection(wanted.url, wanted.key or "", {**FRESH, **wanted.settings()})]
    old = listed[found[0]]
    new = replace(
        old,
        url=wanted.url,
        key=old.key if wanted.key is None else wanted.key,
        settings=_merged(old.settings, wanted.settings()),
    )
    return [new if place == found[0] else one for place, one in enumerate(listed)]


def absent(listed: list[Connection], url: str) -> list[Connection]:
    """Without those to an address."""
    gone = places(listed, url)
    return [one for place, one in enumerate(listed) if place not in gone]


def _merged(old: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same in other words stays in the words that are there."""
    said = {"enable": old.get("enable", True), "auth_type": old.get("auth_type") or "bearer"}
    said.update({name: old.get(name) or FRESH.get(name, "") for name in ("prefix_id", "provider", "model_ids")})
    tags = old.get("tags")
    said["tags"] = [_named(tag) for tag in tags] if isinstance(tags, list) else []
    return {**old, **{name: value for name, value in wanted.items() if said.get(name) != value}}


def _named(tag: Any) -> Any:
    return {"name": tag.get("name") if isinstance(tag, dict) else tag}


def offered(webui: OpenWebUI, connection: Connection) -> list[str]:
    """Ids of the models behind a connection, asked for by Open WebUI itself. OpenWebUIError when it gets none."""
    try:
        answer = webui.post(
            "/openai/verify", {"url": connection.url, "key": connection.key, "config": dict(connection.settings)}
        )
    except Refused as refused:
        start = f"url: a router that Open WebUI reaches at {connection.url} was wanted, "
        own = isinstance(refused.answer, dict) and "detail" in refused.answer  # Open WebUI's word, not the router's
        if own and refused.status == 500:
            tls = (
                "; of an authority of your own Open WebUI knows the certificates by AIOHTTP_CLIENT_SSL_CERT_FILE in its"
                " environment"
            )
            raise OpenWebUIError(
                f"{start}Open WebUI gets no answer there; start the router (systemctl start llama-router), see that its"
                " firewall lets Open WebUI's host in, or correct url: it is Open WebUI's host that has to reach it"
                f"{tls if connection.url.startswith('https:') else ''}"
            ) from None
        if not own and refused.status in (401, 403):
            sent = "does not take the key that was sent" if connection.key else "wants a key, and none was sent"
            raise OpenWebUIError(
                f"api_key: one of the keys of the router at {connection.url} was wanted, it {sent}; take it from the"
                " router's key file (it reads its key file only when it starts)"
            ) from None
        if own:
            raise
        if refused.status in (502, 503, 504):
            raise OpenWebUIError(
                f"{start}what stands before it answers {refused.status}: the router itself does not run, or is still"
                " starting; see journalctl -u llama-router on its host"
            ) from None
        raise OpenWebUIError(
            f"{start}something else answers there ({refused.status}); correct url: it is the scheme, host and port"
            " that the router listens on"
        ) from None
    if isinstance(answer, dict) and isinstance(answer.get("data"), list):
        models = mappings(answer["data"], "data")
        return [model_id(model.get("id"), f"data[{index}].id") for index, model in enumerate(models)]
    raise OpenWebUIError(
        f"url: a router was wanted at {connection.url}, what answers there has no list of models; correct url"
    )
