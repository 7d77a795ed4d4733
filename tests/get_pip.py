# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the installer that ansible-test downloads: pip as Python ships it, then what it is asked for."""

import runpy
import ssl
import subprocess
import sys

DROPPED = {"--no-setuptools", "--no-wheel"}  # options of the installer, not of pip

subprocess.run([sys.executable, "-m", "ensurepip", "--upgrade", "--default-pip"], check=True, stdout=subprocess.DEVNULL)
bundle = ssl.get_default_verify_paths().cafile
sys.argv = ["pip", "install", *(["--cert", bundle] if bundle else []), *(a for a in sys.argv[1:] if a not in DROPPED)]
runpy.run_module("pip", run_name="__main__")
