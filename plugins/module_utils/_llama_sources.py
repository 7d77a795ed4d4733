# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What releases are made of: checked archives, and llama.cpp's source tree in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import re
import shutil
import tarfile
import zlib

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import ReleaseError
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, component, printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run

COMMITS = "commits.json"  # beside the tree
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PROJECT = re.compile(r'^\s*project\(\s*"?llama\.cpp"?', re.MULTILINE)


def verify(path: str, checksum: str) -> None:
    """Raise ReleaseError for a file that is not there, or whose SHA-256 is another than `sha256:…`.

    Also for one that another user can change: it is read once more when it is unpacked.
    """
    kind, _colon, wanted = checksum.partition(":")
    if kind != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
        raise ReleaseError(f"A checksum like sha256:<64 hexadecimal digits> was wanted of {path}, not {checksum!r}")
    digest = hashlib.sha256()
    try:
        _files.check_folder(os.path.dirname(os.path.abspath(path)))
        with os.fdopen(_files.open_regular(path), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o002:
                raise ReleaseError(
                    f"expected an archive that only root can change at {path}: it belongs to user {status.st_uid} and"
                    f" has mode {status.st_mode & 0o7777:04o}; chown and chmod it, or copy it to a directory of root's"
                )
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
    """Unpack into a new directory: files, directories and links that stay inside, with this user's ownership.

    Raises ReleaseError for anything else, and leaves nothing then.
    """
    _files.check_folder(os.path.dirname(os.path.abspath(folder)))
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder, 0o755)
    plain = f"{folder}.tar"
    try:
        if _is_zstd(archive):  # Python's tarfile reads it from 3.14 on
            status, output, errors = run(["zstd", "-d", "-q", "-f", archive, "-o", plain])
            if status != 0:
                said = " ".join((errors.strip() or output.strip()).split()[-40:])
                raise ReleaseError(f"expected an archive at {archive}, zstd cannot read it: {said}")
        with tarfile.open(plain if os.path.exists(plain) else archive, encoding="utf-8") as tar:
            _extract(tar, folder)
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        zlib.error,
        lzma.LZMAError,
        ReleaseError,
    ) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, ReleaseError):
            raise
        raise ReleaseError(f"{archive} cannot be unpacked in {folder}: {error}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(plain)


def _is_zstd(archive: str) -> bool:
    with open(archive, "rb") as file:
        return file.read(4) == b"\x28\xb5\x2f\xfd"


def _extract(tar: tarfile.TarFile, folder: str) -> None:
    links: dict[str, str] = {}
    for member in tar:
        path = _inside(member.name)
        if any(path == link or path.startswith(link + "/") for link in links):
            raise ReleaseError(f"refused {printable(member.name)} of the archive: it goes through a link")
        target = os.path.join(folder, path)
        if not path or member.isdir():
            os.makedirs(target, 0o755, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        if member.isreg():
            _write(tar, member, target)
        elif member.islnk():
            os.link(os.path.join(folder, _inside(member.linkname)), target, follow_symlinks=False)
        elif member.issym():
            links[path] = _link_inside(path, member)
        else:
            raise ReleaseError(f"refused {printable(member.name)} of the archive: it is a device or a FIFO")
    for path, leads_to in links.items():  # at the end: no file is written through one
        os.symlink(leads_to, os.path.join(folder, path))


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
    if member.mode & 0o6000:
        raise ReleaseError(f"refused {printable(member.name)} of the archive: it is set-user-ID or set-group-ID")
    source = tar.extractfile(member)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        if source is not None:
            shutil.copyfileobj(source, file, 1 << 20)
        os.fchmod(file.fileno(), 0o755 if member.mode & 0o111 else 0o644)
    os.utime(target, (member.mtime, member.mtime))  # ninja compares times


def _inside(name: str) -> str:
    """A member's name as a path below the directory; empty for the directory itself."""
    if name.startswith("/"):
        raise ReleaseError(f"refused {printable(name)} of the archive: its path is absolute")
    try:
        return "/".join(component(part) for part in name.split("/") if part not in ("", "."))
    except BadName as error:
        raise ReleaseError(f"refused {printable(name)} of the archive: {error}") from None


def _link_inside(path: str, member: tarfile.TarInfo) -> str:
    """Where a symbolic link leads, if that is inside: `..` is counted, so it comes first and no link is before it."""
    parts = [part for part in member.linkname.split("/") if part not in ("", ".")]
    up = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    if member.linkname.startswith("/") or ".." in parts[up:] or up > path.count("/"):
        raise ReleaseError(f"refused {printable(member.name)} of the archive: it is a link out of it")
    return member.linkname


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
    with contextlib.suppress(OSError):
        return _files.read(_note(tree), 1000).decode(errors="replace").strip() == checksum and os.path.isdir(tree)
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
    _files.replace(_note(tree), checksum + "\n")


def check_commit(run: Run, tree: str, repo: str, version: str, commit: str) -> str:
    """The commit of a checked-out tree, which has to be the expected one, and the one of the build before.

    A tag can be moved. `commit` is what the operator says that `version` is; without it the first build's is recorded.
    Raises ReleaseError.
    """
    status, output, errors = run(["git", "-C", tree, "rev-parse", "--verify", "HEAD^{commit}"])
    found = output.strip()
    if status != 0 or not _COMMIT.fullmatch(found):
        raise ReleaseError(f"expected a git repository at {tree}: {printable(errors.strip() or output.strip())}")
    wanted = commit.lower() or (version if _COMMIT.fullmatch(version) else "")
    if wanted and found != wanted:
        raise ReleaseError(
            f"expected {version} of {repo} to be the commit {wanted}, found {found}; nothing was built. The tag was"
            " moved, or the commit is that of another version (llama_cpp_source.commit)"
        )
    path = os.path.join(os.path.dirname(tree), COMMITS)
    known = _commits(path)
    before = known.get(f"{repo} {version}", found)
    if before != found and not wanted:
        raise ReleaseError(
            f"expected {version} of {repo} to be the commit {before}, as at the build before, found {found}; nothing"
            f" was built. The tag was moved. If {found} is the right one, say so: llama_cpp_source.commit"
        )
    if known.get(f"{repo} {version}") != found:
        known[f"{repo} {version}"] = found
        _files.replace(path, json.dumps(known, indent=2, sort_keys=True) + "\n", mode=0o644)
    return found


def _commits(path: str) -> dict[str, str]:
    """The record. One that is none is an error: without it a moved tag would not be noticed."""
    try:
        known = json.loads(_files.read(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ReleaseError(f"expected the commits of earlier builds in {path}, it cannot be read: {error}") from None
    if not isinstance(known, dict) or not all(isinstance(one, str) for one in known.values()):
        raise ReleaseError(f"expected the commits of earlier builds in {path}, found something else; remove the file")
    return known


def _note(tree: str) -> str:
    return f"{tree}.checksum"


def _folders(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted((entry for entry in entries if entry.is_dir(follow_symlinks=False)), key=lambda entry: entry.name)
