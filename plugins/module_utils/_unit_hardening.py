# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a service may not do: the hardening lines of a systemd unit, each that is left out with its reason.

One table for all of our units. A program that computes on its CPU loses everything that it can live without; the
libraries of a GPU need a little more. What a container does not carry out (`_sandbox_probe`) is left out too.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils import _names

TOOL, CPU, CUDA, VULKAN = KINDS = ("tool", "cpu", "cuda", "vulkan")


class HardeningError(Exception):
    """A parameter that no unit can be written from, in one message for the operator."""


class Directive(NamedTuple):
    """One line of [Service].

    `space` is the kernel's namespace that it works by: where a service shares PID 1's it has no effect. `but` has the
    reason why a kind does without it.
    """

    name: str
    value: str
    space: str | None = None
    but: Mapping[str, str] = {}

    @property
    def line(self) -> str:
        return f"{self.name}={self.value}"


_GPU_JIT = {
    CUDA: "the driver compiles kernels at run time, into memory that it writes and then executes",
    VULKAN: "the driver compiles shaders at run time, into memory that it writes and then executes",
}
_GPU_NODES = dict.fromkeys((CUDA, VULKAN), "it hides the GPU's device nodes; DevicePolicy closes all others")
_GPU_PROC = {
    CUDA: "it hides /proc/driver/nvidia, which CUDA and the check of the driver read, and /proc/meminfo",
    VULKAN: "it hides /proc/driver/nvidia and /proc/meminfo, which the drivers read",
}
_PLACES = dict.fromkeys(
    (CPU, CUDA, VULKAN),
    "options of llama-server (prio, cpu-mask, numa) and GPU drivers set priorities, CPUs and NUMA nodes",
)

# What a kind may open beside the pseudo devices. By the drivers' names: uvm's number is another one after each boot.
_DEVICES = {TOOL: (), CPU: (), CUDA: ("char-nvidia*",), VULKAN: ("char-drm", "char-nvidia*")}

