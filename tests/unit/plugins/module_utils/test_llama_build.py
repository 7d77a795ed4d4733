# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_build import (
    UNIT,
    Build,
    Progress,
    Wish,
    jobs,
    this_machine,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import ReleaseError


class Systemd:
    """The one unit, as systemctl and systemd-run show and change it."""

    def __init__(self) -> None:
        self.unit: dict[str, str] = {}
        self.gone()
        self.started: list[str] = []

    def gone(self) -> None:
        self.unit = {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead", "Description": UNIT}

    def is_now(self, active: str, sub: str, name: str = "b1-cpu") -> None:
        self.unit = {
            "LoadState": "loaded",
            "ActiveState": active,
            "SubState": sub,
            "Description": f"Build of llama.cpp {name}",
            "ExecMainStartTimestampMonotonic": "1000000",
            "ExecMainExitTimestampMonotonic": "8500000",
        }

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        if argv[0] == "systemd-run":
            self.started = list(argv)
            self.is_now("active", "running")
        elif argv[1] == "show":
            wanted = argv[3].partition("=")[2].split(",")
            return 0, "".join(f"{name}={self.unit[name]}\n" for name in wanted), ""
        elif argv[1] in ("stop", "reset-failed"):
            self.gone()
        return 0, "", ""


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


@pytest.fixture
def build(systemd: Systemd, tmp_path: Path) -> Build:
    return Build(systemd, str(tmp_path / "build"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "src"
    tree.mkdir()
    options = ["GGML_CUDA", "GGML_VULKAN", "GGML_NATIVE", "LLAMA_BUILD_UI", "LLAMA_BUILD_TESTS", "LLAMA_TOOLS_INSTALL"]
    lines = ['project("llama.cpp")', *(f'option({name} "x" ON)' for name in options)]
    (tree / "CMakeLists.txt").write_text("\n".join(lines))
    return tree


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What this machine has, instead of what it happens to have."""
    there = {"cmake", "ninja", "c++"}
    monkeypatch.setattr(shutil, "which", lambda tool, path: tool if tool in there else None)
    return there


def wish(tree: Path, **more: Any) -> Wish:
    return Wish("b1-cpu", str(tree), **{"number": 1, "commit": "abc", **more})


def test_jobs_by_memory_as_well_as_cores() -> None:
    assert jobs("cpu", 8, 64000) == 8
    assert jobs("cpu", 8, 4000) == 3
    assert jobs("cuda", 8, 4000) == 1
    assert jobs("cuda", 8, 100) == 1


def test_what_this_machine_has() -> None:
    cores, memory = this_machine()
    assert cores >= 1
    assert memory >= 64


def test_the_options_of_a_build(tree: Path) -> None:
    """What every build has, as far as the tree knows it; no shared libraries, whatever it says."""
    assert wish(tree).cmake_options() == {
        "BUILD_SHARED_LIBS": False,
        "CMAKE_BUILD_TYPE": "Release",
        "GGML_CUDA": False,
        "GGML_VULKAN": False,
        "LLAMA_BUILD_COMMIT": "abc",
        "LLAMA_BUILD_NUMBER": 1,
        "LLAMA_BUILD_TESTS": False,
        "LLAMA_BUILD_UI": False,
        "LLAMA_TOOLS_INSTALL": False,
    }


def test_the_options_of_a_cuda_build(tree: Path) -> None:
    options = wish(tree, backend="cuda", architectures=["86", "89"], options={"GGML_NATIVE": False}).cmake_options()
    assert (options["GGML_CUDA"], options["GGML_NATIVE"]) == (True, False)
    assert options["CMAKE_CUDA_ARCHITECTURES"] == ["86", "89"]


@pytest.mark.parametrize("name", ["BUILD_SHARED_LIBS", "GGML_CUDA", "CMAKE_CUDA_ARCHITECTURES", "LLAMA_BUILD_NUMBER"])
def test_an_option_that_is_not_the_operators(tree: Path, name: str) -> None:
    with pytest.raises(ReleaseError, match=f"{name} is set by"):
        wish(tree, options={name: "x"}).cmake_options()


def test_a_build_is_started(build: Build, systemd: Systemd, tree: Path) -> None:
    assert build.state("b1-cpu") == "none"
    build.start(wish(tree, targets=["llama-bench", "llama-server"]), parallel=2, ccache_gib=7)
    assert build.state("b1-cpu") == "running"
    assert f"--unit={UNIT}" in systemd.started
    assert "--property=ProtectSystem=strict" in systemd.started
    script = Path(build.folder, "build.sh").read_text().splitlines()
    assert "export CCACHE_MAXSIZE=7G" in script
    assert script[-2].startswith(f"cmake -S {tree} -B {build.out} -G Ninja -DBUILD_SHARED_LIBS=OFF ")
    assert script[-1] == f"exec cmake --build {build.out} --parallel 2 --target llama-server llama-bench"


def test_an_option_of_an_operator_is_one_word_of_the_script(build: Build, tree: Path) -> None:
    build.start(wish(tree, options={"CMAKE_CXX_FLAGS": "-O2 $(id) 'x'"}), 1, 1)
    script = Path(build.folder, "build.sh").read_text()
    assert """'-DCMAKE_CXX_FLAGS=-O2 $(id) '"'"'x'"'"''""" in script


def test_an_interrupted_build_goes_on_and_another_begins_anew(build: Build, systemd: Systemd, tree: Path) -> None:
    build.start(wish(tree), 1, 1)
    done = Path(build.out, "done")
    done.touch()
    systemd.gone()
    build.start(wish(tree), 1, 1)
    assert done.exists()
    systemd.gone()
    build.start(Wish("b2-cpu", str(tree)), 1, 1)
    assert not done.exists()


@pytest.mark.parametrize(
    ("backend", "web_page", "missing"), [("cuda", False, "nvcc"), ("vulkan", False, "glslc"), ("cpu", True, "npm")]
)
def test_a_tool_that_is_missing(build: Build, tree: Path, backend: str, web_page: bool, missing: str) -> None:
    with pytest.raises(ReleaseError, match=f"missing: {missing}"):
        build.start(wish(tree, backend=backend, architectures=["86"], web_page=web_page), 1, 1)
    assert not Path(build.folder).exists()


@pytest.mark.parametrize(
    ("active", "sub", "state"),
    [
        ("active", "running", "running"),
        ("activating", "start", "running"),
        ("active", "exited", "built"),
        ("failed", "failed", "failed"),
        ("inactive", "dead", "none"),
    ],
)
def test_states(build: Build, systemd: Systemd, active: str, sub: str, state: str) -> None:
    systemd.is_now(active, sub)
    assert build.state("b1-cpu") == state


def test_one_build_at_a_time(build: Build, systemd: Systemd) -> None:
    systemd.is_now("active", "running", "b9-cuda")
    with pytest.raises(ReleaseError, match=r"another one is running: Build of llama\.cpp b9-cuda"):
        build.state("b1-cpu")
    systemd.is_now("failed", "failed", "b9-cuda")
    assert build.state("b1-cpu") == "none"


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        ("", Progress(0, 0, None)),
        ("-- Configuring done\n", Progress(0, 0, None)),
        ("[0/200 0.000] Re-checking\n", Progress(0, 200, None)),
        ("[9/200 1.0] a\n[50/200 20.0] Building CXX object [1/2].o\nwarning: [3/4 9.9] x\n", Progress(50, 200, 60)),
        ("[200/200 90.0] Linking\n", Progress(200, 200, 0)),
    ],
)
def test_progress(build: Build, log: str, progress: Progress) -> None:
    Path(build.folder).mkdir()
    Path(build.log).write_text(log)
    assert build.progress() == progress


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("[3/9 1.0] x\na.cpp:3:1: error: no such thing\n", "The build failed: a.cpp:3:1: error: no such thing"),
        ("c++: fatal error: Killed signal terminated program cc1plus\n", "Memory ran out: .*fewer jobs"),
        (
            "fatal error: error writing to x.s: No space left on device\n",
            "The disk is full: .*goes on where it stopped",
        ),
        ("nothing telling\n", "The build failed: nothing telling"),
        ("", "it left no word"),
    ],
)
def test_a_failure_in_the_compilers_words(build: Build, log: str, told: str) -> None:
    Path(build.folder).mkdir()
    Path(build.log).write_text(log)
    with pytest.raises(ReleaseError, match=told):
        raise ReleaseError(build.failure())


def test_what_was_built_is_collected(build: Build, systemd: Systemd, tree: Path, tmp_path: Path) -> None:
    build.start(wish(tree), 1, 1)
    systemd.is_now("active", "exited")
    (staged := tmp_path / "staged/bin").mkdir(parents=True)
    with pytest.raises(ReleaseError, match=r"was wanted to leave .*/out/bin/llama-server; it did not"):
        build.collect(wish(tree), str(staged.parent))
    for path, text in {
        "out/bin/llama-server": "binary",
        "out/CMakeFiles/3.31.6/CMakeCXXCompiler.cmake": 'set(CMAKE_CXX_COMPILER_ID "GNU")\n'
        'set(CMAKE_CXX_COMPILER_VERSION "14.2.0")\nset(CMAKE_CXX_COMPILER_VERSION_INTERNAL "")\n',
        "out/CMakeFiles/3.31.6/CMakeCUDACompiler.cmake": 'set(CMAKE_CUDA_COMPILER_ID "NVIDIA")\n'
        'set(CMAKE_CUDA_COMPILER_VERSION "12.4.131")\nset(CMAKE_CUDA_HOST_COMPILER_ID "GNU")\n'
        'set(CMAKE_CUDA_HOST_COMPILER_VERSION "13.3.0")\n',
        "build.log": "[1/1 7.0] Linking\n",
    }.items():
        file = Path(build.folder, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    stamp = build.collect(wish(tree), str(staged.parent))
    assert (staged / "llama-server").stat().st_mode & 0o777 == 0o755
    assert stamp["compilers"] == {"CXX": "GNU 14.2.0", "CUDA": "NVIDIA 12.4.131"}
    assert stamp["seconds"] == 7.5
    assert "-DLLAMA_BUILD_NUMBER=1" in stamp["cmake"]
    assert json.dumps(stamp)
    build.clean()
    assert not Path(build.out).exists()
    assert build.state("b1-cpu") == "none"


@pytest.mark.parametrize("place", ["build/out", "src"])
def test_a_web_page_that_was_wanted(build: Build, systemd: Systemd, tree: Path, tmp_path: Path, place: str) -> None:
    """Where npm fails the build ends well all the same, without the page."""
    systemd.is_now("active", "exited")
    server = Path(build.out, "bin/llama-server")
    server.parent.mkdir(parents=True)
    server.touch()
    Path(build.log).write_text("-- UI: npm ci failed (1)\n--   stderr: npm error ENOTFOUND\n")
    (staged := tmp_path / "staged/bin").mkdir(parents=True)
    assert not build.collect(wish(tree), str(staged.parent))["web_page"]
    with pytest.raises(ReleaseError, match=r"npm did not make it: -- UI: npm ci failed \(1\) / .*ENOTFOUND"):
        build.collect(wish(tree, web_page=True), str(staged.parent))
    assert build.state("b1-cpu") == "none"  # so that the next run tries again
    systemd.is_now("active", "exited")
    page = tmp_path / place / "tools/ui/dist/index.html"
    page.parent.mkdir(parents=True)
    page.touch()
    assert build.collect(wish(tree, web_page=True), str(staged.parent))["web_page"]


def test_systemd_that_refuses(build: Build, tree: Path) -> None:
    refusing = Systemd()

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        return (1, "", "Failed to connect to bus\n") if argv[0] == "systemd-run" else refusing(argv)

    with pytest.raises(ReleaseError, match=r"systemd-run was wanted .*: Failed to connect to bus"):
        Build(run, build.folder).start(wish(tree), 1, 1)
