# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role llama_cpp builds the real llama.cpp for the CPU, in guest 141. Each test goes on from the one above it."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from build_guest import ROOT, BuildGuest, role, source

# The build is in `make test`, minutes on a machine's first run and seconds then on; the rest is in `make test-build`.
long = pytest.mark.skipif("HOMELAB_LONG_TESTS" not in os.environ, reason="make test-build runs it")

UNIT = "llama-cpp-build.service"
SERVER = f"{ROOT}/current/bin/llama-server"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildGuest]:
    guest = BuildGuest(141, tmp_path_factory.mktemp("llama_cpp"))
    guest.create()
    yield guest
    guest.remove()


@pytest.fixture(scope="module")
def wish() -> dict[str, Any]:
    return {"method": "build", "version": "b11434", "source": source()}


def changed(output: str) -> int:
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def releases(guest: BuildGuest) -> list[str]:
    return guest.run(f"ls {ROOT}/releases").split()


def wait_for_build(guest: BuildGuest, steps: int) -> None:
    """Until the build runs and has made so many steps; seen in the guest, since with a full cache it takes seconds."""
    made = f"[ $(grep -c '^\\[[0-9]' {ROOT}/build/build.log) -ge {steps} ]"
    until = f"until systemctl --quiet is-active {UNIT} && {made}; do sleep 0.05; done"
    guest.run(f"timeout 900 sh -c {shlex.quote(until)}")


def test_what_is_refused_before_anything_is_changed(guest: BuildGuest, wish: dict[str, Any]) -> None:
    cases = {
        "a branch would be another build": {**wish, "version": "master"},
        "is a known-bad build: a request for one model kills": {**wish, "version": "b10800"},
        "the archive's checksum as sha256": {**wish, "source": {"path": "/tmp/x.tar.gz"}},
        "compute capabilities without the dot": {**wish, "backend": "cuda", "cuda_architectures": ["8.6"]},
        "Free: ": {**wish, "root": "/mnt/llama.cpp"},
    }
    tasks = []
    for words, variables in cases.items():
        rescue = [
            {
                "name": "It is refused with the reason",
                "ansible.builtin.assert": {"that": f"{words!r} in ansible_failed_result.msg"},
            }
        ]
        block = [role(**variables), {"name": "It should have failed", "ansible.builtin.meta": "end_play"}]
        tasks.append({"name": words, "block": block, "rescue": rescue})
    guest.run("mount -t tmpfs -o size=500M small /mnt")
    output = guest.play(tasks)
    assert f"rescued={len(cases)}" in output, output
    assert changed(output) == 0
    assert guest.run(f"ls {ROOT}/releases", check=False).endswith("No such file or directory")


def test_an_option_that_the_tree_does_not_have(guest: BuildGuest, wish: dict[str, Any]) -> None:
    options = {"LLAMA_CURL": True, "GGML_CUDA_F16": True, "GGML_NATIV": False}
    output = guest.play([role(**wish, cmake_options=options)], ok=False)
    output = " ".join(output.split())
    assert "LLAMA_CURL is gone: the new name is LLAMA_OPENSSL" in output
    assert "GGML_CUDA_F16 is gone: nothing replaces it" in output
    assert "no option GGML_NATIV; the nearest is GGML_NATIVE" in output
    assert guest.run("which cmake", check=False) == ""  # nothing was installed yet


