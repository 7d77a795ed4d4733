#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_keys
short_description: The keys that a llama.cpp router accepts, in its key file
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Either the keys are given, or one is made on the target in the first run and kept. A key that was made never leaves
    the target.
  - The file is llama-server's own, one key a line. It is read by a router only when that starts, which
    M(homelab.llamacpp.router_service) sees to.
  - The file is never there with more rights than are asked for, and replaced at once.
extends_documentation_fragment: [ansible.builtin.files]
options:
  path:
    description: The file. Its folder has to be there.
    type: path
    required: true
  keys:
    description:
      - The keys, of which the first is the one that this collection's own modules use. At least 16 characters each,
        without blanks, and not beginning with a C(#), since llama-server reads such lines otherwise.
      - Without any, those in the file stay.
    type: list
    elements: str
  rotate:
    description:
      - V(begin) puts a key that it makes before the ones in the file, which are still accepted. V(finish) keeps only
        the first one.
      - Each V(begin) makes another one, and none is lost before V(finish), so that a run that was cut off can be run
        again.
    type: str
    choices: [begin, finish]
attributes:
  check_mode:
    support: full
    description: Says whether the file would be written.
  diff_mode:
    support: full
    description: How many keys there are, and which of them are new, without the keys.
seealso:
  - module: homelab.llamacpp.router_service
"""

EXAMPLES = r"""
- name: One key, made in the first run
  homelab.llamacpp.router_keys:
    path: /etc/llama-router/api-keys
    mode: "0400"

- name: From now on a new key is accepted beside the old one
  homelab.llamacpp.router_keys:
    path: /etc/llama-router/api-keys
    rotate: begin
    mode: "0400"

- name: The keys of the vault
  homelab.llamacpp.router_keys:
    path: /etc/llama-router/api-keys
    keys: "{{ vault_llama_keys }}"
    mode: "0400"
"""

RETURN = r"""
count:
  description: How many keys there are now.
  type: int
  returned: success
  sample: 2
"""

import os
import re
import secrets
import string
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 48
_GOOD = re.compile(r"[^\s#]\S{15,}")


class RouterKeys:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.path: str = module.params["path"]

    def run(self) -> None:
        before = self.read()
        after = self.wanted(before)
        changed = after != before
        if changed and not self.module.check_mode:
            self.write(after)
        result: dict[str, Any] = {"count": len(after)}
        if self.module._diff:
            result["diff"] = {"before": _told(before, before), "after": _told(after, before)}
        if os.path.exists(self.path):
            attributes = self.module.load_file_common_arguments(self.module.params)
            changed = self.module.set_fs_attributes_if_different(attributes, changed)
        self.module.exit_json(changed=changed, **result)

    def wanted(self, found: list[str]) -> list[str]:
        given: list[str] = self.module.params["keys"] or []
        rotate = self.module.params["rotate"]
        if given:
            if not all(map(_GOOD.fullmatch, given)):
                self.module.fail_json(
                    msg="keys: at least 16 characters without blanks, not beginning with #, were wanted of each key;"
                    " one is not like that, and llama-server would read it as a comment or as another key"
                )
            return given
        if rotate == "begin" or not found:
            return [_made(), *found]
        return found[:1] if rotate == "finish" else found

    def read(self) -> list[str]:
        """The keys in the file, as llama-server reads it: lines untrimmed, lines with a hash passed over."""
        try:
            with open(self.path, "rb") as file:
                lines = file.read().decode("utf-8", "surrogateescape").split("\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            self.module.fail_json(msg=f"the key file {self.path} was wanted, it cannot be read: {error.strerror}")
            raise AssertionError("fail_json does not return") from None
        keys = [line for line in lines if line.strip() and not line.startswith("#")]
        self.module.no_log_values.update(keys)
        return keys

    def write(self, keys: list[str]) -> None:
        beside = ""
        try:
            descriptor, beside = tempfile.mkstemp(dir=os.path.dirname(self.path), prefix=".api-keys-")
            with os.fdopen(descriptor, "wb") as file:
                file.write("".join(f"{key}\n" for key in keys).encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
            # Its owner and mode before its place: atomic_move would make it readable for all for a moment.
            attributes = self.module.load_file_common_arguments(self.module.params, path=beside)
            self.module.set_fs_attributes_if_different(attributes, False)
            os.replace(beside, self.path)
            beside = ""
        except OSError as error:
            self.module.fail_json(
                msg=f"the key file {self.path} was wanted, it cannot be written and was left as it is:"
                f" {error.strerror}; its folder has to be there"
            )
        finally:
            if beside:
                os.unlink(beside)


def _made() -> str:
    return "".join(secrets.choice(_ALPHABET) for _place in range(_LENGTH))


def _told(keys: list[str], before: list[str]) -> str:
    return "".join(f"key {before.index(key) + 1}\n" if key in before else "another key\n" for key in keys)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "keys": {"type": "list", "elements": "str", "no_log": True},
            "rotate": {"type": "str", "choices": ["begin", "finish"]},
        },
        mutually_exclusive=[("keys", "rotate")],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    RouterKeys(module).run()


if __name__ == "__main__":
    main()
