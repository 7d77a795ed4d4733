# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""open_webui_connection and open_webui_models against the real Open WebUI, beside the real router."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from chromium_page import Page
from nginx_server import Proxy
from open_webui_server import EMAIL, PASSWORD, USER_EMAIL, USER_PASSWORD, OpenWebUIServer
from router_server import KEY, KEYS, Call, Server, free_port, section, wait_until

OTHER = "http://127.0.0.1:1/v1"  # an operator's own connection, to something that is not there now
OTHER_KEY = "key-of-the-other"
SECRETS = (*KEYS, OTHER_KEY, PASSWORD, USER_PASSWORD)
IDS = ["alpha", "beta", "gamma"]
WORDS = 60  # of an answer of alpha and beta: random weights alone would end it anywhere


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("open-webui")


@pytest.fixture(scope="module")
def router(folder: Path) -> Iterator[Server]:
    """Two models whose answers can be watched as they grow, and a small one for titles; two of the three at once."""
    make = importlib.import_module("make_tiny_models").make
    for seed, (name, width) in enumerate(zip(IDS, (512, 512, 64)), 1):
        make(folder / f"{name}.gguf", seed, context=8192, width=width, layers=8 if width > 64 else 2, ff=4 * width)
    presets = folder / "models.ini"
    answers = {name: {"grammar": f'root ::= ([a-z]{{5}} " "){{{WORDS}}}'} for name in ("alpha", "beta")}
    presets.write_text(
        "".join(section(name, folder / f"{name}.gguf", threads="1", **answers.get(name, {})) for name in IDS)
    )
    with Server(folder, "--models-preset", str(presets), "--models-max", "2") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("nginx"), certificate) as running:
        yield running


@pytest.fixture(scope="module")
def webui(folder: Path, router: Server, proxy: Proxy) -> Iterator[OpenWebUIServer]:
    """Its environment names the router, as an operator's would; what counts is its database. Also behind a proxy."""
    environment = {
        **proxy.environment,
        "OPENAI_API_BASE_URLS": router.url + "/v1",
        "OPENAI_API_KEYS": KEY,
        "ENABLE_OLLAMA_API": "true",
    }
    with OpenWebUIServer(folder, proxy.port, **environment) as running:
        user = {"name": "User", "email": USER_EMAIL, "password": USER_PASSWORD, "role": "user"}
        running.ask("POST", "/api/v1/auths/add", user)
        yield running


@pytest.fixture(autouse=True)
def database(webui: OpenWebUIServer) -> dict[str, Any]:
    """An operator's database, which disagrees with the environment: what there is before each test."""
    openai = {
        "ENABLE_OPENAI_API": False,
        "OPENAI_API_BASE_URLS": [OTHER],
        "OPENAI_API_KEYS": [OTHER_KEY],
        "OPENAI_API_CONFIGS": {"0": {"enable": True, "tags": [{"name": "mine"}], "headers": {"X-Mine": "1"}}},
    }
    webui.ask("POST", "/openai/config/update", openai)
    for entry in webui.ask("GET", "/api/v1/models/all"):
        webui.ask("POST", "/api/v1/models/model/delete", {"id": entry["id"]})
    mine = {"id": "my-model", "name": "My own", "base_model_id": "alpha", "meta": {"description": "by hand"}}
    webui.ask("POST", "/api/v1/models/create", {**mine, "params": {"system": "Be kind"}})
    by_hand = {"id": "beta", "name": "Beta by hand", "meta": {"capabilities": {"vision": False}}}
    webui.ask("POST", "/api/v1/models/create", {**by_hand, "params": {"temperature": 0.25}})
    ollama = webui.ask("GET", "/ollama/config")
    webui.ask("POST", "/ollama/config/update", {**ollama, "ENABLE_OLLAMA_API": True})
    tasks = webui.ask("GET", "/api/v1/tasks/config")
    tasks.update(TASK_MODEL_EXTERNAL="", TASK_MODEL_PARAMS={"max_tokens": 4})
    tasks.update(ENABLE_TAGS_GENERATION=False, ENABLE_FOLLOW_UP_GENERATION=False)
    webui.ask("POST", "/api/v1/tasks/config/update", tasks)
    lists = webui.ask("GET", "/api/v1/configs/models")
    lists.update(MODEL_ORDER_LIST=["my-model"], DEFAULT_MODELS=None, DEFAULT_PINNED_MODELS=None)
    webui.ask("POST", "/api/v1/configs/models", lists)
    return openai


