# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A build of llama-server as a transient systemd unit, which outlives whoever asked for it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _cmake_options as cmake
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import SERVER, ReleaseError
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit, UnitError

UNIT = "llama-cpp-build.service"

# MiB that one compiler may take: nvcc on the attention kernels, g++ on the server's larger files.
_MEMORY_PER_JOB = {"cuda": 2560, "cpu": 1280, "vulkan": 1280}
_TOOLS = {"cuda": ["nvcc"], "vulkan": ["glslc"], "cpu": []}
# Where NVIDIA's own packages put nvcc; no shell's PATH has it.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/cuda/bin"

_STEP = re.compile(r"^\[(\d+)/(\d+) ([\d.]+)\]", re.MULTILINE)
_TELLING = re.compile(r"error|FAILED:|undefined reference|No space left|Killed|not found|Could not", re.IGNORECASE)
# Not CMAKE_CUDA_HOST_COMPILER_: what nvcc itself calls.
_COMPILER = re.compile(r'^set\(CMAKE_(?:CXX|CUDA)_COMPILER_(ID|VERSION) "([^"]*)"\)', re.MULTILINE)

# One executable that finds all its own code, and nothing that is not asked for. What a tree does not know is left out.
_FIXED: Mapping[str, Any] = {
    "BUILD_SHARED_LIBS": False,
    "CMAKE_BUILD_TYPE": "Release",
    "LLAMA_BUILD_APP": False,
    "LLAMA_BUILD_EXAMPLES": False,
    "LLAMA_BUILD_TESTS": False,
    "LLAMA_TOOLS_INSTALL": False,
    "LLAMA_USE_PREBUILT_UI": False,
}
_BACKENDS: Mapping[str, Mapping[str, Any]] = {
    "cpu": {"GGML_CUDA": False, "GGML_VULKAN": False},
    "cuda": {"GGML_CUDA": True, "GGML_VULKAN": False},
    "vulkan": {"GGML_CUDA": False, "GGML_VULKAN": True},
}
# Which of the role's variables has an option that is not to be given by its cmake name.
TAKEN: Mapping[str, str] = {
    **dict.fromkeys(_FIXED, "this collection (one self-contained executable)"),
    **dict.fromkeys(_BACKENDS["cpu"], "backend"),
    "CMAKE_CUDA_ARCHITECTURES": "architectures",
    "LLAMA_BUILD_UI": "web_page",
    "LLAMA_BUILD_NUMBER": "number",
    "LLAMA_BUILD_COMMIT": "commit",
}


@dataclass(frozen=True)
class Wish:
    """What is to be built of the tree. `number` is None where nobody knows it: the binary then says build 0."""

    name: str
    tree: str
    backend: str = "cpu"
    architectures: list[str] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    number: int | None = None
    commit: str = ""
    web_page: bool = False

    @property
    def all_targets(self) -> list[str]:
        return [SERVER, *(target for target in self.targets if target != SERVER)]

    def cmake_options(self) -> dict[str, Any]:
        """All options, for the tree as it is. Raises ReleaseError for one that the tree does not have."""
        known = cmake.read_options(self.tree)
        check_options(self.options, known)
        options: dict[str, Any] = {**_FIXED, **_BACKENDS[self.backend], "LLAMA_BUILD_UI": self.web_page}
        options = {name: value for name, value in options.items() if name in known.names or name.startswith("CMAKE_")}
        if self.backend == "cuda":
            options["CMAKE_CUDA_ARCHITECTURES"] = self.architectures
        options["LLAMA_BUILD_NUMBER"] = self.number or 0
        options["LLAMA_BUILD_COMMIT"] = self.commit or "unknown"
        return {**options, **self.options}


@dataclass(frozen=True)
class Progress:
    """Step `step` of `steps`; `seconds_left` is a guess from the pace so far, None before the first step."""

    step: int
    steps: int
    seconds_left: int | None


def check_options(wanted: Mapping[str, Any], known: cmake.TreeOptions) -> None:
    lines = cmake.problems(wanted, known, TAKEN)
    if lines:
        raise ReleaseError("cmake options that this source tree has were wanted: " + "; ".join(lines))