DIRECTIVES = (
    Directive("UMask", "0077"),
    Directive("NoNewPrivileges", "true"),
    Directive("CapabilityBoundingSet", ""),
    Directive("AmbientCapabilities", ""),
    Directive("KeyringMode", "private"),
    Directive("LimitCORE", "0"),
    Directive("LockPersonality", "true"),
    Directive("MemoryDenyWriteExecute", "true", but=_GPU_JIT),
    Directive("PrivateTmp", "true", "mnt"),
    Directive("PrivateMounts", "true", "mnt"),
    Directive("PrivateDevices", "true", "mnt", _GPU_NODES),
    Directive("PrivateIPC", "true", "ipc"),
    Directive("PrivateUsers", "true", "user"),
    Directive("ProcSubset", "pid", "mnt", _GPU_PROC),
    Directive("ProtectClock", "true"),
    Directive("ProtectControlGroups", "true", "mnt"),
    Directive("ProtectHome", "true", "mnt"),
    Directive("ProtectHostname", "true", "uts"),
    Directive("ProtectKernelLogs", "true", "mnt"),
    Directive("ProtectKernelModules", "true", "mnt"),
    Directive("ProtectKernelTunables", "true", "mnt"),
    Directive("ProtectProc", "invisible", "mnt"),
    Directive("ProtectSystem", "strict", "mnt"),
    Directive("RemoveIPC", "true"),
    Directive("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
    Directive("RestrictNamespaces", "true"),
    Directive("RestrictRealtime", "true"),
    Directive("RestrictSUIDSGID", "true"),
    Directive("SystemCallArchitectures", "native"),
    Directive("SystemCallErrorNumber", "EPERM"),
    Directive("SystemCallFilter", "@system-service"),
    Directive("SystemCallFilter", "~@privileged"),
    Directive("SystemCallFilter", "~@resources", but=_PLACES),
    Directive("DevicePolicy", "closed"),
)

# What nobody gets, so that a reader does not look for it in vain.
_NEVER = {
    "PrivateNetwork": "it serves the network",
    "IPAddressDeny": "it works by BPF, which unprivileged containers do without; who may connect is nftables' matter",
    "RootDirectory": "it uses the libraries and certificates of the machine",
}

_VALUE = re.compile(r"[\w@~ -]*", re.ASCII)

_NO_SIGN_OF_A_PATH = " \t\"'\\%$:"
# Where ProtectHome shows nothing.
_HOMES = ("/home", "/root", "/run/user")


def kind_of(devices: Iterable[str]) -> str:
    """The kind of a llama-server that computes on these devices, as its backends name them (CUDA0, RPC0)."""
    local = [name for name in devices if not name.startswith("RPC")]
    if not local:
        return CPU
    return CUDA if all(name.startswith("CUDA") for name in local) else VULKAN


def hardening(
    kind: str,
    refused: Mapping[str, str] | None = None,
    writable: Iterable[str] = (),
    readable: Iterable[str] = (),
    devices: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
) -> str:
    """The lines for a program of this kind, without a line end at the last.

    `refused` and `left_out` have directives (`NAME`, or `NAME=VALUE` of one that is there several times) with the
    reason why the machine, or this service, is without them. `writable` and `readable` are paths beside the unit's own
    directories, `devices` what DeviceAllow may name beside the kind's. `values` has other values for directives, by
    name: what a unit that runs as root keeps of its rights. Raises HardeningError.
    """
    if kind not in KINDS:
        raise HardeningError(f"kind: one of {', '.join(KINDS)} was wanted, {kind!r} was found")
    places = {"writable": list(writable), "readable": list(readable)}
    for option, paths in places.items():
        for path in paths:
            if not posixpath.isabs(path) or any(sign in path for sign in _NO_SIGN_OF_A_PATH) or not _is_line(path):
                raise HardeningError(
                    f"{option}: an absolute path without blanks, quotes, \\, %, $ and : was wanted, {path!r} was found"
                )
    for device in devices:
        try:
            _names.plain(device, "devices: a device", "*")
        except _names.BadName as error:
            raise HardeningError(str(error)) from None
    wanted = {directive.name for directive in DIRECTIVES} | {directive.line for directive in DIRECTIVES}
    for option, names in (("left_out", left_out), ("values", values)):
        for name in names or {}:
            if name not in wanted:
                raise HardeningError(
                    f"{option}: a directive of the unit was wanted, {name!r} was found; it has"
                    f" {', '.join(sorted(wanted))}"
                )
    for name, value in (values or {}).items():
        if not _VALUE.fullmatch(value):
            raise HardeningError(f"values: {name}: expected words of one line, found {value!r}")

    lines, open_ones = [], dict(_NEVER)
    homes = [path for paths in places.values() for path in paths if _below_home(path)]
    for directive in DIRECTIVES:
        reason = (
            directive.but.get(kind) or _reason(directive, left_out) or _reason(directive, refused, "this machine: ")
        )
        if reason:
            open_ones[directive.line if directive.name == "SystemCallFilter" else directive.name] = reason
        elif directive.name == "ProtectHome" and homes:
            lines.append("ProtectHome=tmpfs")
        elif directive.name in (values or {}):
            lines.append(f"{directive.name}={(values or {})[directive.name]}")
        else:
            lines.append(directive.line)
    # Also without DevicePolicy: ProtectClock adds a rule for the clock, and a rule for one device may close the others.
    lines += [f"DeviceAllow={device} rw" for device in (*_DEVICES[kind], *devices)]
    lines += [f"BindPaths={path}" if _below_home(path) else f"ReadWritePaths={path}" for path in places["writable"]]
    lines += [f"BindReadOnlyPaths={path}" for path in places["readable"] if _below_home(path)]
    lines.append("# Left out, with the reason:")
    lines += [f"#   {name}: {reason}" for name, reason in sorted(open_ones.items())]
    return "\n".join(lines)


def _is_line(text: str) -> bool:
    try:
        _names.line(text)
    except _names.BadName:
        return False
    return True


def _below_home(path: str) -> bool:
    return any(path == home or path.startswith(home + "/") for home in _HOMES)


def _reason(directive: Directive, reasons: Mapping[str, str] | None, origin: str = "") -> str | None:
    for name in (directive.line, directive.name):
        if name in (reasons or {}):
            return origin + _names.printable(" ".join((reasons or {})[name].split()))
    return None
