# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lab of its own for each worker of pytest-xdist; to be imported before what reads the HOMELAB_LAB_* variables."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

LAB = Path(__file__).resolve().parents[2] / "lab"


NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) + 1

if NUMBER > 1:
    told = subprocess.run([str(LAB / "nth"), str(NUMBER), "env", "-0"], check=True, capture_output=True, text=True)
    pairs = (line.partition("=") for line in told.stdout.split("\0"))
    os.environ.update({name: value for name, _is, value in pairs if name.startswith("HOMELAB_LAB_")})
    subprocess.run([str(LAB / "lab"), "up"], check=True)
