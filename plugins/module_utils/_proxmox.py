# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One way to call a Proxmox node, over two transports.

`Proxmox.call(method, path, **params)` answers with the API's data or raises a `ProxmoxError`. A call that
starts a task comes back when that task has ended well; a task that failed raises `TaskError` with its log.

Passwords of guests must not go through here: on the node every parameter stands in the argument list of
pvesh, where `ps` shows it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any, Callable, Protocol

from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import (
    AccessError,
    LockedError,
    ProxmoxError,
    TaskError,
    UnreachableError,
    explain,
    lock_advice,
    plain,
)
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_here import Here
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_https import Https, Trust

# Seconds beyond the limit that a task gets, to end by its own limit and tell why.
GRACE = 10
# Seconds between two looks at a task, and two tries against a lock.
POLL = 0.5
LOCK_POLL = 2.0
LOG_LINES = 30
VERBS = {"GET": "get", "POST": "create", "PUT": "set", "DELETE": "delete"}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "api_host": {"type": "str"},
    "api_port": {"type": "int", "default": 8006},
    "api_user": {"type": "str"},
    "api_password": {"type": "str", "no_log": True},
    "api_token_id": {"type": "str", "no_log": False},
    "api_token_secret": {"type": "str", "no_log": True},
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
    "api_fingerprint": {"type": "str"},
    "node": {"type": "str"},
    "timeout": {"type": "int", "default": 300},
}

# (arguments, **keywords) -> exit status, stdout, stderr; AnsibleModule.run_command is one.
RunCommand = Callable[..., tuple[int, str, str]]


def as_text(value: Any) -> str:
    """A parameter as both transports send it: 1 and 0 for booleans, never True."""
    return str(int(value)) if isinstance(value, bool) else str(value)


class Transport(Protocol):
    """Sends one request; knows nothing of tasks and locks."""

    def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        """The API's data, a UPID for a task; raises ProxmoxError."""


class Pvesh:
    """The API through pvesh on the node itself, as root."""

    def __init__(self, run_command: RunCommand, pvesh: str | None) -> None:
        if not pvesh:
            raise UnreachableError(
                f"wanted pvesh, found none on {os.uname().nodename}: this is not a Proxmox VE node. "
                "Delegate the task to the node, or set api_host"
            )
        self._run_command = run_command
        self._pvesh = pvesh

    def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        argv = [self._pvesh, VERBS[method], f"/{path}"]
        for key, value in params.items():
            argv += [f"-{key}", value]
        # C.UTF-8 and not C: pvesh decodes its arguments by the locale. run_command would otherwise expand $ and ~.
        rc, out, err = self._run_command(
            [*argv, "--output-format", "json"],
            environ_update={"LC_ALL": "C.UTF-8", "LANGUAGE": ""},
            expand_user_and_vars=False,
        )
        task = re.findall(r"UPID:[^\s\"]+", out)
        if method != "GET" and task:
            # Also when the exit status is not 0: the task's own status and log tell more.
            return task[-1]
        if rc != 0:
            if "please run as root" in err:
                raise AccessError("pvesh works for root alone: set become: true on this task")
            raise explain(err or out or f"no word from pvesh, exit status {rc}")
        return self._data(method, out)

    @staticmethod
    def _data(method: str, out: str) -> Any:
        """What pvesh printed: nothing for null; log lines may come before the data."""
        text = out.strip()
        for candidate in (text, text.rpartition("\n")[2]):
            try:
                return json.loads(candidate) if candidate else None
            except ValueError:
                continue
        if method != "GET":
            return None
        raise ProxmoxError(f"wanted JSON from pvesh, found: {text[:200]}")


