# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proxmox's API over HTTPS, with the standard library alone.

A pinned certificate is compared on the very connection that is then used, before a password or token goes over it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import (
    FingerprintError,
    LoginError,
    ProxmoxError,
    TlsError,
    UnreachableError,
    explain,
)

# Seconds that one request may take: the node itself waits up to 10 s for a lock before it answers.
REQUEST_TIMEOUT = 60


class Trust(NamedTuple):
    """Which certificate is accepted: a pinned one, one of an authority, or any."""

    validate: bool
    ca_path: str | None
    fingerprint: str | None

    def context(self) -> ssl.SSLContext:
        """Raises ProxmoxError for an authority or a fingerprint that is none."""
        if self.fingerprint and not re.fullmatch(r"[0-9A-F]{64}", self.pinned()):
            raise ProxmoxError(
                f"api_fingerprint: wanted SHA-256, 32 pairs of hexadecimal digits, found {self.fingerprint!r}"
            )
        try:
            context = ssl.create_default_context(cafile=self.ca_path)
        except OSError as error:
            raise ProxmoxError(f"ca_path: wanted a PEM file with certificates, found {self.ca_path}: {error}") from None
        # Certificates that Proxmox VE makes itself may lack the key identifiers that Python 3.13 insists on.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.fingerprint or not self.validate:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def pinned(self) -> str:
        """The fingerprint in its bare form."""
        return (self.fingerprint or "").replace(":", "").upper()


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 fingerprint of a certificate (DER), as Proxmox shows it."""
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(certificate).digest())


class Connection(http.client.HTTPSConnection):
    """One that sends nothing to a node whose certificate is not the pinned one."""

    def __init__(self, address: tuple[str, int], trust: Trust, context: ssl.SSLContext) -> None:
        super().__init__(*address, timeout=REQUEST_TIMEOUT, context=context)
        self._trust = trust

    def connect(self) -> None:
        super().connect()
        if not self._trust.fingerprint:
            return
        shown = fingerprint(self.sock.getpeercert(binary_form=True) or b"")
        if shown.replace(":", "") != self._trust.pinned():
            self.close()
            raise FingerprintError(
                f"the certificate of https://{self.host}:{self.port} is not the pinned one: wanted the fingerprint "
                f"{self._trust.fingerprint}, found {shown}. If the node got a new certificate (`pvenode cert info` on "
                "it tells), write this one into api_fingerprint; if not, something else answers in its place"
            )


class Https:
    """The API over HTTPS, as a user with a password or as a token."""

    def __init__(self, host: str, port: int, login: str, secret: str, trust: Trust) -> None:
        """login: `user@realm`, or `user@realm!token`; its secret is a password or the token's."""
        self._address = (host.strip("[]"), port)
        self._place = f"https://{host}:{port}"
        self._login = login
        self._trust = trust
        self._context = trust.context()
        self._headers: dict[str, str] = {}
        self._headers = {"Authorization": f"PVEAPIToken={login}={secret}"} if "!" in login else self._ticket(secret)

    def request(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        url, body, headers = "/api2/json/" + quote(path, safe="/:"), None, dict(self._headers)
        if params and method in ("GET", "DELETE"):
            url += "?" + urlencode(params)
        elif params:
            body = urlencode(params)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        status, reason, text = self._send(method, url, body, headers)
        try:
            content = json.loads(text)
        except ValueError:
            content = {}
        if status < 400 and isinstance(content, dict) and "data" in content:
            return content["data"]
        if status < 400 or not isinstance(content, dict):
            raise UnreachableError(f"{self._place}: wanted Proxmox VE's API, found something else ({status} {reason})")
        found = explain(str(content.get("message") or reason), status, content.get("errors"))
        if isinstance(found, LoginError) and self._headers:
            raise LoginError(f"{self._place} refused {self._login}: {found}. Is the secret right and not expired?")
        raise found

    def _ticket(self, password: str) -> dict[str, str]:
        """The headers of a login by password. A ticket lasts two hours, longer than any module runs."""
        try:
            answer = self.request("POST", "access/ticket", {"username": self._login, "password": password})
        except LoginError:
            raise LoginError(
                f"{self._place} refused the login of {self._login}: wrong password, unknown user, or no realm in "
                "api_user (it reads root@pam)"
            ) from None
        if answer.get("NeedTFA"):
            raise LoginError(f"{self._place} wants a second factor of {self._login}: use a token, or run on the node")
        return {"Cookie": f"PVEAuthCookie={answer['ticket']}", "CSRFPreventionToken": answer["CSRFPreventionToken"]}

    def _send(self, method: str, url: str, body: str | None, headers: dict[str, str]) -> tuple[int, str, bytes]:
        """One request over a connection of its own: the status, its words, the body."""
        connection = Connection(self._address, self._trust, self._context)
        try:
            connection.request(method, url, body, headers)
            response = connection.getresponse()
            return response.status, response.reason, response.read()
        except ssl.SSLCertVerificationError as error:
            raise TlsError(self._certificate_words(error.verify_message)) from None
        except TimeoutError:
            raise UnreachableError(f"{self._place} did not answer within {REQUEST_TIMEOUT} seconds") from None
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"{self._place} cannot be reached: {str(error) or type(error).__name__}. Is the node up, and are "
                "api_host and api_port right?"
            ) from None
        finally:
            connection.close()

    def _certificate_words(self, reason: str) -> str:
        try:
            shown = fingerprint(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(self._address)))
        except (OSError, ValueError):
            shown = "unknown"
        return (
            f"the certificate of {self._place} is not trusted: {reason}. Its SHA-256 fingerprint is {shown}. If "
            "that is the node's (`pvenode cert info` on it tells), set api_fingerprint to it, or ca_path to a copy of "
            "the node's /etc/pve/pve-root-ca.pem and api_host to a name in the certificate"
        )
