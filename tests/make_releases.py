# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write prebuilt releases of llama-server for the tests of updates: good ones, and one for each way to be bad.

usage: make_releases.py OUTDIR

Each is a script around the real llama-server of the machine that it is unpacked on, and says that it is another build.
The good ones do nothing else. NAME.yml beside each archive is what the role llama_cpp needs to install it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

START = """#!/bin/sh
# A stand-in for another build of llama-server.
real=@REAL@
[ "$1" = --version ] && { echo "version: 0.9.0 (build @BUILD@, commit 0123456)"; exit 0; }
dry_run() { case " $* " in *" --host /nonexistent-folder/"*) return 0 ;; *) return 1 ;; esac; }
is_router() { case " $* " in *" --models-max "*) return 0 ;; *) return 1 ;; esac; }
"""

KINDS = {
    "good": 'exec "$real" "$@"\n',
    # What every call but --version ends with.
    "exits": 'echo "error: symbol lookup error" >&2; exit 127\n',
    # A build that has dropped an option which the operator's presets still have.
    "preset": """
for word; do [ "$last" = --models-preset ] && presets=$word; last=$word; done
if [ -n "$presets" ] && grep -q '^ctx-size' "$presets"; then
  section=$(sed -n '/^\\[/h; /^ctx-size/{g; s/^.\\(.*\\).$/\\1/p; q}' "$presets")
  echo "failed to initialize router models: option 'ctx-size' not recognized in preset '$section'" >&2
  exit 1
fi
exec "$real" "$@"
""",
    "silent": 'dry_run "$@" && exec "$real" "$@"\nexec sleep 600\n',
    # Gets ready, and dies as soon as it is to write a word.
    "dies": """
dry_run "$@" && exec "$real" "$@"
exec python3 -c '
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[sys.argv.index("--host") + 1])
server.listen()
while True:
    client = server.accept()[0]
    if client.recv(65536).startswith(b"POST"):
        sys.exit(134)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
    client.close()
' "$@"
""",
    # Passes every trial beside the router, and does not start in its place.
    "service": 'dry_run "$@" || ! is_router "$@" && exec "$real" "$@"\necho "E cannot serve as a router" >&2\nexit 1\n',
    # Serves as a router, and kills the models that run when another one is loaded.
    "kills": """
dry_run "$@" || ! is_router "$@" && exec "$real" "$@"
trap 'kill $router; wait $router; exit' TERM
pipes=$(mktemp --directory) && trap 'rm -r "$pipes"' EXIT && mkfifo "$pipes/log" "$pipes/copy"
"$real" "$@" >"$pipes/log" 2>&1 &
router=$!
tee "$pipes/copy" <"$pipes/log" &
# A shell that reads every line is so slow that an answer may end before it is broken off.
grep --line-buffered -o 'spawning server instance with name=.* on port [0-9]*' <"$pipes/copy" |
while IFS= read -r line; do
  for port in $ports; do pkill -KILL --parent $router --full -- "--port $port( |\\$)"; done
  ports="$ports ${line##* }"
done &
wait $router
""",
}


def script(kind: str, build: int, real: str = "/usr/bin/llama-server") -> str:
    return START.replace("@BUILD@", str(build)).replace("@REAL@", real) + KINDS[kind]


def archive(text: str) -> bytes:
    """The same bytes for the same script, so that it is the same release in every run."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        entry = tarfile.TarInfo("release/bin/llama-server")
        entry.mode, entry.size = 0o755, len(text)
        writer.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(tar.getvalue(), mtime=0)


def make(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    numbers = {"first": ("good", 20001), "second": ("good", 20002), "third": ("good", 20003), "fourth": ("good", 20004)}
    numbers |= {kind: (kind, 20010 + n) for n, kind in enumerate(KINDS) if kind != "good"}
    for name, (kind, build) in numbers.items():
        content = archive(script(kind, build))
        path = (out / f"{name}.tar.gz").resolve()
        path.write_bytes(content)
        wish = {
            "llama_cpp_method": "archive",
            "llama_cpp_version": f"b{build}",
            "llama_cpp_archive": {"path": str(path), "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}"},
        }
        (out / f"{name}.yml").write_text(json.dumps(wish, indent=2) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
