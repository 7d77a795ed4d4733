# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What dpkg knows of packages. apt takes four times as long to find that there is nothing to do."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run

_FORMAT = "${Package}\t${db:Status-Want}\t${db:Status-Status}\t${Version}\n"


class PackageError(Exception):
    """dpkg-query failed, in one message for the operator."""


def known(run: Run, names: Sequence[str]) -> list[dict[str, str]]:
    """Those of the packages that dpkg knows: name, selection, state, version. Raises PackageError."""
    status, output, errors = run(["dpkg-query", "--show", f"--showformat={_FORMAT}", *names])
    if status not in (0, 1):  # 1 says that some of them are not known
        raise PackageError(f"expected dpkg-query to list packages, it ended with {status}: {errors.strip()}")
    return [
        dict(zip(("name", "selection", "state", "version"), line.split("\t"))) for line in output.splitlines() if line
    ]


def installed_version(run: Run, name: str) -> str | None:
    return next((package["version"] for package in known(run, [name]) if package["state"] == "installed"), None)
