# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base images: built once from the package mirror, kept in the cache, built again when their recipe changes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .run import run
from .settings import LAB_DIR, Settings

RECIPES = LAB_DIR / "images"
BASE_PACKAGES = (
    "systemd,systemd-sysv,dbus,mount,login,passwd,procps,netbase,iproute2,ifupdown,iputils-ping,openssh-server,openssh-client,"
    "python3,python3-apt,sudo,ca-certificates"
)


@dataclass(frozen=True)
class Image:
    """One image: an archive `<name>.tar.zst`, or a folder `<name>` when `folder` is set."""

    name: str
    recipe: str
    # A Debian suite to bootstrap, or the name of the image to start from.
    base: str
    folder: bool = False
    # Built only when it is named.
    on_demand: bool = False

    @property
    def file(self) -> str:
        """Its name in the cache."""
        return self.name if self.folder else f"{self.name}.tar.zst"


TRIXIE = Image("debian-13-standard_13.1-2_amd64", "debian-13-standard", base="trixie")
# For what needs Python 3.11.
BOOKWORM = Image("debian-12-standard_12.12-1_amd64", "debian-13-standard", base="bookworm", on_demand=True)
FORKY = Image("debian-14-forky-llama_14.0-1_amd64", "debian-14-forky-llama", base="forky")
NODE = Image("node", "node", base="trixie")
FORKY_LLAMA = Image("forky-llama", "forky-llama", base=FORKY.name, folder=True)
IMAGES = {image.name: image for image in (TRIXIE, BOOKWORM, FORKY, NODE, FORKY_LLAMA)}
# What a guest can be made from, offered on the node as storage local.
TEMPLATES = (TRIXIE, FORKY)


def build(settings: Settings, *names: str) -> None:
    """Make the named images and what they start from, as far as the cache does not have them; two at a time.

    Raises LabError when a build fails; the cache then holds what it held before.
    """
    wanted = [IMAGES[name] for name in names]
    if all(is_current(settings, image) for image in wanted):
        return
    with locked(settings):
        build_missing(settings, wanted)


@contextmanager
def locked(settings: Settings, *, wait: bool = True) -> Iterator[None]:
    """One build at a time in this cache, which labs may share. Whoever has the lock removes what killed builds left.

    Without `wait`, raises BlockingIOError while another builds.
    """
    settings.cache.mkdir(parents=True, exist_ok=True)
    with (settings.cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        for leftover in settings.cache.glob(".*.[0-9]*"):
            shutil.rmtree(leftover)
        yield


def clean(settings: Settings) -> None:
    """Remove what killed builds have left, unless a build is at work."""
    with suppress(BlockingIOError), locked(settings, wait=False):
        pass


def build_missing(settings: Settings, wanted: list[Image]) -> None:
    """Build what the cache has not, the bases first."""
    bases = [IMAGES[image.base] for image in wanted if image.base in IMAGES]
    # An image that is there needs no base.
    bases = [
        base for base in bases if any(image.base == base.name and not is_current(settings, image) for image in wanted)
    ]
    with ThreadPoolExecutor(2) as pool:
        for stage in (
            bases + [image for image in wanted if image.base not in IMAGES],
            [image for image in wanted if image.base in IMAGES],
        ):
            list(pool.map(lambda image: ensure(settings, image), dict.fromkeys(stage)))


def ensure(settings: Settings, image: Image) -> Path:
    """The image in the cache; built now unless it is there and current."""
    target = settings.cache / image.file
    if is_current(settings, image):
        return target
    print(f"lab: building image {image.file} from {settings.mirror}", file=sys.stderr, flush=True)
    work = settings.cache / f".{image.name}.{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    root.mkdir(parents=True)
    try:
        if image.base in IMAGES:
            unpack(settings.cache / IMAGES[image.base].file, root)
        else:
            bootstrap(settings, image.base, work, root)
        run(str(RECIPES / "in-root.sh"), str(root), image.recipe, env={"LAB_GPU_MIB": str(settings.gpu_mib)})
        if image.folder:
            made = root
        else:
            made = work / image.file
            run(
                "tar",
                "--numeric-owner",
                "--xattrs",
                "--zstd",
                "-cf",
                str(made),
                "-C",
                str(root),
                ".",
                env={"ZSTD_CLEVEL": "1", "ZSTD_NBTHREADS": "0"},
            )
        stamp(settings, image).unlink(missing_ok=True)
        if image.folder and target.exists():
            target.rename(work / "old")
        made.rename(target)
        stamp(settings, image).write_text(recipe_id(settings, image) + "\n")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def bootstrap(settings: Settings, suite: str, work: Path, root: Path) -> None:
    """Fill root with a Debian suite and the packages that every image has."""
    run(
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        "--format=directory",
        # A mirror snapshot may be older than its Release file's promise; its signature is still checked.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        f"--include={BASE_PACKAGES}",
        suite,
        str(root),
        settings.mirror,
        env={"TMPDIR": str(work)},
    )


def unpack(archive: Path, root: Path) -> None:
    """Unpack a root filesystem with owners, modes and capabilities as they are in the archive."""
    run("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", str(archive), "-C", str(root))


def is_current(settings: Settings, image: Image) -> bool:
    """Whether the cache holds this image, made by the recipe as it is now."""
    mark = stamp(settings, image)
    return (
        (settings.cache / image.file).exists()
        and mark.exists()
        and mark.read_text().strip() == recipe_id(settings, image)
    )


def stamp(settings: Settings, image: Image) -> Path:
    """The file that says which recipe an image was made by."""
    return settings.cache / f"{image.name}.recipe"


def recipe_id(settings: Settings, image: Image) -> str:
    """A digest of everything that decides what is in the image: its recipe, the files that it uses, and its base."""
    recipe = (RECIPES / f"{image.recipe}.sh").read_text()
    parts = [
        image.base,
        recipe,
        *(file.read_text() for file in sorted(RECIPES.iterdir()) if file.name == "lib.sh" or file.name in recipe),
    ]
    if "LAB_GPU_MIB" in recipe:
        parts.append(str(settings.gpu_mib))
    parts.append(recipe_id(settings, IMAGES[image.base]) if image.base in IMAGES else BASE_PACKAGES)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
