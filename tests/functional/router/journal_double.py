# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A double of `journalctl --follow --output short-unix` with the exporter's options: follows the file JOURNAL_DOUBLE.

What is in the file already is from before: it gets the time of the file's making.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

WANTED = ["--unit", "llama-router.service", "--follow", "--lines", "20000"]
WANTED += ["--output", "short-unix", "--no-pager", "--quiet"]

if sys.argv[1:] != WANTED:
    sys.exit(f"double: {WANTED} alone is known, not {sys.argv[1:]}")
log = Path(os.environ["JOURNAL_DOUBLE"])
with log.open(errors="replace") as file:
    at: float | None = log.stat().st_ctime - 60
    rest = ""
    while True:
        read = file.readline()
        if not read:
            at = None
            time.sleep(0.02)
        elif not read.endswith("\n"):
            rest += read
        else:
            # Lines that are written together have the same time.
            print(
                f"{at or math.ceil(time.time() * 10) / 10:.6f} host llama-server[1]: {rest}{read}", end="", flush=True
            )
            rest = ""
