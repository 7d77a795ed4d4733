#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_cpp_release
short_description: Releases of llama-server, side by side, and which of them is current
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - A release is a folder C(<root>/releases/<name>) with C(bin/llama-server) and a C(stamp.json). The link
    C(<root>/current) leads to the one that serves, C(<root>/previous) to the one that served before.
  - Makes one of a prebuilt archive or of a llama-server that the system's packages installed, makes one current, takes
    old ones away. Without O(name) it lists them. M(homelab.llamacpp.llama_cpp_build) makes one of sources.
  - A release that misses a library or does not start with C(--version) is never added and never becomes current.
options:
  root:
    description: Folder of the releases and of the links.
    type: path
    default: /opt/llama.cpp
  name:
    description: Name of the release. Without it the releases are listed and nothing is changed, but for O(keep).
    type: str
  state:
    description:
      - V(present) - it is there. One that is there is left as it is; else it is made of O(archive) or O(server).
      - V(current) - it is there, and C(current) leads to it. The switch is atomic. What runs goes on running.
      - V(absent) - it is gone. One that is current, or runs, is not deleted.
    type: str
    choices: [present, current, absent]
    default: present
  archive:
    description:
      - A prebuilt release on the target, a tar archive with gzip, bzip2, xz or zstd. C(llama-server) is found wherever
        it lies in it; what lies beside it comes along.
      - Refused are an archive that another user can change, and one with paths or links out of itself, devices or
        set-user-ID files.
    type: path
  checksum:
    description: What the SHA-256 of O(archive) has to be, as C(sha256:…).
    type: str
  server:
    description: A llama-server outside, to which the release is a link.
    type: path
  build:
    description: The build number that C(--version) has to show.
    type: int
  stamp:
    description: What to keep in C(stamp.json) beside the name and the version.
    type: dict
    default: {}
  keep:
    description:
      - After that, delete all but this many releases, oldest first. The current and the previous one and what runs are
        kept in any case.
    type: int
  package:
    description: A package of the system, whose version is looked up.
    type: str
attributes:
  check_mode:
    support: full
    description: Says what would be made, switched and deleted. An archive is not unpacked to see what is in it.
  diff_mode:
    support: full
    description: The names of the releases and where the links lead, before and after.
seealso:
  - module: homelab.llamacpp.llama_cpp_build
"""

EXAMPLES = r"""
- name: What is there
  homelab.llamacpp.llama_cpp_release:
  register: found

- name: A prebuilt release, beside the one that serves
  homelab.llamacpp.llama_cpp_release:
    name: b11434-archive
    archive: /root/llama-b11434-bin-ubuntu-x64.tar.gz
    checksum: sha256:0b7a…
    build: 11434

- name: The one that serves from the next start of the service on
  homelab.llamacpp.llama_cpp_release:
    name: b11434-archive
    state: current
    keep: 3
"""

RETURN = r"""
release:
  description: The release that O(name) names, as in RV(releases). In check mode also one that would be made.
  type: dict
  returned: when O(name) is given and O(state) is not V(absent)
releases:
  description: The releases, newest first.
  type: list
  elements: dict
  returned: always
  contains:
    name: {description: Its name., type: str, returned: always}
    path: {description: Its folder., type: str, returned: always}
    server: {description: Its llama-server., type: str, returned: always}
    stamp: {description: What is known of how it was made., type: dict, returned: always}
    current: {description: Whether C(current) leads to it., type: bool, returned: always}
    previous: {description: Whether C(previous) leads to it., type: bool, returned: always}
    running: {description: Whether a process runs its binary., type: bool, returned: always}
current:
  description: Name of the current release, or null.
  type: str
  returned: always
previous:
  description: Name of the release that was current before, or null.
  type: str
  returned: always
removed:
  description: Names of the releases that were deleted.
  type: list
  elements: str
  returned: always
package:
  description: The version of O(package); null where it is not installed.
  type: str
  returned: when O(package) is given
  sample: 11669+dfsg-1
free_mib:
  description: What is free where the releases lie, in MiB.
  type: int
  returned: always
