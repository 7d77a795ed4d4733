# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_file against `hf download` and get_url: one large file, forty shards, 200 small models, and a second run.

All of them fetch from the tests' hub on this machine, in a process of its own. model_file and get_url are run by
ansible-playbook, so their seconds hold its start, which is most of a short run; it is left out where a first run is
compared beyond a second one. `hf` neither checks content nor brings it to the disk. model_file and `hf` take turns, and
what counts is the median of the ratios of the rounds. 200 models are fetched once more from a hub that answers after
20 ms, which on a network is what small files wait for. The last figure is that of the role llama_models with nothing to
do, with 200 models in the list and with 3.

    python tests/bench/models.py [MIB]     the large file's size, 1024 by default; the shards together have the same
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "doubles"))

import gguf_files

CACHE = TESTS.parent / ".cache" / "bench-hf"
HF = "huggingface_hub==2.4.0"
SHARDS = 40
MODELS, FEW = 200, 3
MANY = [{"name": f"m{number}", "source": {"repo": "own/many", "file": f"m{number}.gguf"}} for number in range(MODELS)]
LATENCY = 0.02  # seconds
ROUNDS = 3


def run(argv: list[str], **environment: str) -> float:
    started = time.monotonic()
    done = subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - started


def play(scratch: Path, content: dict[str, Any]) -> float:
    path = scratch / "play.yml"
    path.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, **content}]))
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
def hub(root: Path, latency: float = 0) -> Iterator[str]:
    argv = [sys.executable, str(TESTS / "doubles" / "hub.py"), str(root), "--storage", "localhost", "--frozen"]
    argv += ["--latency", str(latency)]
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
    task = {
        "ansible.builtin.get_url": {key: "{{ item." + key + " }}" for key in ("url", "dest", "checksum")},
        "loop": items,
        "loop_control": {"label": "{{ item.dest }}"},
    }
    return {"tasks": [task]}


def model_file(url: str, folder: Path, models: list[dict[str, Any]]) -> dict[str, Any]:
    task = {"homelab.llamacpp.model_file": {"models_dir": str(folder), "endpoint": url, "models": models}}
    return {"tasks": [task]}


def hf(url: str, repo: str, folder: Path) -> float:
    return run([hf_program(), "download", repo, "--local-dir", str(folder)], HF_ENDPOINT=url, HF_HUB_DISABLE_XET="1")


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def show(title: str, names: tuple[str, str], rounds: list[tuple[float, float]]) -> None:
    ours, theirs = (statistics.median(seconds) for seconds in zip(*rounds))
    ratios = sorted(one / other for one, other in rounds)
    print(
        f"{title}: {names[0]} {ours:.1f} s, {names[1]} {theirs:.1f} s; {statistics.median(ratios):.2f} times its time"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def against_hf(scratch: Path, url: str, title: str, repo: str, models: list[dict[str, Any]]) -> None:
    first, second = [], []
    for _round in range(ROUNDS):
        ours, theirs = fresh(scratch / "ours"), fresh(scratch / "theirs")
        first.append((play(scratch, model_file(url, ours, models)), hf(url, repo, theirs)))
        second.append((play(scratch, model_file(url, ours, models)), hf(url, repo, theirs)))
    beyond = [(one[0] - two[0], one[1] - two[1]) for one, two in zip(first, second)]
    for run_of, rounds in (("first run", first), ("second run", second), ("first run beyond the second", beyond)):
        show(f"{title}, {run_of}", ("model_file", "hf download"), rounds)


def against_get_url(scratch: Path, url: str, title: str, repo: str, count: int | None = None) -> None:
    """Once, as it is slow."""
    target = fresh(scratch / "theirs")
    print(f"{title}: get_url {play(scratch, get_url(files(url, repo, target)[:count])):.1f} s", flush=True)


def growth(scratch: Path, url: str) -> None:
    def role(count: int) -> dict[str, Any]:
        variables = {
            "llama_models_dir": str(scratch / f"role-{count}" / "models"),
            "llama_models_user": "root",
            "llama_models_endpoint": url,
            "llama_models_models": MANY[:count],
        }
        return {"roles": [{"role": "homelab.llamacpp.llama_models", **variables}]}

    for count in (MODELS, FEW):
        play(scratch, role(count))
    rounds = [(play(scratch, role(MODELS)), play(scratch, role(FEW))) for _round in range(ROUNDS)]
    show("llama_models, second run", (f"{MODELS} models", f"{FEW} models"), rounds)


def main() -> None:
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    hf_program()
    with tempfile.TemporaryDirectory(prefix="bench-models-", dir="/var/tmp") as name:
        scratch, root = Path(name), Path(name, "hub")
        gguf_files.write(root / "own" / "large" / "Large-Q4_K_M.gguf", mib << 20)
        gguf_files.write_shards(root / "own" / "split" / "Split-Q4_K_M", SHARDS, (mib << 20) // SHARDS)
        for number in range(MODELS):
            gguf_files.write(root / "own" / "many" / f"m{number}.gguf", 1 << 16, seed=number)
        with hub(root) as url:
            for title, repo in (("one large file", "own/large"), (f"{SHARDS} shards", "own/split")):
                against_hf(scratch, url, title, repo, [{"name": "m", "source": {"repo": repo}}])
                against_get_url(scratch, url, title, repo)
            against_hf(scratch, url, f"{MODELS} models", "own/many", MANY)
            against_get_url(scratch, url, f"a tenth of {MODELS} models", "own/many", MODELS // 10)
            growth(scratch, url)
        with hub(root, LATENCY) as url:
            against_hf(scratch, url, f"{MODELS} models, {LATENCY * 1000:.0f} ms away", "own/many", MANY)


if __name__ == "__main__":
    main()
