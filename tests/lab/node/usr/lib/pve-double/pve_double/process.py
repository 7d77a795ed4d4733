# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running programs without holding up the server."""

from __future__ import annotations

import asyncio


class ProgramError(Exception):
    """A program failed; the text is its last line."""


async def run(*command: str, input: str = "") -> str:
    """What a program prints. Raises ProgramError when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate(input.encode())
    if process.returncode:
        words = (err or out).decode(errors="replace").strip().splitlines()
        raise ProgramError(
            f"command '{' '.join(command)}' failed: {words[-1] if words else f'exit code {process.returncode}'}"
        )
    return out.decode(errors="replace")
