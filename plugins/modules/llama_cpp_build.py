#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_cpp_build
short_description: Build llama-server of sources, as a release
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Builds llama-server, as one executable that needs none of its own libraries, and makes a release of it, as
    M(homelab.llamacpp.llama_cpp_release) knows them. It does not become the current one.
  - The build runs as a transient systemd unit, C(llama-cpp-build.service), at a low priority. It goes on when the
    connection is lost or the play is ended; a run with the same wish follows it, and makes the release when it is done.
    One that was interrupted, by a reboot for instance, goes on where it stopped.
  - While it waits it shows a line now and then, with the step, the number of steps and the time left.
  - A release of this name that is there is left as it is, so the name has to tell one wish from another.
options:
  name:
    description: Name of the release.
    type: str
    required: true
  root:
    description: Folder of the releases.
    type: path
    default: /opt/llama.cpp
  source:
    description: llama.cpp's source tree on the target.
    type: path
    required: true
  build_dir:
    description: Where to build, with ccache's folder, the script that does it and its log.
    type: path
    default: /opt/llama.cpp/build
  backend:
    description: What to build for.
    type: str
    choices: [cpu, cuda, vulkan]
    default: cpu
  architectures:
    description: For O(backend=cuda), the compute capabilities without their dot.
    type: list
    elements: str
    default: []
  options:
    description: Further cmake options. One that the tree does not have is an error.
    type: dict
    default: {}
  targets:
    description: What to build beside C(llama-server).
    type: list
    elements: str
    default: []
  number:
    description: The build number that C(--version) is to show, and that is then checked.
    type: int
  commit:
    description: The commit that C(--version) is to show.
    type: str
    default: ''
  web_page:
    description: Whether to build the web page in, with npm.
    type: bool
    default: false
  jobs:
    description: How many compilers run at once. By default as many as the cores and the free memory bear.
    type: int
  ccache_gib:
    description: How large ccache's folder may get, in GiB.
    type: int
    default: 5
  stamp:
    description: What to keep in the release's C(stamp.json) beside what the build knows.
    type: dict
    default: {}
  report:
    description: After how many seconds there is a line about the progress.
    type: int
    default: 15
  following:
    description:
      - Whether this call follows a build that a call before has begun, so that its failure is reported and not taken
        for one of an earlier day. Set by the action plugin between one line of progress and the next.
    type: bool
    default: false
attributes:
  action:
    support: full
    description: It shows the progress.
  check_mode:
    support: full
    description: Says whether there would be a build. Nothing is built, and a build that runs is not followed.
  diff_mode:
    support: none
    description: A release never changes.
seealso:
  - module: homelab.llamacpp.llama_cpp_source
  - module: homelab.llamacpp.llama_cpp_release
"""

EXAMPLES = r"""
- name: A release for two RTX 3090
  homelab.llamacpp.llama_cpp_build:
    name: b11434-cuda
    source: /opt/llama.cpp/build/src
    backend: cuda
    architectures: ['86']
    number: 11434
"""

RETURN = r"""
release:
  description: The release, as M(homelab.llamacpp.llama_cpp_release) returns it. In check mode also one that would be.
  type: dict
  returned: when there is one
releases:
  description: All releases, as M(homelab.llamacpp.llama_cpp_release) returns them.
  type: list
  elements: dict
  returned: always
progress:
  description: How far the build is, while it runs.
  type: dict
  returned: while the build runs
  contains:
    step: {description: Number of steps done., type: int, returned: always}
    steps: {description: Number of steps in all; 0 while cmake configures., type: int, returned: always}
    seconds_left:
      description: A guess of the time left in seconds; null before the first step.
      type: int
      returned: always
"""

import os
import time
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_build import Build, Wish, jobs, this_machine
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import (
    Release,
    ReleaseError,
    Releases,
    alone,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import UnitError, runner


class LlamaCppBuild:
    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.params = params
        self.check_mode: bool = module.check_mode
        run = runner(module.run_command)
        self.releases = Releases(run, params["root"])
        self.build = Build(run, params["build_dir"])
        self.wish = Wish(
            tree=params["source"],
            **{name: params[name] for name in Wish.__dataclass_fields__ if name != "tree"},
        )

    def run(self) -> dict[str, Any]:
        name = self.wish.name
        release = self.releases.find(name)
        if release:
            return self.result(release, changed=self.params["following"])
        if self.check_mode:
            return self.result(Release(name, self.releases.path(name), self.params["stamp"]), changed=True)
        os.makedirs(self.build.folder, mode=0o755, exist_ok=True)
        # Two may follow one build: when ansible-playbook is killed, its worker goes on beside the next run.
        with alone(self.build.folder):
            self.begin(name)
        if not self.ended(self.params["report"]):
            return {**self.result(None, changed=True), "progress": asdict(self.build.progress())}
        with alone(self.build.folder):
            return self.result(self.releases.find(name) or self.made(name), changed=True)

    def begin(self, name: str) -> None:
        """Start the build, unless it runs, or somebody else has just made the release."""
        if self.releases.find(name):
            return
        state = self.build.state(name)
        if state == "failed" and self.params["following"]:
            raise ReleaseError(self.build.failure())
        if state in ("none", "failed"):
            cores, memory = this_machine()
            parallel = self.params["jobs"] or jobs(self.wish.backend, cores, memory)
            self.build.start(self.wish, parallel, self.params["ccache_gib"])

    def made(self, name: str) -> Release:
        """The release, of a build that has ended."""
        if self.build.state(name) != "built":
            raise ReleaseError(self.build.failure())
        staged = self.releases.stage(name)
        stamp = {**self.params["stamp"], **self.build.collect(self.wish, staged)}
        release = self.releases.add(name, staged, stamp, self.wish.number)
        self.build.clean()
        return release

    def ended(self, seconds: int) -> bool:
        """Wait for the end of the build, so long."""
        until = time.monotonic() + seconds
        while self.build.state(self.wish.name) == "running":
            if time.monotonic() >= until:
                return False
            time.sleep(0.5)
        return True

    def result(self, release: Release | None, changed: bool) -> dict[str, Any]:
        found = [_as_dict(r) for r in self.releases.all()]
        return {"changed": changed, "releases": found, **({"release": _as_dict(release)} if release else {})}


def _as_dict(release: Release) -> dict[str, Any]:
    return {**asdict(release), "server": release.server}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/opt/llama.cpp"},
            "source": {"type": "path", "required": True},
            "build_dir": {"type": "path", "default": "/opt/llama.cpp/build"},
            "backend": {"type": "str", "choices": ["cpu", "cuda", "vulkan"], "default": "cpu"},
            "architectures": {"type": "list", "elements": "str", "default": []},
            "options": {"type": "dict", "default": {}},
            "targets": {"type": "list", "elements": "str", "default": []},
            "number": {"type": "int"},
            "commit": {"type": "str", "default": ""},
            "web_page": {"type": "bool", "default": False},
            "jobs": {"type": "int"},
            "ccache_gib": {"type": "int", "default": 5},
            "stamp": {"type": "dict", "default": {}},
            "report": {"type": "int", "default": 15},
            "following": {"type": "bool", "default": False},
        },
        required_if=[("backend", "cuda", ["architectures"])],
        supports_check_mode=True,
    )
    build = LlamaCppBuild(module)
    try:
        result = build.run()
    except (ReleaseError, UnitError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
