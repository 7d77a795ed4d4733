# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Proxmox can answer beside data, as exceptions in words for the operator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable


class ProxmoxError(Exception):
    """Something that the node refused or could not do, in words for the operator."""


class NotFoundError(ProxmoxError):
    """The container or storage does not exist."""


class AccessError(ProxmoxError):
    """The user or token may not do this."""


class LoginError(ProxmoxError):
    """The user, password or token was refused."""


class ParameterError(ProxmoxError):
    """Parameters that the API refuses; `errors` maps each to its reason."""

    def __init__(self, message: str, errors: Mapping[str, str]) -> None:
        super().__init__(message)
        self.errors = dict(errors)


class LockedError(ProxmoxError):
    """Another operation holds the guest's lock."""


class UnreachableError(ProxmoxError):
    """No answer from the node."""


class NodeDownError(UnreachableError):
    """The API answers, but not the node that the container belongs to."""


class TlsError(UnreachableError):
    """The node's certificate is not trusted."""


class FingerprintError(TlsError):
    """The node showed another certificate than the pinned one."""


class TaskError(ProxmoxError):
    """A task ended badly; `log` holds its last lines."""

    def __init__(self, message: str, log: list[str]) -> None:
        super().__init__(message)
        self.log = log


ROOT_ONLY = (
    "devN, bind mounts, every feature but nesting, features of a privileged container and hookscripts are for "
    "root@pam alone, never for a token: leave api_host out and run on the node as root, or log in with "
    "api_user root@pam and its password"
)

# What pvesh prints after an error, which explains nothing.
USAGE = re.compile(r"(USAGE: )?pvesh (get|set|create|delete|ls|usage)\b|400 unable to parse option")
# `cores: reason`, `net0.ip: reason`, `features.flying: reason`.
REASON = re.compile(r"([A-Za-z][\w.\[\]-]*): ?(.*)")
LONGEST_LINE = 1000
NOT_IN_SCHEMA = "property is not defined in schema"
UNKNOWN = "this version of Proxmox VE has no such option"


def parameter_errors(text: str) -> dict[str, str]:
    """Key -> reason, from the lines that Proxmox explains refused parameters with.

    A key of a property has a dot (`net0.ip`). A line without a key continues the reason before it.
    """
    found: dict[str, str] = {}
    key = None
    for line in text.splitlines():
        named = REASON.match(line)
        if named:
            key = named.group(1)
            found[key] = named.group(2).strip()
        elif key and line.strip():
            found[key] = f"{found[key]} {line.strip()}".strip()
    return found


def lock_advice(error: LockedError) -> str:
    """What to do about a lock that does not go away: one in the configuration can be a left-over, a file's cannot."""
    file = re.search(r"can't lock file '([^']+)'", str(error))
    if file:
        return (
            f"a process on the node holds that file as long as it works on the container: `fuser -v {file.group(1)}` "
            "shows which. Wait for it, then run again; `pct unlock` does nothing about it"
        )
    return "if nothing is running any more, the lock is a left-over: `pct unlock` on the node takes it away"


def plain(lines: Iterable[str]) -> str:
    """Lines of foreign text for a message: no control characters, none without end."""
    return "\n".join(printable(line, LONGEST_LINE) for line in lines)


def explain(text: str, status: int | None = None, errors: Mapping[str, str] | None = None) -> ProxmoxError:
    """The error that Proxmox meant: pvesh gives only the text, HTTPS gives status and errors by key too."""
    text = plain(line for line in text.strip().splitlines() if not USAGE.match(line)).strip()
    numbered = re.match(r"(\d{3}) ", text)
    if status is None and numbered:
        status = int(numbered.group(1))
    if re.search(r"is locked \([\w-]+\)|can't lock file .* got timeout|can't a?c?quire lock", text):
        return LockedError(text)
    if re.search(r"Configuration file '.*' does not exist|storage '.*' does not exist", text):
        return NotFoundError(text)
    if status == 403 or re.search(r"[Oo]nly root can|only allowed for root@pam|Permission check failed", text):
        return AccessError(f"{text}. {ROOT_ONLY}." if re.search(r"root@pam|[Oo]nly root", text) else text)
    if status == 401:
        return LoginError(text)
    unknown = re.findall(r"^Unknown option: (\S+)$", text, re.MULTILINE)
    if errors or unknown or "Parameter verification failed" in text:
        lines = "\n".join(f"{key}: {reason}" for key, reason in errors.items()) if errors else text
        refused = {
            key: UNKNOWN if "." not in key and reason.startswith(NOT_IN_SCHEMA) else printable(reason, LONGEST_LINE)
            for key, reason in {**parameter_errors(lines), **dict.fromkeys(unknown, UNKNOWN)}.items()
        }
        reasons = "; ".join(f"{key}: {reason}" for key, reason in sorted(refused.items()))
        return ParameterError(f"Proxmox refuses {reasons or text}", refused)
    if "hostname lookup '" in text:
        return UnreachableError(f"the cluster knows no such node: {text}. Is node right?")
    if status in (595, 596):
        return NodeDownError(
            f"the node does not answer the cluster: {text}. Is it up? `pvecm status` on another node tells"
        )
    if re.search(r"ipcc_send_rec|Connection refused", text):
        return UnreachableError(
            f"the node's cluster service did not answer: {text}. `systemctl status pve-cluster` tells why"
        )
    return ProxmoxError(text or f"the API answered {status} without a word")
