# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Open WebUI shows of models: an entry a model, and the lists that name some of them.

Only what is wanted is changed: other entries, and fields of an entry that are not known here, stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui import OpenWebUI, OpenWebUIError
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_answers import (
    mapping,
    mappings,
    model_id,
    text,
)

EVERYBODY = "*"
MAY_READ = {"principal_type": "user", "principal_id": EVERYBODY, "permission": "read"}


def view(entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """An entry as the options of a model name it. Without an entry it is what a model has by itself."""
    if entry is None:
        return {"name": None, "description": "", "hidden": False, "visibility": "private", "params": {}}
    meta = entry.get("meta") or {}
    public = any(_for_everybody(grant) and grant["permission"] == "read" for grant in entry.get("access_grants") or [])
    return {
        "name": entry["name"],
        "description": meta.get("description") or "",
        "hidden": bool(meta.get("hidden")),
        "visibility": "public" if public else "private",
        "params": dict(entry.get("params") or {}),
    }


def changes(entry: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of `wanted` (options of a model; None may be as it is) differs: as it is, and as it is to be."""
    now, then = view(entry), {name: value for name, value in wanted.items() if name != "id" and value is not None}
    if entry is None:
        then = {"name": wanted["id"], **then}
    if "params" in then:
        # A parameter of null is none.
        given = {key: value for key, value in then["params"].items() if value is not None}
        kept = {key: value for key, value in now["params"].items() if key not in then["params"]}
        then["params"] = {**kept, **given}
    differing = {name: value for name, value in then.items() if now[name] != value}
    return {name: now[name] for name in differing}, differing


def shown(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both as a diff tells them: of the parameters those that differ, for the others are their owner's affair."""
    if "params" not in after:
        return dict(before), dict(after)
    old, new = before["params"], after["params"]
    changed = [name for name in {**old, **new} if (name in old, old.get(name)) != (name in new, new.get(name))]
    then, now = ({name: params[name] for name in changed if name in params} for params in (old, new))
    return {**before, "params": then}, {**after, "params": now}


def with_public(
    models: Iterable[Mapping[str, Any]], public: Iterable[str], entries: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """`models` (options) with those of `public` for everybody: where no visibility is said, and no other entry is."""
    everybodys = list(dict.fromkeys(public))
    told = [dict(model) for model in models]
    for model in told:
        if model["id"] in everybodys and model.get("visibility") is None:
            model["visibility"] = "public"
    named = {model["id"] for model in told}
    return told + [{"id": one, "visibility": "public"} for one in everybodys if one not in named | entries.keys()]


def form(entry: Mapping[str, Any] | None, model_id: str, differing: Mapping[str, Any]) -> dict[str, Any]:
    """What Open WebUI's import is given, so that an entry gets what differs and keeps the rest.

    An import does not change who sees an entry that is there: that is `grants`.
    """
    old = entry or {}
    meta = {name: differing[name] for name in ("description", "hidden") if name in differing}
    params = dict(differing.get("params", old.get("params") or {}))
    if "model_controls" in (old.get("params") or {}):
        params.setdefault("model_controls", {})  # it keeps those that an import does not name
    return {
        "id": model_id,
        "name": differing.get("name", old.get("name", model_id)),
        "meta": {**(old.get("meta") or {}), **meta},
        "params": params,
    }


def grants(entry: Mapping[str, Any] | None, visibility: str) -> list[dict[str, Any]]:
    """Who is to see an entry: everybody or not, and those to whom it was given."""
    others = [grant for grant in (entry or {}).get("access_grants") or [] if not _for_everybody(grant)]
    return [*others, MAY_READ] if visibility == "public" else others


def in_order(now: Iterable[str] | None, first: Iterable[str] | None, gone: Iterable[str]) -> list[str]:
    """`first`, then what there is otherwise as it was, without those that are gone."""
    front, away = list(dict.fromkeys(first or [])), set(gone)
    return front + [one for one in now or [] if one not in front and one not in away]


def joined(now: str | None, wanted: Iterable[str] | None, gone: Iterable[str]) -> str | None:
    """A list that Open WebUI keeps as one word with commas: the one that is wanted, or what there is without some."""
    have = [one for one in (now or "").split(",") if one]
    left = [one for one in have if one not in set(gone)] if wanted is None else list(dict.fromkeys(wanted))
    return now if left == have else ",".join(left)


def entries_of(webui: OpenWebUI) -> dict[str, dict[str, Any]]:
    """Open WebUI's entries, by model id."""
    listed = mappings(webui.get("/api/v1/models/all"), "models")
    return {entry["id"]: entry for entry in (_checked(entry, f"models[{at}]") for at, entry in enumerate(listed))}


def _checked(entry: dict[str, Any], place: str) -> dict[str, Any]:
    """An entry whose fields have the types that are used here."""
    model_id(entry.get("id"), f"{place}.id")
    text(entry.get("name"), f"{place}.name")
    for name in ("meta", "params"):
        mapping(entry.get(name) or {}, f"{place}.{name}")
    for at, grant in enumerate(mappings(entry.get("access_grants") or [], f"{place}.access_grants")):
        text(grant.get("permission"), f"{place}.access_grants[{at}].permission")
    return entry


def wait_for(
    webui: OpenWebUI, ids: Iterable[str], seconds: float, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Return when Open WebUI has models of all these ids; OpenWebUIError, with their names, after so many seconds."""
    own = {one for one, entry in entries_of(webui).items() if entry.get("base_model_id")}  # made in Open WebUI itself
    deadline = time.monotonic() + seconds
    while True:
        listed = mappings(mapping(webui.get("/api/models/base"), "the list of models").get("data"), "data")
        found = {model_id(model.get("id"), f"data[{at}].id") for at, model in enumerate(listed)} | own
        missing = sorted(set(ids) - found)
        if not missing:
            return
        if time.monotonic() >= deadline:
            raise OpenWebUIError(
                f"models of these ids were wanted in Open WebUI at {webui.url}: {', '.join(missing)}; it has"
                f" {', '.join(sorted(found)) or 'none'}; correct the names, or see that its connection is there and"
                " that the router answers (open_webui_connection)"
            )
        sleep(1)


def _for_everybody(grant: Mapping[str, Any]) -> bool:
    return grant.get("principal_id") == EVERYBODY
