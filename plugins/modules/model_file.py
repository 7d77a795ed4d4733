#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_file
short_description: Put GGUF models in their places, whole and checked
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Puts models into a directory in the layout that C(llama-server --models-dir) reads, from a Hugging Face repository,
    a URL, a path on the target, or llama.cpp's own cache. A model of one file is C(<name>.gguf); one of several files
    (shards, a projector, a draft model) is a folder C(<name>).
  - Downloads go over several connections, and each goes on where it was when it was cut off, across runs and reboots.
    A model appears in the directory when all its files have arrived and have their SHA-256, and not before.
  - What has been placed is recorded with its size, time of change and SHA-256. A run that finds that unchanged reads no
    file and asks no server. Content that another model of the directory has already is linked, not fetched again.
  - One call takes the whole list, so that the room on the disk is judged for all of them before anything is fetched,
    and so that a run that has nothing to do costs the same for 200 models as for one.
  - A download says in the play's output how far it is, how fast, and how long it will take.
attributes:
  check_mode:
    support: full
    description: Says what would be fetched and how much it is. It asks the server, and writes nothing.
  diff_mode:
    support: full
    description: Shows the files of each model, with sizes and checksums, before and after.
options:
  models_dir:
    description:
      - The directory. It has to be there (in check mode it may be missing).
      - The directory, every directory above it and that of O(record) must belong to root or the user of this task, and
        no other user may write to them. Otherwise that user could lead this task to other files, and it fails before it
        changes anything. In check mode it warns.
    type: path
    required: true
  models:
    description: The models. What is in the directory and not named here is left alone, unless O(prune) is given.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Id of the model in the router, and its entry in the directory. Letters, digits and C(. _ + @ -).
        type: str
        required: true
      state:
        description:
          - V(present), the model is in its place, whole.
          - V(absent), the model's entry and its part files are gone. What a link points to stays, and so does the same
            content under another name. A run that is placing the model is waited for.
        type: str
        choices: [present, absent]
        default: present
      source:
        description:
          - Where the model comes from; needed for V(present). Exactly one of O(models[].source.repo),
            O(models[].source.url) and O(models[].source.path).
        type: dict
        suboptions: &source
          repo:
            description: A repository of the hub, V(owner/name).
            type: str
          revision:
            description:
              - A branch, a tag or a commit of the repository. The commit that it means when the model is fetched is
                recorded, and stays until O(refresh) is asked for.
            type: str
            default: main
          file:
            description: The model's file in the repository with its folder; of several shards any one, all are taken.
            type: str
          quant:
            description:
              - The quantization, such as V(Q4_K_M) or V(UD-Q4_K_XL), in place of the file's name. It must mean exactly
                one model of the repository; otherwise the error lists what there is.
            type: str
          cache:
            description:
              - A cache of llama.cpp or of Hugging Face on the target (C(LLAMA_CACHE), C(HF_HUB_CACHE)), from which the
                files of the repository are taken by O(models[].source.method). The hub is not asked.
            type: path
          url:
            description:
              - The address of the file; of several shards the first one's, the others follow from its name. It ends in
                the file's name and has no user name and password in it; use O(token) or O(token_file).
            type: str
          checksum:
            description:
              - The SHA-256 of each file (64 hexadecimal digits, V(sha256:) before them or not), in the order of the
                shards. With O(models[].source.url) it is needed, unless the server itself names it as the hub does.
              - With a repository or a path it is checked too.
            type: list
            elements: str
          path:
            description:
              - On the target, a GGUF file (of several shards any one), or a folder with the shards of one model or with
                a model and its projector (C(mmproj) in its name).
            type: path
          method:
            description:
              - With O(models[].source.path) and O(models[].source.cache). V(link) leaves the files where they are and
                makes symbolic links, V(hardlink) gives the files a second name on the same file system, which outlives
                the first, V(copy) copies (sharing the blocks, where the file system can), V(move) moves.
              - A file that is linked either way keeps its owner, group and mode. With V(hardlink) they have to let the
                file be read as O(mode) and O(group) would, otherwise it is an error.
            type: str
            choices: [link, hardlink, copy, move]
            default: link
      projector:
        description:
          - The model's projector, a source like O(models[].source). Without C(repo), C(url) and C(path) it is in the
            same repository; without C(file) and C(quant) too, it is the repository's only projector.
        type: dict
        suboptions: *source
      draft:
        description:
          - A draft model, a source like O(models[].source). Without C(repo), C(url) and C(path) it is in the same
            repository.
          - The router finds a draft model beside its model by its name (C(mtp-), C(dspark-), C(dflash-)). One with
            another name is put in the folder C(draft) of the model's folder, and RV(models[].draft) is for the preset's
            C(spec-draft-model).
        type: dict
        suboptions: *source
  endpoint:
    description: The hub, or a mirror of it.
    type: str
    default: https://huggingface.co
  token:
    description:
      - The hub's token, for gated and private repositories. It is sent to O(endpoint) alone, never on to a storage
        server.
    type: str
  token_file:
    description: A file on the target whose first line that is not blank is the token.
    type: path
  validate_certs:
    description: Whether the servers' certificates are checked.
    type: bool
    default: true
  ca_path:
    description: A file of certificates of authorities to trust besides those of the system.
    type: path
  connections:
    description:
      - How many connections fetch at once. Models of up to 8 MiB are fetched at the same time, each over one of them;
        then each larger one over all of them.
    type: int
    default: 8
  rate_limit:
    description: The most bytes a second, all connections together, such as V(20M) (MiB). By default there is no limit.
    type: str
  timeout:
    description: Seconds without any answer after which a connection counts as lost.
    type: int
    default: 30
  retries:
    description:
      - How often in a row, without a byte arriving in between, a download is tried again after what may pass (a lost
        connection, 408, 429, 5xx). The pauses grow from one second to thirty, or are what the server asks for.
      - 401, 403, 404 and a file that changed on the server are errors at once.
      - A connection that brings less than 1024 bytes a second over five minutes is an error, too.
    type: int
    default: 8
  verify:
    description:
      - Read the files in place again and compare their checksums with the recorded ones. A damaged one is fetched
        again.
    type: bool
    default: false
  refresh:
    description: Ask the hub again what O(models[].source.revision) is, and fetch what has changed since.
    type: bool
    default: false
  facts:
    description:
      - Return the planner's facts of the models that are not in place yet, RV(models[].facts). Their headers are read
        from the source, some MiB of each. Most useful in check mode, to plan before anything is fetched.
    type: bool
    default: false
  prune:
    description:
      - V(parts) removes part files that belong to no model of O(models). V(models) also removes models that this module
        has placed and that O(models) does not name. What it did not place stays, and so does what another run is
        placing.
    type: str
    choices: [nothing, parts, models]
    default: nothing
  record:
    description:
      - The file of what has been placed. The default is C(.model_file.json) in O(models_dir). It is to be elsewhere
        where that directory cannot be written.
    type: path
  owner:
    description:
      - Owner of the files that are placed. By default the user of this task, to whom the folders belong in any case.
    type: str
  group:
    description: Group of the files and folders that are placed.
    type: str
  mode:
    description:
      - Mode of the files that are placed; folders can be looked into by whoever can read the files, and written to by
        their owner alone.
    type: raw
    default: "0644"
