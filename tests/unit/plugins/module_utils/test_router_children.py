# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.homelab.llamacpp.plugins.module_utils._model_store import Store
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_children import (
    Process,
    children,
    outdated,
    process,
)


def test_the_models_of_child_processes() -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    before = time.time()
    started = [
        subprocess.Popen([sys.executable, "-c", code, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for args in (["--port", "1", "--alias", "b c"], ["--alias", "a", "--port", "2"], ["--alias", "--port"], ["no"])
    ]
    try:
        for child in started:
            assert child.stdout
            child.stdout.readline()
        found = children(os.getpid())
        assert {name: child.option("--port") for name, child in found.items()} == {"a": "2", "b c": "1"}
        # The kernel counts in hundredths of a second.
        assert all(before - 0.05 <= child.started <= time.time() + 0.05 for child in found.values())
        pid = started[0].pid
        one = process(pid)
        assert one
        assert one.words[-4:] == ("--port", "1", "--alias", "b c")
    finally:
        for child in started:
            child.communicate()
    assert process(pid) is None


def test_files_that_were_replaced_after_a_start(tmp_path: Path) -> None:
    store = Store(str(tmp_path), None)
    for name, placed in (("single", 200.0), ("folder", 300.0), ("found", 0)):
        store.write(name, {"identity": "", "commit": None, "files": {}, "placed": placed})

    def old(started: float, *words: str) -> bool:
        return outdated(Process(1, started, ("llama-server", *words)), f"{tmp_path}/")

    assert old(199.0, "--model", f"{tmp_path}/single.gguf")
    assert not old(201.0, "--model", f"{tmp_path}/single.gguf")
    assert old(299.0, "--model", "/elsewhere.gguf", "--mmproj", f"{tmp_path}/folder/mmproj.gguf")
    assert not old(299.0, "--model", f"{tmp_path}/found.gguf", "--model", f"{tmp_path}/unknown.gguf")
    assert not old(0.0, "--model", "/elsewhere/single.gguf", str(tmp_path))


def test_a_file_of_the_very_moment_of_a_start_was_there_before(tmp_path: Path) -> None:
    store = Store(str(tmp_path), None)
    store.write("m", {"identity": "", "commit": None, "files": {}, "placed": 200.0})
    one = Process(1, 200.0, ("llama-server", "--model", f"{tmp_path}/m.gguf"))
    assert not outdated(one, str(tmp_path))
    assert outdated(one._replace(started=199.9), str(tmp_path))
    assert not outdated(one._replace(started=199.9, words=("x", f"{tmp_path}more/m.gguf")), str(tmp_path))


def test_a_process_with_an_odd_command_line() -> None:
    """Bytes that are no text, as in a name of a file."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    argv: list[bytes] = [sys.executable.encode(), b"-c", code.encode(), b"\xff", b""]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        one = process(child.pid)
        child.communicate()
    assert one
    assert one.words[-2:] == ("\ufffd", "")
    assert one.parent == os.getpid()
    assert (one.option("-c"), one.option("--port")) == (code, "")
