#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_preset
short_description: Manage the model presets of a llama-server router
description:
  - Manages the INI file that C(llama-server --models-preset) reads, with one section for each model. The section V(*)
    holds what all models have in common.
  - The grammar is llama-server's own. Comments, order and line ends of everything that the module does not touch stay.
    What llama-server would read in another way than it was meant is refused before anything is written.
  - All names of an option (V(c), V(ctx-size), V(LLAMA_ARG_CTX_SIZE), and negations like V(no-jinja)) are one option.
    Setting one name replaces the others; what means the same already is left as it is.
  - The file is written beside, checked, and then put in place at once. A running router reads it again when it is told
    to, see M(homelab.llamacpp.router_reload).
version_added: 0.1.0
author:
  - The homelab.llamacpp authors (@homelab-llamacpp)
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  check_mode:
    support: full
    description: Says what would change, and asks O(llama_server) too, without touching the file.
  diff_mode:
    support: full
    description: Shows the file before and after, without the values of secrets.
options:
  path:
    description:
      - The preset file. It is made when it is not there, its folder is not.
      - Of a symbolic link the file behind it is written.
    type: path
    required: true
  config:
    description:
      - Sections (a model's name, or V(*)) and in each its options, by names of C(llama-server --help) without dashes.
      - V(true) and V(false) are for flags, a list is joined by commas, and V(null) takes an option away.
      - A mapping is written as JSON for options that want JSON, such as V(chat-template-kwargs).
      - The name of a section has to be the one that llama-server serves. It rewrites what follows the last colon, so
        V(qwen3:8b) has to be written V(qwen3:8B).
      - With O(state=deleted), give the sections with V(null) or V({}).
      - Options with a secret (C(hf-token), a password in a URL) are refused. The router shows them in argument lists
        and in C(GET /models).
      - C(tools), C(tools-runtime), C(agent), C(mcp-servers-*) and C(ui-mcp-proxy) let whoever has a key run commands on
        the server or use its network. They are refused unless O(allow_options) names them.
      - Where a file has secrets already, their values are hidden in what the module returns.
    type: dict
    required: true
  state:
    description:
      - V(merged), the sections have these options; others stay.
      - V(replaced), the sections have exactly these options; other sections stay.
      - V(overridden), the file has exactly these sections and options. Comments outside the sections that go away stay.
      - V(deleted), the sections are gone, with their comments.
    type: str
    choices: [merged, replaced, overridden, deleted]
    default: merged
  llama_server:
    description:
      - The llama-server that will read the file; its path, or its name in the search path. It is run on the new file
        before that is put in place, opens no port and loads no model, and what it refuses is not written.
      - With it, options that belong to the router's command line or that no model can load with are errors. Without it
        they are warnings, and so are options that the module does not know.
    type: path
  models_dir:
    description:
      - The router's folder of models (its C(--models-dir)), for the run of O(llama_server).
      - It finds names that clash, and folders that the router could not read.
    type: path
  allow_options:
    description:
      - Options that run commands, or use the network, and are wanted (V(tools), V(agent), V(mcp-servers-config) and so
        on).
    type: list
    elements: str
    default: []
  backup:
    description:
      - Keep the file as it was, under a name with the time, when it changes.
      - Nobody may read the copy who may not read the new file.
    type: bool
    default: false
seealso:
  - module: homelab.llamacpp.router_reload
  - plugin: homelab.llamacpp.to_preset_ini
    plugin_type: filter
  - plugin: homelab.llamacpp.from_preset_ini
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Two models, and what all have in common
  homelab.llamacpp.router_preset:
    path: /etc/llama-router/models.ini
    llama_server: /opt/llama.cpp/current/bin/llama-server
    models_dir: /var/lib/llama-router/models
    mode: "0644"
    config:
      "*":
        flash-attn: true
        cache-type-k: q8_0
      Qwen3-8B-Q4_K_M:
        ctx-size: 32768
        alias: [qwen, default-chat]
        chat-template-kwargs:
          enable_thinking: false
      embedder:
        model: /srv/models/bge-m3.gguf
        embeddings: true
        load-on-startup: true

- name: One option less, the model keeps the others
  homelab.llamacpp.router_preset:
    path: /etc/llama-router/models.ini
    config:
      Qwen3-8B-Q4_K_M:
        ctx-size: null

- name: A model has exactly these options
  homelab.llamacpp.router_preset:
    path: /etc/llama-router/models.ini
    state: replaced
    config:
      Qwen3-8B-Q4_K_M:
        ctx-size: 16384

- name: A model is gone
  homelab.llamacpp.router_preset:
    path: /etc/llama-router/models.ini
    state: deleted
    backup: true
    config:
      embedder:
"""

RETURN = r"""
before:
  description:
    - The presets before, as llama-server understands the file. Flags are booleans, numbers are numbers where writing
      them again gives the same text, all other values are text.
  returned: success
  type: dict
  sample:
    Qwen3-8B-Q4_K_M:
      ctx-size: 8192
after:
  description: The presets after, in the same form.
  returned: success
  type: dict
  sample:
    Qwen3-8B-Q4_K_M:
      ctx-size: 32768
      jinja: true
backup_file:
  description: Where the file is kept as it was.
  returned: changed, and O(backup=true), and the file was there
  type: str
  sample: /etc/llama-router/models.ini.4242.2026-11-22@10:19:29~
"""

import os
import re
import shutil
import stat
import tempfile
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.llamacpp.plugins.module_utils import _llama_dry_run, _names, _options, _preset_ini


class RouterPreset:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.path = os.path.realpath(module.params["path"])
        self.config: dict[str, Any] = module.params["config"]
        self.server: str | None = module.params["llama_server"]

    def run(self) -> None:
        old = self.read()
        try:
            before = _preset_ini.Preset(old or "").data()
        except _preset_ini.PresetError as error:
            self.fail(f"{self.path} is no preset that llama-server reads, and was left as it is: {error}")
        self.refuse_options()
        try:
            new = _preset_ini.apply(old, self.config, self.module.params["state"])
        except _preset_ini.PresetError as error:
            self.fail(f"config cannot be written as a preset: {error}")
        if old is None and self.module.params["state"] == "deleted":
            self.module.exit_json(changed=False, before={}, after={})
        self.judge_options()

        changed = new != old
        result: dict[str, Any] = {"before": shown(before), "after": shown(_preset_ini.Preset(new).data())}
        try:
            if not changed:
                self.dry_run(self.path)
            elif self.module.check_mode:
                self.dry_run_elsewhere(new)
            else:
                result.update(self.write(new, keep=self.module.params["backup"] and old is not None))
        except OSError as error:
            self.fail(f"cannot write {self.path}, which was left as it is: {error.strerror}")
        attributes: dict[str, Any] = {}
        file_args = self.module.load_file_common_arguments(self.module.params, path=self.path)
        changed = self.module.set_fs_attributes_if_different(file_args, changed, attributes)
        if "backup_file" in result:
            self.close(result["backup_file"])
        if self.module._diff:
            content = {
                "before_header": f"{self.path} (content)",
                "after_header": f"{self.path} (content)",
                "before": _preset_ini.Preset(old or "").shown(),
                "after": _preset_ini.Preset(new).shown(),
            }
            result["diff"] = [content, attributes] if attributes else [content]
        self.module.exit_json(changed=changed, **result)

    def read(self) -> str | None:
        """The file's text, None when it is not there."""
        try:
            with open(self.path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.fail(f"cannot read {self.path}: {error.strerror}")
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            line = len(re.findall(rb"\r\n|\n|\r", content[: error.start])) + 1
            self.fail(f"{self.path}, line {line}, is not UTF-8, which llama-server refuses; it was left as it is")

    def refuse_options(self) -> None:
        """Refuse what no preset should have, whichever llama-server reads it."""
        for section, options in self.config.items():
            for key, value in options.items() if isinstance(options, dict) else ():
                refused = _options.refusal(key, value, self.module.params["allow_options"])
                if refused:
                    self.fail(f"section {_names.printable(section)!r}: {refused}")

    def close(self, backup: str) -> None:
        """Take from a copy of an earlier file what the new file does not allow."""
        new = os.stat(self.path)
        os.chown(backup, new.st_uid, new.st_gid)
        os.chmod(backup, stat.S_IMODE(os.stat(backup).st_mode) & stat.S_IMODE(new.st_mode))

    def judge_options(self) -> None:
        """Complain about options that llama-server would refuse, ignore or never load with."""
        for section, options in self.config.items():
            for key, value in (options or {}).items():
                complaint = _options.complaint(key) if value is not None else ""
                if not complaint:
                    continue
                # What the table does not know a newer llama-server may: its dry run decides.
                if self.server and (_options.find(key) or key in _options.REPLACED):
                    self.fail(f"section {section!r}: {complaint}")
                if not self.server:
                    self.module.warn(f"section {section!r}: {complaint}")

    def write(self, text: str, keep: bool) -> dict[str, str]:
        """Write beside, check, rename. Whatever fails leaves the file as it was."""
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            self.fail(f"the folder {folder} is not there; make it before (ansible.builtin.file, state: directory)")
        beside = ""
        try:
            beside = self.write_temporary(text, folder)
            self.dry_run(beside)
            kept = {"backup_file": self.module.backup_local(self.path)} if keep else {}
            self.put_in_place(beside)
            return kept
        finally:
            if beside and os.path.exists(beside):
                os.unlink(beside)

    def put_in_place(self, beside: str) -> None:
        try:
            self.module.atomic_move(beside, self.path)
        except Exception as error:  # it raises no narrower class
            reason = error.__cause__ or error
            self.fail(f"cannot put the new file in place of {self.path}, which was left as it is: {reason}")

    def write_temporary(self, text: str, folder: str) -> str:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".router_preset-", suffix=".ini")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.unlink(name)
            raise
        return name

    def dry_run_elsewhere(self, text: str) -> None:
        if self.server:
            with tempfile.TemporaryDirectory() as folder:
                self.dry_run(self.write_temporary(text, folder))

    def dry_run(self, path: str) -> None:
        """Let llama-server read the preset: it stops at an address that it cannot listen on, and loads nothing."""
        if not self.server:
            return
        program = shutil.which(self.server)
        if not program:
            self.fail(
                f"llama_server: {self.server} is not there or not executable; install it, or leave the option out"
            )
        for name in os.environ.keys() - _llama_dry_run.environment(os.environ).keys():
            del os.environ[name]
        with tempfile.TemporaryDirectory() as empty_cache:
            command = [program, "--host", _llama_dry_run.HOST, "--models-preset", path]
            # The real limit is not known here, and more models to load at start than it stops a router.
            command += ["--models-max", "100000", "--offline"]
            if self.module.params["models_dir"]:
                command += ["--models-dir", self.module.params["models_dir"]]
            limit = ["timeout", "-k", "5", str(_llama_dry_run.TIMEOUT)]
            code, out, err = self.module.run_command([*limit, *command], environ_update={"LLAMA_CACHE": empty_cache})
        words = out + err
        refused = _llama_dry_run.refusal(words)
        if refused:
            reason = refused.replace(path, self.path)
            self.fail(f"llama-server refuses the preset for {self.path}, which was left as it is: {reason}")
        if refused is None:
            last = _llama_dry_run.last_words(words)
            self.fail(f"{program} could not be asked about the preset; it ended with {code} and said: {last}")

    def fail(self, message: str) -> NoReturn:
        self.module.fail_json(msg=message)
        raise AssertionError("fail_json does not return")


def shown(preset: dict[str, Any]) -> dict[str, Any]:
    return {section: _options.masked_all(options) for section, options in preset.items()}


class Module(AnsibleModule):
    def _log_invocation(self) -> None:
        """Keep secrets of options out of the guest's log, and out of what the module returns."""
        for options in self.params["config"].values():
            if isinstance(options, dict):
                self.no_log_values.update(_options.secrets_in(options))
        super()._log_invocation()


def main() -> None:
    module = Module(
        argument_spec={
            "path": {"type": "path", "required": True},
            "config": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": list(_preset_ini.STATES), "default": "merged"},
            "llama_server": {"type": "path"},
            "models_dir": {"type": "path"},
            "allow_options": {"type": "list", "elements": "str", "default": []},
            "backup": {"type": "bool", "default": False},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    RouterPreset(module).run()


if __name__ == "__main__":
    main()
