# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The REST API of Open WebUI, as an administrator: single calls, and one clear message for each way they can fail.

Every call is one request. No password, token or key is put into a message.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils._http_service import Service, kind
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._open_webui_answers import (
    LARGEST,
    OpenWebUIError,
    parsed,
)

__all__ = ["ARGUMENTS", "EXCLUSIVE", "ONE_OF", "TOGETHER", "OpenWebUI", "OpenWebUIError", "Refused"]

ARGUMENTS: dict[str, dict[str, Any]] = {
    "webui_url": {"type": "str", "default": "http://127.0.0.1:8080"},
    "webui_email": {"type": "str"},
    "webui_password": {"type": "str", "no_log": True},
    "webui_token": {"type": "str", "no_log": True},
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
    "request_timeout": {"type": "int", "default": 30},
}
EXCLUSIVE = [("webui_token", "webui_email"), ("webui_token", "webui_password")]
TOGETHER = [("webui_email", "webui_password")]
ONE_OF = [("webui_token", "webui_email")]

_TOKEN = re.compile("[!-~]{1,8192}")
OLDEST = "0.12"  # the first that knows llama.cpp as a provider


class Refused(OpenWebUIError):
    """An answer that is no success: its `status`, its JSON as `answer` (None for another kind), and what kind it is."""

    def __init__(self, message: str, status: int, answer: Any, found: str = "other JSON") -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer
        self.found = found


