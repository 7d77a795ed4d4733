# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open WebUI from PyPI in a guest, beside guests with real routers: site.yml, people, faults, updates, the way back.

Long: each release is a real install. It is without torch: PyTorch's own index is not PyPI's.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import signal
import ssl
import subprocess
import urllib.error
from collections.abc import Iterator

import pytest
from open_webui_home import ADMIN, CHAT, NETWORK, ROUTER, SECOND, Home, Watch, WebUI
from plays import CHECKOUT, changed, words

pytestmark = pytest.mark.skipif("HOMELAB_LONG_TESTS" not in os.environ, reason="make test-clients runs it")

LOCK = CHECKOUT / "roles/open_webui/files/requirements-0.12.4.txt"
DATA = "/var/lib/open-webui"
BACKUPS = "/var/backups/open-webui"
KEYS = "/etc/llama-router/api-keys"
ROUTER_URL = f"http://{NETWORK}.{ROUTER}:8012/v1"
HOSTS = {"chat": 0, "llama": 0, "pve": 0}
THEIR_PASSWORD, USER_PASSWORD = "a-password-of-theirs", "a-password-of-a-user"
# An Open WebUI that somebody runs by hand, with an environment that its database does not follow any more.
THEIR_UNIT = f"""
id someone >/dev/null 2>&1 || useradd --create-home someone
systemctl stop theirs 2>/dev/null
exec systemd-run --quiet --unit=theirs --uid=someone --working-directory=/home/someone \\
  -E HOME=/home/someone -E DATA_DIR=/home/someone/data -E STATIC_DIR=/home/someone/static \\
  -E WEBUI_SECRET_KEY=theirs -E OFFLINE_MODE=true -E HF_HUB_OFFLINE=1 -E RAG_EMBEDDING_ENGINE=openai \\
  -E WEBUI_ADMIN_EMAIL={ADMIN} -E WEBUI_ADMIN_PASSWORD={THEIR_PASSWORD} \\
  -E OPENAI_API_BASE_URLS=%s -E OPENAI_API_KEYS=of-theirs \\
  /opt/open-webui/current/bin/open-webui serve --port 8090
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("open_webui"))
    home.create()
    yield home
    home.remove()


@pytest.fixture(scope="module")
def theirs(home: Home) -> Iterator[WebUI]:
    """Another Open WebUI, which this collection has not made."""
    webui = WebUI(f"http://{NETWORK}.{CHAT}:8090")
    for url in ("https://example.invalid/v1", ROUTER_URL):
        home.chat.run(THEIR_UNIT % url)
        webui.until_up()
    webui.sign_in(ADMIN, THEIR_PASSWORD)
    yield webui
    home.chat.run("systemctl stop theirs")


def test_it_answers_with_the_routers_models(home: Home) -> None:
    output = words(home.output)
    assert f"point a browser at {home.webui.url}" in output
    assert "Models: large, small; titles and tags by small" in output
    webui = home.sign_in()
    assert webui.models() == ["large", "small"]
    assert webui.answers("large")
    assert webui.ask("/api/v1/tasks/config")["TASK_MODEL_EXTERNAL"] == "small"
    assert not webui.ask("/ollama/config")["ENABLE_OLLAMA_API"]
    assert not webui.ask("/api/config")["features"]["enable_signup"]
    assert f"`{ROUTER_URL}`" in (home.folder / "llama.md").read_text()


def test_secrets_are_where_they_belong(home: Home) -> None:
    """In a run that hands the key over, at its most talkative."""
    key = home.router.run(f"tail -n 1 {KEYS}")
    password = home.account()["PASSWORD"]
    session = home.chat.run("sed -n 's/^WEBUI_SECRET_KEY=//p' /etc/open-webui/secret.env")
    assert len(password) == 24
    secrets = [key, password, session]
    config = home.sign_in().ask("/openai/config")
    home.webui.ask("/openai/config/update", {**config, "OPENAI_API_KEYS": ["the-key-from-before"]})
    with Watch([*secrets, "the-key-from-before"], home.router, home.chat) as watch:
        output = home.only("-vvv", "--diff")
    assert changed(output)["chat"] == 1
    assert "(differs)" in output
    assert watch.found == []
    secret_file = home.folder / "secrets"
    secret_file.write_text("\n".join(secrets) + "\n")
    places = "/etc /root /home /tmp /opt/open-webui/current/bin /run/systemd /var/log"
    for guest, allowed in (
        (home.chat, {"/etc/open-webui/admin.env", "/etc/open-webui/secret.env"}),
        (home.router, {KEYS}),
    ):
        with secret_file.open("rb") as patterns:
            look = f"cat >/run/patterns; grep -rlFf /run/patterns {places} 2>/dev/null; rm /run/patterns"
            found = subprocess.run(guest.attached(look), stdin=patterns, capture_output=True, text=True, check=False)
        assert set(found.stdout.split()) == allowed
        journal = guest.run("journalctl --no-pager")
        assert len(journal) > 1000
        assert not [secret for secret in secrets if secret in journal + home.output + output]
    modes = home.chat.run(f"stat -c '%a %U' /etc/open-webui/*.env {DATA}").split("\n")
    assert modes == ["600 root", "600 root", "750 open-webui"]


def test_the_unit_is_hardened(home: Home) -> None:
    score = float(home.chat.run("systemd-analyze security open-webui | tail -1 | grep -o '[0-9.]*' | tail -1"))
    assert score <= 2.0
    assert home.chat.run("stat -c %U /proc/$(systemctl show -P MainPID open-webui)") == "open-webui"


def test_a_second_run_changes_nothing(home: Home) -> None:
    assert changed(home.play()) == HOSTS
    assert changed(home.play("--check", "--diff")) == HOSTS


def test_it_begins_closed_and_with_the_router_alone(home: Home) -> None:
    """Without the playbook's last steps: what it is from the moment in which it first listens."""
    aside = f"systemctl stop open-webui; mv {DATA}/data {DATA}/aside"
    # Nothing in the folders that it writes to, or above them, is taken for one of its modules.
    traps = " ".join(f"{folder}/{name}.py" for folder in ("/var/lib", DATA) for name in ("chromadb", "open_webui"))
    home.chat.run(
        f"for trap in {traps}; do echo 'raise SystemExit(3)' >$trap; done; {aside}; systemctl start open-webui"
    )
    try:
        anyone = WebUI(home.webui.url)
        anyone.until_up()
        assert not anyone.ask("/api/config")["features"]["enable_signup"]
        mallory = {"name": "Mallory", "email": "mallory@example.com", "password": "a-password-of-mallorys"}
        with pytest.raises(urllib.error.HTTPError, match="403"):
            anyone.ask("/api/v1/auths/signup", mallory)
        config = home.sign_in().ask("/openai/config")
        assert config["OPENAI_API_BASE_URLS"] == [ROUTER_URL]
        assert config["OPENAI_API_KEYS"] == [""]
    finally:
        home.chat.run(f"systemctl stop open-webui; rm -r {traps} {DATA}/data; mv {DATA}/aside {DATA}/data")
        home.chat.run("systemctl start open-webui")
        home.webui.until_up()
    assert changed(home.only())["chat"] == 0