notes:
  - While it is fetched a file lies beside its place as C(.part), with a small C(.part.journal) that knows which bytes
    of it have arrived. llama-server passes over both. O(prune=parts) removes those of models that are not wanted any
    more.
  - Where more than 64 MiB are to be fetched or copied the work goes on as a job on the target, also when Ansible is
    stopped meanwhile. The next run then waits for it.
  - Two runs that want the same model do not disturb each other, the second waits and then finds it. It gives up when
    the first has written nothing of the model for 30 minutes.
  - The room on the disk is judged by what its file system says is free to this user.
  - Proxies are taken from the environment of the task (C(https_proxy), C(no_proxy)).
seealso:
  - module: homelab.llamacpp.gguf_info
  - module: homelab.llamacpp.router_model
"""

EXAMPLES = r"""
- name: Three models
  homelab.llamacpp.model_file:
    models_dir: /var/lib/llama-router/models
    token_file: /etc/llama-router/hub-token
    models:
      - name: qwen3-8b
        source:
          repo: Qwen/Qwen3-8B-GGUF
          quant: Q4_K_M
      - name: gemma-3-27b
        source:
          repo: unsloth/gemma-3-27b-it-GGUF
          revision: 0c2e3ed9e9b2b5e1b2e3d4c5f6a7b8c9d0e1f2a3
          file: gemma-3-27b-it-Q4_K_M.gguf
        projector:
          file: mmproj-F16.gguf
      - name: own-finetune
        source:
          path: /srv/models/own-finetune-Q8_0.gguf

