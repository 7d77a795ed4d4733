# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""llama-router-status: what a router, its models and its machine do now. Loads and wakes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import (
    _router_places,
    _router_report,
    _router_table,
)

EXITS = {"healthy": 0, "degraded": 1, "down": 2}
CLEAR = "\033[H\033[2J\033[3J"


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    places = _router_places.of_unit(_router_places.run_here, options.unit)
    given = {name: value for name, value in vars(options).items() if name in PLACES and value}
    places = dataclasses.replace(places, **given)
    if os.geteuid() != 0 and not os.access(places.keys, os.R_OK):
        sys.stderr.write(f"llama-router-status: the key in {places.keys} is for root to read: run it with sudo\n")
        return EXITS["down"]
    try:
        while True:
            report = _router_report.gather(places, _router_places.run_here)
            _show(report, options)
            if options.watch is None:
                return EXITS[report["verdict"]]
            time.sleep(options.watch)
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


PLACES = ("url", "keys", "plan", "models")


def _show(report: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        text = json.dumps(report, indent=None if options.watch else 2)
    else:
        text = "\n".join(_router_table.lines_of(report))
        if options.watch and sys.stdout.isatty():
            text = CLEAR + text
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama-router-status",
        description="What the llama.cpp router, its models and its machine do now. It neither loads nor wakes a model."
        " The router's key is root's to read, so it is run as root.",
        epilog="It ends with 0 when all is well, 1 when it serves and something is to be mended, 2 when it is down.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs; with --watch one line each time")
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="again and again, every 2 seconds by default",
    )
    parser.add_argument("--unit", default=_router_places.UNIT, help="the router's unit (%(default)s)")
    where = parser.add_argument_group("where things are", "By default as the unit's command line says.")
    where.add_argument("--url", help="the router: scheme, host and port")
    where.add_argument("--api-key-file", dest="keys", metavar="FILE", help="its keys, of which the first is used")
    where.add_argument("--plan", metavar="FILE", help="the plan that llama_router left")
    where.add_argument("--models-dir", dest="models", metavar="FOLDER", help="its models")
    return parser