def test_a_build_survives_whoever_asked_for_it(guest: BuildGuest, wish: dict[str, Any]) -> None:
    """The play is killed in the middle; the build goes on; the next run takes it up and does not begin another.

    Ansible's worker is in a session of its own and outlives the kill: two follow the build, and one makes the release.
    """
    process = guest.start([role(**wish)])
    wait_for_build(guest, steps=3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    try:
        output = guest.play([role(**wish)])
    finally:
        guest.keep_ccache()
    assert changed(output) > 0
    (name,) = releases(guest)
    assert name.startswith("b11434-cpu-")
    assert guest.run(f"journalctl --unit {UNIT} --output cat | grep -c '^Started '") == "1"
    stamp = guest.stamp(name)
    assert stamp["version"].startswith("0.6.0-dev (build 11434, commit archive-b0a2feb6)")
    assert stamp["compilers"]["CXX"].startswith("GNU ")
    assert stamp["wish"]["source"] == source()["checksum"]
    assert "-DBUILD_SHARED_LIBS=OFF" in stamp["cmake"]
    assert not stamp["web_page"]
    print(f"\nthe CPU build took {stamp['seconds']} s")


def test_it_is_one_executable_and_current(guest: BuildGuest) -> None:
    assert "build 11434" in guest.run(f"{SERVER} --version")
    libraries = guest.run(f"ldd {SERVER}")
    assert "not found" not in libraries
    assert "libllama" not in libraries
    assert "libggml" not in libraries
    assert "libssl" in libraries  # it speaks TLS
    assert guest.run(f"ls {ROOT}/build").split() == [
        "build.log",
        "build.sh",
        "ccache",
        "download",
        "home",
        "src",
        "src.checksum",
    ]


def test_the_same_wish_is_never_built_twice(guest: BuildGuest, wish: dict[str, Any]) -> None:
    begun = f"journalctl --unit {UNIT} --output cat | grep -c '^Started '"
    before = guest.run(begun)
    assert changed(guest.play([role(**wish)])) == 0
    assert changed(guest.play([role(**wish)], "--check")) == 0
    assert guest.run(begun) == before


@long
def test_another_build_is_made_aside_while_one_serves(guest: BuildGuest, wish: dict[str, Any]) -> None:
    """Its build is cut off by a reboot, and goes on where it stopped; then main leaves alone what serves."""
    more = {**wish, "version": "b11435"}
    process = guest.start([role("release", **more)])
    wait_for_build(guest, steps=20)
    guest.reboot()
    process.communicate()
    assert process.returncode != 0
    guest.run(
        "systemd-run --quiet --unit serving " + f"$(realpath {SERVER}) --host 127.0.0.1 --port 9990 --models-max 1"
    )
    output = guest.play([role(**more)])
    steps = re.findall(r"^\[\d+/(\d+)", guest.run(f"cat {ROOT}/releases/b11435-*/build.log"), re.MULTILINE)
    assert int(steps[-1]) < 195
    assert "b11434-cpu-" in output
    assert "serves and goes on serving" in output
    assert "build 11434" in guest.run(f"{SERVER} --version")


@long
def test_switching_to_it_and_back(guest: BuildGuest) -> None:
    old, new = releases(guest)
    output = guest.play([role("switch", switch_to=new, keep=1)], "--diff")
    assert f"+{new} (current)" in output
    assert "build 11435" in guest.run(f"{SERVER} --version")
    assert guest.run(f"readlink {ROOT}/previous") == f"releases/{old}"
    assert releases(guest) == [old, new]
    assert changed(guest.play([role("switch", switch_to=new, keep=1)])) == 0
    guest.play([role("switch", switch_to=old)])
    assert "build 11434" in guest.run(f"{SERVER} --version")
    guest.run("systemctl stop serving")


@long
def test_a_build_that_fails(guest: BuildGuest, wish: dict[str, Any]) -> None:
    """In the compiler's words, and what serves stays; so twice, and not with the failure of the first run."""
    before = releases(guest)
    broken = {**wish, "cmake_options": {"CMAKE_CXX_FLAGS": "-include /nonexistent.h"}}
    for _run in range(2):
        output = " ".join(guest.play([role(**broken)], ok=False).split())
        assert "The build failed" in output
        assert "/nonexistent.h: No such file or directory" in output
    assert releases(guest) == before
    assert "build 11434" in guest.run(f"{SERVER} --version")


@long
def test_the_cuda_toolkit_that_was_said_to_be_present(guest: BuildGuest, wish: dict[str, Any]) -> None:
    gpus = [{"compute_capability": "8.6"}]
    wish = {**wish, "backend": "cuda", "gpus": gpus, "toolkit": "present"}
    output = " ".join(guest.play([role(**wish)], ok=False).split())
    assert "A build for cuda needs cmake, ninja, c++, nvcc" in output
    assert "missing: nvcc" in output


@long
def test_a_prebuilt_archive(guest: BuildGuest, tmp_path: Path) -> None:
    """Of what was built here, laid out as upstream lays out its own."""
    guest.run(
        f"mkdir -p /srv/llama-b11434 && cp $(realpath {SERVER}) /srv/llama-b11434/ && "
        "tar -czf /srv/a.tgz -C /srv llama-b11434"
    )
    checksum = guest.run("sha256sum /srv/a.tgz").split()[0]
    archive = {"path": "/srv/a.tgz", "remote_src": True, "checksum": f"sha256:{checksum}"}
    output = guest.play(
        [role("release", method="archive", version="b9", known_bad_allowed=True, archive=archive)], ok=False
    )
    assert "Build 9 was wanted of" in " ".join(output.split())
    guest.play([role(method="archive", archive=archive)])
    assert guest.run(f"readlink {ROOT}/current").startswith("releases/b11434-archive-")
    assert changed(guest.play([role(method="archive", archive=archive)])) == 0


@long
def test_sources_from_git(guest: BuildGuest) -> None:
    """By tag and by commit, from a repository of the guest's own. Its small tree is a stand-in of the same shape."""
    tree = "/srv/llama.cpp.git"
    cmake = """
        cmake_minimum_required(VERSION 3.14)
        project("llama.cpp" CXX)
        option(GGML_CUDA "x" OFF)
        add_executable(llama-server main.cpp)
        target_compile_definitions(llama-server PRIVATE N="${LLAMA_BUILD_NUMBER}" C="${LLAMA_BUILD_COMMIT}")
        set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
        set_target_properties(llama-server PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
    """
    main = '#include <cstdio>\\nint main() { puts("version: 0 (build " N ", commit " C ")"); }\\n'
    guest.run("apt-get install -y -qq --no-install-recommends git")
    guest.run(f"mkdir -p {tree} && cat > {tree}/CMakeLists.txt <<'END'\n{cmake}\nEND")
    guest.run(f"printf '{main}' > {tree}/main.cpp")
    identity = "-c user.name=x -c user.email=x@example.org"
    guest.run(
        f"cd {tree} && git init -q && git config uploadpack.allowAnySHA1InWant true && git add . && "
        f"git {identity} commit -qm 1 && git tag b20000 && echo // >> main.cpp && git {identity} commit -qam 2 && "
        f"git {identity} commit -q --allow-empty -m 3"
    )
    tagged, commit = guest.run(f"git -C {tree} rev-parse b20000 HEAD~1").split()
    wish = {"method": "build", "source": {"repo": f"file://{tree}"}, "root": "/opt/from-git"}
    assert changed(guest.play([role(**wish, version="b20000")], "--check")) > 0
    for version, said in {"b20000": f"build 20000, commit {tagged}", commit: f"build 0, commit {commit}"}.items():
        guest.play([role(**wish, version=version)])
        assert said in guest.run("/opt/from-git/current/bin/llama-server --version")
        assert changed(guest.play([role(**wish, version=version)])) == 0
