# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write the line by which a unit records what its process is started with.

The record (`UNIT.applied`, in the format of sha256sum) lies in a directory that is root's alone: root compares it, and
a service that could change it, or the directory, could lead root to other files.
"""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import word

FOLDER = "/run/homelab-llamacpp"

# What was noted of the process before goes first: a record that cannot be written is none.
_BEGIN = 'umask 022; r={folder}/$1; shift; mkdir -p "${{r%/*}}"; rm -f "$r".*; '
_FILES = 'sha256sum -- "$@"'
# systemd's copy of a file, under the name of that file.
_COPY = 'printf "%s  %s\\n" "$(sha256sum <"$1" | cut -c -64)" "$2"; shift 2; '
_END = ' >"$r.new"; mv "$r.new" "$r.applied"'


def script(credential: bool = False, folder: str = FOLDER) -> str:
    """The shell's text. Its arguments: the unit, with `credential` a copy and the path that it is of, the files."""
    files = f"{{ {_COPY}{_FILES}; }}" if credential else _FILES
    return _BEGIN.format(folder=folder) + files + _END


def record(paths: Iterable[str], credential: str | None = None) -> str:
    """The ExecStartPre= line of a unit's [Service] section, run as root and no reason not to start.

    `credential` is the path of a file that the unit gets by LoadCredential=, under its base name: systemd's copy is
    hashed. More words may follow on the line.
    """
    copy = [f'"%d/"{word(credential.rpartition("/")[2])}', word(credential)] if credential else []
    words = ["/bin/sh", "-c", word(script(bool(credential))), "record", "%n", *copy, *map(word, paths)]
    return f"ExecStartPre=-+{' '.join(words)}"
