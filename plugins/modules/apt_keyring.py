#!/usr/bin/python
# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_keyring
short_description: Install the key of an apt repository after checking its fingerprint
version_added: 0.1.0
author: [The homelab.llamacpp authors (@homelab-llamacpp)]
description:
  - Downloads a key, compares the fingerprints of all primary keys in it with the expected ones, and only then writes
    the keyring. Nothing is trusted on the word of the server.
  - The keyring holds the packets that were checked, armored again, and nothing else of what was downloaded.
  - A keyring that holds only expected keys is left as it is, without a download.
options:
  path:
    description: The keyring, a file that C(Signed-By) of a source names. Its name ends in C(.asc).
    type: path
    required: true
  url:
    description: Where to download the key, armored or not. C(file://) is a path on the target.
    type: str
    required: true
  fingerprints:
    description: Fingerprints of the primary keys that the download may hold, all their digits. Spaces are ignored.
    type: list
    elements: str
    required: true
  checksum:
    description: SHA-256 that the download has to have besides, as V(sha256:…).
    type: str
attributes:
  check_mode:
    support: full
    description: Downloads and checks the key, and writes nothing.
  diff_mode:
    support: full
    description: The fingerprints before and after.
"""

EXAMPLES = r"""
- name: Install the key of NVIDIA's repository for Debian 13
  homelab.llamacpp.apt_keyring:
    path: /etc/apt/keyrings/nvidia.asc
    url: https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/8793F200.pub
    fingerprints: [02182E60104FCDC26EAE1B8597A5D4CB8793F200]
"""

RETURN = r"""
fingerprints:
  description: The fingerprints of the primary keys in the keyring.
  type: list
  elements: str
  returned: success
  sample: [02182E60104FCDC26EAE1B8597A5D4CB8793F200]
"""

import hashlib
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _openpgp

LARGEST = 1 << 20
TIMEOUT = 30


class AptKeyring:
    def __init__(self, module: AnsibleModule) -> None:
        self.params = module.params
        self.check_mode: bool = module.check_mode
        self.wanted = ["".join(one.split()).upper() for one in module.params["fingerprints"]]

    def run(self) -> dict[str, Any]:
        bad = [one for one in self.wanted if not re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", one)]
        if bad or not self.wanted:
            raise _openpgp.BadKey(
                f"fingerprints: expected 40 hexadecimal digits each (64 of a key of version 6), found {bad or 'none'}"
            )
        there = self.there()
        if there and set(there) <= set(self.wanted):
            return self.result(False, there, there)
        packets = _openpgp.packets_of(self.download())
        found = _openpgp.fingerprints(packets)
        others = sorted(set(found) - set(self.wanted))
        if others:
            raise _openpgp.BadKey(
                f"expected the key {', '.join(self.wanted)} at {self.params['url']}, found {', '.join(others)}; nothing"
                " was written. If the owner of the repository has published a new key, check its fingerprint by"
                " another way than this server, and set it"
            )
        if not self.check_mode:
            _files.replace(self.params["path"], _openpgp.armored(packets), mode=0o644, create_mode=0o755)
        return self.result(True, there, found)

    def there(self) -> list[str]:
        """The keys of the keyring, as far as it is one that this module has written."""
        try:
            content = _files.read(self.params["path"], LARGEST)
            packets = _openpgp.packets_of(content)
            return _openpgp.fingerprints(packets) if content == _openpgp.armored(packets) else []
        except (FileNotFoundError, _openpgp.BadKey):
            return []

    def download(self) -> bytes:
        url, checksum = self.params["url"], self.params["checksum"]
        try:
            with open_url(url, timeout=TIMEOUT) as response:
                content: bytes = response.read(LARGEST + 1)
        except (OSError, ValueError) as error:
            raise _openpgp.BadKey(f"expected a key at {url}, it cannot be downloaded: {error}") from None
        if len(content) > LARGEST:
            raise _openpgp.BadKey(f"expected a key at {url}, found more than {LARGEST} bytes")
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if checksum is not None and digest != checksum.lower():
            raise _openpgp.BadKey(f"expected {checksum} of {url}, found {digest}; nothing was written")
        return content

    def result(self, changed: bool, before: list[str], after: list[str]) -> dict[str, Any]:
        lines = ("".join(f"{one}\n" for one in keys) for keys in (before, after))
        return {"changed": changed, "fingerprints": after, "diff": dict(zip(("before", "after"), lines))}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "url": {"type": "str", "required": True},
            "fingerprints": {"type": "list", "elements": "str", "required": True},
            "checksum": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        result = AptKeyring(module).run()
    except (_openpgp.BadKey, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
