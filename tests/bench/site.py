# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator waits for every day: a run of site.yml that has nothing to change, on the lab.

Printed beside the time of one ping through the same connection, since seconds differ from machine to machine.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
INVENTORY = ["--inventory", str(CHECKOUT / "tests/lab/inventory")]
RUNS = 3


def timed(*command: str) -> tuple[float, str]:
    begin = time.monotonic()
    run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT)
    return time.monotonic() - begin, run.stdout


def main() -> None:
    site = ("ansible-playbook", *INVENTORY, "playbooks/site.yml")
    timed(*site)  # makes what is not there yet
    pings = [timed("ansible", *INVENTORY, "llama_routers", "-m", "ansible.builtin.ping")[0] for again in range(RUNS)]
    runs = [timed(*site) for again in range(RUNS)]
    seconds, ping = statistics.median(run[0] for run in runs), statistics.median(pings)
    out = runs[-1][1]
    recap = Counter[str]()  # of the node and the guest together
    for name, count in re.findall(r"(ok|changed|skipped)=(\d+)", out.split("PLAY RECAP")[1]):
        recap[name] += int(count)
    if recap["changed"]:
        raise SystemExit(f"the second run changed something: {recap}")
    print(f"site.yml with nothing to change: {seconds:.1f} s, median of {RUNS}")
    print(f"tasks: {recap['ok']} run, {recap['skipped']} skipped")
    print(f"that is {seconds / ping:.1f} times one ping through the same connection ({ping:.1f} s)")


if __name__ == "__main__":
    main()
