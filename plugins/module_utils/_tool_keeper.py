# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program `keeper`: looks at a router's models for ever, and does what `_keeper` says."""

from __future__ import annotations

import argparse
import time

from ansible_collections.homelab.llamacpp.plugins.module_utils._keeper import Keeper, Wanted
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import Client, Refused, RouterError, read_key

_LOOK = 15  # seconds from one look to the next, or a quarter of the shortest time that counts
_SOON = 1


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    wanted = Wanted(args.unload_idle, args.keep, args.patience)
    times = [seconds for seconds in (wanted.unload_idle, wanted.patience) if seconds > 0]
    pause = max(_SOON, min([_LOOK, *(seconds / 4 for seconds in times)]))
    try:
        _watch(Keeper(wanted, _say), Client(args.url, read_key(args.api_key_file)), pause)
    except RouterError as error:
        _say(str(error))
    return 1


def _watch(keeper: Keeper, client: Client, pause: float) -> None:
    """Until the router does not know the key any more: started again this has the one that it knows."""
    told = ""
    while True:
        acted = False
        try:
            acted = keeper.look(client)
            told = ""
        except RouterError as error:
            if isinstance(error, Refused) and error.status == 401:
                raise
            if str(error) != told:
                _say(str(error))
            told = str(error)
        time.sleep(_SOON if acted else pause)


def _say(text: str) -> None:
    print(text, flush=True)  # pylint: disable=ansible-bad-function


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keeper", description="Unload a llama.cpp router's idle models, keep others.")
    parser.add_argument("--url", required=True, help="of the router")
    parser.add_argument("--api-key-file", required=True, metavar="PATH", help="its keys, of which the first is used")
    parser.add_argument(
        "--unload-idle", type=float, default=-1, metavar="SECONDS", help="unload what is idle for so long"
    )
    parser.add_argument("--keep", action="append", default=[], metavar="NAME", help="a model that is to stay")
    parser.add_argument(
        "--patience",
        type=float,
        default=300,
        metavar="SECONDS",
        help="how long a model must be idle to make room for one that is to stay, which is brought back no more often",
    )
    return parser