def test_what_people_made_stays(home: Home) -> None:
    webui = home.sign_in()
    config = webui.ask("/openai/config")
    config["OPENAI_API_BASE_URLS"].insert(0, "https://example.invalid/v1")
    config["OPENAI_API_KEYS"].insert(0, "theirs")
    config["OPENAI_API_CONFIGS"] = {"0": {"enable": False}, "1": config["OPENAI_API_CONFIGS"]["0"]}
    webui.ask("/openai/config/update", config)
    webui.ask("/api/v1/tasks/config/update", {**webui.ask("/api/v1/tasks/config"), "TASK_MODEL_EXTERNAL": ""})
    assert changed(home.only())["chat"] == 1
    now = webui.ask("/openai/config")
    assert now["OPENAI_API_BASE_URLS"] == config["OPENAI_API_BASE_URLS"]
    assert now["OPENAI_API_KEYS"] == config["OPENAI_API_KEYS"]
    assert now["OPENAI_API_CONFIGS"]["0"]["enable"] is False
    assert webui.ask("/api/v1/tasks/config")["TASK_MODEL_EXTERNAL"] == "small"


def test_people_see_the_models_when_they_are_public(home: Home) -> None:
    user = {"name": "User", "email": "user@example.com", "password": USER_PASSWORD, "role": "user"}
    home.sign_in().ask("/api/v1/auths/add", user)
    person = WebUI(home.webui.url)
    person.sign_in("user@example.com", USER_PASSWORD)
    assert person.models() == []
    # One for everybody takes the task model with it, or there would be no titles.
    assert changed(home.only(open_webui_models=[{"id": "large", "name": "Large", "visibility": "public"}]))["chat"] == 1
    assert person.models() == ["large", "small"]
    assert person.answers("large")
    for model in ("large", "small"):
        home.webui.ask("/api/v1/models/model/delete", {"id": model})
    by_hand = {"id": "large", "name": "By hand", "meta": {}, "params": {}, "access_grants": []}
    home.webui.ask("/api/v1/models/create", by_hand)
    assert changed(home.only(open_webui_public=True))["chat"] == 1
    assert person.models() == ["small"]
    assert changed(home.only(open_webui_public=True))["chat"] == 0
    home.webui.ask("/api/v1/models/model/delete", {"id": "large"})
    assert changed(home.only(open_webui_public=True))["chat"] == 1
    assert person.models() == ["large", "small"]