- name: What would be fetched, and does it fit?
  homelab.llamacpp.model_file:
    models_dir: /var/lib/llama-router/models
    models: "{{ llamacpp_models }}"
    facts: true
  check_mode: true
  register: wanted

- name: At night, one connection and no more than 5 MiB a second
  homelab.llamacpp.model_file:
    models_dir: /var/lib/llama-router/models
    connections: 1
    rate_limit: 5M
    models:
      - name: big
        source:
          url: https://models.example.org/big-00001-of-00002.gguf
          checksum:
            - sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
            - sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752

- name: A model is gone
  homelab.llamacpp.model_file:
    models_dir: /var/lib/llama-router/models
    models:
      - name: qwen3-8b
        state: absent
"""

RETURN = r"""
models:
  description: The models of O(models), in that order; in check mode, as they would be.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Its name.
      type: str
    changed:
      description: Whether this run changed something of it.
      type: bool
    state:
      description: As asked for.
      type: str
    path:
      description: The file that the router loads, of several shards the first. Null for an absent one.
      type: str
    files:
      description: All its files, its projector and draft model too.
      type: list
      elements: str
    projector:
      description: Its projector.
      type: str
    draft:
      description: Its draft model.
      type: str
    size:
      description: Bytes of all its files.
      type: int
    to_fetch:
      description:
        - Bytes that had to be fetched when the run began. What has arrived already, and what another model of the list
          brings, is not counted.
      type: int
    commit:
      description: The commit of the repository that it is of. Null for other sources.
      type: str
    facts:
      description:
        - With O(facts=true), and where the model was not in place, what P(homelab.llamacpp.vram_plan#filter) needs.
          Otherwise null.
      type: dict
to_fetch:
  description: Bytes that had to be fetched for all models together when the run began.
  type: int
  returned: success
to_copy:
  description: Bytes that had to be copied or read on the target, for O(models[].source.method=copy) and V(move).
  type: int
  returned: success
fetched:
  description: Bytes that were fetched in this run.
  type: int
  returned: success
removed:
  description: Paths that were removed, or in check mode would be.
  type: list
  elements: str
  returned: success
"""

import contextlib
import grp
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.formatters import human_to_bytes
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files
from ansible_collections.homelab.llamacpp.plugins.module_utils._download import look
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import GGUFError
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import Client, FetchError, patiently, split
from ansible_collections.homelab.llamacpp.plugins.module_utils._hub import METADATA_RETRIES
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_place import Placer, Settings, Step, files_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_source import Resolved, Resolver, check, identity
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_store import Store
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName
from ansible_collections.homelab.llamacpp.plugins.module_utils._progress import Progress, amount, postponed

SOURCE = {
    "repo": {"type": "str"},
    "revision": {"type": "str", "default": "main"},
    "file": {"type": "str"},
    "quant": {"type": "str"},
    "cache": {"type": "path"},
    "url": {"type": "str"},
    "checksum": {"type": "list", "elements": "str"},
    "path": {"type": "path"},
    "method": {"type": "str", "choices": ["link", "hardlink", "copy", "move"], "default": "link"},
}
MODEL = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "source": {"type": "dict", "options": SOURCE},
    "projector": {"type": "dict", "options": SOURCE},
    "draft": {"type": "dict", "options": SOURCE},
}
OPTIONS = {
    "models_dir": {"type": "path", "required": True},
    "models": {"type": "list", "elements": "dict", "required": True, "options": MODEL},
    "endpoint": {"type": "str", "default": "https://huggingface.co"},
    "token": {"type": "str", "no_log": True},
    "token_file": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
    "connections": {"type": "int", "default": 8},
    "rate_limit": {"type": "str"},
    "timeout": {"type": "int", "default": 30},
    "retries": {"type": "int", "default": 8},
    "verify": {"type": "bool", "default": False},
    "refresh": {"type": "bool", "default": False},
    "facts": {"type": "bool", "default": False},
    "prune": {"type": "str", "choices": ["nothing", "parts", "models"], "default": "nothing"},
    "record": {"type": "path"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "raw", "default": "0644"},
}
LARGEST_TOKEN_FILE = 64 << 10  # bytes
SMALL = 8 << 20  # bytes of a model, to which a single connection is enough
LONG_STEPS = ("fetch", "copy", "move", "hardlink")


class Work(NamedTuple):
    """A model that is not as it should be: its files, and how each comes into its place."""

    model: dict[str, Any]
    resolved: Resolved
    steps: list[Step]

    @property
    def size(self) -> int:
        """Bytes that it takes time to place."""
        return sum(step.item.size for step in self.steps if step.how in LONG_STEPS)


def separated(works: list[Work]) -> tuple[list[Work], list[Work]]:
    """Those that can be placed at the same time: small downloads without content that one before them brings too."""
    small: list[Work] = []
    others: list[Work] = []
    seen: set[str] = set()
    for work in works:
        sums = {item.sha256 for item in work.resolved.items}
        alone = "" not in sums and seen.isdisjoint(sums) and {step.how for step in work.steps} <= {"fetch", "keep"}
        (small if alone and work.size <= SMALL else others).append(work)
        seen |= sums
    return small, others


class ModelFile:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: dict[str, Any] = module.params
        self.models: list[dict[str, Any]] = self.params["models"]
        self.leaving: list[str] = []  # places that this run takes away
        self.changed = False
        self.looked_at: set[str | None] = set()  # repositories, and addresses of files

    def run(self) -> None:
        self.check_options()
        self.store = Store(self.params["models_dir"], self.params["record"])
        self.check_folders()
        self.verifying = Progress(self.store.recorded_size())
        self.verified = 0  # bytes
        try:
            self.client = Client(
                self.params["endpoint"],
                self.token(),
                self.params["validate_certs"],
                self.params["ca_path"],
                self.params["timeout"],
            )
            self.resolver = Resolver(self.client, self.params["endpoint"])
            self.placer = Placer(self.store, self.client, self.settings())
            self.work()
        except (FetchError, GGUFError, BadName) as error:
            self.fail(str(error))
        except OSError as error:
            self.fail(self.said(error))

    def said(self, error: OSError) -> str:
        if isinstance(error, _files.UntrustedPath):
            return str(error.strerror)
        return f"{error.filename or self.params['models_dir']}: {error.strerror}"

    def work(self) -> None:
        if self.params["verify"]:
            self.store.verify(self.read_again)
        before = {name: sorted(entry["files"]) for name, entry in self.store.record.items()}
        gone = [model["name"] for model in self.models if model["state"] == "absent"]
        leaving = [place for name in gone for place in self.store.of_model(name)] + self.to_prune()
        works = [work for work in map(self.wanted, self.models) if work]
        self.check_room(works, leaving)
        seen: set[str] = set()
        results = {work.model["name"]: self.planned(work, seen) for work in works}
        self.changed = bool(works or leaving)
        self.leaving = leaving
        to_fetch = sum(one["to_fetch"] for one in results.values())
        to_copy = sum(step.item.size for work in works for step in work.steps if step.how in ("copy", "move"))
        if not self.module.check_mode:
            if postponed(to_fetch + to_copy):
                self.module.exit_json(changed=True, postponed=True)
            self.remove(gone)
            self.place(works)
        self.mend_attributes()
        models = [self.result(model, results.get(model["name"])) for model in self.models]
        result: dict[str, Any] = {
            "models": models,
            "to_fetch": to_fetch,
            "to_copy": to_copy,
            "fetched": self.placer.fetched,
            "removed": [self.store.path(place) for place in self.leaving],
        }
        if self.module._diff:
            result["diff"] = self.diff(before, works, gone)
        if self.module.check_mode and to_fetch:
            names = ", ".join(name for name, one in results.items() if one["to_fetch"])
            result["msg"] = f"would fetch {amount(to_fetch)}: {names}"
        self.module.exit_json(changed=self.changed, **result)

    # --- before anything is changed -----------------------------------------------------------------------------------

    def check_options(self) -> None:
        self.hide_passwords()
        problems = check(self.models)
        folder = self.params["models_dir"]
        if not os.path.isdir(folder) and not self.module.check_mode:
            problems.append(f"models_dir must be a directory; {folder} is none, make it before (ansible.builtin.file)")
        for name in ("connections", "timeout"):
            if self.params[name] < 1:
                problems.append(f"{name} must be 1 or more, found: {self.params[name]}")
        if self.params["token"] and self.params["token_file"]:
            problems.append("token and token_file are both given; one of them names the token")
        try:
            split(self.params["endpoint"])
        except FetchError as error:
            problems.append(f"endpoint: {error}")
        if problems:
            self.fail("; ".join(problems))

    def hide_passwords(self) -> None:
        """A password in an address is refused; until then it must not be in the result, which repeats the options."""
        sources = [model.get(role) or {} for model in self.models for role in ("source", "projector", "draft")]
        for url in [self.params["endpoint"], *(source.get("url") or "" for source in sources)]:
            login = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
            self.module.no_log_values.update(text for text in (login, login.partition(":")[2]) if text)

    def token(self) -> str | None:
        path = self.params["token_file"]
        if not path:
            return self.checked(self.params["token"]) if self.params["token"] else None
        lines = _files.read(os.path.realpath(path), LARGEST_TOKEN_FILE).decode("utf-8", "replace").splitlines()
        token = next((line.strip() for line in lines if line.strip()), "")
        if not token:
            self.fail(f"token_file must have the token in a line; {path} is empty")
        self.module.no_log_values.add(token)
        return self.checked(token)

    def checked(self, token: str) -> str:
        """A token that a header can carry; otherwise errors of other code would show it."""
        if not token.isascii() or not token.isprintable() or " " in token:
            self.fail("the token must be printable ASCII characters without spaces")
        return token

    def check_folders(self) -> None:
        """Other users must not be able to change where this run writes. A look only warns of it."""
        if not os.path.isdir(self.store.root):
            return
        try:
            self.store.check({*(model["name"] for model in self.models), *self.store.record})
        except OSError as error:
            if self.module.check_mode:
                self.module.warn(f"a real run would fail: {self.said(error)}")
            else:
                self.fail(self.said(error))

    def settings(self) -> Settings:
        mode = self.params["mode"]
        try:
            number = int(str(mode), 8) if isinstance(mode, str) else mode
            rate = human_to_bytes(self.params["rate_limit"]) if self.params["rate_limit"] else 0
        except ValueError:
            self.fail(
                f"mode must be octal digits, found {mode!r}; rate_limit a size, found {self.params['rate_limit']!r}"
            )
        self.mode: int = number
        return Settings(rate, self.params["retries"], number, self.attributes, self.waits, self.unreadable)

    def waits(self, name: str) -> None:
        Progress(0).say(f"waits for another run that places {name}")

    def unreadable(self, status: os.stat_result) -> str:
        """What keeps those who are to read the models by O(mode) and O(group) from a file with its own ones."""
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o004:
            return ""
        if self.mode & 0o004:
            return f"its mode 0{mode:o} does not let everybody read it as mode 0{self.mode:o} would"
        group = grp.getgrgid(status.st_gid).gr_name if self.params["group"] else None
        if self.mode & 0o040 and (not mode & 0o040 or group != self.params["group"]):
            return f"its mode 0{mode:o} and group {status.st_gid} do not let the group read it that is asked for"
        return ""

    def attributes(self, path: str) -> bool:
        """Owner, group and mode of a file or folder of ours."""
        folder = os.path.isdir(path)
        mode = self.mode | (self.mode & 0o444) >> 2 if folder else self.mode
        # A folder stays this user's, as whoever owns it could lead a later run to other files.
        wanted = {"path": path, "mode": (mode | 0o700) & ~0o022 if folder else mode}
        wanted.update(owner=None if folder else self.params["owner"], group=self.params["group"])
        file_args = self.module.load_file_common_arguments({**wanted, "mode": f"0{wanted['mode']:o}"}, path=path)
        changed: bool = self.module.set_fs_attributes_if_different(file_args, False)
        return changed

    def wanted(self, model: dict[str, Any]) -> Work | None:
        """What there is to do for a model that is to be present; None when it is in its place."""
        if model["state"] == "absent":
            return None
        entry = self.store.record.get(model["name"])
        same = entry is not None and entry["identity"] == identity(model)
        asks = self.params["refresh"] and entry is not None and entry["commit"]
        if entry and same and not asks and self.store.in_place(entry):
            return None
        source = model["source"]
        if entry and same and entry["commit"] and not asks:
            source = {**source, "revision": entry["commit"]}
        resolved = self.resolver.resolve({**model, "source": source})
        steps = self.placer.steps(model["name"], resolved)
        self.look(steps)
        if entry and same and entry["commit"] == resolved.commit and self.store.in_place(entry):
            return None
        return Work(model, resolved, steps)

    def look(self, steps: list[Step]) -> None:
        """Check that the server sends what it lists: a gated repository shows its list to everybody.

        One file tells it for the whole repository.
        """
        url = next((step.item.url for step in steps if step.how == "fetch"), None)
        source = url and url.partition("/resolve/")[0]
        if url and source not in self.looked_at:
            patiently(lambda: look(self.client, url), METADATA_RETRIES)
            self.looked_at.add(source)

    def read_again(self, count: int) -> None:
        self.verified += count
        self.verifying.report(self.verified, "verifying")

    def to_prune(self) -> list[str]:
        """Places that O(prune) takes away."""
        named = [model["name"] for model in self.models]
        places: list[str] = []
        if self.params["prune"] == "models":
            unnamed = [name for name in self.store.record if name not in named and not self.store.busy(name)]
            places = [place for name in unnamed for place in self.store.of_model(name)]
        if self.params["prune"] != "nothing":
            places += [place for place in self.store.parts(named) if place not in places]
        return places

    def check_room(self, works: list[Work], leaving: list[str]) -> None:
        """The same content is fetched once, so it needs room once."""
        if not os.path.isdir(self.store.root):
            return
        needs: dict[Any, int] = {}
        for step in (step for work in works for step in work.steps):
            needs[step.item.sha256 or step.item.path] = step.to_write(self.store)
        need, free = sum(needs.values()), self.store.free() + self.store.size(leaving)
        if need > free:
            self.fail(
                f"{self.store.root} needs room for {amount(need)} more,"
                f" of {', '.join(work.model['name'] for work in works)}; {amount(free)} are free there."
                " Make room, or take models out of the list; nothing was changed"
            )

    def planned(self, work: Work, seen: set[str]) -> dict[str, Any]:
        """What a model will be; `seen` has the checksums that models before it will bring."""
        items = work.resolved.items
        coming = [step for step in work.steps if step.item.sha256 not in seen]
        seen.update(item.sha256 for item in items if item.sha256)
        files = {item.place: {"role": item.role, "size": item.size} for item in items}
        return {
            **files_of(self.store, {"files": files}),
            "to_fetch": sum(step.to_fetch(self.store) for step in coming),
            "commit": work.resolved.commit,
            "facts": self.resolver.facts(items) if self.params["facts"] else None,
        }

    # --- what changes -------------------------------------------------------------------------------------------------

    def remove(self, gone: list[str]) -> None:
        """Take away the absent models and what is pruned, each while no other run has it."""
        pruned: dict[str, list[str]] = {}
        if self.params["prune"] == "models":
            named = {model["name"] for model in self.models}
            pruned = {name: [] for name in self.store.record if name not in named}
        for place in self.leaving:
            pruned.setdefault(self.store.model_of(place), []).append(place)
        removed = []
        for name in gone:
            with self.store.alone(name, self.waits):
                removed += self.take_away(name, self.store.of_model(name), forget=True)
        for name in sorted(set(pruned) - set(gone)):
            # One that another run has begun to place meanwhile is that run's.
            with contextlib.suppress(TimeoutError), self.store.alone(name, seconds=0):
                removed += self.take_away(name, pruned[name], forget=self.params["prune"] == "models")
        self.leaving = removed

    def take_away(self, name: str, places: list[str], forget: bool) -> list[str]:
        self.store.remove(places)
        if forget and name in self.store.record:
            self.store.write(name, None)
        return places

    def place(self, works: list[Work]) -> None:
        """Small models at the same time, each over one connection; then each other one over all connections."""
        progress = Progress(sum(work.size for work in works))
        done = 0
        connections: int = self.params["connections"]
        small, others = separated(works)
        with ThreadPoolExecutor(connections) as pool:
            arriving = [pool.submit(self.place_one, work, lambda count: None, 1) for work in small]
            try:
                for work, one in zip(small, arriving):
                    one.result()
                    done += work.size
                    progress.report(done, work.model["name"])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for work in others:

            def report(count: int, name: str = work.model["name"], started: int = done) -> None:
                progress.report(started + count, name)

            self.place_one(work, report, connections)
            done += work.size

    def place_one(self, work: Work, report: Callable[[int], None], connections: int) -> None:
        self.placer.place(work.model["name"], identity(work.model), work.resolved, report, connections)

    def mend_attributes(self) -> None:
        """Owner, group and mode of what is in its place, but for what links lead to."""
        for model in self.models:
            entry = (
                self.store.record.get(model["name"], {"files": {}}) if model["state"] == "present" else {"files": {}}
            )
            for place, found in entry["files"].items():
                ours = "link" not in found and "shared" not in found
                if ours and self.store.is_regular(place) and self.attributes(self.store.path(place)):
                    self.changed = True

    # --- what is told -------------------------------------------------------------------------------------------------

    def result(self, model: dict[str, Any], planned: dict[str, Any] | None) -> dict[str, Any]:
        name, state = model["name"], model["state"]
        found: dict[str, Any] = {"path": None, "files": [], "projector": None, "draft": None, "size": 0}
        found.update({"to_fetch": 0, "commit": None, "facts": None, **(planned or {})})
        changed = planned is not None or any(self.store.model_of(path) == name for path in self.leaving)
        entry = self.store.record.get(name)
        if state == "present" and entry and not (planned and self.module.check_mode):
            found.update({**files_of(self.store, entry), "commit": entry["commit"]})
        return {"name": name, "state": state, "changed": changed, **found}

    def diff(self, before: dict[str, list[str]], works: list[Work], gone: list[str]) -> dict[str, Any]:
        """The list of files of each model that changes."""
        names = {work.model["name"]: work for work in works}
        old = {name: before.get(name, []) for name in [*names, *gone] if name in before or name in names}
        new = {
            name: [f"{item.place} {item.size} bytes {item.sha256 or item.path}" for item in work.resolved.items]
            for name, work in names.items()
        }
        return {"before": old, "after": new}

    def fail(self, message: str) -> None:
        self.module.fail_json(msg=message)


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    ModelFile(module).run()


if __name__ == "__main__":
    main()
