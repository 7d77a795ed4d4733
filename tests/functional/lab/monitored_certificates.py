# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The router behind the role llama_proxy under a name, where the exporter asks it, with certificates good and bad."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from monitored_guest import Guest

NAME = "llama.lan"
PROXY = {"llama_proxy_certificate": "/root/tls/shown.pem", "llama_proxy_certificate_key": "/root/tls/shown.key"}
# issue NAME-OF-AUTHORITY NAME-IN-CERTIFICATE NOT-AFTER: into shown.pem, and shown.key is its key.
ISSUE = """set -e
cd /root/tls
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
# Python 3.13 wants a key usage of an authority, and its identifier in what it has signed.
test -e $1.pem || openssl req -x509 $key -subj "/CN=authority $1" -days 90 -keyout $1.key -out $1.pem \\
    -addext keyUsage=critical,keyCertSign
openssl req -new $key -subj /CN=$2 -keyout next.key -out next.csr
printf '%s\\n' subjectAltName=DNS:$2 authorityKeyIdentifier=keyid >next.ext
openssl x509 -req -in next.csr -CA $1.pem -CAkey $1.key -extfile next.ext -out next.pem \\
    -not_before 20200101000000Z -not_after $3
mv next.key shown.key
mv next.pem shown.pem
"""
VALID, OVER = "20991231000000Z", "20210101000000Z"


class BehindTls:
    """Its good state: a certificate for the name, by an authority that the guest trusts."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.run("mkdir -p /root/tls && cp -p /etc/hosts /root/tls/hosts && echo 127.0.0.1 llama.lan >>/etc/hosts")
        self.issue("ours", NAME, VALID)
        self.trust("ours")
        self._proxy()
        guest.role(**PROXY, llama_monitoring_router_url=f"https://{NAME}")
        guest.until_told("llamacpp_up 1.0")

    def remove(self) -> None:
        self._guest.role()
        self._proxy(llama_proxy_state="absent")
        gone = "rm -r /root/tls /usr/local/share/ca-certificates/*.crt; update-ca-certificates --fresh"
        self._guest.run(f"cat /root/tls/hosts >/etc/hosts; {gone}")

    @contextmanager
    def wrong(self, way: str) -> Iterator[None]:
        """A certificate that is not to be trusted, until it is, in one of these ways."""
        authority, name, end = {
            "untrusted": ("others", NAME, VALID),
            "expired": ("ours", NAME, OVER),
            "for another name": ("ours", "other.lan", VALID),
        }[way]
        self.issue(authority, name, end)
        yield
        if way == "untrusted":
            self.trust(authority)
        else:
            self.issue("ours", NAME, VALID)

    def issue(self, *words: str) -> None:
        self._guest.run(f"sh -s {' '.join(words)}", ISSUE.encode())

    def trust(self, authority: str) -> None:
        there = f"/usr/local/share/ca-certificates/{authority}.crt"
        self._guest.run(f"cp /root/tls/{authority}.pem {there} && update-ca-certificates")

    def _proxy(self, **variables: Any) -> None:
        role = {"name": "homelab.llamacpp.llama_proxy"}
        play = {"hosts": "watched", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}
        file = self._guest.folder / "proxy.yml"
        file.write_text(yaml.safe_dump([play]))
        self._guest.play(file, **PROXY, **variables)
