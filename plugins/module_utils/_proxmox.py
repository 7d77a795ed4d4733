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

import hashlib
import importlib
import json
import os
import re
import ssl
import time
import traceback
from collections.abc import Mapping
from typing import Any, Callable, Protocol

from ansible.module_utils.basic import missing_required_lib

# Seconds that one HTTPS request may take: the node itself waits up to 10 s for a lock before it answers.
REQUEST_TIMEOUT = 60
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
    "node": {"type": "str"},
    "timeout": {"type": "int", "default": 300},
}

# (arguments, **keywords) -> exit status, stdout, stderr; AnsibleModule.run_command is one.
RunCommand = Callable[..., tuple[int, str, str]]


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


class TlsError(UnreachableError):
    """The node's certificate is not trusted."""


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


def explain(text: str, status: int | None = None, errors: Mapping[str, str] | None = None) -> ProxmoxError:
    """The error that Proxmox meant: pvesh gives only the text, HTTPS gives status and errors by key too."""
    text = "\n".join(line for line in text.strip().splitlines() if not line.startswith("pvesh "))
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
    if errors or "Parameter verification failed" in text:
        if not errors:
            errors = dict(re.findall(r"^([\w-]+): (.+)$", text, re.MULTILINE))
        reasons = "; ".join(f"{key}: {reason.strip()}" for key, reason in sorted(errors.items()))
        return ParameterError(f"Proxmox refuses {reasons or text}", errors)
    if "hostname lookup '" in text:
        return UnreachableError(f"the cluster knows no such node: {text}. Is node right?")
    if status in (595, 596) or re.search(r"ipcc_send_rec|Connection refused", text):
        return UnreachableError(f"the node's cluster service did not answer: {text}")
    return ProxmoxError(text or f"the API answered {status} without a word")


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


class Https:
    """The API over HTTPS, by proxmoxer, with a password or a token."""

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        password: str | None,
        token: tuple[str, str] | None,
        verify: Any,
    ) -> None:
        try:
            self._requests = importlib.import_module("requests")
            self._proxmoxer = importlib.import_module("proxmoxer")
        except ImportError:
            raise UnreachableError(
                f"{missing_required_lib('proxmoxer and requests', reason='for api_host')} {traceback.format_exc(0)}"
            ) from None
        self._address = (host, port)
        self._place = f"https://{host}:{port}"
        self._user = f"{user}!{token[0]}" if token else user
        login = {"token_name": token[0], "token_value": token[1]} if token else {"password": password}
        self._api = self._guard(
            lambda: self._proxmoxer.ProxmoxAPI(
                host, port=port, user=user, verify_ssl=verify, timeout=REQUEST_TIMEOUT, **login
            )
        )

    def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        return self._guard(lambda: getattr(self._api(path), method.lower())(**params))

    def _guard(self, action: Callable[[], Any]) -> Any:
        network = self._requests.exceptions
        try:
            return action()
        except network.SSLError as error:
            raise TlsError(self._certificate_words(error)) from None
        except network.Timeout:
            raise UnreachableError(f"{self._place} did not answer within {REQUEST_TIMEOUT} seconds") from None
        except network.RequestException as error:
            raise UnreachableError(
                f"{self._place} cannot be reached: {_cause(error)}. Is the node up, and api_host and api_port right?"
            ) from None
        except self._proxmoxer.AuthenticationError:
            raise LoginError(
                f"{self._place} refused the login of {self._user}: wrong password, unknown user, or no realm in "
                "api_user (it reads root@pam)"
            ) from None
        except self._proxmoxer.ResourceException as error:
            found = explain(str(error.content), error.status_code, error.errors)
            if isinstance(found, LoginError):
                found = LoginError(f"{self._place} refused {self._user}: {found}. Is the secret right and not expired?")
            raise found from None

    def _certificate_words(self, error: Exception) -> str:
        try:
            shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(self._address)))
            print_ = ":".join(f"{byte:02X}" for byte in shown.digest())
        except (OSError, ValueError):
            print_ = "unknown"
        return (
            f"the certificate of {self._place} is not trusted: {_cause(error)}. Its SHA-256 fingerprint is {print_}. "
            "If that is the node's, set ca_path to a copy of its /etc/pve/pve-root-ca.pem and api_host to a name in "
            "the certificate, or validate_certs: false on a network of your own"
        )


