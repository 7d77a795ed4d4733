#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_switch
short_description: One release of Open WebUI in the place of another, and back
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Stops Open WebUI, copies its database, lets the link C(current) name another release, and starts that one. When it
    does not answer in time, link and database go back by themselves, and the one from before serves again.
  - A switch that was broken off at any point is finished by the next one. No database that another release may have
    changed is taken for that of the one before.
  - Two releases are kept, the one that serves and the one before, with the database as that one left it. The database
    is SQLite's; of another kind nothing is copied.
attributes:
  check_mode:
    support: full
    description: Says what would serve.
  diff_mode:
    support: full
    description: The release that serves, before and after.
options:
  root:
    description: Folder with the links C(current) and C(previous), and the releases in its folder C(releases).
    type: path
    required: true
  database:
    description: The database's file.
    type: path
    required: true
  copies:
    description: Folder for the copies of the database, one a release. It is made when it is not there.
    type: path
    required: true
  to:
    description: The release that is to serve, a folder in C(releases). It has to be complete. Wanted without O(back).
    type: str
  back:
    description:
      - Whether the release before is to serve again, with the database as it left it. What was written since is lost.
    type: bool
    default: false
  name:
    description: The unit of the service, which runs what C(current) names.
    type: str
    default: open-webui.service
  url:
    description: Where it answers.
    type: str
    required: true
  timeout:
    description: How many seconds it may take until it answers. Going back, it has five minutes at the least.
    type: int
    default: 300
notes:
  - Files that were uploaded are no part of the database, and stay what they are.
"""

EXAMPLES = r"""
- name: The new release serves
  homelab.llamacpp.open_webui_switch:
    root: /opt/open-webui
    database: /var/lib/open-webui/data/webui.db
    copies: /var/lib/open-webui/before-update
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
"""

import os
import time
import urllib.error
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_switch import (
    CURRENT,
    Places,
    Switch,
    SwitchError,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError, runner

PATIENCE = 300  # seconds; a limit that was too short for the new release is not the old one's
LINES = 15  # of its journal are told: between two tries systemd itself says up to ten
ARGUMENTS: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "database": {"type": "path", "required": True},
    "copies": {"type": "path", "required": True},
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
        self._url = url.rstrip("/") + "/health"
        self._timeout = timeout
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
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
        return " / ".join(self._unit.journal(self._since, lines=LINES))

    def _answers(self) -> bool:
        try:
            with self._opener.open(self._url, timeout=10) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError):
            return False


def run(module: AnsibleModule) -> dict[str, Any]:
    given = module.params
    command = runner(module.run_command)
    service = Service(command, given["name"], given["url"], given["timeout"])
    switch = Switch(Places(given["root"], given["database"], given["copies"]), service, command)
    before = switch.link(CURRENT)
    to: str = switch.way_back() if given["back"] else given["to"]
    if not os.path.isdir(os.path.join(given["root"], "releases", to)):
        raise SwitchError(f"the release {to} was wanted in {given['root']}/releases, it is not there")
    changed = before != to or switch.unfinished()
    if changed and not module.check_mode:
        if given["back"]:
            switch.back()
        else:
            switch.forward(to)
    return {
        "changed": changed,
        "before": before,
        "release": to,
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
    except (SwitchError, UnitError) as error:
        module.fail_json(msg=f"Open WebUI: {error}")


if __name__ == "__main__":
    main()