class Proxmox:
    """Calls to one node or cluster.

    timeout: seconds that a task may take, and that another's lock is waited for.
    root: whether it is root@pam who asks, who alone may set some things; here: whether the node's files are this
    machine's, and files: those files, where they can be read.
    calls: the requests made so far, as `METHOD path`; warnings: from tasks that ended with warnings.
    """

    def __init__(
        self,
        transport: Transport,
        timeout: float = 300,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        root: bool = True,
        here: bool = False,
        files: Here | None = None,
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._sleep = sleep
        self._clock = clock
        self.root = root
        self.here = here
        self.files = files
        self.calls: list[str] = []
        self.warnings: list[str] = []

    def call(self, method: str, path: str, /, limit: float | None = None, **params: Any) -> Any:
        """The data of one API call; of a task its UPID, once it has ended well. None parameters are left out.

        limit: seconds that the task may take instead of the timeout.
        Raises ProxmoxError or one of its kin. A change that meets a lock is tried again until the timeout.
        """
        sent = {key: as_text(value) for key, value in params.items() if value is not None}
        deadline = self._clock() + self._timeout
        while True:
            try:
                data = self._request(method, path, sent)
                if method != "GET" and isinstance(data, str) and data.startswith("UPID:"):
                    self._wait(data, self._timeout if limit is None else limit)
                return data
            except LockedError as error:
                if method == "GET":
                    raise
                if self._clock() + LOCK_POLL > deadline:
                    raise LockedError(
                        f"{error}. Waited {self._timeout:g} seconds for it; {lock_advice(error)}"
                    ) from None
                self._sleep(LOCK_POLL)

    def until(self, look: Callable[[], Any], seconds: float) -> Any:
        """What `look` finds, asked again for that many seconds as long as it finds nothing."""
        deadline = self._clock() + seconds
        while not (found := look()) and self._clock() < deadline:
            self._sleep(POLL)
        return found

    def _request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        self.calls.append(f"{method} {path}")
        try:
            return self._transport.request(method, path, params)
        except AccessError as error:
            raise AccessError(f"{method} {path}: {error}") from None

    def task_log(self, upid: str) -> list[str]:
        """The lines of the log of a task that has ended."""
        task = self.files.task(upid) if self.files else None
        return task.log if task else self._ask_log(upid)

    def _ask_log(self, upid: str) -> list[str]:
        lines = self._request("GET", f"nodes/{upid.split(':')[1]}/tasks/{upid}/log", {"limit": "1000"}) or []
        return [str(line.get("t", "")) for line in lines]

    def _wait(self, upid: str, limit: float) -> None:
        """Wait for a task; one that did not end well raises TaskError, or LockedError when a lock was the reason."""
        _upid, node, _pid, _pstart, _start, kind, guest, *_user = upid.split(":")
        # pvesh comes back when the task has ended.
        task = self.files.task(upid) if self.files else None
        ended = task.ended if task else self._ended(upid, limit)
        if ended == "OK":
            return
        log = (task.log if task else self._ask_log(upid))[-LOG_LINES:]
        if ended.startswith("WARNINGS"):
            self.warnings += [line for line in log if line.upper().startswith("WARN")] or [ended]
            return
        if isinstance(explain(ended), LockedError):
            raise LockedError(ended)
        raise TaskError(plain([f"task {kind} of {guest} on {node} failed: {ended}", *log]), log)

    def _ended(self, upid: str, limit: float) -> str:
        """How a task ended, once it has. Raises TaskError for one that takes longer than the limit."""
        _upid, node, _pid, _pstart, _start, kind, guest, *_user = upid.split(":")
        path = f"nodes/{node}/tasks/{upid}"
        deadline = self._clock() + limit + GRACE
        while True:
            try:
                state = self._request("GET", f"{path}/status", {})
            except UnreachableError:
                # The task goes on without us; a restart of the node's proxy is no failure of it.
                if self._clock() > deadline:
                    raise
                state = {"status": "unknown"}
            if state["status"] == "stopped":
                return str(state.get("exitstatus", "no exit status"))
            if self._clock() > deadline:
                raise TaskError(f"task {kind} of {guest} is still running after {limit:g} seconds: {upid}", [])
            self._sleep(POLL)


def connect(params: Mapping[str, Any], run_command: RunCommand, pvesh: str | None) -> tuple[Proxmox, str]:
    """The API as the options of the fragment say, and the name of the node to work on."""
    timeout, node, host = params["timeout"], params["node"], params["api_host"]
    if not host:
        unused = [name for name in ("api_user", "api_password", "api_token_id", "api_token_secret") if params[name]]
        if unused:
            raise ProxmoxError(f"{' and '.join(unused)} without api_host: add api_host, or leave them out to use pvesh")
        own = os.uname().nodename.split(".")[0]
        here = node in (None, own)
        files = Here.of(own, run_command) if here and pvesh else None
        return Proxmox(Pvesh(run_command, pvesh), timeout, here=here, files=files), node or own
    if not node:
        raise ProxmoxError("api_host without node: over the API the node must be named")
    user, token_id, password = params["api_user"] or "", params["api_token_id"] or "", params["api_password"]
    if "!" in token_id:
        user, _sep, token_id = token_id.partition("!")
    secret = params["api_token_secret"] if token_id else password
    if not user or not secret or (password and token_id):
        raise ProxmoxError(
            "api_host wants api_user with api_password, or api_user with api_token_id and api_token_secret, not both"
        )
    trust = Trust(params["validate_certs"], params["ca_path"], params["api_fingerprint"])
    login = f"{user}!{token_id}" if token_id else user
    transport = Https(host, params["api_port"], login, secret, trust)
    return Proxmox(transport, timeout, root=login == "root@pam"), node