def test_one_that_is_there_already_is_connected(home: Home, theirs: WebUI) -> None:
    config = theirs.ask("/openai/config")
    assert config["OPENAI_API_BASE_URLS"] == ["https://example.invalid/v1"]  # whatever its environment says
    by_hand = [
        {
            "id": "mine",
            "name": "Mine",
            "base_model_id": "large",
            "meta": {"description": "d"},
            "params": {"top_p": 0.5},
        },
        {
            "id": "large",
            "name": "By hand",
            "meta": {"capabilities": {"vision": False}},
            "params": {"temperature": 0.25},
        },
    ]
    for entry in by_hand:
        theirs.ask("/api/v1/models/create", entry)
    before = theirs.settings()
    output = home.connect(theirs, ok=False)
    assert "neither open_webui_admin_password nor open_webui_token" in words(output)
    given = {
        "open_webui_admin_password": THEIR_PASSWORD,
        "open_webui_models": [{"id": "small", "name": "Small", "hidden": True}],
    }
    foretold = home.connect(theirs, "--check", "--diff", **given)
    assert changed(foretold) == {"localhost": 2}
    assert theirs.settings() == before
    output = home.connect(theirs, "--diff", **given)
    assert changed(output) == {"localhost": 2}
    assert THEIR_PASSWORD not in foretold + output
    after = theirs.ask("/openai/config")
    assert after["OPENAI_API_BASE_URLS"] == ["https://example.invalid/v1", ROUTER_URL]
    assert after["OPENAI_API_KEYS"][0] == "of-theirs"
    assert after["OPENAI_API_CONFIGS"].get("0") == config["OPENAI_API_CONFIGS"].get("0")
    assert theirs.answers("large")
    entries = {entry["id"]: entry for entry in theirs.ask("/api/v1/models/all")}
    assert entries.pop("small")["name"] == "Small"
    assert entries == {entry["id"]: entry for entry in before[-1]}
    assert theirs.ask("/ollama/config") == before[2]
    assert changed(home.connect(theirs, **given)) == {"localhost": 0}
    theirs.sign_in(ADMIN, THEIR_PASSWORD)
    assert changed(home.connect(theirs, open_webui_token=theirs.token, **dict(list(given.items())[1:]))) == {
        "localhost": 0
    }


