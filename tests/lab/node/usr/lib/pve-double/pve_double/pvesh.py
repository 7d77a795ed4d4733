# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Double of pvesh: prints and exits as the real one, quirks included."""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from . import client

METHODS = {"get": "GET", "create": "POST", "set": "PUT", "delete": "DELETE"}
FORMATS = ("text", "json", "json-pretty", "yaml")


def main() -> int:
    """One call. Returns the exit status."""
    words = sys.argv[1:]
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
        if error.status == 400 and not error.errors:
            client.fail(str(error), 255)
        client.fail(error.text(), 2 if error.status == 500 else 255)
    show(data, form)
    return 0


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