"""

import contextlib
import os
import shutil
from dataclasses import asdict, replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils import _packages
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import (
    SERVER,
    Release,
    ReleaseError,
    Releases,
    alone,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_sources import unpack, verify
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import runner


class LlamaCppRelease:
    def __init__(self, module: AnsibleModule) -> None:
        self.params = module.params
        self.check_mode: bool = module.check_mode
        self.run_command = runner(module.run_command)
        self.releases = Releases(self.run_command, module.params["root"])
        self.before = self.releases.all()
        self.after = list(self.before)
        self.changed = False
        self.removed: list[str] = []

    def run(self) -> None:
        name, state = self.params["name"], self.params["state"]
        if name and state == "absent":
            self.remove([release for release in self.before if release.name == name])
        elif name:
            self.present(name)
            if state == "current":
                self.current(name)
        if self.params["keep"] is not None:
            self.remove(self.releases.doomed(self.params["keep"], spare=name))

    def present(self, name: str) -> None:
        if any(release.name == name for release in self.before):
            return
        if not (self.params["archive"] or self.params["server"]):
            there = ", ".join(release.name for release in self.before) or "none"
            raise ReleaseError(
                f"Release {name} was wanted in {self.releases.folder}; there are: {there}. Name one of them, "
                "or say what to make it of (archive, server)"
            )
        self.changed = True
        if self.check_mode:
            self.after = [Release(name, self.releases.path(name), self.params["stamp"]), *self.after]
            return
        if self.params["archive"]:
            verify(self.params["archive"], self.params["checksum"])
        staged = self.releases.stage(name)
        if self.params["server"]:
            os.symlink(self.params["server"], os.path.join(staged, "bin", SERVER))
        else:
            unpack_release(self.run_command, self.params["archive"], staged)
        self.releases.add(name, staged, self.params["stamp"], self.params["build"])
        self.after = self.releases.all()

    def current(self, name: str) -> None:
        if any(release.name == name and release.current for release in self.after):
            return
        self.changed = True
        if self.check_mode:
            self.after = [replace(r, current=r.name == name, previous=r.current) for r in self.after]
            return
        self.releases.switch(name)
        self.after = self.releases.all()

    def remove(self, doomed: list[Release]) -> None:
        for release in doomed:
            self.changed = True
            if not self.check_mode:
                self.releases.remove(release)
            self.removed.append(release.name)
        self.after = [release for release in self.after if release.name not in self.removed]

    def result(self) -> dict[str, Any]:
        after = [{**asdict(release), "server": release.server} for release in self.after]
        result: dict[str, Any] = {
            "changed": self.changed,
            "releases": after,
            "current": next((r.name for r in self.after if r.current), None),
            "previous": next((r.name for r in self.after if r.previous), None),
            "removed": self.removed,
            "free_mib": free_mib(self.releases.root),
            "diff": {"before": _summary(self.before), "after": _summary(self.after)},
        }
        if self.params["package"]:
            result["package"] = _packages.installed_version(self.run_command, self.params["package"])
        if self.params["name"] and self.params["state"] != "absent":
            result["release"] = next((r for r in after if r["name"] == self.params["name"]), None)
        return result


def unpack_release(run: Any, archive: str, staged: str) -> None:
    """The folder in which an archive has llama-server becomes the release's `bin`, with all that is in it."""
    inside = os.path.join(staged, ".archive")
    unpack(run, archive, inside)
    found = sorted(
        (os.path.join(folder, SERVER) for folder, _folders, files in os.walk(inside) if SERVER in files), key=len
    )
    if not found:
        shutil.rmtree(staged)
        raise ReleaseError(f"A prebuilt release was wanted in {archive}, there is no {SERVER} in it")
    os.rmdir(os.path.join(staged, "bin"))
    binaries = os.path.dirname(found[0])
    if os.path.basename(binaries) == "bin":
        top = os.path.dirname(binaries)
        for entry in os.listdir(top):
            os.rename(os.path.join(top, entry), os.path.join(staged, entry))
    else:
        os.rename(binaries, os.path.join(staged, "bin"))
    shutil.rmtree(inside, ignore_errors=True)


def free_mib(path: str) -> int:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free >> 20


def _summary(releases: list[Release]) -> str:
    marks = {True: " (current)", False: ""}
    lines = (f"{r.name}{marks[r.current]}{' (previous)' if r.previous else ''}\n" for r in releases)
    return "".join(sorted(lines))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/llama.cpp"},
            "name": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "current", "absent"], "default": "present"},
            "archive": {"type": "path"},
            "checksum": {"type": "str"},
            "server": {"type": "path"},
            "build": {"type": "int"},
            "stamp": {"type": "dict", "default": {}},
            "keep": {"type": "int"},
            "package": {"type": "str"},
        },
        mutually_exclusive=[("archive", "server")],
        required_by={"archive": ("name", "checksum"), "server": "name"},
        supports_check_mode=True,
    )
    with contextlib.ExitStack() as lock:
        if not module.check_mode and (module.params["name"] or module.params["keep"] is not None):
            try:
                os.makedirs(module.params["root"], mode=0o755, exist_ok=True)
                lock.enter_context(alone(module.params["root"]))
            except (ReleaseError, OSError) as error:
                module.fail_json(msg=str(error))
        release = LlamaCppRelease(module)
        try:
            release.run()
        except (ReleaseError, OSError) as error:
            module.fail_json(msg=str(error), **release.result())
        module.exit_json(**release.result())


if __name__ == "__main__":
    main()
