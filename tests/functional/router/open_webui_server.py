# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real Open WebUI, started and stopped, and asked as its administrator does."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from router_server import TESTS, free_port

EMAIL, PASSWORD = "admin@example.com", "an-admins-password"
USER_EMAIL, USER_PASSWORD = "user@example.com", "a-users-password"


class OpenWebUIServer:
    """One Open WebUI with its data in `folder`. `environment` is what an operator would set for it."""

    def __init__(self, folder: Path, port: int | None = None, **environment: str) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "open-webui.log"
        self._environment = {
            **os.environ,
            "DATA_DIR": str(folder),
            "WEBUI_SECRET_KEY": "kept-by-the-test",
            "WEBUI_ADMIN_EMAIL": EMAIL,
            "WEBUI_ADMIN_PASSWORD": PASSWORD,
            "ENABLE_SIGNUP": "false",
            **environment,
        }
        self.token = ""

    def __enter__(self) -> OpenWebUIServer:
        with self.log.open("ab") as log:
            argv = [str(TESTS / "open-webui"), "serve", "--port", str(self.port)]
            self.process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, env=self._environment)
        deadline = time.monotonic() + 600  # half a minute on an idle machine
        while True:
            assert self.process.poll() is None, f"{self.process.returncode}: {self.log.read_text()}"
            try:
                if self.ask("GET", "/health")["status"]:
                    break
            except OSError:
                pass
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        self.token = self.sign_in(EMAIL, PASSWORD)
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def sign_in(self, email: str, password: str) -> str:
        return str(self.ask("POST", "/api/v1/auths/signin", {"email": email, "password": password})["token"])

    def ask(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=300) as response:
            return json.load(response)

    def shown(self) -> list[str]:
        """Ids of the models as its administrator sees them, in order."""
        return [model["id"] for model in self.ask("GET", "/api/models")["data"] if model["id"] != "arena-model"]
