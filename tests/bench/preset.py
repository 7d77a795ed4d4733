# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One router_preset against a loop of community.general.ini_file over the same 200 options, and 1,000 sections at once.

The incumbent is the one that the package `ansible` bundles; it is fetched from PyPI once, into a cache of its own.
The two are compared as whole runs of ansible-playbook; the 1,000 sections are timed in the module's own process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import Preset

INCUMBENT = "ansible==14.5.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homelab-llamacpp-bench"
GENERAL = "ansible_collections/community/general/"
OPTIONS: dict[str, Any] = {
    **{"ctx-size": 32768, "n-gpu-layers": 99, "cache-type-k": "q8_0", "cache-type-v": "q8_0", "jinja": True},
    **{"temperature": 0.7, "top-k": 20, "top-p": 0.8, "parallel": 2, "flash-attn": "on"},
}


class Took(NamedTuple):
    seconds: float
    cpu: float


def presets(sections: int) -> dict[str, dict[str, Any]]:
    return {f"model-{n:04}": {**OPTIONS, "ctx-size": 4096 + n} for n in range(sections)}


def fetch_incumbent() -> None:
    """community.general out of the wheel, into the cache."""
    if (CACHE / "collections" / GENERAL / "plugins").exists():
        return
    print(f"Fetching the incumbent ({INCUMBENT}) into {CACHE}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps"]
        subprocess.run([*pip, "-d", scratch, INCUMBENT], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.startswith(GENERAL)]
            archive.extractall(CACHE / "collections", wanted)


def play(folder: Path, task: dict[str, Any], changed: bool) -> Took:
    """Seconds and CPU seconds of a play of this task, which has to end as expected."""
    playbook = folder / "play.json"
    localhost = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "vars": localhost, "tasks": [task]}]))
    paths = f"{os.environ['ANSIBLE_COLLECTIONS_PATH']}:{CACHE / 'collections'}"
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", str(playbook)],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": paths, "ANSIBLE_CONFIG": str(folder / "none.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or f"changed={int(changed)} " not in done.stdout:
        sys.exit(f"The play did not end as it should:\n{done.stdout}{done.stderr}")
    return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def ours(path: Path, data: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"homelab.llamacpp.router_preset": {"path": str(path), "config": data}}


def incumbent(path: Path, data: dict[str, dict[str, Any]]) -> dict[str, Any]:
    items = [
        {"section": section, "option": option, "value": str(value).lower() if value is True else str(value)}
        for section, options in data.items()
        for option, value in options.items()
    ]
    arguments = {key: f"{{{{ item.{key} }}}}" for key in ("section", "option", "value")}
    return {"community.general.ini_file": {"path": str(path), "mode": "0644", **arguments}, "loop": items}


def module_alone(path: Path, data: dict[str, dict[str, Any]]) -> Took:
    """The module's process without Ansible around it: what a node or a guest has to do for it."""
    script = (
        "import json, sys\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "from ansible_collections.homelab.llamacpp.plugins.modules.router_preset import main\n"
        "with patch_module_args(json.load(sys.stdin)): main()\n"
    )
    arguments = json.dumps({"path": str(path), "config": data})
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-c", script], input=arguments, capture_output=True, text=True, check=True)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    fetch_incumbent()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "none.cfg").touch()
        play(folder, {"ansible.builtin.ping": None}, changed=False)  # compiles what all of them import

        small, big = presets(20), presets(1000)
        ours_path, their_path, big_path = (folder / name for name in ("ours.ini", "theirs.ini", "big.ini"))
        we = [play(folder, ours(ours_path, small), changed) for changed in (True, False)]
        they = [play(folder, incumbent(their_path, small), changed) for changed in (True, False)]
        if Preset(ours_path.read_text()).data() != Preset(their_path.read_text()).data():
            sys.exit("The two did not write the same presets")
        alone = [module_alone(big_path, big) for run in range(2)]
        if len(Preset(big_path.read_text()).data()) != len(big):
            sys.exit("The 1,000 sections were not written")

    rows = {"200 options: router_preset": we, "200 options: ini_file in a loop": they, "1,000 sections: module": alone}
    print(f"{'':34}{'first run':>22}{'second run':>22}")
    for name, runs in rows.items():
        print(f"{name:34}" + "".join(f"{f'{run.seconds:.2f} s, CPU {run.cpu:.2f} s':>22}" for run in runs))
    ratios = [theirs.cpu / mine.cpu for mine, theirs in zip(we, they)]
    print(f"\nA play with one router_preset takes 1/{ratios[0]:.0f} of the loop's CPU, a second run 1/{ratios[1]:.0f}.")
    print(f"1,000 sections of {len(OPTIONS)} options: {alone[0].cpu:.2f} s of CPU; the aim is under 2.")


if __name__ == "__main__":
    main()
