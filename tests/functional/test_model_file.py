# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""model_file as a process of its own, against a hub with the real API's shapes and the real world's faults.

MODEL_FILE_KILLS=20 is the long form of the test with kill -9, see `make test-model-file-long`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

import gguf_files
from hub import Hub

MODULE = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import model_file
with patch_module_args(json.load(sys.stdin)):
    model_file.main()
"""
KILLS = int(os.environ.get("MODEL_FILE_KILLS", "3"))
KILLED_SIZE = (64 << 20) * max(1, KILLS // 3)  # bytes
SIZE = 20 << 20  # bytes, three pieces
MANY = 8  # small models of one repository
GLANCE = 100  # bytes: the first eight of each file, by which a model is known as one
TOKEN = "hf_only-for-this-test"

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    gguf_files.write(root / "own" / "big" / "Big-Q4_K_M.gguf", SIZE, seed=1)
    gguf_files.write(root / "own" / "big" / "Big-Q8_0.gguf", 1 << 20, seed=2)
    gguf_files.write(root / "own" / "big" / "Big-UD-Q4_K_XL.gguf", 1 << 20, seed=3)
    gguf_files.write(root / "own" / "big" / "mmproj-F16.gguf", 1 << 18, seed=4)
    gguf_files.write(root / "own" / "small" / "Small-Q4_K_M.gguf", 1 << 20, seed=5)
    gguf_files.write(root / "own" / "gated" / "Gated-Q4_K_M.gguf", 1 << 20, seed=6)
    gguf_files.write(root / "own" / "moving" / "Moving-Q4_K_M.gguf", 1 << 20, seed=7)
    gguf_files.write(root / "own" / "moving@v1" / "Moving-Q4_K_M.gguf", 1 << 20, seed=8)
    gguf_files.write_shards(root / "own" / "split" / "Q4_K_M" / "Split-Q4_K_M", 60, 1 << 16)
    for number in range(MANY):
        gguf_files.write(root / "own" / "many" / f"m{number}.gguf", 1 << 18, seed=100 + number)
    gguf_files.write(root / "own" / "killed" / "Killed-Q4_K_M.gguf", KILLED_SIZE, seed=9)
    return root


@pytest.fixture
def hub(repositories: Path) -> Iterator[Hub]:
    with Hub(repositories, storage="localhost", token=TOKEN, gated="own/gated") as one:
        yield one


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def process(folder: Path, hub: Hub, **args: Any) -> subprocess.Popen[str]:
    arguments = {"models_dir": str(folder), "endpoint": hub.url, "retries": 3, **args}
    started = subprocess.Popen(
        [sys.executable, "-c", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdin
    started.stdin.write(json.dumps(arguments))
    started.stdin.close()
    return started


def ended(one: subprocess.Popen[str]) -> dict[str, Any]:
    assert one.stdout
    assert one.stderr
    out, err = one.stdout.read(), one.stderr.read()
    one.wait(60)
    assert out.lstrip().startswith("{"), err
    result: dict[str, Any] = json.loads(out)
    result.pop("invocation", None)
    return result


@pytest.fixture
def run(models: Path, hub: Hub) -> Run:
    def call(*entries: dict[str, Any], check: bool = False, **args: Any) -> dict[str, Any]:
        if check:
            args["_ansible_check_mode"] = True
        return ended(process(models, hub, models=list(entries), **args))

    return call


def model(name: str, projector: dict[str, Any] | None = None, **source: Any) -> dict[str, Any]:
    return {"name": name, "source": source, "projector": projector}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left(models: Path) -> list[str]:
    """Everything in the directory but the record."""
    return sorted(
        str(path.relative_to(models)) for path in models.rglob("*") if not path.name.startswith(".model_file")
    )


BIG = model("big", repo="own/big", quant="Q4_K_M")
SMALL = model("small", repo="own/small", quant="q4_k_m")


# --- the way it goes when nothing is wrong --------------------------------------------------------------------------


def test_check_mode_then_fetch_then_nothing(run: Run, hub: Hub, models: Path, repositories: Path) -> None:
    told = run(BIG, SMALL, check=True)
    size = (repositories / "own/big/Big-Q4_K_M.gguf").stat().st_size
    assert told["changed"]
    assert told["models"][0]["to_fetch"] == size
    assert told["msg"] == "would fetch 21.0 MiB: big, small"
    assert left(models) == []
    assert hub.seen.sent < GLANCE

    done = run(BIG, SMALL)
    assert done["changed"]
    assert done["fetched"] == done["to_fetch"] == told["to_fetch"]
    assert left(models) == ["big.gguf", "small.gguf"]
    assert sha256(models / "big.gguf") == sha256(repositories / "own/big/Big-Q4_K_M.gguf")
    assert (models / "big.gguf").stat().st_mode & 0o777 == 0o644

    asked = hub.seen.api
    for check in (False, True):
        again = run(BIG, SMALL, check=check)
        assert (again["changed"], again["to_fetch"]) == (False, 0)
    assert again["models"][0]["path"] == str(models / "big.gguf")
    assert hub.seen.api == asked, "a run that has nothing to do asks nobody"


def test_shards_and_projector_are_a_folder(run: Run, models: Path, repositories: Path) -> None:
    split = model("split", repo="own/split", file="Q4_K_M/Split-Q4_K_M-00002-of-00060.gguf")
    seeing = model("seeing", projector={}, repo="own/big", quant="Q8_0")
    done = run(split, seeing)
    assert len([name for name in left(models) if name.startswith("split/")]) == 60
    assert done["models"][0]["path"] == str(models / "split" / "Split-Q4_K_M-00001-of-00060.gguf")
    assert done["models"][1]["projector"] == str(models / "seeing" / "mmproj-F16.gguf")
    for path in (repositories / "own/split/Q4_K_M").iterdir():
        assert sha256(models / "split" / path.name) == sha256(path)
    assert not run(split, seeing)["changed"]


def test_a_draft_is_where_the_router_takes_it_for_no_model(run: Run, models: Path) -> None:
    both = {**model("both", repo="own/big", quant="Q8_0"), "draft": {"repo": "own/small", "quant": "Q4_K_M"}}
    done = run(both)
    assert done["models"][0]["draft"] == str(models / "both" / "draft" / "Small-Q4_K_M.gguf")
    assert not run(both)["changed"]


def test_the_same_content_is_one_file(run: Run, hub: Hub, models: Path) -> None:
    first = run(SMALL, {**SMALL, "name": "other"})
    assert (models / "small.gguf").stat().st_ino == (models / "other.gguf").stat().st_ino
    assert first["to_fetch"] == first["fetched"] == first["models"][0]["size"]
    run({**SMALL, "name": "third"})
    assert (models / "third.gguf").stat().st_nlink == 3
    run({"name": "small", "state": "absent"})
    assert left(models) == ["other.gguf", "third.gguf"]
    assert hub.seen.sent < first["fetched"] + GLANCE


def test_facts_come_before_the_file(run: Run, hub: Hub, models: Path, repositories: Path) -> None:
    header = Path(__file__).parents[1] / "fixtures" / "gguf_headers" / "Qwen3-8B-Q4_K_M.gguf"
    real = repositories / "own" / "real" / "Qwen3-8B-Q4_K_M.gguf"
    real.parent.mkdir(exist_ok=True)
    shutil.copy(header, real)
    os.truncate(real, 5 << 30)  # as long as the real one, and a hole
    hub._known[(str(real), 5 << 30, real.stat().st_mtime_ns)] = "0" * 64  # not read for that
    told = run(model("real", repo="own/real", quant="Q4_K_M"), check=True, facts=True)
    assert told["models"][0]["facts"]["layers"] == 36
    assert hub.seen.sent < 5 << 20
    assert left(models) == []
    real.unlink()


def test_a_moving_revision_moves_when_asked(run: Run, repositories: Path, models: Path) -> None:
    at_tag = run(model("m", repo="own/moving", quant="Q4_K_M", revision="v1"))
    assert sha256(models / "m.gguf") == sha256(repositories / "own/moving@v1/Moving-Q4_K_M.gguf")
    moving = model("m", repo="own/moving", quant="Q4_K_M")
    assert run(moving)["models"][0]["commit"] != at_tag["models"][0]["commit"]
    path = repositories / "own/moving/Moving-Q4_K_M.gguf"
    before = path.read_bytes()
    try:
        gguf_files.write(path, 1 << 20, seed=77)
        assert not run(moving)["changed"]
        assert run(moving, refresh=True)["changed"]
        assert not run(moving, refresh=True)["changed"]
        assert sha256(models / "m.gguf") == sha256(path)
    finally:
        path.write_bytes(before)


def test_a_damaged_file_is_found_when_asked_and_fetched_again(run: Run, models: Path, repositories: Path) -> None:
    run(SMALL)
    path = models / "small.gguf"
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(1 << 19)
        file.write(b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not run(SMALL)["changed"], "the same size and time: not read"
    assert run(SMALL, verify=True)["changed"]
    assert sha256(path) == sha256(repositories / "own/small/Small-Q4_K_M.gguf")
    path.unlink()
    assert run(SMALL)["changed"], "a file that is gone"


def test_a_damaged_file_is_no_source_for_its_other_names(run: Run, hub: Hub, models: Path, repositories: Path) -> None:
    both = [SMALL, {**SMALL, "name": "other"}]
    run(*both)
    path = models / "small.gguf"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    sent = hub.seen.sent
    assert [one["changed"] for one in run(*both, verify=True)["models"]] == [True, True]
    assert hub.seen.sent - sent < status.st_size + GLANCE, "once for both"
    for name in ("small.gguf", "other.gguf"):
        assert sha256(models / name) == sha256(repositories / "own/small/Small-Q4_K_M.gguf")
    assert not run(*both, verify=True)["changed"]


def test_url_with_a_checksum_and_a_hubs_own(run: Run, hub: Hub, models: Path, repositories: Path) -> None:
    checksum = sha256(repositories / "own/small/Small-Q4_K_M.gguf")
    address = f"{hub.url}/own/small/resolve/main/Small-Q4_K_M.gguf"
    plain = f"{hub.url}/storage/own/small/Small-Q4_K_M.gguf?Signature=s3cret"
    assert run(model("named", url=address))["changed"]
    assert run(model("given", url=plain, checksum=f"sha256:{checksum}"))["changed"]
    assert left(models) == ["given.gguf", "named.gguf"]
    assert "s3cret" not in (models / ".model_file.json").read_text()
    refused = run(model("none", url=plain))
    assert "a checksum was wanted, and the server names none" in refused["msg"]
    assert "s3cret" not in refused["msg"]


@pytest.mark.parametrize("method", ["link", "hardlink", "copy", "move"])
def test_from_a_path(run: Run, models: Path, tmp_path: Path, method: str) -> None:
    source = tmp_path / "elsewhere" / "a.gguf"
    gguf_files.write(source, 1 << 20)
    content = source.read_bytes()
    mine = model("mine", path=str(source), method=method)
    assert run(mine, check=True)["changed"]
    assert left(models) == []
    assert run(mine)["changed"]
    assert (models / "mine.gguf").read_bytes() == content
    assert (models / "mine.gguf").is_symlink() == (method == "link")
    assert source.exists() == (method != "move")
    assert (models / "mine.gguf").stat().st_nlink == (2 if method == "hardlink" else 1)
    assert not run(mine)["changed"]
    assert run({"name": "mine", "state": "absent"})["removed"] == [str(models / "mine.gguf")]
    assert (left(models), source.exists()) == ([], method != "move")


def test_when_it_was_placed_is_recorded(run: Run, models: Path, tmp_path: Path) -> None:
    """By which the services know that a process has other files, so also for what a run put that was cut off."""
    record = models / ".model_file.json"

    def placed() -> float:
        return float(json.loads(record.read_text())["models"]["mine"]["placed"])

    source = tmp_path / "source.gguf"
    gguf_files.write(source, 1 << 16, seed=1)
    wanted = model("mine", path=str(source), method="copy")
    before = time.time()
    run(wanted)
    first = placed()
    assert before <= first <= time.time()
    run(wanted, refresh=True)
    gguf_files.write(tmp_path / "same.gguf", 1 << 16, seed=1)
    assert run({**wanted, "source": {"path": str(tmp_path / "same.gguf"), "method": "copy"}})["changed"]
    assert placed() == first

    old = record.read_text()
    gguf_files.write(tmp_path / "other.gguf", 1 << 16, seed=2)
    wanted = model("mine", path=str(tmp_path / "other.gguf"), method="copy")
    done = run(wanted)
    assert done["changed"], done
    second = placed()
    assert second > first
    record.write_text(old)  # as if that one had been killed before it wrote this
    assert run(wanted)["changed"]
    assert placed() > second
    assert not run(wanted)["changed"]


@pytest.mark.parametrize("method", ["link", "hardlink", "copy", "move"])
def test_a_folder_of_shards_with_a_projector(run: Run, models: Path, tmp_path: Path, method: str) -> None:
    folder = tmp_path / "elsewhere"
    gguf_files.write_shards(folder / "S", 3, 1 << 16)
    gguf_files.write(folder / "mmproj.gguf", 1 << 16)
    names = sorted(path.name for path in folder.iterdir())
    mine = model("mine", path=str(folder), method=method)
    done = run(mine)
    assert sorted(path.name for path in (models / "mine").iterdir()) == names
    assert done["models"][0]["path"] == str(models / "mine" / "S-00001-of-00003.gguf")
    assert not run(mine)["changed"]


def test_from_a_cache(run: Run, models: Path, tmp_path: Path, repositories: Path) -> None:
    base = tmp_path / "cache" / "models--own--small"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("c0ffee")
    (base / "blobs").mkdir()
    shutil.copy(repositories / "own/small/Small-Q4_K_M.gguf", base / "blobs" / "beef")
    (base / "snapshots" / "c0ffee").mkdir(parents=True)
    (base / "snapshots" / "c0ffee" / "Small-Q4_K_M.gguf").symlink_to("../../blobs/beef")
    cached = model("c", repo="own/small", quant="Q4_K_M", cache=str(tmp_path / "cache"))
    assert run(cached)["changed"]
    assert os.readlink(models / "c.gguf") == str(base / "blobs" / "beef")
    assert not run(cached)["changed"]


def test_what_was_there_is_taken_when_it_is_the_same_and_left_when_not(
    run: Run, hub: Hub, models: Path, repositories: Path
) -> None:
    shutil.copy(repositories / "own/small/Small-Q4_K_M.gguf", models / "small.gguf")
    assert run(SMALL)["changed"], "it is recorded now"
    assert hub.seen.sent == 0
    assert not run(SMALL)["changed"]
    (models / "big.gguf").write_bytes(b"GGUF of the operator's own")
    refused = run(BIG)
    assert "was not put there by this module and is not what the source has" in refused["msg"]
    assert (models / "big.gguf").read_bytes() == b"GGUF of the operator's own"


def test_prune(run: Run, models: Path) -> None:
    run(SMALL, BIG)
    (models / "gone.gguf.part").write_bytes(b"x")
    (models / "gone.gguf.part.journal").write_bytes(b"x")
    (models / "own.gguf").write_bytes(b"an operator's")
    assert run(SMALL)["removed"] == []
    assert [Path(path).name for path in run(SMALL, prune="parts", check=True)["removed"]] == [
        "gone.gguf.part",
        "gone.gguf.part.journal",
    ]
    assert run(SMALL, prune="parts")["changed"]
    assert left(models) == ["big.gguf", "own.gguf", "small.gguf"]
    assert [Path(path).name for path in run(SMALL, prune="models")["removed"]] == ["big.gguf"]
    assert not run(SMALL, prune="models")["changed"]
    assert left(models) == ["own.gguf", "small.gguf"]


def many() -> list[dict[str, Any]]:
    return [model(f"m{number}", repo="own/many", file=f"m{number}.gguf") for number in range(MANY)]


def test_small_models_arrive_over_as_many_connections_as_are_allowed(
    run: Run, hub: Hub, models: Path, repositories: Path
) -> None:
    hub.faults.rate = 2 << 20  # slow enough for all of them to meet
    done = run(*many(), connections=3)
    assert [one["changed"] for one in done["models"]] == [True] * MANY
    assert done["fetched"] == done["to_fetch"]
    assert hub.seen.most_sending == 3
    for number in range(MANY):
        assert sha256(models / f"m{number}.gguf") == sha256(repositories / f"own/many/m{number}.gguf")
    assert left(models) == [f"m{number}.gguf" for number in range(MANY)]
    assert not run(*many())["changed"], "all of them are recorded"


def test_connections_are_kept_and_each_file_is_asked_for_once(run: Run, hub: Hub) -> None:
    assert run(*many(), connections=1)["changed"]
    assert hub.seen.connections == 2, "one to the hub, one to its storage"
    assert hub.seen.storage == 1 + MANY, "a first look at the repository, and each file"


def test_small_models_with_the_same_content_are_one_file(run: Run, hub: Hub, models: Path) -> None:
    first, second, *_others = many()
    done = run(first, {**first, "name": "twin"}, second)
    assert done["fetched"] == done["to_fetch"] == 2 * done["models"][0]["size"]
    assert (models / "m0.gguf").stat().st_ino == (models / "twin.gguf").stat().st_ino


def test_a_small_model_that_fails_does_not_harm_the_others(run: Run, hub: Hub, models: Path) -> None:
    plain = f"{hub.url}/storage/own/small/Small-Q4_K_M.gguf?Signature=s3cret"
    result = run(model("wrong", url=plain, checksum="0" * 64), *many())
    assert "its SHA-256 was expected to be" in result["msg"]
    assert "wrong.gguf" not in left(models)
    assert run(*many())["fetched"] <= MANY * (1 << 19)
    assert left(models) == [f"m{number}.gguf" for number in range(MANY)]


def test_more_than_may_be_done_at_once_is_postponed(
    run: Run, hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMELAB_LLAMACPP_AT_ONCE", str(1 << 18))
    assert run(SMALL) == {"changed": True, "postponed": True}
    assert left(models) == []
    assert "postponed" not in run(SMALL, check=True)
    monkeypatch.setenv("HOMELAB_LLAMACPP_AT_ONCE", str(2 << 20))
    assert run(SMALL)["fetched"]
    assert "postponed" not in run(SMALL)


# --- what is refused, and what it says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"repo": "own/big", "quant": "Q5_K_M"}, "it has Big-Q4_K_M.gguf (Q4_K_M, 20.0 MiB), Big-Q8_0.gguf"),
        ({"repo": "own/big"}, "neither file nor quant is given"),
        ({"repo": "own/big", "file": "nope.gguf"}, "has no whole model with the file 'nope.gguf'"),
        ({"repo": "own/nope", "quant": "Q8_0"}, "knows no repository own/nope"),
        ({"repo": "own/big", "quant": "Q8_0", "revision": "v9"}, "has no revision 'v9'"),
        ({"repo": "own/gated", "quant": "Q4_K_M"}, "401 Access to model own/gated is restricted"),
        ({"repo": "big", "quant": "Q8_0"}, "repo must be owner/name, found: 'big'"),
        ({"repo": "own/big", "path": "/x"}, "must have one of repo, url and path, found: repo and path"),
        ({"path": "/nowhere/x.gguf"}, "nothing is at /nowhere/x.gguf"),
        ({"url": "file:///etc/passwd"}, "url must begin with https:// or http://"),
    ],
)
def test_refused(run: Run, models: Path, wanted: dict[str, Any], words: str) -> None:
    result = run(model("m", **wanted))
    assert result["failed"]
    assert words in result["msg"]
    assert not [name for name in left(models) if name.endswith(".gguf")]


def test_quant_of_a_maker(run: Run) -> None:
    assert run(model("m", repo="own/big", quant="Q4_K_XL"), check=True)["changed"]


def test_a_gated_repository_with_its_token(run: Run, hub: Hub, models: Path, tmp_path: Path) -> None:
    gated = model("g", repo="own/gated", quant="Q4_K_M")
    wrong = run(gated, token="hf_wrong-one")
    assert "403" in wrong["msg"]
    assert "the token was not accepted" in wrong["msg"]
    assert "hf_wrong-one" not in json.dumps(wrong)
    (tmp_path / "token").write_text(f"\n{TOKEN}\n")
    done = run(gated, token_file=str(tmp_path / "token"))
    assert done["changed"]
    assert TOKEN not in json.dumps(done) + (models / ".model_file.json").read_text()


def test_the_lists_own_errors_come_before_anything(run: Run, hub: Hub) -> None:
    result = run(SMALL, SMALL, model("../x", path="relative"))
    for words in ("'small' is there more than once", "found: '../x'", "path must be absolute, found: 'relative'"):
        assert words in result["msg"]
    assert hub.seen.api == 0


# --- the real world -------------------------------------------------------------------------------------------------


def sent(one: subprocess.Popen[str], hub: Hub, count: int) -> None:
    """Wait until so many bytes are on their way to this process."""
    deadline = time.monotonic() + 120
    while hub.seen.sent < count:
        assert one.poll() is None, ended(one)
        assert time.monotonic() < deadline, hub.seen
        time.sleep(0.005)


def test_kill_at_random_moments(models: Path, hub: Hub, repositories: Path) -> None:
    """Killed at random moments, then whole and right, with at most 1.05 times the bytes."""
    source = repositories / "own/killed/Killed-Q4_K_M.gguf"
    killed = model("killed", repo="own/killed", quant="Q4_K_M")
    hub.sha256(source)
    hub.faults.rate = KILLED_SIZE / (KILLS * 6)  # the whole of it would take six seconds a kill
    dice = random.Random(KILLS)
    for _turn in range(KILLS):
        # The moment is one of the download, not of the clock: it never comes too late.
        before = hub.seen.sent
        one = process(models, hub, models=[killed])
        sent(one, hub, before + int(dice.uniform(0.05, 1.5) * hub.faults.rate))
        one.send_signal(signal.SIGKILL)
        one.wait()
    assert left(models) == ["killed.gguf.part", "killed.gguf.part.journal"]
    hub.faults.rate = 0
    assert ended(process(models, hub, models=[killed]))["changed"]
    assert sha256(models / "killed.gguf") == sha256(source)
    assert left(models) == ["killed.gguf"]
    assert hub.seen.sent <= 1.05 * source.stat().st_size
    print(f"{KILLS} kills: {hub.seen.sent / source.stat().st_size:.4f} times the size")


def test_a_server_that_cuts_off(run: Run, hub: Hub, models: Path, repositories: Path) -> None:
    hub.faults.cut_after, hub.faults.cuts = 2 << 20, 8
    assert run(BIG)["changed"]
    assert sha256(models / "big.gguf") == sha256(repositories / "own/big/Big-Q4_K_M.gguf")
    assert hub.seen.sent <= 1.05 * SIZE


def test_a_server_that_cuts_off_at_once_is_given_up_and_what_came_is_kept(run: Run, hub: Hub, models: Path) -> None:
    hub.faults.broken = 1 << 20
    assert "503" in run(BIG, retries=1)["msg"]
    hub.faults.broken = 0
    assert run(BIG)["changed"]


def test_a_server_that_ignores_ranges(run: Run, hub: Hub, models: Path, repositories: Path) -> None:
    hub.faults.ignore_ranges = True
    hub.faults.cut_after, hub.faults.cuts = SIZE // 2, 2
    assert run(BIG)["changed"]
    assert sha256(models / "big.gguf") == sha256(repositories / "own/big/Big-Q4_K_M.gguf")


def test_a_file_that_changes_half_way(run: Run, hub: Hub, models: Path) -> None:
    hub.faults.change_after = 1 << 20
    result = run(BIG, connections=1)
    assert "is not the file that was wanted" in result["msg"]
    assert not [name for name in left(models) if name.endswith((".gguf", ".part"))]
    hub.faults.change_after = 0
    assert run(BIG)["changed"]


def test_a_web_page_and_a_pointer_are_no_models(run: Run, hub: Hub, models: Path) -> None:
    hub.faults.html = True
    assert "it begins with b'<!DO' (a web page?)" in run(BIG)["msg"]
    hub.faults.html, hub.faults.pointer = False, True
    assert "(a Git LFS pointer?)" in run(BIG)["msg"]
    hub.faults.pointer = False
    assert run(BIG)["changed"]


def test_429_is_waited_for(run: Run, hub: Hub) -> None:
    hub.faults.throttle, hub.faults.retry_after = 2, "2"
    started = time.monotonic()
    assert run(SMALL)["changed"]
    assert time.monotonic() - started >= 4
    hub.faults.throttle, hub.faults.retry_after = 1, "7200"
    assert "asks to wait for 7200 seconds" in run(BIG)["msg"]


def test_an_address_that_expires_is_asked_for_again(run: Run, hub: Hub, models: Path, repositories: Path) -> None:
    hub.faults.expire_after = 2
    assert run(BIG, connections=1)["changed"]
    assert sha256(models / "big.gguf") == sha256(repositories / "own/big/Big-Q4_K_M.gguf")


def test_a_slow_server_and_a_limit(run: Run, hub: Hub) -> None:
    hub.faults.rate = 512 << 10
    started = time.monotonic()
    assert run(SMALL, timeout=2)["changed"]
    assert time.monotonic() - started >= 1.9
    hub.faults.rate = 0
    started = time.monotonic()
    assert run(BIG, rate_limit="10M")["changed"]
    assert time.monotonic() - started >= 1.9


def test_a_wrong_checksum_leaves_nothing(run: Run, hub: Hub, models: Path) -> None:
    hub.faults.damage = True
    result = run(SMALL)
    assert "its SHA-256 was expected to be" in result["msg"]
    assert left(models) == []
    hub.faults.damage = False
    address = f"{hub.url}/own/small/resolve/main/Small-Q4_K_M.gguf"
    result = run(model("small", url=address, checksum="0" * 64))
    assert f"its SHA-256 was expected to be {'0' * 64}" in result["msg"]
    assert left(models) == []


def test_two_runs_at_once_fetch_it_once(models: Path, hub: Hub, repositories: Path) -> None:
    hub.sha256(repositories / "own/big/Big-Q4_K_M.gguf")
    hub.faults.rate = 8 << 20
    both = [process(models, hub, models=[BIG]) for _one in range(2)]
    results = [ended(one) for one in both]
    assert sorted(result["fetched"] for result in results)[0] == 0
    assert not any(result.get("failed") for result in results)
    assert hub.seen.sent <= 1.05 * SIZE
    assert left(models) == ["big.gguf"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_room_is_judged_for_all_before_anything(small_disk: Path, hub: Hub) -> None:
    wanted = [BIG, SMALL, model("b8", repo="own/big", quant="Q8_0"), model("xl", repo="own/big", quant="Q4_K_XL")]
    wanted += [
        model("m", repo="own/moving", quant="Q4_K_M"),
        model("v1", repo="own/moving", quant="Q4_K_M", revision="v1"),
    ]
    result = ended(process(small_disk, hub, models=wanted))
    assert "needs room for 25.0 MiB more, of big, small, b8, xl, m, v1; 24.0 MiB are free there" in result["msg"]
    assert left(small_disk) == []
    assert hub.seen.sent < GLANCE


def test_a_disk_that_fills_up_half_way(small_disk: Path, hub: Hub, repositories: Path) -> None:
    hub.sha256(repositories / "own/big/Big-Q4_K_M.gguf")
    hub.faults.rate = 2 << 20  # slow enough for what comes now to come first
    one = process(small_disk, hub, models=[BIG])
    sent(one, hub, 4 << 20)
    (small_disk / "hog").write_bytes(bytes(10 << 20))
    hub.faults.rate = 10 << 20
    assert "No space left on device; make room, then run again: it goes on where it was" in ended(one)["msg"]
    (small_disk / "hog").unlink()
    hub.faults.rate = 0
    assert ended(process(small_disk, hub, models=[BIG]))["changed"]
    assert hub.seen.sent <= 1.1 * SIZE, "what had arrived was kept"