@pytest.fixture
def run(webui: OpenWebUIServer, call: Call) -> Call:
    """call, as the administrator; no secret is in what the module answers."""

    def once(module: str, **params: Any) -> dict[str, Any]:
        account = {} if "webui_email" in params else {"webui_token": webui.token}
        result = call(f"open_webui_{module}", **{"webui_url": webui.url, **account, **params})
        assert not [secret for secret in (*SECRETS, webui.token) if secret in json.dumps(result)]
        return result

    return once


@pytest.fixture
def connected(run: Call, router: Server) -> None:
    assert run("connection", url=router.url, api_key=KEY)["changed"]


def entries(webui: OpenWebUIServer) -> dict[str, Any]:
    return {entry["id"]: entry for entry in webui.ask("GET", "/api/v1/models/all")}


def test_the_models_of_the_router_appear(
    webui: OpenWebUIServer, router: Server, run: Call, database: dict[str, Any]
) -> None:
    here = {"url": router.url, "api_key_file": str(router.keys)}
    seen = run("connection", **here, check=True)
    assert (seen["changed"], seen["models"]) == (True, IDS)
    assert webui.ask("GET", "/openai/config") == database
    assert webui.shown() == []

    done = run("connection", **here, webui_email=EMAIL, webui_password=PASSWORD)
    assert done["diff"] == seen["diff"]
    assert done["diff"]["before"] == {"openai_api": False, "connection": None}
    assert (done["index"], done["models"]) == (1, IDS)
    assert sorted(webui.shown()) == [*IDS, "my-model"]
    config = webui.ask("GET", "/openai/config")
    assert config["OPENAI_API_BASE_URLS"] == [OTHER, router.url + "/v1"]
    assert config["OPENAI_API_CONFIGS"]["0"] == database["OPENAI_API_CONFIGS"]["0"]
    again = run("connection", **here)
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]
    assert router.status() == dict.fromkeys(IDS, "unloaded")  # to look wakes nothing


@pytest.mark.usefixtures("connected")
def test_a_connection_changes_and_goes(
    webui: OpenWebUIServer, router: Server, run: Call, database: dict[str, Any]
) -> None:
    changed = run("connection", url=router.url + "/", api_key=KEYS[1], prefix_id="lab", tags=["local"])
    assert changed["diff"]["before"]["connection"]["api_key"] == "(differs)"
    assert {"lab.alpha", "lab.beta", "lab.gamma"} < set(webui.shown())
    assert run("connection", url=router.url, prefix_id="", model_ids=["gamma"])["changed"]
    assert sorted(webui.shown()) == ["gamma", "my-model"]
    assert run("connection", url=router.url, enabled=False)["changed"]
    assert webui.shown() == []
    # In the first place, with its settings named by its address as older versions did.
    config = webui.ask("GET", "/openai/config")
    for name in ("OPENAI_API_BASE_URLS", "OPENAI_API_KEYS"):
        config[name].reverse()
    config["OPENAI_API_CONFIGS"] = {str(1 - int(place)): one for place, one in config["OPENAI_API_CONFIGS"].items()}
    webui.ask("POST", "/openai/config/update", config)
    assert run("connection", url=router.url, state="absent", check=True)["changed"]
    assert run("connection", url=router.url, state="absent")["changed"]
    assert webui.ask("GET", "/openai/config") == {**database, "ENABLE_OPENAI_API": True}
    assert not run("connection", url=router.url, state="absent")["changed"]


@pytest.mark.usefixtures("connected")
def test_loaded_models_are_told_and_ejected(webui: OpenWebUIServer, router: Server) -> None:
    router.load("alpha")
    told = {model["id"]: model for model in webui.ask("GET", "/api/models")["data"]}
    assert (told["alpha"]["loaded"], told["beta"]["loaded"]) == (True, False)
    webui.ask("POST", "/openai/models/1/unload", {"model": "alpha"})
    wait_until(lambda: router.status()["alpha"] == "unloaded", seconds=60)


