# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a router says of itself and of its models, as modules return it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _options
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Model, RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import running


def facts(client: Client) -> dict[str, Any]:
    """What the module router_info returns. Raises RouterError; neither loads nor wakes a model."""
    props = client.props()
    models = client.models()
    build = str(props.get("build_info", ""))
    number = re.match(r"b(\d+)", build)
    return {
        "role": props["role"],
        "build": build,
        "build_number": int(number.group(1)) if number else 0,
        "limit": props["max_instances"],
        "models_autoload": props["models_autoload"],
        "models": [_model(model) for model in models],
        "loaded": running(models),
    }


def check_keyless(client: Client) -> None:
    """Raise RouterError when the router answers a client without a key."""
    if client.admits():
        raise RouterError(
            f"{client.url}: expected the router to refuse a request without a key (401), found that it answers; check"
            " its key file, and restart it"
        )


def check_served(client: Client, names: Sequence[str], limit: int) -> None:
    """Raise RouterError unless exactly these models are served, each `id = alias = alias`, at this limit."""
    at = int(client.props()["max_instances"])
    served = [" = ".join([model.id, *sorted(model.aliases)]) for model in client.models()]
    if sorted(served) != sorted(map(_sorted_aliases, names)) or at != limit:
        raise RouterError(
            f"Wanted of {client.url}: the models {', '.join(names)} at limit {limit}."
            f" Found: {', '.join(sorted(served))} at limit {at}."
        )


def _sorted_aliases(name: str) -> str:
    """Jinja and Python do not sort capital letters alike."""
    model, *aliases = name.split(" = ")
    return " = ".join([model, *sorted(aliases)])


def _model(model: Model) -> dict[str, Any]:
    found = asdict(model)
    del found["args"], found["port"], found["meta"]
    found["ctx_size"] = model.ctx_size
    found["options"] = _options.masked_all(model.options)
    return found
