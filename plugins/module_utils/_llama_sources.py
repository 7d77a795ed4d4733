# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What releases are made of: checked archives, and llama.cpp's source tree in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil

from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import ReleaseError
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run

_PROJECT = re.compile(r'^\s*project\(\s*"?llama\.cpp"?', re.MULTILINE)


def verify(path: str, checksum: str) -> None:
    """Raise ReleaseError for a file that is not there, or whose SHA-256 is another than `sha256:…`."""
    kind, _colon, wanted = checksum.partition(":")
    if kind != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
        raise ReleaseError(f"A checksum like sha256:<64 hexadecimal digits> was wanted of {path}, not {checksum!r}")
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise ReleaseError(f"The archive {path} was wanted: {error.strerror}") from None
    if digest.hexdigest() != wanted.lower():
        raise ReleaseError(
            f"SHA-256 {wanted.lower()} was wanted of {path}, found {digest.hexdigest()}; nothing was unpacked. "
            "Correct the checksum if the new file is the right one"
        )


def unpack(run: Run, archive: str, folder: str) -> None:
    """Unpack into a new folder, with root's ownership."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, mode=0o755)
    status, output, errors = run(["tar", "-x", "--no-same-owner", "--no-same-permissions", "-f", archive, "-C", folder])
    if status != 0:
        shutil.rmtree(folder, ignore_errors=True)
        said = " ".join((errors.strip() or output.strip()).split()[-40:])
        raise ReleaseError(f"{archive} was wanted unpacked in {folder}: {said}")


def find_tree(folder: str) -> str:
    """Where below this folder (at most two levels) llama.cpp's own CMakeLists.txt lies."""
    level = [folder]
    for _depth in range(3):
        for path in level:
            with contextlib.suppress(OSError), open(os.path.join(path, "CMakeLists.txt"), encoding="utf-8") as file:
                if _PROJECT.search(file.read()):
                    return path
        level = [entry.path for path in level for entry in _folders(path)]
    raise ReleaseError(f"llama.cpp's source tree was wanted in {folder}; no CMakeLists.txt there is that of llama.cpp")


def is_placed(tree: str, checksum: str) -> bool:
    """Whether the tree at this path came from the archive of this checksum."""
    with contextlib.suppress(OSError), open(_note(tree), encoding="utf-8") as file:
        return file.read().strip() == checksum and os.path.isdir(tree)
    return False


def place_tree(run: Run, archive: str, checksum: str, tree: str) -> None:
    """Put the source tree of an archive at `tree`, always the same path: ccache and generated files hold it."""
    verify(archive, checksum)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_note(tree))
    fresh = f"{tree}.new"
    unpack(run, archive, fresh)
    try:
        found = find_tree(fresh)
        shutil.rmtree(tree, ignore_errors=True)
        os.rename(found, tree)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    with open(_note(tree), "w", encoding="utf-8") as file:
        file.write(checksum + "\n")


def _note(tree: str) -> str:
    return f"{tree}.checksum"


def _folders(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted((entry for entry in entries if entry.is_dir(follow_symlinks=False)), key=lambda entry: entry.name)