@pytest.mark.usefixtures("connected")
def test_names_come_and_others_stay(webui: OpenWebUIServer, run: Call) -> None:
    before = entries(webui)
    wanted: dict[str, Any] = {
        "models": [
            {"id": "alpha", "name": "First", "description": "For questions", "visibility": "public"},
            {"id": "beta", "visibility": "public", "params": {"max_tokens": 5}},
            {"id": "gamma", "hidden": True},
        ],
        "order": ["gamma", "alpha"],
        "default_models": ["alpha"],
        "pinned_models": ["alpha", "beta"],
        "task_model": "gamma",
        "ollama_api": False,
    }
    seen = run("models", **wanted, check=True)
    assert entries(webui) == before
    done = run("models", **wanted)
    assert done["diff"] == seen["diff"]
    assert (done["changed"], done["models"]) == (True, ["alpha", "beta", "gamma"])
    after = entries(webui)
    assert after["my-model"] == before["my-model"]
    assert after["alpha"]["name"] == "First"
    assert after["beta"]["name"] == "Beta by hand"
    assert after["beta"]["meta"] == before["beta"]["meta"]
    assert after["beta"]["params"] == {"temperature": 0.25, "max_tokens": 5}
    assert webui.shown() == ["gamma", "alpha", "my-model", "beta"]
    lists = webui.ask("GET", "/api/v1/configs/models")
    assert (lists["DEFAULT_MODELS"], lists["DEFAULT_PINNED_MODELS"]) == ("alpha", "alpha,beta")
    assert webui.ask("GET", "/api/v1/tasks/config")["TASK_MODEL_EXTERNAL"] == "gamma"
    assert webui.ask("GET", "/ollama/config")["ENABLE_OLLAMA_API"] is False
    assert not run("models", **wanted)["changed"]

    with as_user(webui):
        assert sorted(webui.shown()) == ["alpha", "beta"]

    gone = run("models", models=[{"id": "beta", "visibility": "private"}], absent=["alpha"])
    assert gone["removed"] == ["alpha"]
    assert set(entries(webui)) == {"beta", "gamma", "my-model"}
    lists = webui.ask("GET", "/api/v1/configs/models")
    assert (lists["DEFAULT_MODELS"], lists["MODEL_ORDER_LIST"]) == ("", ["gamma", "my-model"])


@pytest.mark.usefixtures("connected")
def test_a_user_gets_titles_of_a_public_task_model(webui: OpenWebUIServer, run: Call) -> None:
    """Hidden or not; of a private one Open WebUI makes none for them."""
    alpha = {"id": "alpha", "visibility": "public"}
    chat = {"model": "alpha", "messages": [{"role": "user", "content": "Hello"}], "chat_id": "local:test"}

    def title() -> int:
        with as_user(webui):
            assert "alpha" in webui.shown()
            try:
                webui.ask("POST", "/api/v1/tasks/title/completions", chat)
            except urllib.error.HTTPError as error:
                return error.code
        return 200

    run("models", models=[alpha], task_model="gamma")
    assert title() == 400
    run("models", models=[alpha, {"id": "gamma", "visibility": "public", "hidden": True}])
    assert title() == 200


@contextlib.contextmanager
def as_user(webui: OpenWebUIServer) -> Iterator[None]:
    admin, webui.token = webui.token, ""
    try:
        webui.token = webui.sign_in(USER_EMAIL, USER_PASSWORD)
        yield
    finally:
        webui.token = admin


def test_an_api_key_does_as_well(webui: OpenWebUIServer, run: Call) -> None:
    config = webui.ask("GET", "/api/v1/auths/admin/config")
    webui.ask("POST", "/api/v1/auths/admin/config", {**config, "ENABLE_API_KEYS": True})
    key = webui.ask("POST", "/api/v1/auths/api_key")["api_key"]
    assert run("models", ollama_api=False, webui_token=key)["changed"]
    webui.ask("POST", "/api/v1/auths/admin/config", config)
    assert "takes no API keys" in run("models", ollama_api=True, webui_token=key)["msg"]
    assert webui.ask("GET", "/ollama/config")["ENABLE_OLLAMA_API"] is False