def _cause(error: BaseException) -> str:
    """The innermost reason of a nested network error, without addresses of Python objects."""
    while True:
        inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        inner = inner or getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return re.sub(r"^<.*?>: |^HTTPSConnection\(.*?\): ", "", str(error.args[-1] if error.args else error))


class Proxmox:
    """Calls to one node or cluster.

    timeout: seconds that a task may take, and that another's lock is waited for.
    calls: the requests made so far, as `METHOD path`; warnings: from tasks that ended with warnings.
    """

    def __init__(
        self,
        transport: Transport,
        timeout: float = 300,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._sleep = sleep
        self._clock = clock
        self.calls: list[str] = []
        self.warnings: list[str] = []

    def call(self, method: str, path: str, /, **params: Any) -> Any:
        """The data of one API call; of a task its UPID, once it has ended well. None parameters are left out.

        Raises ProxmoxError or one of its kin. A change that meets a lock is tried again until the timeout.
        """
        sent = {key: as_text(value) for key, value in params.items() if value is not None}
        deadline = self._clock() + self._timeout
        while True:
            try:
                data = self._request(method, path, sent)
                if method != "GET" and isinstance(data, str) and data.startswith("UPID:"):
                    self._wait(data)
                return data
            except LockedError as error:
                if method == "GET":
                    raise
                if self._clock() + LOCK_POLL > deadline:
                    raise LockedError(
                        f"{error}. Waited {self._timeout:g} seconds for it; if nothing is running any more, the lock "
                        "is a left-over: `pct unlock` on the node takes it away"
                    ) from None
                self._sleep(LOCK_POLL)

    def _request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        self.calls.append(f"{method} {path}")
        try:
            return self._transport.request(method, path, params)
        except AccessError as error:
            raise AccessError(f"{method} {path}: {error}") from None

    def _wait(self, upid: str) -> None:
        """Wait for a task; one that did not end well raises TaskError, or LockedError when a lock was the reason."""
        _upid, node, _pid, _pstart, _start, kind, guest, *_user = upid.split(":")
        path = f"nodes/{node}/tasks/{upid}"
        deadline = self._clock() + self._timeout + GRACE
        while True:
            try:
                state = self._request("GET", f"{path}/status", {})
            except UnreachableError:
                # The task goes on without us; a restart of the node's proxy is no failure of it.
                if self._clock() > deadline:
                    raise
                state = {"status": "unknown"}
            if state["status"] == "stopped":
                break
            if self._clock() > deadline:
                raise TaskError(f"task {kind} of {guest} is still running after {self._timeout:g} seconds: {upid}", [])
            self._sleep(POLL)
        ended = str(state.get("exitstatus", "no exit status"))
        if ended == "OK":
            return
        lines = self._request("GET", f"{path}/log", {"limit": "1000"}) or []
        log = [str(line.get("t", "")) for line in lines][-LOG_LINES:]
        if ended.startswith("WARNINGS"):
            self.warnings += [line for line in log if line.upper().startswith("WARN")] or [ended]
            return
        if isinstance(explain(ended), LockedError):
            raise LockedError(ended)
        raise TaskError(f"task {kind} of {guest} on {node} failed: {ended}\n" + "\n".join(log), log)


def connect(params: Mapping[str, Any], run_command: RunCommand, pvesh: str | None) -> tuple[Proxmox, str]:
    """The API as the options of the fragment say, and the name of the node to work on."""
    host = params["api_host"]
    if not host:
        unused = [name for name in ("api_user", "api_password", "api_token_id", "api_token_secret") if params[name]]
        if unused:
            raise ProxmoxError(f"{' and '.join(unused)} without api_host: add api_host, or leave them out to use pvesh")
        node = params["node"] or os.uname().nodename.split(".")[0]
        return Proxmox(Pvesh(run_command, pvesh), params["timeout"]), node
    if not params["node"]:
        raise ProxmoxError("api_host without node: over the API the node must be named")
    user, token_id = params["api_user"] or "", params["api_token_id"] or ""
    if "!" in token_id:
        user, _sep, token_id = token_id.partition("!")
    token = (token_id, params["api_token_secret"]) if token_id else None
    if not user or not (params["api_password"] or (token and token[1])) or (params["api_password"] and token):
        raise ProxmoxError(
            "api_host wants api_user with api_password, or api_user with api_token_id and api_token_secret, not both"
        )
    verify = (params["ca_path"] or True) if params["validate_certs"] else False
    transport = Https(host, params["api_port"], user, params["api_password"], token, verify)
    return Proxmox(transport, params["timeout"]), params["node"]
