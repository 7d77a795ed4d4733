# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open WebUI from PyPI in a guest, beside a guest with a real router: site.yml, an update, bad ones, the way back.

Long: each release is a real install. The torch is this machine's where pip has one (`pip download`), else PyTorch's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from build_guest import TESTS, BuildGuest, lab, on_node
from hand_made import PLAYBOOKS, words

pytestmark = pytest.mark.skipif("HOMELAB_LONG_TESTS" not in os.environ, reason="make test-clients runs it")

IMAGE = "debian-12-standard_12.12-1_amd64"
ROUTER, CHAT = 172, 173
LOCK = PLAYBOOKS.parent / "roles/open_webui/files/requirements-0.12.4.txt"
NETWORK = lab.address.rpartition(".")[0]
URL = f"http://{NETWORK}.{CHAT}:8080"
DATABASE = "/var/lib/open-webui/data/webui.db"


class Home:
    """An inventory of two guests, and the collection's playbooks run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.router, self.chat = BuildGuest(ROUTER, folder), BuildGuest(CHAT, folder)
        (folder / "ansible.cfg").write_text(
            "[defaults]\ncallback_result_format = yaml\n[ssh_connection]\npipelining = true\n"
        )

    def inventory(self, **chat: Any) -> dict[str, Any]:
        def guest(vmid: int, **more: Any) -> dict[str, Any]:
            net = {"name": "eth0", "bridge": "vmbr0", "ip": f"{NETWORK}.{vmid}/24", "gw": f"{NETWORK}.1"}
            return {
                "ansible_connection": "homelab.llamacpp.pct",
                "ansible_host": lab.address,
                "proxmox_lxc_node": "pve",
                "proxmox_lxc_vmid": vmid,
                "proxmox_lxc_storage": "local-lvm",
                "proxmox_lxc_cores": 2,
                "proxmox_lxc_net": {"net0": net},
                **more,
            }

        models = [
            {"name": name, "source": {"path": "/srv/models/tiny-single.gguf"}, "options": {"ctx-size": 512}, **more}
            for name, more in (("small", {"pinned": True}), ("large", {}))
        ]
        router = guest(
            ROUTER,
            proxmox_lxc_ostemplate="local:vztmpl/debian-14-forky-llama_14.0-1_amd64.tar.zst",
            proxmox_lxc_disk_gib=4,
            proxmox_lxc_memory_mib=1024,
            proxmox_lxc_models_gib=1,
            proxmox_lxc_mounts=[{"volume": "/srv/clients", "mp": "/srv/models", "ro": True}],
            llama_router_cpu_only=True,
            llama_router_models_max=2,
            llamacpp_models=models,
            llama_clients_sheet=str(self.folder / "llama.md"),
        )
        webui = guest(
            CHAT,
            proxmox_lxc_ostemplate=f"local:vztmpl/{IMAGE}.tar.zst",
            proxmox_lxc_disk_gib=16,
            proxmox_lxc_memory_mib=3072,
            open_webui_offline=True,
            open_webui_torch="",
            **chat,
        )
        login = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(lab.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts} -o IdentitiesOnly=yes",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        return {
            "all": {"vars": login},
            "proxmox_nodes": {"hosts": {"pve": {"ansible_host": lab.address}}},
            "llama_routers": {"hosts": {"llama": router}},
            "open_webuis": {"hosts": {"chat": webui}},
        }

    def play(self, playbook: str | Path = "site.yml", *options: str, ok: bool = True, **chat: Any) -> str:
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(self.inventory(**chat)))
        done = subprocess.run(
            ["ansible-playbook", "-i", "hosts.yml", str(PLAYBOOKS / playbook), *options],
            cwd=self.folder,
            env={**os.environ, "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    def role(self, entry: str, *options: str, **variables: Any) -> str:
        play = self.folder / "role.yml"
        task = {
            "ansible.builtin.import_role": {"name": "homelab.llamacpp.open_webui", "tasks_from": entry},
            "vars": variables,
        }
        play.write_text(yaml.safe_dump([{"hosts": "open_webuis", "gather_facts": False, "tasks": [task]}]))
        return self.play(play, *options)

    def ask(self, path: str, body: Any = None, token: str = "") -> Any:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers), timeout=120) as answer:
            return json.load(answer)

    def sign_in(self) -> str:
        account = dict(re.findall(r"(?m)^WEBUI_ADMIN_(\w+)='(.*)'$", self.chat.run("cat /etc/open-webui/admin.env")))
        token = self.ask("/api/v1/auths/signin", {"email": account["EMAIL"], "password": account["PASSWORD"]})["token"]
        return str(token)

    def titles(self) -> list[str]:
        """The chats that the database has."""
        return [chat["title"] for chat in self.ask("/api/v1/chats/", token=self.sign_in())]

    def talk(self, title: str) -> None:
        self.ask("/api/v1/chats/new", {"chat": {"title": title, "messages": []}}, self.sign_in())

    def current(self) -> str:
        return self.chat.run("readlink /opt/open-webui/current").rpartition("/")[2]


def changed(output: str) -> dict[str, int]:
    return {host: int(count) for host, count in re.findall(r"(?m)^(\w+) +: ok=.*changed=(\d+)", output)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("open_webui")
    home = Home(folder)
    for guest in (home.router, home.chat):
        guest.remove()
    subprocess.run([TESTS / "lab/lab", "build", IMAGE], check=True)
    with (Path(lab.cache) / f"{IMAGE}.tar.zst").open("rb") as image:
        place = f"/var/lib/vz/template/cache/{IMAGE}.tar.zst"
        subprocess.run(lab.ssh(f"cat >{place}.new && mv {place}.new {place}"), stdin=image, check=True)
    subprocess.run([sys.executable, TESTS / "make_tiny_models.py", folder / "models"], check=True, capture_output=True)
    with (folder / "models/tiny-single.gguf").open("rb") as model:
        put = "mkdir -p /srv/clients && cat >/srv/clients/tiny-single.gguf && chmod 755 /srv/clients"
        subprocess.run(lab.ssh(put), stdin=model, check=True)
    home.output = home.play()  # type: ignore[attr-defined]
    yield home
    for guest in (home.router, home.chat):
        guest.remove()
    on_node("rm -rf /srv/clients")


def test_it_answers_with_the_routers_models(home: Home) -> None:
    output = words(home.output)  # type: ignore[attr-defined]
    assert f"point a browser at {URL}" in output
    assert "titles and tags by small" in output
    token = home.sign_in()
    assert sorted(model["id"] for model in home.ask("/api/models", token=token)["data"]) == ["large", "small"]
    question = {"model": "large", "messages": [{"role": "user", "content": "Hello"}], "stream": False, "max_tokens": 8}
    assert home.ask("/api/chat/completions", question, token)["choices"][0]["message"]["role"] == "assistant"
    assert home.ask("/api/v1/tasks/config", token=token)["TASK_MODEL_EXTERNAL"] == "small"
    assert not home.ask("/ollama/config", token=token)["ENABLE_OLLAMA_API"]
    assert not home.ask("/api/config")["features"]["enable_signup"]
    assert f"`http://{NETWORK}.{ROUTER}:8012/v1`" in (home.folder / "llama.md").read_text()


def test_secrets_are_where_they_belong(home: Home) -> None:
    key = home.router.run("tail -n 1 /etc/llama-router/api-keys")
    password = home.chat.run("sed -n \"s/^WEBUI_ADMIN_PASSWORD='\\(.*\\)'/\\1/p\" /etc/open-webui/admin.env")
    assert len(password) == 24
    for secret in (key, password):
        assert secret not in home.output  # type: ignore[attr-defined]
        assert secret not in home.play("site.yml", "-vvv", "--diff", "--tags", "open_webui")
        found = home.chat.run(
            f"grep -rlF -- '{secret}' /etc /opt/open-webui/current/bin /proc/[0-9]*/cmdline 2>/dev/null", check=False
        )
        assert set(found.split()) <= {"/etc/open-webui/admin.env"}
        assert secret not in home.chat.run("journalctl --no-pager")
    modes = home.chat.run("stat -c '%a %U' /etc/open-webui/*.env /var/lib/open-webui").split("\n")
    assert modes == ["600 root", "600 root", "750 open-webui"]


def test_the_unit_is_hardened(home: Home) -> None:
    score = float(home.chat.run("systemd-analyze security open-webui | tail -1 | grep -o '[0-9.]*' | tail -1"))
    assert score <= 2.0
    assert home.chat.run("stat -c %U /proc/$(systemctl show -P MainPID open-webui)") == "open-webui"


def test_a_second_run_changes_nothing(home: Home) -> None:
    assert changed(home.play()) == {"chat": 0, "llama": 0, "pve": 0}
    assert changed(home.play("site.yml", "--check", "--diff")) == {"chat": 0, "llama": 0, "pve": 0}


def test_what_people_made_stays(home: Home) -> None:
    token = home.sign_in()
    config = home.ask("/openai/config", token=token)
    config["OPENAI_API_BASE_URLS"].insert(0, "https://example.invalid/v1")
    config["OPENAI_API_KEYS"].insert(0, "theirs")
    config["OPENAI_API_CONFIGS"] = {"0": {"enable": False}, "1": config["OPENAI_API_CONFIGS"]["0"]}
    home.ask("/openai/config/update", config, token)
    home.ask(
        "/api/v1/tasks/config/update",
        {**home.ask("/api/v1/tasks/config", token=token), "TASK_MODEL_EXTERNAL": ""},
        token,
    )
    assert changed(home.play("site.yml", "--tags", "open_webui"))["chat"] == 1
    assert home.ask("/openai/config", token=token)["OPENAI_API_BASE_URLS"][0] == "https://example.invalid/v1"
    assert home.ask("/api/v1/tasks/config", token=token)["TASK_MODEL_EXTERNAL"] == "small"


def test_an_update_that_does_not_come_up_goes_back(home: Home) -> None:
    before = home.current()
    home.talk("before the bad one")
    lines = LOCK.read_text()
    bad = home.folder / "bad.txt"
    bad.write_text(re.sub(r"(?m)^uvicorn==.*\n(?: +--hash.*\n)+", "", lines))
    assert bad.read_text() != lines
    output = words(home.play(ok=False, open_webui_requirements=str(bad), open_webui_start_timeout=60))
    assert f"{before} serves again, with the database from before" in output
    assert "No module named 'uvicorn'" in output
    assert home.current() == before
    assert "before the bad one" in home.titles()
    wrong = home.folder / "wrong.txt"
    wrong.write_text(re.sub(r"--hash=sha256:.{8}", "--hash=sha256:00000000", lines, count=1))
    output = home.play(ok=False, open_webui_requirements=str(wrong))
    assert "DO NOT MATCH THE HASHES" in output
    assert home.current() == before
    assert home.titles()
    assert changed(home.play())["chat"] == 0


def test_an_update_and_the_way_back(home: Home) -> None:
    before = home.current()
    other = home.folder / "other.txt"
    other.write_text(LOCK.read_text() + "# another release\n")
    home.play(open_webui_requirements=str(other))
    after = home.current()
    assert after != before
    assert home.chat.run(f"ls /var/lib/open-webui/before-update/{before}/webui.db")
    home.talk("after the update")
    assert "after the update" in home.titles()
    output = words(home.role("rollback"))
    assert f"{before} serves in place of {after}" in output
    assert home.current() == before
    assert home.titles() == ["before the bad one"]
    assert changed(home.play())["chat"] == 0


def test_a_wrong_password_is_said(home: Home) -> None:
    output = words(home.play("site.yml", "--tags", "open_webui", ok=False, open_webui_admin_password="not the one"))
    assert "admin@localhost" in output
    assert "not the one" not in output
    home.chat.run("rm /etc/open-webui/admin.env", check=False)


def test_absent(home: Home) -> None:
    output = words(home.play("site.yml", "--tags", "open_webui", open_webui_state="absent"))
    assert "The data in /var/lib/open-webui" in output
    assert home.chat.run(f"ls -d {DATABASE} /opt/open-webui", check=False).startswith(DATABASE)
    with pytest.raises(urllib.error.URLError):
        home.ask("/health")
    home.play("site.yml", "--tags", "open_webui", open_webui_state="absent", open_webui_remove_data=True)
    left = home.chat.run("ls -d /var/lib/open-webui /etc/open-webui /opt/open-webui; id open-webui", check=False)
    assert left.count("o such") == 4
    output = home.play("site.yml", "--tags", "open_webui", open_webui_state="absent", open_webui_remove_data=True)
    assert changed(output)["chat"] == 0
