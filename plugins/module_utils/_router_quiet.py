# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a router has an answer under way, seen from its host.

A router that is told to stop breaks off the answers that it is giving, so it is stopped in a moment in which it gives
none. Every answer is a connection from the router to the process of a model, which listens on a port of its own.
"""

from __future__ import annotations

import http.client
import time

from ansible_collections.homelab.llamacpp.plugins.module_utils import _port_hold, _router_children

# A request that was accepted a moment ago, or waits for one model to go and another to come, is not seen at once.
GRACE = 0.1  # seconds
_PAUSE = 0.05  # seconds


def busy(pid: int) -> bool:
    """Whether a model of the router with this process id answers, loads or goes."""
    ports = {int(child.option("--port")) for child in _router_children.children(pid).values()}
    if any(c.established and c.port in ports for c in _port_hold.connections()):
        return True
    return not all(_ready(port) for port in ports)


def wait_until_quiet(pid: int, timeout: float, lasting: float = 0) -> bool:
    """Whether a moment in which nothing is under way came within `timeout` seconds, and lasted for `lasting`."""
    deadline = time.monotonic() + timeout
    since = None
    while True:
        now = time.monotonic()
        if busy(pid):
            since = None
        else:
            since = since or now
            if now - since >= lasting:
                return True
        if now > deadline:
            return False
        time.sleep(_PAUSE)


def _ready(port: int) -> bool:
    """Whether this model's process is loaded; it needs no key on the loopback, and this wakes no sleeper."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
