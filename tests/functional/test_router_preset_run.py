# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""router_preset on a disk that is really full, and against the real llama-server's limits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LLAMA_SERVER = Path(__file__).parents[1] / "llama-server"
FILE = "; mine\n[m]\nctx-size = 8192\n"
MODULE = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules.router_preset import main
with patch_module_args(json.load(sys.stdin)):
    main()
"""
# A disk with room for the old file and not for the new one, in a mount namespace that ends with the module.
ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=16k tmpfs "$1"
cp "$2" "$1/models.ini"
"$3" -c "$4" || true
echo
ls -A "$1"
cat "$1/models.ini"
"""


def run(arguments: dict[str, Any], *inside: str) -> subprocess.CompletedProcess[str]:
    """The module in a process of its own; the script `inside`, if any, gets the interpreter and the program last."""
    command = [*inside, sys.executable, MODULE] if inside else [sys.executable, "-c", MODULE]
    return subprocess.run(
        command, input=json.dumps(arguments), capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize("backup", [False, True])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, backup: bool) -> None:
    disk, original = tmp_path / "disk", tmp_path / "original.ini"
    disk.mkdir()
    original.write_text(FILE)
    config = {f"model-{number}": {"ctx-size": number} for number in range(2000)}
    arguments = {"path": str(disk / "models.ini"), "config": config, "backup": backup}
    done = run(arguments, "unshare", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", str(disk), str(original))
    said, _separator, left = done.stdout.lstrip().partition("\n")
    result = json.loads(said)
    assert result["failed"], done
    assert result["msg"] == f"cannot write {disk}/models.ini, which was left as it is: No space left on device"
    assert left.lstrip("\n") == f"models.ini\n{FILE}"


def test_more_models_at_start_than_a_router_takes_by_default(tmp_path: Path) -> None:
    """The dry run must not stumble over a limit that the router that will read the file may not have."""
    config = {f"m{number}": {"model": f"/{number}.gguf", "load-on-startup": True} for number in range(9)}
    arguments = {"path": str(tmp_path / "models.ini"), "config": config, "llama_server": str(LLAMA_SERVER)}
    result = json.loads(run(arguments).stdout)
    assert result["changed"], result


def test_a_thousand_sections_with_the_real_server(tmp_path: Path) -> None:
    config = {f"m{number}": {"model": f"/{number}.gguf", "ctx-size": 4096, "jinja": True} for number in range(1000)}
    arguments = {"path": str(tmp_path / "models.ini"), "config": config, "llama_server": str(LLAMA_SERVER)}
    assert json.loads(run(arguments).stdout)["changed"]
    again = json.loads(run(arguments).stdout)
    assert not again["changed"]
    assert again["after"] == config
