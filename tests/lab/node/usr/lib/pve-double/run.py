# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one of the doubles of Proxmox's command line tools: run.py TOOL ARGUMENTS."""

import sys
from importlib import import_module

from pve_double import client

tool = sys.argv.pop(1)
try:
    sys.exit(import_module(f"pve_double.{tool}").main())
except client.ApiError as error:
    client.fail(error.text(), 2)
