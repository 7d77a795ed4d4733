# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guests' volumes. In the API they are those of Proxmox's usual `local-lvm`; in truth they are btrfs subvolumes.

A snapshot of a volume lies beside it as VOLUME@SNAPSHOT. Sizes are recorded by the API and not enforced.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .process import run

ROOT = Path("/var/lib/vz/lab-volumes")
TEMPLATES = Path("/var/lib/vz/template/cache")
# Where Proxmox would have an archive on the web, the lab has this folder.
OFFERED = Path("/var/lib/vz/template/offered")


def path(volume: str) -> Path:
    """Where a volume such as local-lvm:vm-120-disk-0 lies."""
    return ROOT / volume.replace(":", "/", 1)


def template(volume: str) -> Path:
    """The file of a template such as local:vztmpl/NAME, or of a plain path."""
    return TEMPLATES / volume.rsplit("/", 1)[1] if ":" in volume else Path(volume)


async def download(name: str) -> str:
    """Bring an offered template into the storage local. Returns what Proxmox's task ends with."""
    if (TEMPLATES / name).exists():
        return "OK, got correct file already, no need to download"
    fresh = TEMPLATES / f"{name}.tmp"
    await run("cp", "--reflink=auto", str(OFFERED / name), str(fresh))
    fresh.rename(TEMPLATES / name)
    return "download finished"


async def create(volume: str) -> Path:
    """Make an empty volume."""
    where = path(volume)
    where.parent.mkdir(parents=True, exist_ok=True)
    await run("btrfs", "subvolume", "create", str(where))
    return where


async def create_from(volume: str, archive: Path) -> Path:
    """Make a volume with what a template holds.

    A template is unpacked once and kept: a second guest from it takes milliseconds.
    """
    where = path(volume)
    where.parent.mkdir(parents=True, exist_ok=True)
    stat = archive.stat()
    kept = ROOT / "templates" / f"{archive.name}.{stat.st_size}.{stat.st_mtime_ns}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(kept.name + ".new")
        if fresh.exists():
            await run("btrfs", "subvolume", "delete", str(fresh))
        await run("btrfs", "subvolume", "create", str(fresh))
        try:
            await run(
                "tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", str(archive), "-C", str(fresh)
            )
        except Exception:
            await run("btrfs", "subvolume", "delete", str(fresh))
            raise
        fresh.rename(kept)
    await run("btrfs", "subvolume", "snapshot", str(kept), str(where))
    return where


async def delete(volume: str) -> None:
    """Remove a volume and its snapshots. One that is not there is no error."""
    where = path(volume)
    for found in [where, *where.parent.glob(f"{where.name}@*")]:
        if found.exists():
            await _delete(found)


async def _delete(where: Path) -> None:
    # A guest's systemd makes subvolumes of its own (/var/lib/machines), which a plain delete would stop at.
    for inner in sorted(await _subvolumes(where), key=lambda found: -len(found.parts)):
        await run("btrfs", "subvolume", "delete", str(inner))
    await run("btrfs", "subvolume", "delete", str(where))


async def _subvolumes(where: Path) -> list[Path]:
    candidates = [where / name for name in ("var/lib/machines", "var/lib/portables", "var/tmp", "tmp", "srv", "home")]
    return [found for found in candidates if found.is_dir() and not found.is_symlink() and found.stat().st_ino == 256]


async def snapshot(volume: str, name: str) -> None:
    """Keep the volume as it is now under a name."""
    await run("btrfs", "subvolume", "snapshot", "-r", str(path(volume)), f"{path(volume)}@{name}")


async def rollback(volume: str, name: str) -> None:
    """Make the volume what it was at the snapshot. Its guest must not run."""
    where = path(volume)
    fresh = where.with_name(where.name + ".rollback")
    if fresh.exists():
        await _delete(fresh)
    await run("btrfs", "subvolume", "snapshot", f"{where}@{name}", str(fresh))
    if where.exists():
        await _delete(where)
    fresh.rename(where)


async def delete_snapshot(volume: str, name: str) -> None:
    """Forget a snapshot. One that is not there is no error."""
    where = Path(f"{path(volume)}@{name}")
    if where.exists():
        await run("btrfs", "subvolume", "delete", str(where))


def free() -> tuple[int, int]:
    """The disk's size and what is free of it, in bytes."""
    usage = shutil.disk_usage("/var/lib/vz")
    return usage.total, usage.free
