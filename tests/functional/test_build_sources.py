# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources of a build are not replaced while it runs: what it makes then would be of both."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

# In the place of systemd, of which only this is asked before the sources.
SYSTEMCTL = "#!/bin/sh\nprintf 'SubState=%s\\nDescription=Build of llama.cpp b1-cpu-00000000\\n' \"$SUBSTATE\"\n"
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: homelab.llamacpp.llama_cpp
        tasks_from: build
"""


@pytest.mark.parametrize(("substate", "replaced"), [("running", False), ("exited", True)])
def test_a_build_keeps_its_sources(tmp_path: Path, substate: str, replaced: bool) -> None:
    text = b'project("llama.cpp")\n'
    with tarfile.open(tmp_path / "source.tar", "w") as tar:
        entry = tarfile.TarInfo("tree/CMakeLists.txt")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    old = tmp_path / "build" / "src" / "old"
    old.parent.mkdir(parents=True)
    old.touch()
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    checksum = hashlib.sha256((tmp_path / "source.tar").read_bytes()).hexdigest()
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "llama_cpp_method": "build",
        "llama_cpp_toolkit": "present",
        "llama_cpp_root": str(tmp_path / "root"),
        "llama_cpp_build_dir": str(tmp_path / "build"),
        "llama_cpp_source": {
            "path": str(tmp_path / "source.tar"),
            "checksum": f"sha256:{checksum}",
            "remote_src": True,
        },
        "_llama_cpp_found": {"releases": []},
    }
    (tmp_path / "play.yml").write_text(PLAY)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SUBSTATE": substate}
    argv = ["ansible-playbook", "--extra-vars", json.dumps(variables), "play.yml"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert old.exists() is not replaced, done.stdout
    assert ("another one is running" in done.stdout) is not replaced
