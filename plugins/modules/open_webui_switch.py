#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_switch
short_description: Switch Open WebUI to another release, or roll it back
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Stops Open WebUI, copies its database, points the link C(current) to another release, and starts that one. When it
    does not answer in time, link and database go back, and the release from before serves again.
  - A switch that was broken off is finished by the next one. An older release is never started on a database that a
    newer one may have converted; that is an error, before anything is changed.
  - Two releases are kept, with a copy of the database of each. A database that is replaced after a switch was broken
    off is set aside first and never removed. The database is SQLite's; of another kind nothing is copied.
  - The service can write to the directory of its database. So the database is opened with the rights of O(user), while
    the service is stopped, and the copies lie in a directory that only root can write to.
attributes:
  check_mode:
    support: full
    description: Reports the release that would serve.
  diff_mode:
    support: full
    description: The release that serves, before and after.
options:
  root:
    description:
      - Directory with the links C(current) and C(previous), and the releases in its directory C(releases).
      - Only root may be able to write to it.
    type: path
    required: true
  database:
    description: The database's file.
    type: path
    required: true
  copies:
    description: Directory for the copies of the database, created with mode 0700. Only root may write above it.
    type: path
    required: true
  earlier_copies:
    description:
      - Where earlier versions of this collection kept the copies, which are moved to O(copies). What is there and no
        copy of root's stays, with a warning.
    type: path
  user:
    description: The user that the service runs as, to whom the database belongs.
    type: str
    required: true
  to:
    description: The release to switch to, a directory in C(releases). It has to be complete. Required without O(back).
    type: str
  back:
    description:
      - Whether to roll back to the release before, with the database as it left it. What was written since is lost.
    type: bool
    default: false
  name:
    description: The unit of the service, which runs what C(current) names.
    type: str
    default: open-webui.service
  url:
    description: Where it answers, as C(http://HOST:PORT).
    type: str
    required: true
  timeout:
    description: How many seconds it may take until it answers. A release that served before has at least five minutes.
    type: int
    default: 300
notes:
  - Needs root (C(become)).
  - Files that were uploaded are no part of the database, and stay as they are.
"""

EXAMPLES = r"""
- name: Switch to the new release
  homelab.llamacpp.open_webui_switch:
    root: /opt/open-webui
    database: /var/lib/open-webui/data/webui.db
    copies: /var/backups/open-webui
    user: open-webui
    to: 0.12.4-0a1b2c3d
    url: http://127.0.0.1:8080
"""

RETURN = r"""
before:
  description: The release that was current, empty for none.
  type: str
  returned: success
  sample: 0.12.3-4d5e6f70
release:
  description: The release that serves.
  type: str
  returned: success
  sample: 0.12.4-0a1b2c3d
moved:
  description: The releases of which a copy of the database is moved from O(earlier_copies).
  type: list
  elements: str
  returned: success
  sample: []
kept:
  description: Databases that were set aside, which nothing removes.
  type: list
  elements: str
  returned: success
  sample: [/var/backups/open-webui/0.12.4-0a1b2c3d.kept-20261129T031500]
"""

import os
import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._as_user import user_named
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, component, printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_switch import (
    CURRENT,
    Places,
    Switch,
    SwitchError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError, runner

PATIENCE = 300  # seconds; a limit that is too short for the new release is not the old one's
LINES = 15  # of its journal are reported: between two tries systemd itself writes up to ten
ANSWER_SECONDS = 10.0
MOST = 4096  # bytes of an answer
ARGUMENTS: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "database": {"type": "path", "required": True},
    "copies": {"type": "path", "required": True},
    "earlier_copies": {"type": "path"},
    "user": {"type": "str", "required": True},
    "to": {"type": "str"},
    "back": {"type": "bool", "default": False},
    "name": {"type": "str", "default": "open-webui.service"},
    "url": {"type": "str", "required": True},
    "timeout": {"type": "int", "default": 300},
}


class Service:
    """Open WebUI as a unit of systemd that answers at `url`."""

    def __init__(self, run: Run, name: str, url: str, timeout: float) -> None:
        self._unit = Unit(run, name)
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise SwitchError(f"url: expected http://HOST:PORT, found {printable(url)!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._url = f"{url.rstrip('/')}/health"
        self._timeout = timeout
        self._since = time.time()

    def stop(self) -> None:
        self._unit.stop()

    def start(self, patient: bool = False) -> None:
        self._since = time.time()
        self._unit.daemon_reload()
        self._unit.restart()
        seconds = max(self._timeout, PATIENCE) if patient else self._timeout
        deadline = time.monotonic() + seconds
        while not self._answers():
            if time.monotonic() >= deadline:
                raise UnitError(f"no answer from {self._url} in {seconds:g} s")
            time.sleep(0.2)

    def said(self) -> str:
        return " / ".join(map(printable, self._unit.journal(self._since, lines=LINES)))

    def _answers(self) -> bool:
        """Whether its health is 200. Whatever else it sends, and however slowly, this ends in time."""
        deadline, told = time.monotonic() + ANSWER_SECONDS, b""
        try:
            with socket.create_connection((self._host, self._port), timeout=ANSWER_SECONDS) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                while len(told) < MOST:
                    connection.settimeout(max(deadline - time.monotonic(), 0.01))
                    block = connection.recv(MOST)
                    if not block:
                        break
                    if time.monotonic() > deadline:
                        return False
                    told += block
        except (OSError, ValueError):
            return False
        return bool(re.match(rb"HTTP/1\.[01] 200[ \r]", told))


def run(module: AnsibleModule) -> dict[str, Any]:
    given = module.params
    service = Service(runner(module.run_command), given["name"], given["url"], given["timeout"])
    try:
        user = user_named(given["user"])
    except OSError as error:
        raise SwitchError(f"user: {error.strerror}") from None
    places = Places(given["root"], given["database"], given["copies"], user, given["earlier_copies"] or "")
    switch = Switch(places, service)
    before = switch.link(CURRENT)
    to: str = switch.way_back() if given["back"] else component(given["to"], "to: a release")
    if not os.path.isdir(os.path.join(given["root"], "releases", to)):
        raise SwitchError(f"expected the release {to} in {given['root']}/releases, found none")
    if not given["back"]:
        switch.check(to)
    moved, strange = switch.earlier()
    for message in strange:
        module.warn(f"{message}; this is no copy that this collection has made, it is left alone: remove it")
    switches = before != to or switch.unfinished()
    try:
        if moved and not module.check_mode:
            switch.adopt()
        if switches and not module.check_mode:
            if given["back"]:
                switch.back()
            else:
                switch.forward(to)
    finally:
        for place in switch.kept:
            module.warn(
                f"a switch was broken off, so the database that was replaced may have had the newest data: it is kept"
                f" in {place}; remove it when nobody misses anything"
            )
    return {
        "changed": bool(switches or moved),
        "before": before,
        "release": to,
        "moved": moved,
        "kept": switch.kept,
        "diff": {"before": f"{before}\n", "after": f"{to}\n"},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("back", False, ["to"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (SwitchError, UnitError, BadName) as error:
        module.fail_json(msg=f"Open WebUI: {error}")


if __name__ == "__main__":
    main()
