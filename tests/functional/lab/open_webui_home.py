# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A household of the lab: a guest with a real router, or two, and one with Open WebUI from PyPI."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from build_guest import TESTS, BuildGuest, lab, on_node
from plays import Plays, in_guest

IMAGE = "debian-12-standard_12.12-1_amd64"
ROUTER, CHAT, SECOND = 172, 173, 174
NETWORK = lab.address.rpartition(".")[0]
ADMIN = "admin@localhost"
# What a watcher reads first are secrets, a line each; then it looks at every process until its input ends.
WATCHER = """
import json, os, select, sys
secrets = [line.encode() for line in json.loads(sys.stdin.readline())]
seen, found = set(), set()
while not select.select([sys.stdin], [], [], 0.01)[0]:
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{entry}/cmdline", "rb").read()
        except OSError:
            continue
        seen.add(line)
        found.update(line.split(b"\\0")[0].decode() for secret in secrets if secret in line)
print(json.dumps([len(seen), sorted(found)]))
"""


class Guest(BuildGuest):
    def attached(self, *argv: str) -> list[str]:
        """The command of this machine that runs another one in the guest."""
        return self._attached(" ".join(argv))


class WebUI:
    """One Open WebUI, asked as its administrator does."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        self.tls = tls
        self.token = ""

    def ask(self, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=120, context=self.tls) as answer:
            return json.load(answer)

    def sign_in(self, email: str, password: str) -> None:
        self.token = ""
        self.token = str(self.ask("/api/v1/auths/signin", {"email": email, "password": password})["token"])

    def until_up(self, seconds: int = 300) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.ask("/health")
                return
            except OSError:
                assert time.monotonic() < deadline, f"{self.url} does not answer"
                time.sleep(0.2)

    def models(self) -> list[str]:
        """Ids of the models that whoever has signed in sees."""
        return sorted(model["id"] for model in self.ask("/api/models")["data"] if model["id"] != "arena-model")

    def answers(self, model: str) -> bool:
        """Whether a question to a model is answered."""
        question = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
        answer = self.ask("/api/chat/completions", {**question, "max_tokens": 8})
        return bool(answer["choices"][0]["message"]["role"] == "assistant")

    def settings(self) -> list[Any]:
        """All that the role may change."""
        paths = ("/openai/config", "/api/v1/tasks/config", "/ollama/config", "/api/v1/configs/models")
        return [self.ask(path) for path in (*paths, "/api/v1/models/all")]


class Home(Plays):
    """Two guests, three with `second`, and the collection's playbooks run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.router, self.chat, self.other = (Guest(vmid, folder) for vmid in (ROUTER, CHAT, SECOND))
        self.guests = (self.router, self.chat, self.other)
        self.webui = WebUI(f"http://{NETWORK}.{CHAT}:8080")
        self.second = False
        self.output = ""

    def create(self) -> None:
        for guest in self.guests:
            guest.remove()
        subprocess.run([TESTS / "lab/lab", "build", IMAGE], check=True)
        with (Path(lab.cache) / f"{IMAGE}.tar.zst").open("rb") as image:
            place = f"/var/lib/vz/template/cache/{IMAGE}.tar.zst"
            subprocess.run(lab.ssh(f"cat >{place}.new && mv {place}.new {place}"), stdin=image, check=True)
        models = self.folder / "models"
        subprocess.run([sys.executable, TESTS / "make_tiny_models.py", models], check=True, capture_output=True)
        with (models / "alpha-Q4_K_M.gguf").open("rb") as model:
            put = "mkdir -p /srv/clients && cat >/srv/clients/tiny.gguf && chmod 755 /srv/clients"
            subprocess.run(lab.ssh(put), stdin=model, check=True)
        self.output = self.play()

    def remove(self) -> None:
        for guest in self.guests:
            guest.remove()
        on_node("rm -rf /srv/clients")

    def _guest(self, vmid: int, **more: Any) -> dict[str, Any]:
        net = {"name": "eth0", "bridge": "vmbr0", "ip": f"{NETWORK}.{vmid}/24", "gw": f"{NETWORK}.1"}
        made = {"proxmox_lxc_storage": "local-lvm", "proxmox_lxc_cores": 2, "proxmox_lxc_net": {"net0": net}}
        return {**in_guest(vmid), **made, **more}

    def _router(self, vmid: int, **more: Any) -> dict[str, Any]:
        models = [
            {"name": name, "source": {"path": "/srv/models/tiny.gguf"}, "options": {"ctx-size": 512}, **more}
            for name, more in (("small", {"pinned": True}), ("large", {}))
        ]
        return self._guest(
            vmid,
            proxmox_lxc_ostemplate="local:vztmpl/debian-14-forky-llama_14.0-1_amd64.tar.zst",
            proxmox_lxc_disk_gib=4,
            proxmox_lxc_memory_mib=1024,
            proxmox_lxc_models_gib=1,
            proxmox_lxc_mounts=[{"volume": "/srv/clients", "mp": "/srv/models", "ro": True}],
            llama_router_cpu_only=True,
            llama_router_models_max=2,
            llamacpp_models=models,
            **more,
        )

    def _write(self, **chat: Any) -> None:
        routers = {"llama": self._router(ROUTER, llama_clients_sheet=str(self.folder / "llama.md"))}
        if self.second:
            routers["second"] = self._router(SECOND)
        webui = self._guest(
            CHAT,
            proxmox_lxc_ostemplate=f"local:vztmpl/{IMAGE}.tar.zst",
            proxmox_lxc_disk_gib=16,
            proxmox_lxc_memory_mib=3072,
            open_webui_offline=True,
            **{"open_webui_torch": "", **chat},
        )
        self.write_inventory(llama_routers={"hosts": routers}, open_webuis={"hosts": {"chat": webui}})

    def play(self, *options: str, ok: bool = True, **chat: Any) -> str:
        """site.yml, with these variables for Open WebUI's host."""
        self._write(**chat)
        return self.playbook("site.yml", *options, ok=ok)

    def start(self, *options: str, **chat: Any) -> subprocess.Popen[str]:
        """site.yml for Open WebUI alone, which goes on."""
        self._write(**chat)
        return self.start_playbook("site.yml", "--tags", "open_webui", *options)

    def only(self, *options: str, ok: bool = True, **chat: Any) -> str:
        """Of site.yml what makes Open WebUI alone."""
        return self.play("--tags", "open_webui", *options, ok=ok, **chat)

    def connect(self, webui: WebUI, *options: str, ok: bool = True, **given: Any) -> str:
        """The entry point `connect`, on this machine."""
        self._write()
        given = {"open_webui_url": webui.url, **given}
        return self.role_on("localhost", "open_webui", *options, entry="connect", ok=ok, **given)

    def account(self) -> dict[str, str]:
        """The administrator's, as the role has written it down."""
        return dict(re.findall(r"(?m)^WEBUI_ADMIN_(\w+)='(.*)'$", self.chat.run("cat /etc/open-webui/admin.env")))

    def sign_in(self) -> WebUI:
        account = self.account()
        self.webui.sign_in(account["EMAIL"], account["PASSWORD"])
        return self.webui

    def titles(self) -> list[str]:
        """The chats that the database has."""
        return [chat["title"] for chat in self.sign_in().ask("/api/v1/chats/")]

    def talk(self, title: str) -> None:
        self.sign_in().ask("/api/v1/chats/new", {"chat": {"title": title, "messages": []}})

    def release(self, link: str = "current") -> str:
        """The release that a link names, empty without one."""
        return self.chat.run(f"readlink /opt/open-webui/{link}", check=False).rpartition("/")[2]


class Watch:
    """Looks for secrets in the arguments of all processes, of guests and of this machine, while it is entered."""

    def __init__(self, secrets: list[str], *guests: Guest) -> None:
        self._secrets = secrets
        self._commands = [[sys.executable, "-c", WATCHER]]
        self._commands += [guest.attached("python3", "-c", f"'{WATCHER}'") for guest in guests]
        self.found: list[str] = []

    def __enter__(self) -> Watch:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._watchers = [subprocess.Popen(command, **pipes) for command in self._commands]
        for watcher in self._watchers:
            watcher.stdin.write(json.dumps(self._secrets) + "\n")
            watcher.stdin.flush()
        return self

    def __exit__(self, *error: object) -> None:
        told = [watcher.communicate()[0] for watcher in self._watchers]
        if error[0] is None:
            for text in told:
                processes, found = json.loads(text)
                assert processes > 5
                self.found += found
