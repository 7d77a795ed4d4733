# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The HTTP API of llama-server in router mode: single calls, and one clear message for each way they can fail.

Nothing here waits for a model: that is `_router_state`. A key is sent and never put into a message.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _bounded, _router_answers, _router_places
from ansible_collections.homelab.llamacpp.plugins.module_utils._http_service import Limit, Service, kind
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._peer import Recipients
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_answers import RUNNING, AnswerError, Model

__all__ = ["ARGUMENTS", "EXCLUSIVE", "RUNNING", "Client", "Model", "Refused", "RouterError", "Unreachable", "read_key"]

ARGUMENTS: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "default": "http://127.0.0.1:8012"},
    "api_key": {"type": "str", "no_log": True},
    "api_key_file": {"type": "path", "no_log": False},
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
    "request_timeout": {"type": "int", "default": 10},
    "server_user": {"type": "str"},
}
EXCLUSIVE = [("api_key", "api_key_file")]

_LONGEST_KEYS = 1 << 20  # bytes of a key file
_AT_ONCE = 1 << 16  # bytes


class RouterError(Exception):
    """What was wanted, what was found and what mends it, in one message for the operator."""


class Unreachable(RouterError):
    """No answer came. `transient` when a server that is just starting looks the same; `tls` when that has failed."""

    def __init__(self, message: str, transient: bool, tls: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
        self.tls = tls


class Refused(RouterError):
    """The router answered with an error of its own, kept as `status` and `reason`."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def read_key(path: str) -> str:
    """The first key of a key file, as llama-server reads it: lines untrimmed, lines with a hash passed over."""
    wanted = f"api_key_file: the first key in {path} is wanted"
    try:
        # A FIFO would keep the reader waiting.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            lines = file.read(_LONGEST_KEYS).decode("latin-1").split("\n")
    except FileNotFoundError:
        raise RouterError(f"{wanted}, there is no such file; deploy it first or correct the path") from None
    except OSError as error:
        raise RouterError(f"{wanted}, it cannot be read: {error.strerror}; run the task as root (become)") from None
    key = next((line for line in lines if line.strip() and not line.startswith("#")), None)
    if key is None:
        raise RouterError(
            f"{wanted}, the file holds none: llama-server starts without any authentication on such a file;"
            " write one key a line and restart the router"
        )
    if key != key.rstrip():
        raise RouterError(
            f"{wanted}, its line ends in a blank or a carriage return: llama-server takes that for a part of the key"
            " and no client can send it; write the line again without, and restart the router"
        )
    return key


class Client:
    """One router at `url` (scheme, host and port, no path). Each call is one request and returns what it answered.

    `request_timeout` is in seconds and holds for connecting and for each read; the calls that the router answers
    only when a model's process has ended take a `timeout` of their own.

    The key is sent only where the `recipients` listen (by default root and this process's own user), see `_peer`.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        validate_certs: bool = True,
        ca_path: str | None = None,
        request_timeout: float = 10,
        recipients: Recipients | None = None,
    ) -> None:
        if request_timeout <= 0:
            raise RouterError(f"request_timeout: a number of seconds above 0 was wanted, {request_timeout} was found")
        self._service = Service(
            url.rstrip("/"), "a llama-server", "url", "systemctl start llama-router", "journalctl -u llama-router"
        )
        self.request_timeout = request_timeout
        self._key = None if key is None else _checked_key(key)
        self._trust = (validate_certs, ca_path)
        self._recipients = recipients or Recipients()
        try:
            self.url = self._service.checked()
            self._connect()
        except ValueError as error:
            raise RouterError(str(error)) from None

    @classmethod
    def from_params(cls, params: Mapping[str, Any], unit: str = _router_places.UNIT) -> Client:
        """The client that a module's ARGUMENTS ask for, of the router that this unit runs; reads the key file."""
        key = params["api_key"]
        if params["api_key_file"]:
            key = read_key(params["api_key_file"])
        elif key is not None:
            key = key.encode("utf-8").decode("latin-1")
        user = params["server_user"]
        recipients = Recipients.of_user(user) if user else Recipients.of_unit(_bounded.run_bounded, unit)
        return cls(
            params["url"], key, params["validate_certs"], params["ca_path"], params["request_timeout"], recipients
        )

    def marked(self, mark: int) -> Client:
        """The same client, on connections whose packets bear this mark (SO_MARK; it needs CAP_NET_ADMIN)."""
        other = copy.copy(self)
        other._connect(mark)
        return other

    def _connect(self, mark: int = 0) -> None:
        """Make the openers: one that the key is sent by, to its recipients alone, and one that sends no key."""
        self._opener = self._service.opener(*self._trust, None if self._key is None else self._recipients, mark)
        self._keyless = self._service.opener(*self._trust, None, mark)

    def healthy(self) -> bool:
        """Whether a server is up, whoever it is: no key is sent. Raises for what waiting cannot mend."""
        try:
            self._call("GET", "/health", keyless=True)
        except Unreachable as error:
            if not error.transient:
                raise
            return False
        except Refused:
            return False
        return True

    def admits(self) -> bool:
        """Whether the server, of whatever kind, answers to this key, or to none."""
        try:
            self._call("GET", "/v1/models")
        except Refused as error:
            if error.status == 401:
                return False
            raise
        return True

    def props(self) -> dict[str, Any]:
        """What the router says of itself; raises RouterError when it is another kind of server."""
        try:
            props = self._call("GET", "/props")
        except Refused as error:
            if error.status == 404:
                raise RouterError(self._not_a_router("GET /props is not known there")) from None
            if error.status == 503:
                raise RouterError(
                    f"a llama-server that is ready was wanted at {self.url}, it answers: {error.reason}; wait for it"
                ) from None
            raise
        if not isinstance(props, dict):
            raise RouterError(self._not_a_router("GET /props answered something else"))
        if props.get("role") != "router":
            if "default_generation_settings" in props:
                model = printable(props.get("model_path") or "unnamed")
                raise RouterError(
                    f"a router was wanted at {self.url}, a llama-server with a single model answers ({model}); start it"
                    " without --model and --hf-repo, and without LLAMA_ARG_MODEL and LLAMA_ARG_HF_REPO in its"
                    " environment"
                )
            raise RouterError(self._not_a_router("GET /props names no role"))
        try:
            return _router_answers.props(props)
        except AnswerError as error:
            raise RouterError(self._other_build("GET /props", error)) from None

    def models(self) -> list[Model]:
        """The router's list, in its order. Loads and wakes nothing."""
        return self._list("/models", self.request_timeout)

    def reload(self, timeout: float) -> list[Model]:
        """Make it read presets and folder again; answers when the models that this stops are gone."""
        return self._list("/models?reload=1", timeout)

    def load(self, model_id: str, timeout: float) -> None:
        """Ask for a load; answers when a process is started, which at the limit is after another one has ended."""
        self._call("POST", "/models/load", {"model": model_id}, timeout)

    def unload(self, model_id: str) -> None:
        self._call("POST", "/models/unload", {"model": model_id})

    def download(self, name: str) -> None:
        """Ask for `user/repository[:quant]` from the hub; answers when a process is started, whatever becomes of it."""
        # It asks the hub what there is before it answers.
        self._call("POST", "/models", {"model": name}, max(self.request_timeout, 60))

    def remove(self, model_id: str, timeout: float) -> None:
        """Take a model of its cache off the disk; answers when its process or its download has ended."""
        self._call("DELETE", "/models?" + urllib.parse.urlencode({"model": model_id}), timeout=timeout)

    def events(self, silence: float) -> Iterator[dict[str, Any]]:
        """What happens to models from this call on; ends when nothing was heard for so many seconds, or it hangs up.

        RouterError for an event of another form than a router's.
        """
        response = self._open("GET", "/models/sse", None, silence)

        def read() -> Iterator[dict[str, Any]]:
            with response:
                heard = time.monotonic()
                for line in self._lines(response):
                    try:
                        event = _router_answers.event(line)
                    except AnswerError as error:
                        raise RouterError(self._other_build("GET /models/sse", error)) from None
                    if event is not None:
                        yield event
                        heard = time.monotonic()
                    elif time.monotonic() - heard > silence:
                        return  # it sends lines that tell nothing

        return read()

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """The lines of a stream, until it ends or breaks off."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            while True:
                line = response.readline(_router_answers.LONGEST_LINE)
                if not line:
                    return
                if len(line) == _router_answers.LONGEST_LINE:
                    raise RouterError(
                        self._not_a_router(f"a line of its stream has more than {_router_answers.LONGEST_LINE} bytes")
                    )
                yield line

    def answers(self, model_id: str) -> bool:
        """Whether the process of a loaded model answers: on its way out it is still `loaded`, and does not."""
        query = urllib.parse.urlencode({"model": model_id, "autoload": "false"})
        try:
            self._call("GET", "/props?" + query)
        except Refused:
            return False
        return True

    def ask_for(self, model_id: str, timeout: float) -> None:
        """Have a model loaded as a request for it does, which waits for a slot; answers when it is loaded."""
        query = urllib.parse.urlencode({"model": model_id, "autoload": "true"})  # also where requests load nothing
        self._call("GET", "/props?" + query, timeout=timeout)

    def complete(self, model_id: str, tokens: int, timeout: float) -> Generator[Any, None, None]:
        """The parts of an answer of so many tokens, as they come; RouterError when it breaks off before its end."""
        body = {
            "model": model_id,
            "prompt": "Once upon a time",
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        with self._open("POST", "/v1/completions?autoload=true", body, timeout) as response:
            heard = time.monotonic()
            for line in self._lines(response):
                kind, _colon, text = line.decode(errors="replace").strip().partition(": ")
                if kind == "data" and text == "[DONE]":
                    return
                if kind == "data":
                    try:
                        part = _router_answers.decode(text.encode())
                    except ValueError:
                        raise RouterError(f"an answer of {model_id} broke off (a part is no JSON)") from None
                    yield part
                    heard = time.monotonic()
                elif kind:
                    raise RouterError(f"an answer of {model_id} ended with an error: {printable(f'{kind}: {text}')}")
                elif time.monotonic() - heard > timeout:
                    raise RouterError(f"an answer of {model_id} has no part for {timeout:g} s")
        raise RouterError(f"an answer of {model_id} broke off before its end")

    def _list(self, path: str, timeout: float) -> list[Model]:
        answer = self._call("GET", path, timeout=timeout)
        try:
            return _router_answers.models(answer)
        except AnswerError as error:
            raise RouterError(self._other_build(f"GET {path}", error)) from None

    def _call(
        self, method: str, path: str, body: object = None, timeout: float | None = None, keyless: bool = False
    ) -> Any:
        timeout = timeout or self.request_timeout
        with Limit(2 * timeout) as limit, self._open(method, path, body, timeout, keyless, limit) as response:
            text = self._read(response, timeout, limit)
        try:
            return _router_answers.decode(text)
        except AnswerError as error:
            raise RouterError(self._other_build(f"{method} {path}", error)) from None
        except ValueError:
            raise RouterError(self._not_a_router(f"{method} {path} answered {kind(response.headers)}")) from None

    def _read(self, response: Any, timeout: float, limit: Limit | None = None) -> bytes:
        """The body of an answer."""
        limit = limit or Limit()
        parts, size = [], 0
        try:
            while size <= _router_answers.LARGEST:
                part = response.read(_AT_ONCE)
                if not part:
                    break
                parts.append(part)
                size += len(part)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(limit.reason(error), timeout) from None
        if size > _router_answers.LARGEST:
            raise RouterError(self._not_a_router(f"it answered more than {_router_answers.LARGEST >> 20} MiB"))
        if response.length or limit.expired:  # http.client takes an answer that was cut off for a short one
            cut = http.client.IncompleteRead(b"", response.length)
            raise self._unreachable(limit.reason(cut), timeout)
        return b"".join(parts)

    def _open(
        self,
        method: str,
        path: str,
        body: object,
        timeout: float,
        keyless: bool = False,
        limit: Limit | None = None,
    ) -> http.client.HTTPResponse:
        """The answer, its body still to be read; RouterError when it is a refusal, or when none comes."""
        limit = limit or Limit()
        request = urllib.request.Request(self.url + path, method=method, headers={"Accept": "application/json"})
        limit.of(request)
        if self._key is not None and not keyless:
            request.add_header("Authorization", f"Bearer {self._key}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            opener = self._keyless if keyless else self._opener
            response: http.client.HTTPResponse = opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(method, path, error, timeout, limit) from None
        except urllib.error.URLError as error:
            raise self._unreachable(limit.reason(error.reason), timeout) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(limit.reason(error), timeout) from None
        return response

    def _refusal(
        self, method: str, path: str, error: urllib.error.HTTPError, timeout: float, limit: Limit
    ) -> RouterError:
        try:
            text = self._read(error.fp, timeout, limit)
        except RouterError as broken:
            return broken
        reason = _router_answers.refusal(text)
        if reason is None:
            if not text.startswith(b"proxy error"):  # how it says that a model's process broke off
                found = f"{method} {path} answered {error.code} with {kind(error.headers)}"
                return RouterError(self._not_a_router(found))
            reason = printable(text.decode(errors="replace"))
        if error.code == 401:
            sent = "the key that was sent is none of them" if self._key is not None else "no key was sent"
            return Refused(
                f"the router at {self.url} wants an API key, {sent}; set api_key_file to its key file, or api_key to"
                " one of its keys (it reads its key file only when it starts)",
                error.code,
                reason,
            )
        return Refused(f"the router at {self.url} refused {method} {path}: {reason}", error.code, reason)

    def _unreachable(self, error: object, timeout: float) -> Unreachable:
        found = self._service.silence(error, timeout)
        return Unreachable(found.message, found.transient, isinstance(error, ssl.SSLError))

    def _other_build(self, asked: str, error: AnswerError) -> str:
        return (
            f"the router at {self.url} answered {asked} in another form: {error}; use a build of llama.cpp that this"
            " collection supports"
        )

    def _not_a_router(self, found: str) -> str:
        return (
            f"a llama-server in router mode was wanted at {self.url}, {found}; correct url: it is the scheme, host and"
            " port that the router listens on, without /v1"
        )


def _checked_key(key: str) -> str:
    if not key.strip() or key != key.rstrip() or any(ord(char) < 32 or ord(char) == 127 for char in key):
        raise RouterError(
            "api_key: a key of one line was wanted, it is empty, ends in a blank or holds a control character"
            " (a newline read along with it?)"
        )
    return key
