# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The time without service of an update, seen by a client that asks every 50 ms, on the lab: ours, and the guide's way.

Both go from one release to another with the same two builds, and both under the same clients. The guide stops the
service, builds in place and starts it again; of its build only what nobody can avoid is counted here, putting the new
binary in place, so that the ratio is the least there can be. With a real build it is stopped for that long as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
INVENTORY = ["--inventory", str(CHECKOUT / "tests/lab/inventory")]
sys.path.insert(0, str(CHECKOUT / "tests"))
sys.path.insert(0, str(CHECKOUT / "tests/update"))

from load import Load
from make_releases import make

GUIDE = """
systemctl stop llama-router
tar -xzf /root/release.tar.gz -C /opt/llama.cpp/current --strip-components=1
systemctl start llama-router
"""


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def guest(module: str, arguments: str) -> str:
    out = run("ansible", *INVENTORY, "llama_routers", "-m", module, "-a", arguments)
    return out.partition("=> \n")[2] or out.partition(">>\n")[2]


def load() -> Load:
    network = os.environ.get("HOMELAB_LAB_NETWORK", "198.18.77.0/24").rpartition(".")[0]
    key = guest("ansible.builtin.command", "head -n 1 /etc/llama-router/api-keys").strip()
    return Load(f"{network}.120", 8012, key, model="tiny-split")


def report(name: str, seen: Load) -> float:
    without = max(seen.without_service(), seen.seconds_refused())
    lost = {kind: sum(a.kind == kind for a in seen.lost) for kind in ("short", "long")}
    print(
        f"{name:28}{without:7.2f} s without service, {lost['short']} of {sum(a.kind == 'short' for a in seen.asked)}"
        f" requests lost, {lost['long']} of {sum(a.kind == 'long' for a in seen.asked)} long answers broken off"
    )
    return without


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        releases = Path(folder)
        make(releases)
        run("ansible-playbook", *INVENTORY, "playbooks/site.yml")
        update = ["ansible-playbook", *INVENTORY, "playbooks/update.yml", "--extra-vars"]
        run(*update, f"@{releases}/first.yml")
        with load() as ours:
            run(*update, f"@{releases}/second.yml")
        archive = json.loads((releases / "third.yml").read_text())["llama_cpp_archive"]["path"]
        guest("ansible.builtin.copy", f"src={archive} dest=/root/release.tar.gz mode=0600")
        with load() as theirs:
            guest("ansible.builtin.shell", GUIDE.strip().replace("\n", " && "))
    print("An update under a client that asks every 50 ms and one that has long answers streamed:")
    ratio = report("the guide's, without a build", theirs) / report("update.yml", ours)
    print(f"update.yml is without service for 1/{ratio:.1f} of the time.")


if __name__ == "__main__":
    main()
