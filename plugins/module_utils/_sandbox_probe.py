# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hardening directives a machine carries out, found by starting a service that has them.

In a container the node decides about mounts and namespaces. What it forbids makes systemd either give up the service
(226/NAMESPACE) or start it without the directive, and without a word. So the service that is started looks at itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_hardening import DIRECTIVES, Directive

_SPACES = ("mnt", "ipc", "uts", "user")
_LOOK = "readlink " + " ".join(f"/proc/self/ns/{space}" for space in _SPACES)
# Any user that is there on every machine, and is not root: services of ours are not, either.
_USER = "daemon"


class ProbeError(Exception):
    """No service can be started here at all, in one message for the operator."""


def probe(run: Run) -> dict[str, str]:
    """The directives that this machine does not carry out, each with the reason. Raises ProbeError.

    One start where all of them work, else one for each directive. Needs root.
    """
    directives = [*DIRECTIVES]
    refused: dict[str, str] = {}
    reason, spaces = _start(run, directives)
    if reason:
        directives = []
        bare, _spaces = _start(run, [])
        if bare:
            raise ProbeError(f"systemd-run was wanted to start a service, to see how it can be confined; found: {bare}")
        # One by one, each with those before it that work: some refuse only together.
        for directive in DIRECTIVES:
            reason, now = _start(run, [*directives, directive])
            if reason:
                refused[_key(directive)] = reason
            else:
                directives.append(directive)
                spaces = now
    status, own, errors = run(["readlink", *(f"/proc/1/ns/{space}" for space in _SPACES)])
    if status != 0:
        raise ProbeError(f"root's rights were wanted, to see the namespaces of /proc/1; found: {errors.strip()}")
    shared = {space for space, first, seen in zip(_SPACES, own.split(), spaces) if first == seen}
    for directive in directives:
        if directive.space in shared:
            refused[_key(directive)] = f"without effect, the service shares PID 1's {directive.space} namespace"
    return refused


def gives_credentials(run: Run) -> bool:
    """Whether systemd can give credentials to a service here.

    Not in every container: where the node's AppArmor forbids the mount, a unit with one ends with 243/CREDENTIALS.
    """
    setting = "LoadCredential=probe:/etc/passwd"
    argv = [
        "systemd-run",
        "--quiet",
        "--wait",
        "--collect",
        "--property",
        setting,
        "--property",
        "ProtectSystem=strict",
    ]
    status, _output, _errors = run([*argv, "--", "/bin/sh", "-c", 'test -r "$CREDENTIALS_DIRECTORY/probe"'])
    return status == 0


def _key(directive: Directive) -> str:
    return directive.line if directive.name == "SystemCallFilter" else directive.name


def _start(run: Run, directives: Sequence[Directive]) -> tuple[str | None, list[str]]:
    """Start a service with these: why it did not start, or the namespaces that it has."""
    properties = [word for directive in directives for word in ("--property", directive.line)]
    argv = ["systemd-run", "--wait", "--collect", "--pipe", "--property", f"User={_USER}", *properties]
    status, output, errors = run([*argv, "--", "/bin/sh", "-c", _LOOK])
    if status == 0:
        return None, output.split()
    ended = re.search(r"status=(\S+)", errors)
    return ended[1] if ended else " ".join(errors.split()) or f"systemd-run ended with {status}", []