@pytest.mark.usefixtures("connected")
def test_a_model_that_the_router_does_not_have(webui: OpenWebUIServer, run: Call) -> None:
    before = entries(webui)
    failed = run("models", models=[{"id": "alpha"}, {"id": "delta"}], wait_models=1)
    assert "models of these ids were wanted" in failed["msg"]
    assert ": delta; it has alpha, beta, gamma" in failed["msg"]
    assert entries(webui) == before


class Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    """A web server that is neither of the two."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_each_fault_has_its_own_message(
    webui: OpenWebUIServer, router: Server, run: Call, stranger: str, database: dict[str, Any]
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    here = {"url": router.url, "api_key": KEY}
    faults = {
        "nothing listens there; start it (systemctl start open-webui)": {**here, "webui_url": nobody},
        "something else answers there": {**here, "webui_url": stranger},
        f"it does not know {EMAIL} with this password": {**here, "webui_email": EMAIL, "webui_password": "wrong"},
        f"{USER_EMAIL} has the role user": {**here, "webui_email": USER_EMAIL, "webui_password": USER_PASSWORD},
        "it refused this one": {**here, "webui_token": "not-a-token"},
        "that of another user was found": {**here, "webui_token": webui.sign_in(USER_EMAIL, USER_PASSWORD)},
        "Open WebUI gets no answer there; start the router": {**here, "url": nobody},
        "does not take the key that was sent": {**here, "api_key": "wrong"},
        "wants a key, and none was sent": {"url": router.url},
        "has no list of models": {**here, "url": stranger},
    }
    for told, params in faults.items():
        failed = run("connection", **params)
        assert told in failed["msg"], failed
        assert failed["failed"]
    assert webui.ask("GET", "/openai/config") == database


def test_a_play_tells_no_secret(webui: OpenWebUIServer, router: Server, tmp_path: Path) -> None:
    """Nor do the command lines of processes and the logs of both servers while it runs, at its most talkative."""
    module = {"webui_url": webui.url, "webui_email": EMAIL, "webui_password": PASSWORD, "url": router.url}
    names = {**module, "models": [{"id": "alpha", "name": "First"}]}
    del names["url"]
    tasks = [
        {"homelab.llamacpp.open_webui_connection": {**module, "api_key_file": str(router.keys)}},
        {"homelab.llamacpp.open_webui_connection": {**module, "api_key": KEYS[1]}},
        {"homelab.llamacpp.open_webui_models": names},
    ]
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    argv = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    argv += ["--diff", "-vvv", str(tmp_path / "play.yml")]
    lines: set[str] = set()
    with (tmp_path / "out").open("w") as out:
        running = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT)
        while running.poll() is None:
            lines |= command_lines()
            time.sleep(0.02)
    text = (tmp_path / "out").read_text()
    assert running.returncode == 0, text
    assert "changed=3" in text
    assert "(differs)" in text
    logs = webui.log.read_text() + router.log.read_text()
    for secret in SECRETS:
        assert secret not in text
        assert secret not in logs
        assert not [line for line in lines if secret in line]
    assert any("open_webui_connection" in line for line in lines)


def command_lines() -> set[str]:
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.add(Path("/proc", entry, "cmdline").read_text(errors="replace").replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
@pytest.mark.usefixtures("connected")
def test_a_person_asks_in_the_page(
    proxy: Proxy, router: Server, run: Call, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """A user signs in, asks, reads the answer as it comes, and asks another model, for which the router evicts one.

    Over TLS, through the proxy; the answer's parts come by the page's websocket.
    """
    wanted = [
        {"id": "alpha", "name": "The First", "visibility": "public", "params": {"max_tokens": 1000}},
        {"id": "beta", "name": "The Second", "visibility": "public", "params": {"max_tokens": 1000}},
        {"id": "gamma", "hidden": True, "visibility": "public"},
    ]
    assert run("models", models=wanted, default_models=["alpha"], task_model="gamma")["changed"]
    for name, status in router.status().items():
        if status != "unloaded":
            router.client.unload(name)
    wait_until(lambda: router.status() == dict.fromkeys(IDS, "unloaded"), seconds=60)
    router.load("gamma")  # as the plan keeps it
    with Page(tmp_path, trusted=certificate[0]) as page:
        page.open(proxy.url)
        page.type("#email", USER_EMAIL)
        page.type("input[type=password]", USER_PASSWORD)
        page.picture("open-webui-sign-in")
        page.click("button[type=submit]")
        assert page.until("document.querySelector('#model-selector-model-button')?.innerText.trim()") == "The First"
        ask(page, "What is a router?", "open-webui-first")
        wait_until(lambda: running(router) == ["alpha", "gamma"], seconds=60)

        page.click("#model-selector-model-button")
        offered = "[...document.querySelectorAll('#model-selector-list [role=option]')].map(e => e.dataset.value)"
        assert page.until(f"{offered}.length && {offered}") == ["alpha", "beta"]
        page.picture("open-webui-models")
        page.click("#model-selector-list [data-value=beta]")
        ask(page, "And who are you?", "open-webui-second")
        # One of the two had to go: the one that was asked first, which of a chat and its title is a matter of chance.
        wait_until(lambda: running(router) in (["alpha", "beta"], ["beta", "gamma"]), seconds=60)
        wait_until(lambda: "proxying request to model gamma" in router.log.read_text(), seconds=60)
        assert not page.errors
    wait_until(lambda: "/ws/socket.io/?EIO=4&transport=websocket" in proxy.requests())
    sockets = [line for line in proxy.requests().splitlines() if "/ws/socket.io/" in line]
    assert all('transport=websocket HTTP/1.1" 101 ' in line for line in sockets), sockets


def test_the_proxy_keeps_what_open_webui_needs(proxy: Proxy, webui: OpenWebUIServer) -> None:
    """Its websocket for its own pages alone, and its cookies for TLS alone."""

    def ask(method: str, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
        context = ssl._create_unverified_context()
        line = http.client.HTTPSConnection("127.0.0.1", proxy.https, timeout=60, context=context)
        data = None if body is None else json.dumps(body)
        line.request(method, path, data, {"Content-Type": "application/json", **headers})
        return line.getresponse()

    def socket(origin: str) -> int:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="}
        return ask("GET", "/ws/socket.io/?EIO=4&transport=websocket", **upgrade, **key, Origin=origin).status

    assert socket(proxy.url) == 101
    assert socket("https://elsewhere.example") in (400, 403)
    signed_in = ask("POST", "/api/v1/auths/signin", {"email": USER_EMAIL, "password": USER_PASSWORD})
    assert signed_in.status == 200
    cookies = signed_in.headers.get_all("Set-Cookie")
    assert cookies
    assert all("; secure" in cookie.lower() for cookie in cookies), cookies
    assert webui.ask("GET", "/api/v1/auths/admin/config")["WEBUI_URL"] == proxy.url


def test_a_public_url_that_was_saved_in_the_page_is_converged(proxy: Proxy, webui: OpenWebUIServer, run: Call) -> None:
    before = webui.ask("GET", "/api/v1/auths/admin/config")
    webui.ask("POST", "/api/v1/auths/admin/config", {**before, "WEBUI_URL": "http://of.before"})
    assert run("models", public_url=proxy.url, check=True)["changed"]
    done = run("models", public_url=proxy.url)
    assert done["diff"] == {"before": {"WEBUI_URL": "http://of.before"}, "after": {"WEBUI_URL": proxy.url}}
    assert webui.ask("GET", "/api/v1/auths/admin/config") == before
    assert not run("models", public_url=proxy.url)["changed"]


def running(router: Server) -> list[str]:
    return [name for name, status in router.status().items() if status == "loaded"]


def ask(page: Page, question: str, picture: str) -> None:
    """Ask, and read the answer as it grows, to its end."""
    answers = "document.querySelectorAll('#response-content-container')"
    before = page.value(f"{answers}.length")
    page.type("#chat-input", question)
    page.click("#send-message-button")
    page.until(f"{answers}.length > {before}")
    parts, deadline = {""}, time.monotonic() + 300
    while len(whole := page.text("#response-content-container")) < 6 * WORDS - 1:
        parts.add(whole)
        assert time.monotonic() < deadline, parts
    page.picture(picture)
    assert len(parts) > 1, whole  # it came in parts
    assert all(whole.startswith(part) for part in parts), parts
    page.until("!document.querySelector('button[aria-label=Stop]')", seconds=300)
    assert page.text("#response-content-container") == whole
