# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules of Open WebUI against a small stand-in for its API: what they send, and what they say of each fault.

What Open WebUI makes of the requests is judged by the real one, in tests/functional/test_open_webui.py.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.module_utils import _open_webui
from ansible_collections.homelab.llamacpp.tests.unit.http_double import JSON, Asked, HttpDouble, Told

URL = "http://192.0.2.20:8012/v1"
KEY, OLD_KEY, PASSWORD = "the-routers-key", "the-former-key", "the-admins-password"
SECRETS = (KEY, OLD_KEY, PASSWORD, "token-of-admin", "token-of-user", "key-of-another")
# The arguments are returned as with -vvv, so that a secret among them is seen.
INTERNAL = {"_ansible_diff": True, "_ansible_inject_invocation": True}
Call = Callable[..., dict[str, Any]]
Answer = tuple[int, Any]


class WebUI(HttpDouble):
    """Open WebUI's API as far as the modules use it: what it holds, and the requests that change that."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.about: Answer = (200, {"status": True, "name": "Open WebUI", "version": "0.12.4", "features": {}})
        self.signin: Answer = (200, {"token": "token-of-admin", "role": "admin"})
        self.verified: Answer = (200, {"object": "list", "data": [{"id": "a"}, {"id": "b"}]})
        self.router = URL
        self.missing: set[str] = set()
        self.deaf = False
        # What somebody else does while it looks for models, and while it takes entries.
        self.meanwhile: Callable[[], None] = lambda: None
        self.importing: Callable[[], None] = lambda: None
        self.state: dict[str, Any] = {
            "/openai/config": {
                "ENABLE_OPENAI_API": True,
                "OPENAI_API_BASE_URLS": ["https://other/v1"],
                "OPENAI_API_KEYS": ["key-of-another"],
                "OPENAI_API_CONFIGS": {"0": {"enable": True, "later": 1}},
            },
            "/api/v1/configs/models": {
                "DEFAULT_MODELS": None,
                "DEFAULT_PINNED_MODELS": None,
                "MODEL_ORDER_LIST": ["mine"],
                "DEFAULT_MODEL_METADATA": {"kept": True},
            },
            "/api/v1/tasks/config": {"TASK_MODEL": "", "TASK_MODEL_EXTERNAL": "", "ENABLE_TAGS_GENERATION": True},
            "/ollama/config": {"ENABLE_OLLAMA_API": True, "OLLAMA_BASE_URLS": ["x"], "OLLAMA_API_CONFIGS": {}},
            "/api/v1/auths/admin/config": {"WEBUI_URL": "", "ENABLE_SIGNUP": False},
        }
        self.entries: dict[str, dict[str, Any]] = {
            "mine": {"id": "mine", "name": "Mine", "base_model_id": "a", "meta": {}, "params": {}, "access_grants": []}
        }
        self.models = ["a", "b"]

    def answer(self, asked: Asked) -> Told:
        token = asked.headers.get("Authorization", "").removeprefix("Bearer ")
        status, answer = self._answer(asked.method, asked.path, token, json.loads(asked.body or b"null"))
        page = isinstance(answer, str)
        return Told(status, {"Content-Type": "text/html"} if page else JSON, answer if page else json.dumps(answer))

    def _answer(self, method: str, path: str, token: str, body: Any) -> Answer:
        if path == "/api/config":
            return self.about
        if path == "/api/v1/auths/signin":
            assert method == "POST"
            assert body == {"email": "admin@example.com", "password": PASSWORD}
            return self.signin
        if path in self.missing:
            return (200, "<html>") if method == "GET" else (405, {"detail": "Method Not Allowed"})
        who = {"token-of-admin": "admin", "token-of-user": "user"}.get(token)
        if path == "/api/v1/users/user/settings" and who:
            return 200, None
        if token == "sk-while-disabled":
            return 403, {"detail": "not allowed"}
        if who != "admin":
            return 401, {"detail": "no"}
        return self._read(path) if method == "GET" else self._write(path, body)

    def _read(self, path: str) -> Answer:
        if path == "/api/models/base":
            self.meanwhile()
            return 200, {"data": [{"id": one} for one in self.models]}
        if path == "/api/v1/models/all":
            return 200, list(self.entries.values())
        return 200, self.state[path]

    def _write(self, path: str, body: Any) -> Answer:
        if path == "/openai/verify":
            assert body["url"] == self.router
            self.meanwhile()
            return self.verified
        self.written.append(path)
        if path == "/api/v1/models/import":
            self.importing()
            for model in body["models"]:
                old = self.entries.get(model["id"], {"base_model_id": None, "access_grants": []})
                assert "access_grants" not in model  # of an entry that is there it would take none
                self.entries[model["id"]] = {**old, **model, "meta": {**old.get("meta", {}), **model["meta"]}}
        elif path == "/api/v1/models/model/access/update":
            self.entries[body["id"]]["access_grants"] = body["access_grants"]
        elif path == "/api/v1/models/model/delete":
            del self.entries[body["id"]]
        else:
            read = path.removesuffix("/update") if path != "/api/v1/configs/models" else path
            assert body.keys() == self.state[read].keys()
            if not self.deaf:
                self.state[read] = body
        return 200, True


@pytest.fixture
def webui() -> Iterator[WebUI]:
    with WebUI() as one:
        yield one


@pytest.fixture
def call(webui: WebUI, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    # Ansible keeps a module's warnings for the process, or prints them where it takes the process for a controller.
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda self, text: warnings.append(text))

    def run(module: str, check: bool = False, **params: Any) -> dict[str, Any]:
        main = importlib.import_module(f"ansible_collections.homelab.llamacpp.plugins.modules.open_webui_{module}").main
        account = {"webui_email": "admin@example.com", "webui_password": PASSWORD}
        given = {"webui_url": webui.url, **({} if "webui_token" in params else account), **params}
        capsys.readouterr()
        warnings.clear()
        with (
            patch_module_args({**given, **INTERNAL, "_ansible_check_mode": check}),
            pytest.raises(SystemExit),
        ):
            main()
        output = capsys.readouterr().out
        for secret in SECRETS:
            assert secret not in output + "".join(warnings)
        result: dict[str, Any] = json.loads(output)
        assert result.pop("invocation")
        result["warnings"] = list(warnings)
        return result

    return run


def test_a_connection_comes_changes_and_goes(webui: WebUI, call: Call) -> None:
    other = webui.state["/openai/config"]
    seen = call("connection", url=URL, api_key=KEY, check=True)
    assert (seen["changed"], seen["index"], seen["models"], webui.written) == (True, 1, ["a", "b"], [])
    done = call("connection", url=URL, api_key=KEY)
    assert done["diff"] == seen["diff"]
    assert done["diff"]["before"] == {"openai_api": True, "connection": None}
    assert done["diff"]["after"]["connection"]["api_key"] == "(as wanted)"
    now = webui.state["/openai/config"]
    assert now["OPENAI_API_KEYS"] == ["key-of-another", KEY]
    assert now["OPENAI_API_CONFIGS"]["0"] == other["OPENAI_API_CONFIGS"]["0"]
    assert not call("connection", url=URL.removesuffix("v1"), api_key=KEY)["changed"]
    assert not call("connection", url=URL)["changed"]

    now["OPENAI_API_KEYS"][1] = OLD_KEY
    now["ENABLE_OPENAI_API"] = False
    done = call("connection", url=URL, api_key=KEY)
    assert done["diff"]["before"]["openai_api"] is False
    assert done["diff"]["before"]["connection"]["api_key"] == "(differs)"
    assert webui.state["/openai/config"]["ENABLE_OPENAI_API"] is True

    assert call("connection", url=URL, state="absent")["index"] is None
    assert webui.state["/openai/config"] == other
    assert not call("connection", url=URL, state="absent")["changed"]


def test_the_key_from_its_file(webui: WebUI, call: Call, tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    file.write_text(f"# ours\n{KEY}\nother\n")
    call("connection", url=URL, api_key_file=str(file))
    assert webui.state["/openai/config"]["OPENAI_API_KEYS"][1] == KEY
    file.unlink()
    assert "there is no such file" in call("connection", url=URL, api_key_file=str(file))["msg"]


def test_what_another_changes_meanwhile_stays(webui: WebUI, call: Call) -> None:
    def another() -> None:
        now = webui.state["/openai/config"]
        urls, keys = now["OPENAI_API_BASE_URLS"], now["OPENAI_API_KEYS"]
        webui.state["/openai/config"] = {
            **now,
            "OPENAI_API_BASE_URLS": ["http://new:1/v1", *urls],
            "OPENAI_API_KEYS": ["key-of-another", *keys],
            "OPENAI_API_CONFIGS": {"0": {"enable": False}, "1": {"enable": True, "later": 1}},
        }

    webui.meanwhile = another
    assert call("connection", url=URL, api_key=KEY)["index"] == 2
    now = webui.state["/openai/config"]
    assert now["OPENAI_API_BASE_URLS"] == ["http://new:1/v1", "https://other/v1", URL]
    assert now["OPENAI_API_KEYS"] == ["key-of-another", "key-of-another", KEY]
    assert now["OPENAI_API_CONFIGS"].keys() == {"0", "1", "2"}
    assert now["ENABLE_OPENAI_API"] is True
    assert now["OPENAI_API_CONFIGS"]["0"] == {"enable": False}
    assert now["OPENAI_API_CONFIGS"]["1"] == {"enable": True, "later": 1}


def test_a_second_connection_to_it_is_told_and_left(webui: WebUI, call: Call) -> None:
    webui.state["/openai/config"].update(OPENAI_API_BASE_URLS=[URL, URL + "/"], OPENAI_API_KEYS=["", ""])
    done = call("connection", url=URL, api_key=KEY)
    assert "another connection to" in done["warnings"][0]
    assert webui.state["/openai/config"]["OPENAI_API_BASE_URLS"] == [URL, URL + "/"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((500, {"detail": "Server Connection Error"}), "Open WebUI gets no answer there; start the router"),
        ((401, {"error": {"message": "Invalid API Key"}}), "does not take the key that was sent"),
        ((404, {"error": "no"}), "something else answers there"),
        ((502, "<html>"), "what stands before it answers 502: the router itself does not run"),
        ((200, {"hello": 1}), "has no list of models"),
    ],
)
def test_a_router_that_does_not_serve(webui: WebUI, call: Call, answer: Answer, told: str) -> None:
    webui.verified = answer
    failed = call("connection", url=URL, api_key=KEY)
    assert told in failed["msg"]
    assert webui.written == []
    seen = call("connection", url=URL, api_key=KEY, check=True)
    assert seen["changed"]
    assert told in seen["warnings"][0]
    assert call("connection", url=URL, api_key=KEY, verify=False)["changed"]


def test_a_router_whose_certificate_open_webui_does_not_trust(webui: WebUI, call: Call) -> None:
    """It only says that there was no answer."""
    webui.verified = (500, {"detail": "Server Connection Error"})
    assert "AIOHTTP_CLIENT_SSL_CERT_FILE" not in call("connection", url=URL, api_key=KEY)["msg"]
    webui.router = "https://192.0.2.20/v1"
    assert "AIOHTTP_CLIENT_SSL_CERT_FILE" in call("connection", url=webui.router, api_key=KEY)["msg"]


def test_what_is_not_kept_is_told(webui: WebUI, call: Call) -> None:
    webui.deaf = True
    assert "has others now" in call("connection", url=URL, api_key=KEY)["msg"]
    assert "something else now, of TASK_MODEL_EXTERNAL" in call("models", task_model="a")["msg"]


@pytest.mark.parametrize(
    ("about", "signin", "token", "told"),
    [
        ((502, "<html>"), None, None, "Open WebUI itself does not run, or is still starting"),
        ((200, "<html>"), None, None, "something else answers there"),
        ((200, {"version": "0.9"}), None, None, "something else answers there"),
        (None, (400, {"detail": "wrong"}), None, "does not know admin@example.com with this password"),
        (None, (200, {"token": "token-of-user", "role": "user"}), None, "admin@example.com has the role user"),
        (None, (200, {"mfa": True}), None, "a second factor?"),
        (None, (403, {"detail": "no"}), None, "admits nobody by password"),
        (None, (429, {"detail": "no"}), None, "admits no more sign-ins"),
        (None, None, "token-of-user", "that of another user was found"),
        (None, None, "sk-while-disabled", "takes no API keys"),
        (None, None, "token-of-nobody", "it refused this one"),
        (None, None, "two words", "a token of one word"),
        (None, None, "", "a token of one word was wanted, it is empty"),
    ],
)
def test_every_way_not_to_be_let_in(
    webui: WebUI, call: Call, about: Answer | None, signin: Answer | None, token: str | None, told: str
) -> None:
    webui.about, webui.signin = about or webui.about, signin or webui.signin
    failed = call("models", order=["a"], **({} if token is None else {"webui_token": token}))
    assert told in failed["msg"]
    assert webui.written == []


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_request_takes_some_time(webui: WebUI, call: Call, seconds: int) -> None:
    failed = call("models", order=["a"], request_timeout=seconds)
    assert f"request_timeout: a number of seconds above 0 was wanted, {seconds} was found" in failed["msg"]
    assert not call("models", order=["mine"], request_timeout=1).get("failed")


def test_a_version_of_many_signs_is_told_in_short(webui: WebUI, call: Call) -> None:
    webui.about = (200, {"version": "1\x1b" + "9" * 500, "features": {}})
    webui.missing = {"/api/v1/models/all"}
    failed = call("models", models=[{"id": "a"}])
    assert "\x1b" not in failed["msg"]
    assert 30 < failed["msg"].count("9") < 60


def test_a_validation_of_many_entries_is_told_in_short(webui: WebUI, call: Call) -> None:
    entry = {"loc": ["body", 3], "msg": "bad " * 200}
    webui.verified = (422, {"detail": [*[entry] * 500, "x", {"loc": None, "msg": None}]})
    message = call("connection", url=URL, api_key=KEY)["msg"]
    assert "(422): body.3: bad bad" in message
    assert len(message) < 700
    webui.verified = (422, {"detail": [{"loc": None, "msg": "odd"}, "x", {"loc": ["a"]}]})
    assert "(422): ?: odd; a: None" in call("connection", url=URL, api_key=KEY)["msg"]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_stands_before_it_answers(webui: WebUI, call: Call, status: int) -> None:
    webui.about = (status, "<html>")
    failed = call("models", order=["a"])
    assert f"what stands before it answers {status}: Open WebUI itself does not run, or is still" in failed["msg"]


@pytest.mark.parametrize("status", [300, 404, 500, 505])
def test_an_answer_that_is_no_success(webui: WebUI, call: Call, status: int) -> None:
    """Whatever it holds."""
    webui.about = (status, webui.about[1])
    assert f"something else answers there: GET /api/config answered {status}" in call("models", order=["a"])["msg"]


def test_a_slash_behind_the_address(webui: WebUI, call: Call) -> None:
    assert not call("models", webui_url=f"{webui.url}//", order=["mine"]).get("failed")
    webui.about = (500, {})
    assert f"Open WebUI was wanted at {webui.url}, something" in call("models", webui_url=f"{webui.url}/")["msg"]


def test_nobody_there(call: Call) -> None:
    failed = call("models", webui_url="http://127.0.0.1:1", order=["a"])
    assert "Open WebUI was wanted at http://127.0.0.1:1, nothing listens there" in failed["msg"]


@pytest.mark.parametrize("path", ["/api/v1/models/all", "/api/v1/models/import"])
def test_an_older_one(webui: WebUI, call: Call, path: str) -> None:
    webui.missing = {path}
    failed = call("models", models=[{"id": "a"}])
    assert "Open WebUI 0.12 or later is needed" in failed["msg"]
    assert "0.12.4" in failed["msg"]


def test_a_validations_answer_is_not_repeated(webui: WebUI, call: Call) -> None:
    webui.verified = (422, {"detail": [{"loc": ["body", "key"], "msg": "bad", "input": KEY}]})
    assert "(422): body.key: bad" in call("connection", url=URL, api_key=KEY)["msg"]
    webui.verified = (
        400,
        {"detail": f"params.x\n  bad [type=dict_type, input_value={{'a': '{KEY}', ...}}, input_type=str]"},
    )
    failed = call("connection", url=URL, api_key=KEY, webui_token="token-of-admin")
    assert "params.x bad [type=dict_type, input_type=str]" in failed["msg"]


MODELS = {
    "models": [
        {"id": "a", "name": "A", "description": "first", "visibility": "public"},
        {"id": "b", "hidden": True, "params": {"temperature": 0}},
    ],
    "order": ["b", "a"],
    "default_models": ["a"],
    "pinned_models": ["a"],
    "task_model": "b",
    "ollama_api": False,
    "public_url": "https://chat.example.org",
}


def test_models_come_change_and_go(webui: WebUI, call: Call) -> None:
    mine = dict(webui.entries["mine"])
    seen = call("models", **MODELS, check=True)
    assert (seen["changed"], seen["models"], webui.written) == (True, ["a", "b"], [])
    done = call("models", **MODELS, webui_token="token-of-admin")
    assert done["diff"] == seen["diff"]
    assert webui.state["/api/v1/configs/models"] == {
        "DEFAULT_MODELS": "a",
        "DEFAULT_PINNED_MODELS": "a",
        "MODEL_ORDER_LIST": ["b", "a", "mine"],
        "DEFAULT_MODEL_METADATA": {"kept": True},
    }
    assert webui.state["/api/v1/tasks/config"]["TASK_MODEL_EXTERNAL"] == "b"
    assert webui.state["/ollama/config"]["ENABLE_OLLAMA_API"] is False
    assert webui.state["/api/v1/auths/admin/config"] == {
        "WEBUI_URL": "https://chat.example.org",
        "ENABLE_SIGNUP": False,
    }
    written = len(webui.written)
    assert not call("models", **MODELS)["changed"]
    assert len(webui.written) == written

    webui.entries["a"]["meta"]["later"] = 1
    done = call("models", models=[{"id": "a", "name": "Other"}])
    assert done["diff"] == {"before": {"a": {"name": "A"}}, "after": {"a": {"name": "Other"}}}
    assert webui.entries["a"]["meta"] == {"description": "first", "later": 1}

    done = call("models", absent=["a", "nobody"])
    assert done["removed"] == ["a"]
    assert webui.state["/api/v1/configs/models"]["DEFAULT_MODELS"] == ""
    assert webui.state["/api/v1/configs/models"]["MODEL_ORDER_LIST"] == ["b", "mine"]
    assert webui.entries["mine"] == mine
    assert not call("models", absent=["a", "nobody"])["changed"]


def test_what_another_changes_of_models_meanwhile_stays(webui: WebUI, call: Call) -> None:
    """While models are waited for, and while entries are imported."""
    call("models", models=[{"id": "a", "params": {"temperature": 0}}])

    def another() -> None:
        webui.entries["a"]["meta"] = {"description": "new"}
        webui.entries["a"]["params"] = {"temperature": 0, "system": "new"}

    def one_more() -> None:
        webui.state["/api/v1/tasks/config"] = {**webui.state["/api/v1/tasks/config"], "TASK_MODEL": "new"}

    webui.meanwhile, webui.importing = another, one_more
    call("models", models=[{"id": "a", "hidden": True, "params": {"top_k": 1}}], task_model="b")
    assert webui.entries["a"]["meta"] == {"description": "new", "hidden": True}
    assert webui.entries["a"]["params"] == {"temperature": 0, "system": "new", "top_k": 1}
    assert webui.state["/api/v1/tasks/config"]["TASK_MODEL"] == "new"
    assert webui.state["/api/v1/tasks/config"]["TASK_MODEL_EXTERNAL"] == "b"


def test_public_models_get_an_entry_where_there_is_none(webui: WebUI, call: Call) -> None:
    mine = dict(webui.entries["mine"])
    named = {"models": [{"id": "b", "visibility": "private"}], "public": ["a", "b", "mine"]}
    webui.models.append("mine")
    assert call("models", **named)["diff"]["after"] == {
        "a": {"name": "a", "visibility": "public"},
        "b": {"name": "b"},
    }
    assert webui.entries["mine"] == mine
    assert not call("models", **named)["changed"]
    assert "absent: ids that are named nowhere else" in call("models", public=["a"], absent=["a"])["msg"]


def test_names_that_do_not_fit(webui: WebUI, call: Call) -> None:
    assert "each id once" in call("models", models=[{"id": "a"}, {"id": "a"}])["msg"]
    assert "ids of at most 256 characters without blanks" in call("models", models=[{"id": "a b"}])["msg"]
    assert "ids of at most 256 characters without blanks" in call("models", public=["a b"])["msg"]
    assert "absent: ids that are named nowhere else" in call("models", order=["a"], absent=["a"])["msg"]
    unknown = {"models": [{"id": "a"}], "task_model": "z", "wait_models": 0}
    assert "were wanted in Open WebUI" in call("models", **unknown)["msg"]
    assert "z; it has a, b" in call("models", **unknown, check=True)["warnings"][0]
    assert webui.written == []


DEEP = "[" * 100_000
ODD: list[Any] = [
    None,
    1,
    "text",
    [],
    {},
    [1],
    [[]],
    {"data": 1},
    {"data": [1]},
    {"data": [{"id": None}]},
    {"data": [{"id": "a\ud800"}]},
    {"data": [{"id": "a\nb"}]},
    [{"id": "a"}],
    [{"id": "a", "name": "A", "meta": 1}],
    [{"id": "a", "name": "A", "access_grants": [{"principal_id": "*"}]}],
    {"OPENAI_API_KEYS": [1], "OPENAI_API_BASE_URLS": ["x"]},
    {"OPENAI_API_KEYS": "x", "OPENAI_API_BASE_URLS": {"x": 1}},
    {"OPENAI_API_CONFIGS": []},
    {"OPENAI_API_BASE_URLS": [URL], "OPENAI_API_CONFIGS": {"0": [1]}},
    {"OPENAI_API_BASE_URLS": [URL], "OPENAI_API_CONFIGS": {"0": {"tags": 1, "prefix_id": []}}},
    {"MODEL_ORDER_LIST": {"a": 1}, "DEFAULT_MODELS": 1},
    {"MODEL_ORDER_LIST": [[]], "DEFAULT_MODELS": []},
    {"version": ["\x1b[2J"], "features": 1},
    {"token": 1, "role": "admin"},
    {"token": "a\r\nb", "role": "admin"},
    {"token": "t", "role": {"\x1b": 1}},
]
ENDPOINTS = {
    "/api/config": "connection",
    "/api/v1/auths/signin": "connection",
    "/openai/config": "connection",
    "/openai/verify": "connection",
    "/api/v1/models/all": "models",
    "/api/models/base": "models",
    **dict.fromkeys(
        ("/api/v1/configs/models", "/api/v1/tasks/config", "/ollama/config", "/api/v1/auths/admin/config"), "models"
    ),
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_any_answer_ends_in_a_message(webui: WebUI, call: Call, endpoint: str) -> None:
    """Whoever is asked may answer anything: never an exception, and no control character in what people read."""
    real = webui._answer
    now: list[Answer] = []

    def answer(method: str, path: str, token: str, body: Any) -> Answer:
        return now[0] if path == endpoint else real(method, path, token, body)

    webui._answer = answer  # type: ignore[method-assign]
    module = ENDPOINTS[endpoint]
    given: dict[str, Any] = {"url": URL, "api_key": KEY} if module == "connection" else {**MODELS, "wait_models": 0}
    failed = 0
    for odd in [*((200, one) for one in [*ODD, DEEP]), *((400, one) for one in ODD[:6])]:
        now[:] = [odd]
        told = call(module, **given)
        message = told.get("msg", "")
        failed += bool(message)
        assert message.replace("\n", " ").isprintable()
        assert "\x1b" not in json.dumps(told)
    assert failed > 3


def test_an_endless_answer(webui: WebUI, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_open_webui, "LARGEST", 50)
    assert "GET /api/config answered with more than" in call("connection", url=URL, api_key=KEY)["msg"]


def test_its_token_is_not_repeated(webui: WebUI, call: Call) -> None:
    webui.verified = (418, {"detail": "you sent token-of-admin"})
    assert "you sent (token)" in call("connection", url=URL, api_key=KEY)["msg"]