def test_each_fault_says_so_and_changes_nothing(home: Home, theirs: WebUI) -> None:
    before = theirs.settings()
    account = {"open_webui_admin_password": THEIR_PASSWORD}

    def told(**given: object) -> str:
        output = home.connect(theirs, "-vvv", "--diff", ok=False, **{**account, **given})
        assert changed(output)["localhost"] == 0
        assert THEIR_PASSWORD not in output
        return words(output)

    assert f"does not know {ADMIN} with this password" in told(open_webui_admin_password="not-the-one-9")
    assert "nothing listens there" in told(open_webui_url=f"http://{NETWORK}.{CHAT}:8091")
    home.router.run(f"cp -p {KEYS} /root/api-keys")
    try:
        home.router.run(f"sed -i 1i\\\\another-key-that-it-has-not-read {KEYS}")
        output = told()
        assert "the key that was sent is none of them" in output
        assert "another-key-that-it-has-not-read" not in output
    finally:
        home.router.run(f"mv /root/api-keys {KEYS}")
    home.router.run("systemctl stop llama-router")
    try:
        assert "http://127.0.0.1:8012" in told()
    finally:
        home.router.run("systemctl start llama-router")
    WebUI(ROUTER_URL.removesuffix("/v1")).until_up()
    output = home.connect(theirs, "-e", f"llama_clients_url=http://{NETWORK}.{ROUTER}:8013", ok=False, **account)
    assert "Open WebUI gets no answer there; start the router" in words(output)
    assert theirs.settings() == before


def test_an_update_that_does_not_come_up_goes_back(home: Home) -> None:
    before = home.release()
    home.talk("before the bad one")
    lines = LOCK.read_text()
    bad = home.folder / "bad.txt"
    bad.write_text(re.sub(r"(?m)^uvicorn==.*\n(?: +--hash.*\n)+", "", lines))
    assert bad.read_text() != lines
    output = words(home.play(ok=False, open_webui_requirements=str(bad), open_webui_start_timeout=60))
    assert f"{before} serves again, with the database from before" in output
    assert "No module named 'uvicorn'" in output
    assert home.release() == before
    assert "before the bad one" in home.titles()
    wrong = home.folder / "wrong.txt"
    wrong.write_text(re.sub(r"--hash=sha256:.{8}", "--hash=sha256:00000000", lines, count=1))
    output = home.play(ok=False, open_webui_requirements=str(wrong))
    assert "DO NOT MATCH THE HASHES" in output
    assert (home.release(), home.release("leaving")) == (before, "")
    assert home.titles()
    assert changed(home.play(open_webui_public=True))["chat"] == 0


def test_torch_without_hashes_is_refused(home: Home) -> None:
    before = home.release()
    output = words(home.only(ok=False, open_webui_torch="torch==2.13.0", open_webui_torch_hashes=[]))
    assert "with the hashes of its wheels in open_webui_torch_hashes" in output
    assert home.release() == before


def other(home: Home) -> dict[str, str]:
    """Variables for another release."""
    lock = home.folder / "other.txt"
    lock.write_text(LOCK.read_text() + "# another release\n")
    return {"open_webui_requirements": str(lock)}


def rollback(home: Home) -> str:
    return home.role_on("open_webuis", "open_webui", entry="rollback")


def test_an_update_and_the_way_back(home: Home) -> None:
    before = home.release()
    home.play(**other(home))
    after = home.release()
    assert after != before
    assert home.chat.run(f"stat -c '%a %U' {BACKUPS} {BACKUPS}/{before}/webui.db") == "700 root\n600 root"
    home.talk("after the update")
    assert "after the update" in home.titles()
    output = words(rollback(home))
    assert f"{before} serves in place of {after}" in output
    assert (home.release(), home.release("previous")) == (before, after)
    assert home.titles() == ["before the bad one"]
    assert changed(home.play())["chat"] == 0


def kill(home: Home, running: subprocess.Popen[str]) -> None:
    """The run, and in the guest the module of it that holds the releases."""
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    lock = "/opt/open-webui/.lock"
    holders = f"$(find /proc/[0-9]*/fd -lname {lock} 2>/dev/null)"
    home.chat.run(f"for fd in {holders}; do pid=${{fd#/proc/}}; kill -9 ${{pid%%/*}}; done; flock {lock} true")


