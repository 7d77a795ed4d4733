# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a client of a router is configured with: the models that answer, their contexts, how long a cold load takes."""

from __future__ import annotations

import contextlib
import glob
import math
import os
import re
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import GGUFError, read_header
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Model
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_files import by_size, writes
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_places import LOOPBACK

READ_MIB_S = 100  # a hard disk, or a network's 1 Gbit/s
STARTS = 30  # seconds for the process, the device's context and the first graph
_ON = ("on", "enabled", "true", "1")
_SHARD = re.compile(r"(.*)-\d{5}(-of-\d{5}\.gguf)")


def facts(models: Iterable[Model], read_mib_s: int = READ_MIB_S) -> dict[str, Any]:
    """`models`, `task_model` and `longest_load_seconds`, as module client_info returns them."""
    models = sorted(models, key=lambda model: model.id)
    told = [_told(model, read_mib_s) for model in models]
    at_start = [entry.model.id for entry in by_size(models) if entry.model.loads_on_startup and entry.writes]
    return {
        "models": told,
        "task_model": at_start[0] if at_start else "",
        "longest_load_seconds": max((model["load_seconds"] or 0 for model in told), default=0),
    }


def _told(model: Model, read_mib_s: int) -> dict[str, Any]:
    size = size_mib(model)
    return {
        "id": model.id,
        "aliases": sorted(model.aliases),
        "text": writes(model),
        "context": context(model),
        "at_start": model.loads_on_startup,
        "size_mib": size,
        "load_seconds": None if size is None else STARTS + math.ceil(size / read_mib_s),
    }


def context(model: Model) -> int | None:
    """The tokens that one conversation can have: slots share the context, unless each may use all of it.

    llama-server gives no slot more than the model was trained for.
    """
    asked, slots = model.options.get("ctx-size", ""), model.options.get("parallel", "")
    running: int | None = model.meta.get("n_ctx")  # of one slot
    if not asked.isdigit() or not int(asked):
        return running
    # Without a number of slots llama-server makes some that each may use all.
    shared = slots.isdigit() and int(slots) > 1 and model.options.get("kv-unified") not in _ON
    limits = (int(asked) // (int(slots) if shared else 1), running, trained(model))
    return min(limit for limit in limits if limit)


def trained(model: Model) -> int | None:
    """The context in tokens that its file says it was trained for; None where that is not known, or overridden."""
    paths = _after("--model", model.args)
    if not paths or "override-kv" in model.options:
        return None
    try:
        metadata = read_header(paths[0]).metadata
    except GGUFError:
        return None
    tokens = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return tokens if isinstance(tokens, int) and tokens > 0 else None


def size_mib(model: Model) -> int | None:
    """What a load reads, shards and projector included; None where its files are not known."""
    paths = [path for option in ("--model", "--mmproj") for path in _after(option, model.args)]
    found = _SHARD.fullmatch(paths[0]) if paths else None
    if found:
        paths[:1] = glob.glob(f"{glob.escape(found[1])}-[0-9][0-9][0-9][0-9][0-9]{glob.escape(found[2])}")
    try:
        return math.ceil(sum(map(os.path.getsize, paths)) / 2**20) if paths else None
    except OSError:
        return None


def _after(option: str, args: tuple[str, ...]) -> list[str]:
    return [args[args.index(option) + 1]] if option in args[:-1] else []


def from_outside(url: str) -> str:
    """A URL of this host's loopback by the address that the host has towards others; another one as it is."""
    parts = urlsplit(url)
    if parts.hostname not in LOOPBACK:
        return url
    return f"{parts.scheme}://{own_address()}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def own_address() -> str:
    """The address that packets to others leave from; the loopback's where there is no way out. Nothing is sent."""
    for family, other in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            address: str = probe.getsockname()[0]
            return f"[{address}]" if family == socket.AF_INET6 else address
    return "127.0.0.1"
