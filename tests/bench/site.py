# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure site.yml, models.yml, status.yml and update.yml with nothing to do, on the lab.

`python tests/bench/site.py [REVISION]` measures this checkout and, by turns in the same run, a revision of it. Prints
the tasks that ran and were skipped, the modules that were started on the machines, and the median of the seconds.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
INVENTORY = ["--inventory", str(CHECKOUT / "tests/lab/inventory")]
PLAYBOOKS = ("site.yml", "models.yml", "status.yml", "update.yml")
ROUNDS = int(os.environ.get("HOMELAB_BENCH_ROUNDS", "5"))


@dataclass
class Tree:
    """A checkout of the collection, with the environment in which ansible-playbook uses it and no other."""

    name: str
    checkout: Path
    collections: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, str] = field(default_factory=dict)

    def play(self, playbook: str, *options: str) -> str:
        paths = {"ANSIBLE_COLLECTIONS_PATH": str(self.collections), "PYTHONPATH": str(self.collections)}
        argv = ["ansible-playbook", *INVENTORY, *options, str(self.checkout / "playbooks" / playbook)]
        done = subprocess.run(
            argv, capture_output=True, text=True, cwd=CHECKOUT, env={**os.environ, **paths}, check=False
        )
        if done.returncode:
            sys.exit(f"{self.name}: {playbook} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def settle(self) -> None:
        """Let site.yml make what differs from another tree: the commands in the guest are made of its sources."""
        for _run in range(3):
            if not recap(self.play("site.yml"))["changed"]:
                return
        sys.exit(f"{self.name}: site.yml changes something in each run")

    def measure(self, playbook: str) -> None:
        begin = time.monotonic()
        output = self.play(playbook)
        self.seconds.setdefault(playbook, []).append(time.monotonic() - begin)
        if recap(output)["changed"]:
            sys.exit(f"{self.name}: {playbook} changed something")

    def count(self, playbook: str) -> None:
        output = self.play(playbook, "-vvv")
        found = recap(output)
        # A task can start several modules, such as one that copies a file; raw starts none.
        starts = output.count("Using module file ")
        tasks = f"{found['ok'] + found['skipped']:4} tasks ({found['ok']} run, {found['skipped']} skipped)"
        self.counts[playbook] = f"{tasks:34}{starts:5} module starts"

    def row(self, playbook: str) -> str:
        seconds = statistics.median(self.seconds[playbook])
        return f"{playbook:12}{self.name:14}{self.counts[playbook]}{seconds:7.1f} s"


def recap(output: str) -> dict[str, int]:
    """The counts of all hosts together."""
    counts = {"ok": 0, "changed": 0, "skipped": 0}
    for name, count in re.findall(r"\b(ok|changed|skipped)=(\d+)", output.split("PLAY RECAP")[1]):
        counts[name] += int(count)
    return counts


@contextmanager
def revision(name: str) -> Iterator[Tree]:
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "ansible_collections/homelab/llamacpp"
        git = ["git", "-C", str(CHECKOUT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), name], check=True)
        try:
            yield Tree(name[:12], checkout, Path(folder))
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=True)


def report(trees: list[Tree]) -> None:
    """The trees take turns, so that each has its share of what else the machine does."""
    for number in range(ROUNDS):
        for tree in trees:
            tree.settle()
            for playbook in PLAYBOOKS:
                tree.measure(playbook)
                if number == 0:
                    tree.count(playbook)
    print(f"Playbooks with nothing to do, median of {ROUNDS} runs by turns:")
    for playbook in PLAYBOOKS:
        for tree in trees:
            print(tree.row(playbook))
        if len(trees) > 1:
            old, new = (statistics.median(tree.seconds[playbook]) for tree in trees)
            print(f"{'':12}{old / new:.2f} times as fast")


def main() -> None:
    subprocess.run([CHECKOUT / "tests/demo/models"], check=True, cwd=CHECKOUT)
    here = Tree("this tree", CHECKOUT, CHECKOUT / ".cache/collections")
    here.play("../tests/demo/node_models.yml")
    if len(sys.argv) > 1:
        with revision(sys.argv[1]) as other:
            report([other, here])
    else:
        report([here])


if __name__ == "__main__":
    main()