@pytest.mark.parametrize("seen", ["[ -L leaving ]", '[ "$(readlink current)" = releases/{to} ]'])
def test_an_update_that_is_broken_off_is_taken_up(home: Home, seen: str) -> None:
    """The run is killed while Open WebUI is down; the release is there already, so only the switch is left."""
    before, after = home.release(), home.release("previous")
    running = home.start(**other(home))
    until = f"until {seen.format(to=after)}; do sleep 0.05; done"
    home.chat.run(f"cd /opt/open-webui; timeout 900 sh -c {shlex.quote(until)}")
    kill(home, running)
    home.chat.run("systemctl stop open-webui")
    assert home.release("leaving") == before
    home.only(**other(home))
    assert [home.release(link) for link in ("current", "previous", "leaving")] == [after, before, ""]
    assert home.titles() == ["before the bad one"]
    assert changed(home.only(**other(home)))["chat"] == 0
    home.talk("lost by going back")
    rollback(home)
    assert [home.release(link) for link in ("current", "previous", "leaving")] == [before, after, ""]
    assert home.titles() == ["before the bad one"]


def test_a_way_back_that_is_broken_off_is_gone_to_its_end(home: Home) -> None:
    """Killed while the release before starts; then as if it had been a moment earlier, with half a database there."""
    before, after = home.release(), home.release("previous")
    home.only(**other(home))
    home.talk("of the newer one")
    running = home.start_playbook(home.play_of("open_webuis", "open_webui", "rollback"))
    until = f'until [ "$(readlink current)" = releases/{before} ]; do sleep 0.05; done'
    home.chat.run(f"cd /opt/open-webui; timeout 900 sh -c {shlex.quote(until)}")
    kill(home, running)
    assert [home.release(link) for link in ("current", "previous", "leaving")] == [before, after, after]
    home.chat.run(
        f"systemctl stop open-webui; cd /opt/open-webui; ln -sfn releases/{after} current;"
        f" ln -sfn releases/{before} restoring; rm -f {DATA}/data/webui.db-*; truncate -s 4096 {DATA}/data/webui.db"
    )
    home.chat.run("systemctl start open-webui")
    assert home.chat.run("systemctl is-active open-webui", check=False) != "active"
    assert f"{before} serves in place of {after}" in words(rollback(home))
    assert [home.release(link) for link in ("current", "previous", "leaving", "restoring")] == [before, after, "", ""]
    assert home.titles() == ["before the bad one"]
    assert changed(home.only())["chat"] == 0


def test_copies_of_an_earlier_version_are_moved(home: Home) -> None:
    """As an earlier version of the role left them, below the directory that the service owns; and a link of its own."""
    earlier = f"{DATA}/before-update"
    digests = home.chat.run(f"cd {BACKUPS} && sha256sum */webui.db")
    assert digests
    home.chat.run(f"mv {BACKUPS} {earlier}; chown open-webui: {earlier}/*/webui.db*; ln -s /etc/passwd {earlier}/link")
    assert changed(home.only("--check"))["chat"] == 1
    output = home.only()
    assert changed(output)["chat"] == 1
    assert "this is no copy that this collection has made" in words(output)
    assert home.chat.run(f"cd {BACKUPS} && sha256sum */webui.db") == digests
    assert home.chat.run(f"ls {earlier}") == "link"
    home.chat.run(f"rm -r {earlier}")
    # What the service puts there is left alone, and nothing that it leads to.
    before = home.chat.run("ls -lR /etc | sha256sum")
    home.chat.run(f"setpriv --reuid=open-webui --clear-groups ln -s /etc {earlier}")
    assert changed(home.only())["chat"] == 0
    assert home.chat.run("ls -lR /etc | sha256sum") == before
    home.chat.run(f"rm {earlier}")


