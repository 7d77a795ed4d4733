# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a router's unit has its parts: its address, its keys, its models, its plan.

They are read from the unit's own command line, so that whoever looks needs no settings, and looks where the router is.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ansible_collections.homelab.llamacpp.plugins.module_utils._bounded import runner
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError

UNIT = "llama-router.service"
EXPORTER = "llama-router-exporter.service"  # it is told which servers show a certificate; the command says the same
KEYS = "/etc/llama-router/api-keys"
run_here = runner()  # commands where there is no Ansible
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Places:
    """`url` is the router's as this host reaches it; without `validate_certs` its certificate is not checked.

    `tls`: servers, HOST:PORT, whose certificates are watched beside the router's own.
    `local`: it listens on this host's loopback alone.
    """

    unit: str = UNIT
    url: str = "http://127.0.0.1:8012"
    keys: str = KEYS
    plan: str = "/etc/llama-router/plan.json"
    models: str = "/var/lib/llama-router/models"
    validate_certs: bool = True
    tls: tuple[str, ...] = ()
    local: bool = False

    @property
    def port(self) -> int:
        """The one that the router is asked at. Raises ValueError when the URL has none that can be."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def certificates(self) -> tuple[str, ...]:
        """Where certificates are shown."""
        parts = urlsplit(self.url)
        address = parts.netloc if parts.port else f"{parts.netloc}:{self.port}"
        return (address, *self.tls) if parts.scheme == "https" else self.tls


def of_unit(run: Run, name: str = UNIT) -> Places:
    """As the unit's command line says; as the role llama_router has them by default where it says nothing."""
    words = _command(run, name)
    options = dict(zip(words, words[1:]))
    watched = _command(run, EXPORTER)
    host = options.get("--host", "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    tls = "--ssl-cert-file" in options
    keys = options.get("--api-key-file", KEYS)
    if keys.startswith(("/run/", "%", "$")):
        # The unit's credentials are a copy for the service alone; the file that they are of lies beside the presets.
        keys = os.path.join(os.path.dirname(options.get("--models-preset", KEYS)), os.path.basename(KEYS))
    return Places(
        unit=name,
        url=f"{'https' if tls else 'http'}://{host}:{options.get('--port', '8012')}",
        keys=keys,
        plan=os.path.join(os.path.dirname(keys), os.path.basename(Places.plan)),
        models=options.get("--models-dir", Places.models),
        # The certificate is made for the name that clients use, and here is the loopback.
        validate_certs=not tls,
        tls=tuple(value for option, value in zip(watched, watched[1:]) if option == "--tls"),
        local=bool(words) and options.get("--host", LOOPBACK[0]) in LOOPBACK,
    )


def _command(run: Run, unit: str) -> list[str]:
    """The words that this unit is started with; none when there is no such unit."""
    try:
        started = Unit(run, unit).properties("ExecStart")["ExecStart"]
    except UnitError:
        return []
    found = re.search(r"argv\[\]=(.*?) ; ", started)
    return found[1].split() if found else []
