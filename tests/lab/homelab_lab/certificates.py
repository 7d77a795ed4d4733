# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificates that this machine trusts and Debian does not know: a proxy that opens TLS needs them inside too."""

from __future__ import annotations

import re
from pathlib import Path

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
LOCAL = "usr/local/share/ca-certificates"
PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def add_certificates(root: Path, host: Path = Path("/")) -> None:
    """Add to a root filesystem what the host's bundle has more, so that update-ca-certificates keeps it too.

    A host without a bundle adds nothing.
    """
    if not (host / BUNDLE).exists():
        return
    bundle = root / BUNDLE
    known = bundle.read_text() if bundle.exists() else ""
    more = [pem for pem in PEM.findall((host / BUNDLE).read_text()) if pem not in known]
    if not more:
        return
    folder = root / LOCAL
    folder.mkdir(parents=True, exist_ok=True)
    for number, pem in enumerate(more):
        (folder / f"host-{number}.crt").write_text(pem + "\n")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with bundle.open("a") as file:
        file.write("".join(pem + "\n" for pem in more))