def test_models_of_two_routers_are_told_apart(home: Home) -> None:
    home.second = True
    home.play(open_webui_public=True)
    webui = home.sign_in()
    assert webui.models() == ["llama.large", "llama.small", "second.large", "second.small"]
    assert webui.answers("llama.large")
    assert webui.answers("second.large")
    assert webui.ask("/api/v1/tasks/config")["TASK_MODEL_EXTERNAL"] == "llama.small"
    assert changed(home.play(open_webui_public=True)) == {**HOSTS, "second": 0}
    home.other.run("systemctl stop llama-router")
    output = words(home.only(ok=False, open_webui_public=True))
    assert "second" in output
    assert "http://127.0.0.1:8012" in output
    assert webui.models() == ["llama.large", "llama.small"]
    # With one router alone its models have their own names again; the other connection stays until that is said.
    home.second = False
    home.only(open_webui_public=True)
    assert webui.models() == ["large", "small"]
    url = f"http://{NETWORK}.{SECOND}:8012"
    assert f"{url}/v1" in webui.ask("/openai/config")["OPENAI_API_BASE_URLS"]
    gone = {"open_webui_public": True, "open_webui_absent_routers": [url]}
    assert changed(home.only(**gone))["chat"] == 1
    assert webui.ask("/openai/config")["OPENAI_API_BASE_URLS"] == ["https://example.invalid/v1", ROUTER_URL]
    assert changed(home.only(**gone))["chat"] == 0


def test_behind_the_proxy(home: Home) -> None:
    """With nginx in the same guest: TLS and the websocket from outside, and nothing beside it."""
    key, pem = home.folder / "chat.key", home.folder / "chat.pem"
    address = f"{NETWORK}.{CHAT}"
    made = f"-keyout {key} -out {pem} -subj /CN=chat.lan -addext subjectAltName=DNS:chat.lan,IP:{address}"
    ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    subprocess.run(f"openssl req -x509 {ec} -nodes -days 2 {made}".split(), check=True, capture_output=True)
    for file in (key, pem):
        home.chat.run(f"umask 077; printf %s {shlex.quote(file.read_text())} >/root/{file.name}")
    proxied = {
        "open_webui_proxy": True,
        "llama_proxy_server_names": ["chat.lan", address],
        "llama_proxy_certificate": "/root/chat.pem",
        "llama_proxy_certificate_key": "/root/chat.key",
    }
    assert changed(home.only("--check", **proxied))["chat"] > 0
    home.webui.until_up()
    assert "point a browser at https://chat.lan" in words(home.only(**proxied))
    again = home.only(**proxied)
    assert changed(again)["chat"] == 0, again
    with pytest.raises(urllib.error.URLError, match="refused"):
        home.webui.ask("/health")
    tls = ssl.create_default_context(cafile=str(pem))
    behind = WebUI(f"https://{address}", tls)
    behind.sign_in(ADMIN, home.account()["PASSWORD"])
    assert behind.answers("large")
    connection = http.client.HTTPSConnection(address, context=tls, timeout=20)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    nonce = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": "https://chat.lan"}
    connection.request("GET", "/ws/socket.io/?EIO=4&transport=websocket", headers={**upgrade, **nonce})
    assert connection.getresponse().status == 101
    connection.close()
    # The way back to plain HTTP, on the guest's own address.
    home.only(open_webui_host=address)
    home.webui.until_up()
    assert home.chat.run("ls /etc/nginx/conf.d; systemctl is-active nginx").split() == ["active"]
    assert changed(home.only(open_webui_host=address))["chat"] == 0
    home.only()
    home.webui.until_up()


def test_a_wrong_password_is_said(home: Home) -> None:
    output = words(home.only(ok=False, open_webui_admin_password="not the one"))
    assert "admin@localhost" in output
    assert "not the one" not in output
    assert changed(home.only())["chat"] == 0


def test_absent(home: Home) -> None:
    gone = {"open_webui_state": "absent"}
    assert changed(home.only("--check", **gone))["chat"] == 1
    home.webui.ask("/health")
    output = home.only(**gone)
    assert f"The data in {DATA} and {BACKUPS}" in words(output)
    assert home.chat.run(f"ls -d {DATA}/data/webui.db /opt/open-webui", check=False).startswith(DATA)
    with pytest.raises(urllib.error.URLError):
        home.webui.ask("/health")
    assert changed(home.only(**gone))["chat"] == 0
    home.only(**gone, open_webui_remove_data=True)
    left = home.chat.run(f"ls -d {DATA} {BACKUPS} /etc/open-webui /opt/open-webui; id open-webui", check=False)
    assert left.count("o such") == 5
    assert changed(home.only(**gone, open_webui_remove_data=True))["chat"] == 0
