# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real nginx with the site of the role llama_proxy, and what the role open_webui tells the Open WebUI behind it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from router_server import TESTS, free_port, wait_until

NGINX = TESTS / "nginx"
ROLES = TESTS.parent / "roles"
CONFIG = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    {scratch}
    include {folder}/site.conf;
}}
"""
SCRATCH = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
PARTS = ("llama_proxy/defaults", "llama_proxy/vars", "open_webui/defaults", "open_webui/vars")
TOLD = ("WEBUI_URL", "CORS_ALLOW_ORIGIN", "WEBUI_SESSION_COOKIE_SECURE", "FORWARDED_ALLOW_IPS")


class Proxy:
    """What an operator gets who sets open_webui_proxy and a certificate; on 127.0.0.1 alone.

    `environment` is that of the Open WebUI, which is to listen on `port`.
    """

    def __init__(self, folder: Path, certificate: tuple[Path, Path]) -> None:
        self.folder = folder
        self.port, self.https = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.https}"
        inventory = {
            "open_webui_proxy": True,
            "open_webui_port": self.port,
            "llama_proxy_service": "open_webui",
            "llama_proxy_upstream": f"127.0.0.1:{self.port}",
            "llama_proxy_server_names": ["127.0.0.1"],
            "llama_proxy_http_port": free_port(),
            "llama_proxy_https_port": self.https,
            "llama_proxy_certificate": str(certificate[0]),
            "llama_proxy_certificate_key": str(certificate[1]),
        }
        self._render(inventory)
        site = (folder / "site.conf").read_text()
        assert site.count("listen [::]:") == 2
        lines = (line for line in site.splitlines() if "listen [::]:" not in line)
        (folder / "site.conf").write_text("\n".join(lines).replace(" listen ", " listen 127.0.0.1:") + "\n")
        scratch = " ".join(f"{name}_temp_path {folder}/{name};" for name in SCRATCH)
        (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, scratch=scratch))
        told = json.loads((folder / "environment.json").read_text())
        assert told.keys() == set(TOLD)
        self.environment: dict[str, str] = told

    def _render(self, inventory: dict[str, Any]) -> None:
        said = subprocess.run([NGINX, "-v"], check=True, capture_output=True, text=True).stderr
        found = {"_llama_proxy_version": {"stderr": said}, "_open_webui_clients": {"results": []}}
        told = "{{ _open_webui_environment | dict2items | selectattr('key', 'in', told) | items2dict | to_json }}"
        site = {"src": str(ROLES / "llama_proxy/templates/proxy.conf.j2"), "dest": str(self.folder / "site.conf")}
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars_files": [str(ROLES / part / "main.yml") for part in PARTS],
            "tasks": [
                {"ansible.builtin.template": site},
                {"ansible.builtin.copy": {"content": told, "dest": str(self.folder / "environment.json")}},
            ],
        }
        (self.folder / "play.yml").write_text(json.dumps([play]))
        (self.folder / "inventory.json").write_text(json.dumps({**found, **inventory, "told": TOLD}))
        argv = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", f"@{self.folder / 'inventory.json'}"]
        argv += ["-e", f"ansible_python_interpreter={sys.executable}", str(self.folder / "play.yml")]
        done = subprocess.run(argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout

    def __enter__(self) -> Proxy:
        argv = [NGINX, "-p", self.folder, "-c", self.folder / "nginx.conf", "-e", self.folder / "error.log"]
        self.process = subprocess.Popen(argv)
        wait_until(self._answers)
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def _answers(self) -> bool:
        """Whether it listens, with Open WebUI behind it or not."""
        assert self.process.poll() is None, (self.folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.https)) == 0

    def requests(self) -> str:
        """What it was asked, a line each; a websocket's when it has ended."""
        return (self.folder / "access.log").read_text()
