# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_file against `hf download` and get_url: time and CPU for one large file and forty shards, and a second run.

All of them fetch from the tests' hub on this machine, in a process of its own whose CPU is not counted. The two modules
are run by ansible-playbook, so their figures hold its start. `hf` neither checks content nor resumes; get_url checks.

    python tests/bench/models.py [MIB]     the large file's size, 1024 by default; the shards together have the same
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "doubles"))

import gguf_files

CACHE = TESTS.parent / ".cache" / "bench-hf"
HF = "huggingface_hub==2.4.0"
SHARDS = 40
MODELS = 200  # of the second run


class Cost(NamedTuple):
    seconds: float
    cpu: float  # seconds, of the process and all its children


def run(argv: list[str], **environment: str) -> Cost:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def play(scratch: Path, *tasks: dict[str, Any]) -> Cost:
    path = scratch / "play.yml"
    path.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    interpreter = f"ansible_python_interpreter={sys.executable}"
    return run(["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", interpreter, str(path)])


def hf_program() -> str:
    """The hub's own client in an environment of its own, made once."""
    program = CACHE / "bin" / "hf"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE)], check=True)
        subprocess.run([str(CACHE / "bin" / "pip"), "-q", "install", HF], check=True)
    return str(program)


@contextmanager
def hub(root: Path) -> Iterator[str]:
    argv = [sys.executable, str(TESTS / "doubles" / "hub.py"), str(root), "--storage", "localhost", "--frozen"]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        url = server.stdout.readline().strip()
        for repo in root.glob("*/*"):  # let it know the checksums before anybody waits for them
            subprocess.run(["curl", "-sf", "-o", "/dev/null", f"{url}/api/models/{repo.relative_to(root)}"], check=True)
        yield url
    finally:
        server.terminate()


def files(url: str, repo: str, target: Path) -> list[dict[str, str]]:
    """For get_url, which has to be told each file and its checksum."""
    argv = ["curl", "-sf", f"{url}/api/models/{repo}/revision/main?blobs=true"]
    found = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    return [
        {
            "url": f"{url}/{repo}/resolve/main/{one['rfilename']}",
            "dest": str(target / one["rfilename"].rpartition("/")[2]),
            "checksum": f"sha256:{one['lfs']['sha256']}",
        }
        for one in found["siblings"]
    ]


def get_url(items: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "ansible.builtin.get_url": {key: "{{ item." + key + " }}" for key in ("url", "dest", "checksum")},
        "loop": items,
        "loop_control": {"label": "{{ item.dest }}"},
    }


def model_file(url: str, folder: Path, models: list[dict[str, Any]]) -> dict[str, Any]:
    return {"homelab.llamacpp.model_file": {"models_dir": str(folder), "endpoint": url, "models": models}}


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def show(title: str, ours: Cost, **others: Cost) -> None:
    print(f"{title}: model_file {ours.seconds:.1f} s, {ours.cpu:.1f} CPU-s", end="")
    for name, cost in others.items():
        ratios = f"{cost.seconds / ours.seconds:.2f} x the time, {cost.cpu / ours.cpu:.2f} x the CPU"
        print(f"; {name} {cost.seconds:.1f} s, {cost.cpu:.1f} CPU-s ({ratios})", end="")
    print(flush=True)


def first_runs(scratch: Path, url: str) -> None:
    for title, repo, source in (
        ("one large file", "own/large", {"repo": "own/large"}),
        (f"{SHARDS} shards", "own/split", {"repo": "own/split"}),
    ):
        target = scratch / "target"
        items = files(url, repo, target)
        fresh(target)
        ours = play(scratch, model_file(url, target, [{"name": "m", "source": source}]))
        fresh(target)
        hf = run([hf_program(), "download", repo, "--local-dir", str(target)], HF_ENDPOINT=url, HF_HUB_DISABLE_XET="1")
        fresh(target)
        show(title, ours, hf_download=hf, get_url=play(scratch, get_url(items)))


def second_runs(scratch: Path, url: str) -> None:
    target, theirs, hfs = fresh(scratch / "target"), fresh(scratch / "theirs"), fresh(scratch / "hf")
    models = [
        {"name": f"m{number}", "source": {"repo": "own/many", "file": f"m{number}.gguf"}} for number in range(MODELS)
    ]
    tenth = files(url, "own/many", theirs)[: MODELS // 10]  # a task of its own for each takes minutes
    hf = [hf_program(), "download", "own/many", "--local-dir", str(hfs)]
    for title in ("first run", "second run"):
        ours = play(scratch, model_file(url, target, models))
        others = {
            "hf_download": run(hf, HF_ENDPOINT=url, HF_HUB_DISABLE_XET="1"),
            "get_url_of_a_tenth": play(scratch, get_url(tenth)),
        }
        show(f"{MODELS} models, {title}", ours, **others)


def main() -> None:
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory(prefix="bench-models-") as name:
        scratch, root = Path(name), Path(name, "hub")
        gguf_files.write(root / "own" / "large" / "Large-Q4_K_M.gguf", mib << 20)
        gguf_files.write_shards(root / "own" / "split" / "Split-Q4_K_M", SHARDS, (mib << 20) // SHARDS)
        for number in range(MODELS):
            gguf_files.write(root / "own" / "many" / f"m{number}.gguf", 1 << 16, seed=number)
        with hub(root) as url:
            first_runs(scratch, url)
            second_runs(scratch, url)


if __name__ == "__main__":
    main()
