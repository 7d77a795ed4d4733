# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Proxmox writes into the root filesystem of a Debian guest: at creation, and before each start."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from .process import run

LOCAL_CERTIFICATES = Path("usr/local/share/ca-certificates")
BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
# As Proxmox VE writes it for a guest with ifupdown.
PRESET = """\
# Added by PVE at create-time for first-boot configuration.
enable container-getty@.service
disable getty@.service
disable sys-kernel-config.mount
disable sys-kernel-debug.mount
disable systemd-networkd.service
"""
DAILY = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer")


def properties(value: str) -> dict[str, str]:
    """A property string such as name=eth0,bridge=vmbr0 as a dict; a bare first word gets the key ''."""
    pairs = (part.partition("=") for part in str(value).split(",") if part)
    return {key if sign else "": text if sign else key for key, sign, text in pairs}


def networks(config: dict[str, Any]) -> dict[int, dict[str, str]]:
    """The guest's network interfaces by their number."""
    found = {int(key[3:]): properties(value) for key, value in config.items() if re.fullmatch(r"net\d+", key)}
    return dict(sorted(found.items()))


async def prepare(root: Path, password: str | None, keys: str | None) -> None:
    """Make a fresh root filesystem this guest's own: ssh host keys, root's password and keys.

    What Debian does by itself once a day, apt's update first of all, it does not: it would fall into a test by chance.
    The certificates that the node trusts beyond Debian's go in too: the guest sits behind the same proxies.
    """
    if (root / "etc/ssh").is_dir():
        await run("ssh-keygen", "-q", "-A", "-f", str(root))
    for timer in DAILY:
        link = root / "etc/systemd/system" / timer
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    first_boot(root)
    if password:
        await run("chpasswd", "--root", str(root), input=f"root:{password}\n")
    if keys:
        folder = root / "root/.ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / "authorized_keys"
        file.touch(0o600)
        file.write_text(keys.strip() + "\n")
    if not password:
        # Proxmox writes *: no password fits, but root is not locked, as it is in the template.
        await run("chpasswd", "--encrypted", "--root", str(root), input="root:*\n")
    more = sorted((Path("/") / LOCAL_CERTIFICATES).glob("host-*.crt"))
    if more and (root / BUNDLE).exists():
        (root / LOCAL_CERTIFICATES).mkdir(parents=True, exist_ok=True)
        with (root / BUNDLE).open("a") as bundle:
            for file in more:
                shutil.copy(file, root / LOCAL_CERTIFICATES)
                bundle.write(file.read_text())


def first_boot(root: Path) -> None:
    """Let the guest's systemd take its next start for the first one, in which it enables what presets do not disable.

    Debian's enable systemd-networkd-wait-online.service, which has nothing to wait for, and waits two minutes for it.
    """
    for name in ("etc/machine-id", "var/lib/dbus/machine-id"):
        file = root / name
        if not file.is_symlink():
            file.unlink(missing_ok=True)
    folder = root / "etc/systemd/system-preset"
    folder.mkdir(exist_ok=True)
    (folder / "00-pve.preset").write_text(PRESET)


def configure(root: Path, config: dict[str, Any]) -> None:
    """Write host name, addresses and name servers, as the configuration has them now."""
    name = str(config["hostname"])
    _write(root / "etc/hostname", f"{name}\n")
    address = next(
        (net["ip"].split("/")[0] for net in networks(config).values() if "/" in net.get("ip", "")), "127.0.1.1"
    )
    _write(root / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {name}\n")
    _write(root / "etc/network/interfaces", interfaces(config))
    servers = str(config.get("nameserver", "")).split()
    search = config.get("searchdomain")
    if servers or search:
        text = (f"search {search}\n" if search else "") + "".join(f"nameserver {server}\n" for server in servers)
    else:
        text = Path("/etc/resolv.conf").read_text()
    _write(root / "etc/resolv.conf", text)


def interfaces(config: dict[str, Any]) -> str:
    """The guest's /etc/network/interfaces."""
    parts = ["auto lo\niface lo inet loopback\n"]
    for net in networks(config).values():
        ip = net.get("ip", "manual")
        method = ip if ip in ("dhcp", "manual") else "static"
        lines = [f"auto {net['name']}", f"iface {net['name']} inet {method}"]
        if method == "static":
            lines.append(f"\taddress {ip}")
            if "gw" in net:
                lines.append(f"\tgateway {net['gw']}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _write(file: Path, text: str) -> None:
    if not file.parent.is_dir():
        return
    # A link (resolv.conf) could lead out of the guest's root.
    if file.is_symlink():
        file.unlink()
    file.write_text(text)
