# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Double of pvesh: prints and exits as the real one, quirks included."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from . import client

METHODS = {"get": "GET", "create": "POST", "set": "PUT", "delete": "DELETE"}
FORMATS = ("text", "json", "json-pretty", "yaml")


def main() -> int:
    """One call. Returns the exit status."""
    words = sys.argv[1:]
    client.dawdle()
    if len(words) < 2 or words[0] not in METHODS:
        client.fail(
            f"ERROR: unknown command 'pvesh {' '.join(words[:1])}'\n"
            f"USAGE: pvesh <{'|'.join(METHODS)}> <api_path> [OPTIONS]",
            255,
        )
    path = "/" + words[1].strip("/")
    if path.startswith("/nodes/localhost"):
        path = f"/nodes/{socket.gethostname()}" + path.removeprefix("/nodes/localhost")
    try:
        parameters = client.options(words[2:])
        form = parameters.pop("output-format", "text")
        if form not in FORMATS:
            raise client.ApiError(
                400,
                "Parameter verification failed.",
                {"output-format": f"value '{form}' does not have a value in the enumeration '{', '.join(FORMATS)}'"},
            )
        for flag in ("noborder", "noheader", "human-readable", "quiet"):
            parameters.pop(flag, None)
        data = client.call(METHODS[words[0]], path, parameters)
        if client.is_task(data):
            status = client.follow(data)
            if status != "OK":
                # The real pvesh says so and then ends well: whoever wants to know asks for the task's status.
                print(status, file=sys.stderr)
    except client.ApiError as error:
        client.fail(complaint(error, words[0]), leftover())
    show(data, form)
    return 0


def complaint(error: client.ApiError, verb: str) -> str:
    """What the real pvesh prints on stderr.

    It parses options by the schema itself, so one that the schema lacks is unknown to it. Refused parameters are
    followed by the usage.
    """
    usage = f"pvesh {verb} <api_path> [OPTIONS] [FORMAT_OPTIONS]"
    unknown = [key for key, words in error.errors.items() if words.startswith("property is not defined in schema")]
    if unknown:
        return "\n".join([*(f"Unknown option: {key}" for key in unknown), "400 unable to parse option", usage])
    return f"{error.text()}\n{usage}" if error.status == 400 else error.text()


def leftover() -> int:
    """An exit status that says nothing: the real one is whatever errno was last, for the same error 1, 2 or 255."""
    return (1, 2, 255)[os.getpid() % 3]


def show(data: Any, form: str) -> None:
    """Print a result; null prints nothing."""
    if data is None:
        return
    if form == "json":
        print(json.dumps(data, sort_keys=True, separators=(",", ":")))
    elif form in ("json-pretty", "yaml") or isinstance(data, (dict, list)):
        print(json.dumps(data, sort_keys=True, indent=3))
    else:
        print(data)
