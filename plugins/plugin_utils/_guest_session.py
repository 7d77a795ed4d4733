# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest that is entered once: its own sshd program serves the standard input and output of one call through the node.

The controller's ssh keeps that call open as it keeps any connection (ControlPersist), so what follows costs what plain
ssh into the guest would. Nothing listens anywhere, the guest's sshd may be disabled, and its configuration is not read:
the session takes one key, which the controller made for itself, from nobody but who came in through the node.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# In the guest; $1 is the public key. It says nothing: who comes in finds out by trying.
SERVE = """\
umask 077
sshd=$(command -v sshd) && install -d -m 0755 /run/sshd && keys=$(mktemp -d /run/pct-session.XXXXXX) || exit
trap 'rm -rf "$keys"' EXIT
echo "restrict $1" >"$keys/user" && ssh-keygen -q -t ed25519 -N '' -f "$keys/host" </dev/null || exit
"$sshd" -i -q -f /dev/null -o HostKey="$keys/host" -o AuthorizedKeysFile="$keys/user" -o UsePAM=no \\
  -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o MaxSessions=100 -o PrintMotd=no
"""

PERSIST = 60  # seconds without a command, after which the session ends
GIVEN_UP = 600  # seconds until a guest in which no session could be opened is tried again


class Session:
    """The way into one guest. `way` makes the command line that runs SERVE there with its standard input and output."""

    def __init__(self, ssh: str, folder: Path, way: Callable[[str], Sequence[bytes]]) -> None:
        self._ssh = ssh
        self._key = _key(folder)
        proxy = [arg.decode() for arg in way(self._key.with_suffix(".pub").read_text().strip())]
        self._proxy = shlex.join(proxy).replace("%", "%%")
        self._socket = folder / f"pct-{hashlib.sha1(self._proxy.encode(), usedforsecurity=False).hexdigest()[:10]}"
        self._refused = self._socket.with_suffix(".refused")

    @property
    def may_work(self) -> bool:
        try:
            return time.time() - self._refused.stat().st_mtime > GIVEN_UP
        except FileNotFoundError:
            return True

    def give_up(self) -> None:
        """Do not try again for a while: the guest has no sshd, or root's shell is one of its own kind."""
        self._refused.touch()

    def command(self, command: str) -> list[bytes]:
        """The command line that runs a command of root's shell in the guest."""
        options = {
            "ControlMaster": "auto",
            "ControlPersist": PERSIST,
            "ControlPath": self._socket,
            "ProxyCommand": self._proxy,
            "IdentityFile": self._key,
            "IdentitiesOnly": "yes",
            # Whom the node let in is in the guest already.
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
        }
        options_given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        words = [self._ssh, "-F", "none", *options_given, "-T", "root@guest", command]
        return [word.encode() for word in words]

    def end(self) -> None:
        """End it, whoever else uses it, and forget that none could be opened."""
        self._refused.unlink(missing_ok=True)
        ending = [self._ssh, "-F", "none", "-o", f"ControlPath={self._socket}", "-O", "exit", "guest"]
        subprocess.run(ending, capture_output=True, check=False)


def _key(folder: Path) -> Path:
    """The controller's own key, made once; of several that make it at a time one wins."""
    key = folder / "pct-key" / "id"
    if not key.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder, prefix=".pct-key."))
        making = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "homelab.llamacpp.pct", "-f", str(fresh / "id")]
        subprocess.run(making, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        with contextlib.suppress(OSError):
            os.rename(fresh, key.parent)
        shutil.rmtree(fresh, ignore_errors=True)
    return key