def jobs(backend: str, cores: int, memory_mib: int) -> int:
    """How many compilers may run at once."""
    return max(1, min(cores, memory_mib // _MEMORY_PER_JOB[backend]))


def this_machine() -> tuple[int, int]:
    """Cores, and memory in MiB, that this process may take."""
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = next(int(line.split()[1]) >> 10 for line in file if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
        memory = min(memory, int(file.read()) >> 20)  # "max" where there is no limit
    return len(os.sched_getaffinity(0)), memory


class Build:
    """The one build of this machine: its folder `tree`, `out`, `ccache`, `build.sh`, `build.log`, and its unit."""

    def __init__(self, run: Run, folder: str) -> None:
        self._run = run
        self._unit = Unit(run, UNIT)
        self.folder = folder
        self.out = os.path.join(folder, "out")
        self.log = os.path.join(folder, "build.log")

    def state(self, name: str) -> str:
        """`none`, `running`, `built` or `failed`, of the build of this name; ReleaseError while another one runs."""
        found = self._unit.properties("ActiveState", "SubState", "Description")
        other = found["Description"] != _description(name)
        if found["ActiveState"] in ("active", "activating") and found["SubState"] != "exited":
            if other:
                raise ReleaseError(
                    f"The build of {name} was wanted; another one is running: {found['Description']}. Run this again "
                    f"when it is done, or end it with: systemctl stop {UNIT}"
                )
            return "running"
        if other:
            return "none"
        return {"active": "built", "failed": "failed"}.get(found["ActiveState"], "none")

    def start(self, wish: Wish, parallel: int, ccache_gib: int) -> None:
        """Begin, or go on where an interrupted build of the same wish stopped."""
        options = wish.cmake_options()
        self._need_tools(wish)
        note = os.path.join(self.out, "wish")
        if _read(note) != wish.name:
            shutil.rmtree(self.out, ignore_errors=True)
            os.makedirs(self.out, mode=0o755)
            with open(note, "w", encoding="utf-8") as file:
                file.write(wish.name)
        for folder in ("ccache", "home"):
            os.makedirs(os.path.join(self.folder, folder), mode=0o755, exist_ok=True)
        script = os.path.join(self.folder, "build.sh")
        with open(script, "w", encoding="utf-8") as file:
            file.write(self._script(wish, options, parallel, ccache_gib))
        self.forget()
        status, output, errors = self._run(
            [
                *["systemd-run", "--quiet", f"--unit={UNIT}", f"--description={_description(wish.name)}"],
                # What serves goes first, and when memory ends it is not the service that is killed.
                *[
                    "--remain-after-exit",
                    "--property=Nice=10",
                    "--property=CPUWeight=20",
                    "--property=OOMScoreAdjust=500",
                ],
                *["--property=NoNewPrivileges=yes", "--property=PrivateTmp=yes", "--property=ProtectHome=yes"],
                *["--property=ProtectSystem=strict", f"--property=ReadWritePaths={self.folder}"],
                *[f"--property=StandardOutput=truncate:{self.log}", "--property=StandardError=inherit"],
                *["/bin/sh", script],
            ]
        )
        if status != 0:
            said = " ".join((errors or output).split())
            raise ReleaseError(f"systemd-run was wanted to start the build as {UNIT}: {said or f'status {status}'}")

    def progress(self) -> Progress:
        steps = _STEP.findall(_read(self.log))
        if not steps:
            return Progress(0, 0, None)
        step, total, seconds = int(steps[-1][0]), int(steps[-1][1]), float(steps[-1][2])
        return Progress(step, total, round(seconds / step * (total - step)) if step else None)

    def failure(self) -> str:
        """Why it failed, in the words of compiler and linker."""
        log = _read(self.log)
        telling = dict.fromkeys(line.strip() for line in log.splitlines() if _TELLING.search(line))
        words = list(telling)[:6] or [line.strip() for line in log.splitlines()[-6:]]
        hint = ""
        if "Killed" in log or "signal 9" in log:
            hint = " Memory ran out: give the container more, or set fewer jobs."
        elif "No space left" in log:
            hint = " The disk is full: enlarge it, or delete old releases; the build then goes on where it stopped."
        return f"The build failed: {' / '.join(words) or 'it left no word'}.{hint} All of it is in {self.log}"

    def collect(self, wish: Wish, staged: str) -> dict[str, Any]:
        """Put what was built into a staged release, and say how it was built, for its stamp."""
        has_page = any(os.path.exists(os.path.join(at, "tools/ui/dist/index.html")) for at in (self.out, wish.tree))
        if wish.web_page and not has_page:
            # The build takes that lightly, and ends well without the page.
            self.forget()
            said = [line.strip() for line in _read(self.log).splitlines() if "UI:" in line or "npm" in line]
            raise ReleaseError(
                f"The web page was wanted; npm did not make it: {' / '.join(said[-4:])}. It needs npm's registry; mend "
                f"that and run again, or build without the page. All of it is in {self.log}"
            )
        for target in wish.all_targets:
            source = os.path.join(self.out, "bin", target)
            if not os.path.isfile(source):
                raise ReleaseError(f"The build was wanted to leave {source}; it did not. Its log is {self.log}")
            shutil.copy(source, os.path.join(staged, "bin", target))
            os.chmod(os.path.join(staged, "bin", target), 0o755)
        shutil.copy(self.log, os.path.join(staged, "build.log"))
        times = self._unit.properties("ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic")
        start, end = (int(text or 0) for text in times.values())
        return {
            "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round((end - start) / 1e6, 1),
            "cmake": cmake.arguments(wish.cmake_options()),
            "compilers": self._compilers(),
            "web_page": has_page,
        }

    def forget(self) -> None:
        """Let systemd forget a build that has ended."""
        self._unit.stop()
        with contextlib.suppress(UnitError):
            self._unit.reset_failed()  # fails when there is nothing to forget

    def clean(self) -> None:
        """Take away what ccache can bring back in seconds."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.forget()

    def _script(self, wish: Wish, options: Mapping[str, Any], parallel: int, ccache_gib: int) -> str:
        environment = {
            "PATH": _PATH,
            "HOME": os.path.join(self.folder, "home"),
            "CCACHE_DIR": os.path.join(self.folder, "ccache"),
            "CCACHE_BASEDIR": self.folder,
            "CCACHE_MAXSIZE": f"{ccache_gib}G",
            "NINJA_STATUS": "[%f/%t %e] ",
        }
        configure = ["cmake", "-S", wish.tree, "-B", self.out, "-G", "Ninja", *cmake.arguments(options)]
        build = ["cmake", "--build", self.out, "--parallel", str(parallel), "--target", *wish.all_targets]
        return "\n".join(
            [
                "#!/bin/sh",
                f"# The build of {wish.name}, written by homelab.llamacpp.llama_cpp_build. It can be run by hand.",
                "set -eu",
                *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
                shlex.join(configure),
                f"exec {shlex.join(build)}",
                "",
            ]
        )

    def _need_tools(self, wish: Wish) -> None:
        tools = ["cmake", "ninja", "c++", *_TOOLS[wish.backend], *(["npm"] if wish.web_page else [])]
        missing = [tool for tool in tools if not shutil.which(tool, path=_PATH)]
        if missing:
            raise ReleaseError(
                f"A build for {wish.backend} needs {', '.join(tools)} in {_PATH}; missing: {', '.join(missing)}. "
                "Install them, or let the role do it (llama_cpp_toolkit)"
            )

    def _compilers(self) -> dict[str, str]:
        found = {}
        for folder, _folders, files in os.walk(os.path.join(self.out, "CMakeFiles")):
            for language in ("CXX", "CUDA"):
                if f"CMake{language}Compiler.cmake" in files:
                    text = _read(os.path.join(folder, f"CMake{language}Compiler.cmake"))
                    found[language] = " ".join(value for _kind, value in sorted(_COMPILER.findall(text)))
        return found


def _description(name: str) -> str:
    return f"Build of llama.cpp {name}"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
