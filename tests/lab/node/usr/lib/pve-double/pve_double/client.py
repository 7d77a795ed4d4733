# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the doubles of Proxmox's command line tools share. They run under the node's own Python, in milliseconds."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

SOCKET = "/run/pve-double/socket"
PVESH_SECONDS = "/etc/pve-double/pvesh-seconds"


class ApiError(Exception):
    """The API refused: its words, and its messages for single parameters."""

    def __init__(self, status: int, message: str, errors: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.errors = errors or {}

    def text(self) -> str:
        """What the real tools print on stderr."""
        # A plain "die" is status 500, and the tools print its words alone.
        head = str(self) if self.status == 500 else f"{self.status} {self}"
        return "\n".join([head, *(f"{key}: {words}" for key, words in self.errors.items())])


class Connection(http.client.HTTPConnection):
    """HTTP over root's socket of the daemon."""

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(SOCKET)


def call(method: str, path: str, parameters: dict[str, Any] | None = None) -> Any:
    """The data of one API call as root@pam. Raises ApiError."""
    url, body, headers = "/api2/json" + quote(path, safe="/:"), None, {}
    if parameters:
        text = urlencode(parameters, doseq=True)
        if method in ("GET", "DELETE"):
            url += "?" + text
        else:
            body, headers = text, {"Content-Type": "application/x-www-form-urlencoded"}
    connection = Connection("localhost")
    try:
        connection.request(method, url, body, headers)
        response = connection.getresponse()
        answer = response.read()
    except OSError as error:
        raise ApiError(500, f"the lab's double of the API daemon does not answer on {SOCKET}: {error}") from None
    try:
        content = json.loads(answer)
    except ValueError:
        content = {}
    if response.status >= 400:
        raise ApiError(response.status, (content.get("message") or response.reason).strip(), content.get("errors"))
    return content.get("data")


def is_task(data: Any) -> bool:
    """Whether an answer is the id of a task."""
    return isinstance(data, str) and data.startswith("UPID:")


def follow(upid: str) -> str:
    """Wait for a task, its log on stdout as it grows. Returns its exit status, OK or the error."""
    node = upid.split(":")[1]
    printed = 0
    pause = 0.02
    while True:
        status = call("GET", f"/nodes/{node}/tasks/{upid}/status")
        for line in call("GET", f"/nodes/{node}/tasks/{upid}/log", {"start": printed, "limit": 500}):
            printed += 1
            # The task's own last word goes to stderr, by who called.
            if not line["t"].startswith("TASK ") and line["t"] != status.get("exitstatus"):
                print(line["t"], flush=True)
        if status["status"] == "stopped":
            return str(status["exitstatus"])
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def options(words: list[str]) -> dict[str, Any]:
    """Parameters given as -key value or --key value; one given twice becomes a list. Raises ApiError."""
    found: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("-") or word in ("-", "--"):
            raise ApiError(400, "too many arguments")
        key, sign, value = word.lstrip("-").partition("=")
        if not sign:
            position += 1
            # A lone flag is a boolean; a value may begin with a minus only when it is no option (a number).
            if position < len(words) and (
                not words[position].startswith("-") or words[position][1:2].isdigit() or " " in words[position]
            ):
                value = words[position]
            else:
                position -= 1
                value = "1"
        if key in found:
            found[key] = [*found[key], value] if isinstance(found[key], list) else [found[key], value]
        else:
            found[key] = value
        position += 1
    return found


def dawdle() -> None:
    """Take as long as the real tool does to start, where the lab wants that (see HOMELAB_LAB_PVESH_SECONDS)."""
    try:
        seconds = float(Path(PVESH_SECONDS).read_text())
    except OSError:
        return
    time.sleep(seconds)


def fail(text: str, status: int) -> NoReturn:
    """End with words on stderr."""
    print(text, file=sys.stderr)
    sys.exit(status)