class OpenWebUI:
    """One Open WebUI, of which it is known that it is one and that whoever asks is an administrator of it."""

    def __init__(
        self,
        url: str,
        validate_certs: bool = True,
        ca_path: str | None = None,
        request_timeout: float = 30,
    ) -> None:
        if request_timeout <= 0:
            raise OpenWebUIError(
                f"request_timeout: a number of seconds above 0 was wanted, {request_timeout} was found"
            )
        self._service = Service(
            url.rstrip("/"), "Open WebUI", "webui_url", "systemctl start open-webui", "journalctl -u open-webui"
        )
        self._timeout = request_timeout
        self._token = ""
        try:
            self.url = self._service.checked()
            self._opener = self._service.opener(validate_certs, ca_path)
        except ValueError as error:
            raise OpenWebUIError(str(error)) from None
        self.version = self._recognized()

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> OpenWebUI:
        """The administrator's Open WebUI that a module's ARGUMENTS name."""
        one = cls(params["webui_url"], params["validate_certs"], params["ca_path"], params["request_timeout"])
        if params["webui_token"] is not None:
            one.use_token(params["webui_token"])
        else:
            one.sign_in(params["webui_email"] or "", params["webui_password"] or "")
        return one

    def _recognized(self) -> str:
        """Its version; an error when something else answers."""
        try:
            about = self._call("GET", "/api/config")
        except Refused as refused:
            if refused.status in (502, 503, 504):
                raise OpenWebUIError(
                    f"Open WebUI was wanted at {self.url}, what stands before it answers {refused.status}: Open WebUI"
                    " itself does not run, or is still starting; see journalctl -u open-webui"
                ) from None
            found = f"GET /api/config answered {refused.status} with {refused.found}"
            raise OpenWebUIError(self._another(found)) from None
        if not isinstance(about, dict) or not {"version", "features"} <= about.keys():
            raise OpenWebUIError(self._another("GET /api/config answered something else"))
        return printable(about["version"], 40)

    def sign_in(self, email: str, password: str) -> None:
        try:
            session = self._call("POST", "/api/v1/auths/signin", {"email": email, "password": password})
        except Refused as refused:
            raise OpenWebUIError(self._not_signed_in(email, refused)) from None
        if not isinstance(session, dict) or not isinstance(session.get("token"), str):
            raise OpenWebUIError(
                f"webui_email: an account that signs in with its password alone was wanted, {email} at {self.url} needs"
                " more than that (a second factor?); give an API key as webui_token"
            )
        if session.get("role") != "admin":
            raise OpenWebUIError(
                self._no_admin("webui_email", f"{email} has the role {printable(session.get('role'), 40)}")
            )
        token: str = session["token"]
        if not _TOKEN.fullmatch(token):
            raise OpenWebUIError(self._another("POST /api/v1/auths/signin answered with a token of other characters"))
        self._token = token

    def use_token(self, token: str) -> None:
        if not _TOKEN.fullmatch(token):
            raise OpenWebUIError(
                "webui_token: a token of one word was wanted, it is empty, or holds blanks or other characters"
            )
        self._token = token
        try:
            self._call("GET", "/openai/config")
        except Refused as refused:
            if refused.status == 403:
                raise OpenWebUIError(
                    f"webui_token: Open WebUI at {self.url} takes no API keys, or not for this; enable them (Admin"
                    " Panel, Settings, General), or give webui_email and webui_password"
                ) from None
            if refused.status != 401:
                raise
            raise OpenWebUIError(
                self._no_admin("webui_token", "that of another user was found")
                if self._is_somebody()
                else f"webui_token: a token that Open WebUI at {self.url} knows was wanted, it refused this one; make"
                " another one (Settings, Account, API keys), or give webui_email and webui_password"
            ) from None

    def _is_somebody(self) -> bool:
        """Whether the token is that of any user: to one that is no administrator's it says the same as to none."""
        try:
            self._call("GET", "/api/v1/users/user/settings")
        except Refused:
            return False
        return True

    def get(self, path: str) -> Any:
        return self._known("GET", path)

    def post(self, path: str, body: object) -> Any:
        return self._known("POST", path, body)

    def _known(self, method: str, path: str, body: object = None) -> Any:
        """An answer of an endpoint that this version should have."""
        try:
            return self._call(method, path, body)
        except Refused as refused:
            # Its page answers for every path that it does not know, to GET alone.
            if refused.status == 405 or (refused.status == 200 and refused.answer is None):
                raise OpenWebUIError(
                    f"{method} {path} was wanted of Open WebUI {self.version} at {self.url}, it does not know that;"
                    f" Open WebUI {OLDEST} or later is needed: update it"
                ) from None
            raise

    def _call(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(self.url + path, method=method, headers={"Accept": "application/json"})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            try:
                response = self._opener.open(request, timeout=self._timeout)
            except urllib.error.HTTPError as refusal:
                response = refusal  # which is an answer as well
            with response:
                status, text, headers = response.status, response.read(LARGEST + 1), response.headers
        except urllib.error.URLError as error:
            raise OpenWebUIError(self._service.silence(error.reason, self._timeout).message) from None
        except (OSError, http.client.HTTPException) as error:
            raise OpenWebUIError(self._service.silence(error, self._timeout).message) from None
        if len(text) > LARGEST:
            raise OpenWebUIError(self._another(f"{method} {path} answered with more than {LARGEST >> 20} MiB"))
        try:
            answer = parsed(text)
        except ValueError:
            found = kind(headers)
            told = f"Open WebUI at {self.url} answered {method} {path} with {status}, {found}"
            raise Refused(told, status, None, found) from None
        if not 200 <= status < 300:
            detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
            said = _short(detail)
            if self._token:
                said = said.replace(self._token, "(token)")
            told = f"Open WebUI at {self.url} refused {method} {path} ({status}): {said}"
            raise Refused(told, status, answer)
        return answer

    def _not_signed_in(self, email: str, refused: Refused) -> str:
        if refused.status in (400, 401):
            return (
                f"webui_email, webui_password: an administrator of Open WebUI at {self.url} was wanted, it does not"
                f" know {email} with this password; correct them"
            )
        if refused.status == 429:
            return (
                f"Open WebUI at {self.url} admits no more sign-ins of {email} for now (fifteen in three minutes); wait,"
                " or give an API key as webui_token"
            )
        if refused.status == 403:
            return (
                f"Open WebUI at {self.url} admits nobody by password (ENABLE_PASSWORD_AUTH is off); give an API key as"
                " webui_token"
            )
        return str(refused)

    def _no_admin(self, option: str, found: str) -> str:
        return (
            f"{option}: that of an administrator of Open WebUI at {self.url} was wanted, {found}; name an"
            " administrator's, or make the user one (Admin Panel, Users)"
        )

    def _another(self, found: str) -> str:
        return (
            f"Open WebUI was wanted at {self.url}, something else answers there: {found}; correct webui_url: it is the"
            " scheme, host and port that Open WebUI listens on"
        )


def _short(detail: object) -> str:
    """What it says went wrong. A validation's answer repeats what was sent, keys included: only its places are told."""
    if isinstance(detail, list):
        entries = [entry for entry in detail[:20] if isinstance(entry, dict)]
        said = "; ".join(f"{_place(entry.get('loc'))}: {str(entry.get('msg'))[:200]}" for entry in entries)
    else:
        said = re.sub(r"input_value=.*?(, input_type|\Z)", "input_type", str(detail)[:2000], flags=re.DOTALL)
    return printable(" ".join(said.split()), 300)


def _place(steps: object) -> str:
    return ".".join(str(step) for step in steps) if isinstance(steps, list) else "?"
