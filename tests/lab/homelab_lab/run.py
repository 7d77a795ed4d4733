# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running other programs, with errors that name the program and what it said."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from .settings import LabError

# System tools live in sbin, which a login by sudo or su need not have; nothing may depend on the caller's language, and
# where this package lies is nobody else's business.
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    "LC_ALL": "C.UTF-8",
    "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin",
}


def run(*command: str, **options: Any) -> None:
    """Run a program quietly. Options as output's. Raises LabError with its last words when it fails."""
    output(*command, **options)


def output(*command: str, env: dict[str, str] | None = None, input: str | None = None) -> str:
    """What a program prints, given more environment variables and text on its stdin.

    Raises LabError with its last words when it fails.
    """
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env={**ENVIRONMENT, **(env or {})}, input=input or ""
        )
    except FileNotFoundError:
        raise LabError(f"the program {command[0]!r} is missing") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-15:]
        raise LabError(f"{' '.join(command)[:200]} failed ({done.returncode}): " + "\n".join(words))
    return done.stdout
