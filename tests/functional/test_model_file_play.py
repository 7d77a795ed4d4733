# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""model_file in a play: what the play's output says of a long download, and what ansible-playbook leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

import gguf_files
from hub import Hub

SIZE = 80 << 20  # bytes, long enough to be watched
TOKEN = "hf_only-for-this-test"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    gguf_files.write(root / "own" / "long" / "Long-Q4_K_M.gguf", SIZE)
    gguf_files.write(root / "own" / "short" / "Short-Q4_K_M.gguf", 1 << 20)
    with Hub(root, storage="localhost", token=TOKEN, gated="own/long") as one:
        one.sha256(root / "own" / "long" / "Long-Q4_K_M.gguf")
        yield one


def play(tmp_path: Path, hub: Hub, *options: str, **args: Any) -> subprocess.CompletedProcess[str]:
    (tmp_path / "models").mkdir(exist_ok=True)
    wanted = {"name": "long", "source": {"repo": "own/long", "quant": "Q4_K_M"}}
    module = {"models_dir": str(tmp_path / "models"), "endpoint": hub.url, "token": TOKEN, "models": [wanted], **args}
    tasks = [{"name": "Models", "homelab.llamacpp.model_file": module}]
    content = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(content))
    argv = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    environment = {**os.environ, "ANSIBLE_ASYNC_DIR": str(tmp_path / "async"), "ANSIBLE_STDOUT_CALLBACK": "default"}
    return subprocess.run(
        [*argv, *options, str(tmp_path / "play.yml")], env=environment, capture_output=True, text=True, check=False
    )


def recap(done: subprocess.CompletedProcess[str]) -> str:
    match = re.search(r"ok=\d+ +changed=\d+", done.stdout)
    assert match, done.stdout + done.stderr
    return re.sub(" +", " ", match[0])


def starts(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The modules that were started, by the output of -vvv."""
    return re.findall(r"EXEC .*?python\S* \S*AnsiballZ_(\w+)\.py", done.stdout)


def test_a_long_download_says_how_far_it_is(tmp_path: Path, hub: Hub) -> None:
    checked = play(tmp_path, hub, "--check")
    assert recap(checked) == "ok=1 changed=1"
    hub.faults.rate = SIZE / 12
    done = play(tmp_path, hub, "-vvv")
    hub.faults.rate = 0
    assert recap(done) == "ok=1 changed=1"
    lines = re.findall(r"\[localhost\] long: (\d+) % of 80.0 MiB, [0-9.]+ [KM]iB/s, \d+ s left", done.stdout)
    assert lines, done.stdout
    assert [int(percent) for percent in lines] == sorted(int(percent) for percent in lines)
    assert int(lines[-1]) <= 100
    assert TOKEN not in done.stdout + done.stderr
    assert starts(done) == ["model_file", "model_file"], "the attempt, and the job"
    assert not list((tmp_path / "async").iterdir()), "the job's files are gone"
    again = play(tmp_path, hub, "-vvv")
    assert recap(again) == "ok=1 changed=0"
    assert "left" not in again.stdout
    assert starts(again) == ["model_file"]


def test_a_short_download_is_one_module_start(tmp_path: Path, hub: Hub) -> None:
    done = play(tmp_path, hub, "-vvv", models=[{"name": "short", "source": {"repo": "own/short", "quant": "Q4_K_M"}}])
    assert recap(done) == "ok=1 changed=1"
    assert starts(done) == ["model_file"]
    assert not (tmp_path / "async").exists()


def test_what_cannot_be_done_is_said_before_a_job_is_begun(tmp_path: Path, hub: Hub) -> None:
    failed = play(tmp_path, hub, token="hf_wrong")
    assert failed.returncode != 0
    assert "403" in failed.stdout
    assert not (tmp_path / "async").exists()


def test_a_job_that_fails_says_why(tmp_path: Path, hub: Hub) -> None:
    hub.faults.damage = True
    failed = play(tmp_path, hub)
    hub.faults.damage = False
    assert failed.returncode != 0
    assert "its SHA-256 was expected to be" in failed.stdout.replace("\n", " ")
