# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as a whole: up, down, and whether it is."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import cgroups, disk, images, network
from .run import ENVIRONMENT, output, run
from .settings import LAB_DIR, LabError, Settings

# Upper bounds, for a busy machine: a node that dies is noticed at once.
BOOT_SECONDS = 300
SHUTDOWN_SECONDS = 90
# ssh to the node, and the doubles behind pvesh, answer.
READY = "systemctl is-system-running --wait >/dev/null; pvesh get /version --output-format json"


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """One up or down at a time. A process that dies gives the lock back."""
    settings.state.mkdir(parents=True, exist_ok=True)
    with (settings.state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("lab: another lab command is at work on this lab, waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        with cgroups.working(settings):
            yield


def up(settings: Settings) -> None:
    """Bring the node up, whatever state an earlier run left. Returns when it is ready.

    Raises LabError with the last words of what failed.
    """
    with locked(settings):
        if is_up(settings) and answers(settings):
            update(settings)
            pace(settings)
            if not all(images.is_current(settings, image) for image in (images.NODE, *images.TEMPLATES)):
                print(
                    "lab: an image's recipe has changed since it was built; lab down and lab up bring the new one",
                    file=sys.stderr,
                )
            print(f"lab: up already: ssh root@{settings.address} (or {LAB_DIR / 'lab'} ssh)")
            return
        stop(settings)
        images.build(settings, *(image.name for image in (images.NODE, *images.TEMPLATES)))
        keys(settings)
        disk.make(settings)
        network.up(settings)
        power_on(settings)
        wait_until_ready(settings)
        pace(settings)
        print(f"lab: up: node {settings.node} at {settings.address}")


def down(settings: Settings, *, purge: bool) -> None:
    """Stop the node and take everything off this machine that `up` put on it, except the state and the cache.

    With `purge` the state goes too: the node's disk, its containers and the keys.
    """
    with locked(settings):
        stop(settings)
        network.down(settings)
        images.clean(settings)
        if purge:
            for entry in settings.state.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    print("lab: down" + (", its state is gone" if purge else ", its containers are kept (--purge drops them)"))


def stop(settings: Settings) -> None:
    """Shut the node down if it runs, and end what is left of an earlier run."""
    node, power = cgroups.path(settings) / "node", cgroups.path(settings) / "power"
    if cgroups.populated(node) and cgroups.populated(power):
        print("lab: shutting the node down", file=sys.stderr)
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        asked = 0.0
        while cgroups.populated(power) and time.monotonic() < deadline:
            # A node that is only just booting does not listen yet: ask again.
            if time.monotonic() - asked > 1:
                ask_to_shut_down(power)
                asked = time.monotonic()
            time.sleep(0.05)
    cgroups.end_lab(settings)
    disk.wait_until_free(settings)


def ask_to_shut_down(power: Path) -> None:
    """Tell the power supply to shut the node down."""
    for pid in (power / "cgroup.procs").read_text().split():
        try:
            if "homelab_lab.power" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(int(pid), signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            pass


def is_up(settings: Settings) -> bool:
    """Whether the node's processes run and its network is there."""
    return (
        cgroups.populated(cgroups.path(settings) / "node")
        and network.exists(settings.bridge)
        and settings.nft_table in network.tables()
    )


def answers(settings: Settings) -> bool:
    """Whether the node answers on ssh."""
    done = subprocess.run(settings.ssh("true"), check=False, stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode == 0


def keys(settings: Settings) -> None:
    """Make what opens the node, as far as it is not there: ssh keys, and root's password and API token."""
    settings.state.chmod(0o700)
    for file in (settings.key, settings.state / "host_ed25519"):
        if not file.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{settings.name} lab", "-f", str(file))
    words = (settings.state / "host_ed25519.pub").read_text().split()
    settings.known_hosts.write_text(f"{settings.address} {words[0]} {words[1]}\n")
    for name in ("root-password", "root-token"):
        file = settings.state / name
        if not file.exists():
            file.touch(0o600)
            file.write_text(secrets.token_hex(16) + "\n")


def power_on(settings: Settings) -> None:
    """Start the power supply in the lab's control group and a mount namespace of its own."""
    group = cgroups.make(settings, "power")
    with (settings.state / "power.log").open("w") as log:
        subprocess.Popen(
            [
                "sh",
                "-c",
                'echo 0 >"$0/cgroup.procs" && exec unshare --mount --propagation private -- "$@"',
                str(group),
                sys.executable,
                "-B",
                "-m",
                "homelab_lab.power",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=LAB_DIR,
            env=ENVIRONMENT,
        )


def wait_until_ready(settings: Settings) -> None:
    """Wait until the node has booted and its doubles answer. Raises LabError when it dies or takes too long."""
    deadline = time.monotonic() + BOOT_SECONDS
    power = cgroups.path(settings) / "power"
    while True:
        try:
            socket.create_connection((settings.address, 22), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
        if not cgroups.populated(power):
            raise LabError("the node did not start: " + (settings.state / "power.log").read_text().strip()[-800:])
        if time.monotonic() > deadline:
            raise LabError(
                f"the node did not answer on {settings.address}:22 within {BOOT_SECONDS} s; "
                f"see {settings.state / 'power.log'}"
            )
    output(*settings.ssh(READY))


def update(settings: Settings) -> None:
    """Bring the doubles on the running node to what the checkout has, when they differ."""
    digest = disk.doubles_id()
    if output(*settings.ssh("cat /etc/pve-double/id || true")).strip() == digest:
        return
    archive = subprocess.run(
        ["tar", "-c", "--exclude=__pycache__", "-C", str(disk.FILES), "."], check=True, capture_output=True
    ).stdout
    done = subprocess.run(
        settings.ssh(
            "rm -rf /usr/lib/pve-double && tar -x --no-same-owner --no-overwrite-dir -C / && systemctl daemon-reload"
            f" && systemctl restart pve-double && echo {digest} >/etc/pve-double/id"
        ),
        check=False,
        input=archive,
        capture_output=True,
    )
    if done.returncode:
        raise LabError(
            f"the doubles on the node could not be updated: {done.stderr.decode().strip()}; lab down && lab up does it"
        )
    print("lab: the doubles on the node are now this checkout's")


def pace(settings: Settings) -> None:
    """Make the doubles as slow as asked for; without that, as fast as they are."""
    for name, seconds in (("pvesh-seconds", settings.pvesh_seconds), ("mmp-seconds", settings.mmp_seconds)):
        file = f"/etc/pve-double/{name}"
        run(*settings.ssh(f"echo {seconds:g} >{file}" if seconds else f"rm -f {file}"))


def gpu(settings: Settings, *machine: str) -> int:
    """Give the node the stand-ins of a machine (its name, and a version), or list them. Returns the exit status."""
    update(settings)
    words = ["place", *machine] if machine else ["list"]
    return subprocess.run(
        settings.ssh("/usr/bin/python3 -B /usr/lib/lab-gpu/lab_gpu.py", *words), check=False
    ).returncode


def status(settings: Settings) -> int:
    """Say whether the lab is up and which guests it has. Returns 0 when it is up, 1 when it is not."""
    if not is_up(settings):
        print("lab: down")
        return 1
    print(f"lab: up: node {settings.node} at {settings.address}")
    print(output(*settings.ssh("pct list")), end="")
    return 0
