# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _http_service, _router_api
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import (
    Client,
    Refused,
    RouterError,
    Unreachable,
    read_key,
)
from ansible_collections.homelab.llamacpp.tests.unit.http_double import Asked, HttpDouble, Told

KEY = "a-secret-key"


class Answering(HttpDouble):
    """Answers every request with `status`, `kind` and `text`, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told(200, {"Content-Type": "application/json; charset=utf-8"}, "{}")
        self.seen: list[tuple[str, str, bytes, dict[str, str]]] = []

    def says(self, text: str, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.told = Told(status, {"Content-Type": kind, **headers}, text)

    def answer(self, asked: Asked) -> Told:
        self.seen.append((asked.method, asked.path, asked.body, dict(asked.headers)))
        return self.told


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as answering:
        yield answering


@pytest.fixture
def client(server: Answering) -> Client:
    return Client(server.url, KEY, request_timeout=60)


def entry(**changes: Any) -> dict[str, Any]:
    """What a router says of one model, in short."""
    return {
        "id": "qwen",
        "aliases": ["chat"],
        "tags": [],
        "source": "preset",
        "status": {
            "value": "loaded",
            "args": ["/bin/llama-server", "--port", "4711", "--alias", "qwen"],
            "preset": "[qwen]\nctx-size = 256\nmodel = /m/a = b.gguf\nload-on-startup = on\n\n",
        },
        "architecture": {"input_modalities": ["text", "image"]},
        "meta": {"n_ctx": 256},
        **changes,
    }


def error(status: int, message: str) -> tuple[str, int]:
    return json.dumps({"error": {"code": status, "message": message, "type": "x"}}), status


def test_a_list_is_read(server: Answering, client: Client) -> None:
    failed = {"value": "unloaded", "args": ["--port"], "failed": True, "exit_code": 1}
    server.says(json.dumps({"data": [entry(), {"id": "other", "status": failed}], "object": "list"}))
    qwen, other = client.models()
    assert (qwen.id, qwen.aliases, qwen.port, qwen.running, qwen.source) == ("qwen", ("chat",), 4711, True, "preset")
    assert qwen.options == {"ctx-size": "256", "model": "/m/a = b.gguf", "load-on-startup": "on"}
    assert qwen.loads_on_startup
    assert qwen.modalities == ("text", "image")
    assert (other.running, other.failed, other.exit_code, other.port) == (False, True, 1, 0)
    assert not other.loads_on_startup


def test_what_is_sent(server: Answering, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the router is asked directly
    client.load("a b", 5)
    client.unload("ä")
    assert client.answers("x/y:Q4")
    server.says('{"data": []}')
    assert client.reload(5) == []
    assert [(method, path) for method, path, _body, _headers in server.seen] == [
        ("POST", "/models/load"),
        ("POST", "/models/unload"),
        ("GET", "/props?model=x%2Fy%3AQ4&autoload=false"),
        ("GET", "/models?reload=1"),
    ]
    assert [json.loads(body) for _method, _path, body, _headers in server.seen[:2]] == [
        {"model": "a b"},
        {"model": "ä"},
    ]
    assert {headers["Authorization"] for *_request, headers in server.seen} == {f"Bearer {KEY}"}


def test_a_redirect_does_not_take_the_key_along(server: Answering, client: Client) -> None:
    with Answering() as elsewhere:
        server.says("", 302, "text/html", Location=elsewhere.url + "/props")
        with pytest.raises(RouterError, match=f"GET /props answered 302 with a redirect to {elsewhere.url}/props;"):
            client.props()
    assert len(server.seen) == 1
    assert elsewhere.seen == []


@pytest.mark.parametrize(
    ("text", "status", "kind", "told"),
    [
        ("<html></html>", 200, "text/html; charset=utf-8", "answered a web page; correct url"),
        ("<html></html>", 404, "text/html", "answered 404 with a web page; correct url"),
        ("hello", 200, "text/plain", "text/plain, no JSON; correct url"),
        ("[]", 200, "application/json", "answered something else; correct url"),
        ("{}", 200, "application/json", "names no role; correct url"),
        ('{"role": "worker"}', 200, "application/json", "names no role; correct url"),
        (*error(404, "File Not Found"), "application/json", "is not known there; correct url"),
        (*error(503, "Loading model"), "application/json", "Loading model; wait for it"),
        (*error(401, "Invalid API Key"), "application/json", "the key that was sent is none of them"),
        (*error(500, "boom"), "application/json", "refused GET /props: boom"),
        (
            '{"default_generation_settings": {}, "model_path": "/m.gguf"}',
            200,
            "application/json",
            r"single model answers",
        ),
    ],
)
def test_other_servers(server: Answering, client: Client, text: str, status: int, kind: str, told: str) -> None:
    server.says(text, status, kind)
    with pytest.raises(RouterError, match=told) as caught:
        client.props()
    assert server.url in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"data": [1]}', '{"data": [{"id": "x"}]}', '{"data": null}'])
def test_other_lists(server: Answering, client: Client, text: str) -> None:
    server.says(text)
    with pytest.raises(RouterError, match="answered GET /models in another form: expected"):
        client.models()


def test_a_refusal_keeps_what_the_router_said(server: Answering, client: Client) -> None:
    server.says(*error(500, "model limit reached, try again later"))
    with pytest.raises(Refused) as caught:
        client.load("x", 5)
    assert (caught.value.status, caught.value.reason) == (500, "model limit reached, try again later")
    server.says("proxy error: Failed to read connection", 500)
    assert not client.answers("x")


def test_healthy(server: Answering, client: Client) -> None:
    assert client.healthy()
    server.says(*error(503, "Loading model"))
    assert not client.healthy()
    server.says("<html>", 200, "text/html")
    with pytest.raises(RouterError, match="a web page"):
        client.healthy()


def test_whom_a_server_of_any_kind_lets_in(server: Answering, client: Client) -> None:
    assert client.admits()
    server.says(*error(401, "Invalid API Key"))
    assert not client.admits()
    server.says(*error(503, "Loading model"))
    with pytest.raises(Refused, match="Loading model"):
        client.admits()


def test_a_server_that_breaks_off_or_hangs() -> None:
    def accept_and_close() -> None:
        listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = Client(url, KEY, request_timeout=0.2)
        closing = threading.Thread(target=accept_and_close)
        closing.start()
        with pytest.raises(Unreachable, match="the connection was closed before an answer came") as caught:
            Client(url, KEY, request_timeout=60).props()
        closing.join()
        assert caught.value.transient
        with pytest.raises(Unreachable, match=r"did not answer within 0.2 s"):
            client.props()
        assert not client.healthy()
        with pytest.raises(Unreachable, match=r"did not answer within 0.1 s"):
            client.reload(0.1)
    with pytest.raises(Unreachable, match="nothing listens there"):
        client.props()


def test_a_host_name_that_nobody_knows() -> None:
    client = Client("http://nobody.invalid:80", KEY)
    with pytest.raises(Unreachable, match="that host name is not known") as caught:
        client.healthy()
    assert not caught.value.transient


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8012",
        "ftp://host:1",
        "http://",
        "http://host:lots",
        "http://host:99999",
        "http://host/?a=1",
        "http://h/#x",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(RouterError, match="url: http://HOST:PORT or https://HOST:PORT was wanted"):
        Client(url)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(RouterError) as caught:
        Client("http://me:hidden@host:1")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("key", ["", " ", "two\nlines", "behind ", "cr\r", "nul\0"])
def test_keys_that_no_server_can_have(key: str) -> None:
    with pytest.raises(RouterError, match="api_key: a key of one line was wanted") as caught:
        Client("http://host:1", key)
    assert key.strip("\0 \r") == "" or key.strip() not in str(caught.value)


def test_a_timeout_has_to_be_one() -> None:
    with pytest.raises(RouterError, match="request_timeout"):
        Client("http://host:1", request_timeout=0)


def test_a_ca_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(RouterError, match="ca_path: certificates in PEM form were wanted"):
            Client("https://host:1", ca_path=str(path))
    Client("https://host:1", ca_path=str(tmp_path))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"one\ntwo\n", "one"),
        (b"one", "one"),
        (b"\n\n  \n# comment\none\n", "one"),
        (b" in front\n", " in front"),
        (b"with blanks within\n", "with blanks within"),
        ("ü\n".encode(), "ü".encode().decode("latin-1")),
    ],
)
def test_key_files(tmp_path: Path, content: bytes, key: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    assert read_key(str(file)) == key


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file holds none"),
        (b"\n \n# one\n", "the file holds none"),
        (b"hush-hush \nother\n", "ends in a blank or a carriage return"),
        (b"hush-hush\r\n", "ends in a blank or a carriage return"),
    ],
)
def test_bad_key_files(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(RouterError, match=told) as caught:
        read_key(str(file))
    assert "hush-hush" not in str(caught.value).replace(str(file), "")


def test_a_key_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="there is no such file"):
        read_key(str(tmp_path / "keys"))
    with pytest.raises(RouterError, match="it cannot be read: Is a directory"):
        read_key(str(tmp_path))


def test_the_bytes_of_a_key_are_kept(server: Answering, tmp_path: Path) -> None:
    """By value and by file, a key beyond ASCII goes out as the bytes that the key file holds."""
    file = tmp_path / "keys"
    file.write_text("schlüssel\n", encoding="utf-8")
    params = {"url": server.url, "validate_certs": True, "ca_path": None, "request_timeout": 60, "server_user": None}
    for source in ({"api_key": "schlüssel", "api_key_file": None}, {"api_key": None, "api_key_file": str(file)}):
        Client.from_params({**params, **source}).admits()
    sent = {headers["Authorization"].encode("latin-1") for *_request, headers in server.seen}
    assert sent == {"Bearer schlüssel".encode()}


def test_what_is_posted_is_named_json(server: Answering, client: Client) -> None:
    client.load("a", 5)
    with pytest.raises(RouterError):
        client.models()
    posted, asked = (headers for *_request, headers in server.seen)
    assert posted["Content-Type"] == "application/json"
    assert "Content-Type" not in asked
    assert asked["Accept"] == "application/json"


def test_a_marked_client_marks_all_its_connections(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without a key as well, by which a held server is seen to be ready."""
    marks: list[int] = []
    real = _http_service.connect

    def connect(address: tuple[str, int], timeout: float, recipients: Any, mark: int) -> socket.socket:
        marks.append(mark)
        return real(address, timeout, recipients)

    monkeypatch.setattr(_http_service, "connect", connect)
    client = Client(server.url, KEY, request_timeout=60)
    marked = client.marked(7)
    marked.healthy()
    marked.admits()
    client.admits()
    assert marks == [7, 7, 0]


@pytest.mark.parametrize("checked", [True, False])
def test_whether_a_certificate_is_checked(checked: bool) -> None:
    params = {"url": "https://127.0.0.1:1", "api_key": None, "api_key_file": None, "ca_path": None}
    params.update(validate_certs=checked, request_timeout=60, server_user=None)
    context = next(h._context for h in Client.from_params(params)._opener.handlers if hasattr(h, "_context"))
    assert context.check_hostname is checked
    assert context.verify_mode == (ssl.CERT_REQUIRED if checked else ssl.CERT_NONE)


def test_no_key_is_sent_with_health(server: Answering, client: Client) -> None:
    client.healthy()
    ((_method, path, _body, headers),) = server.seen
    assert (path, "Authorization" in headers) == ("/health", False)


def test_every_request_of_the_router(server: Answering, client: Client) -> None:
    assert client.admits()
    client.download("own/repo:Q8_0")
    client.remove("own/repo:Q8_0", 5)
    client.ask_for("a b", 5)
    assert [(method, path, json.loads(body or b"null")) for method, path, body, _headers in server.seen] == [
        ("GET", "/v1/models", None),
        ("POST", "/models", {"model": "own/repo:Q8_0"}),
        ("DELETE", "/models?model=own%2Frepo%3AQ8_0", None),
        ("GET", "/props?model=a+b&autoload=true", None),
    ]
    assert {headers["Accept"] for *_request, headers in server.seen} == {"application/json"}
    kinds = [headers.get("Content-Type") for *_request, headers in server.seen]
    assert kinds == [None, "application/json", None, None]


def test_a_client_without_a_key_sends_none(server: Answering) -> None:
    Client(server.url).admits()
    assert "Authorization" not in server.seen[0][3]
    server.says(*error(401, "Invalid API Key"))
    with pytest.raises(Refused, match="wants an API key, no key was sent; set api_key_file"):
        Client(server.url).models()
    with pytest.raises(Refused, match="wants an API key, the key that was sent is none of them"):
        Client(server.url, KEY).models()


def parts(*texts: str) -> str:
    return "".join(f"{text}\n\n" for text in texts)


def test_the_parts_of_an_answer(server: Answering, client: Client) -> None:
    server.says(parts('data: {"a": 1}', 'data: {"a": 2}', "data: [DONE]", 'data: {"a": 3}'), kind="text/event-stream")
    assert list(client.complete("qwen", 7, 60)) == [{"a": 1}, {"a": 2}]
    method, path, body, _headers = server.seen[0]
    assert (method, path) == ("POST", "/v1/completions?autoload=true")
    assert json.loads(body) == {
        "model": "qwen",
        "prompt": "Once upon a time",
        "max_tokens": 7,
        "ignore_eos": True,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (parts('data: {"a": 1}'), "broke off before its end"),
        ("", "broke off before its end"),
        (parts('data: {"a"'), r"broke off \(a part is no JSON\)"),
        (parts('error: {"code": 500}'), r"ended with an error: error: \{\"code\": 500\}"),
        (parts("data: [DONE"), r"broke off \(a part is no JSON\)"),
    ],
)
def test_an_answer_that_breaks_off(server: Answering, client: Client, text: str, told: str) -> None:
    server.says(text, kind="text/event-stream")
    with pytest.raises(RouterError, match=f"an answer of qwen {told}"):
        list(client.complete("qwen", 7, 60))


def test_events_end_with_their_stream(server: Answering, client: Client) -> None:
    event = {"model": "a", "event": "status_change", "data": {"status": "loaded"}}
    server.says(parts(": ping", f"data: {json.dumps(event)}", "event: x"), kind="text/event-stream")
    assert list(client.events(60)) == [event]
    assert server.seen[0][:2] == ("GET", "/models/sse")
    server.says(parts("data: [1]"), kind="text/event-stream")
    with pytest.raises(RouterError, match="answered GET /models/sse in another form"):
        list(client.events(60))


def test_listening_begins_before_the_first_event_is_read(server: Answering, client: Client) -> None:
    server.says(*error(404, "no"))
    with pytest.raises(Refused):
        client.events(60)


def test_why_nothing_waits_for_a_server_with_a_bad_certificate(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    """Waiting does not mend it; for what a server that is just starting does, it is not healthy yet."""
    for transient in (True, False):

        def unreachable(*_given: Any, now: bool = transient, **_more: Any) -> Any:
            raise Unreachable("x", now)

        monkeypatch.setattr(client, "_call", unreachable)
        if transient:
            assert not client.healthy()
        else:
            with pytest.raises(Unreachable):
                client.healthy()


def test_of_which_router_a_module_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("# ours\nkey-of-the-file\n")
    given: dict[str, Any] = {"url": "http://h:1", "validate_certs": True, "ca_path": None, "request_timeout": 7}
    asked: list[str] = []
    monkeypatch.setattr(_router_api.Recipients, "of_user", lambda name: asked.append(f"user {name}"))
    monkeypatch.setattr(_router_api.Recipients, "of_unit", lambda run, unit: asked.append(f"unit {unit}"))
    one = Client.from_params({**given, "api_key": None, "api_key_file": str(tmp_path / "keys"), "server_user": None})
    assert (one._key, one.request_timeout, one.url) == ("key-of-the-file", 7, "http://h:1")
    two = Client.from_params({**given, "api_key": "größe", "api_key_file": None, "server_user": "llama"}, "x.service")
    assert two._key == "größe".encode().decode("latin-1"), "as its bytes"
    three = Client.from_params({**given, "api_key": None, "api_key_file": None, "server_user": None}, "x.service")
    assert three._key is None
    assert asked == ["unit llama-router.service", "user llama", "unit x.service"]


def test_a_key_goes_to_its_recipients_alone_and_none_to_anybody() -> None:
    recipients: Any = object()

    def asked_of(opener: Any) -> Any:
        return next(one._recipients for one in opener.handlers if hasattr(one, "_recipients"))

    with_key = Client("http://h:1", KEY, recipients=recipients)
    assert (asked_of(with_key._opener), asked_of(with_key._keyless)) == (recipients, None)
    without = Client("http://h:1", recipients=recipients)
    assert (asked_of(without._opener), asked_of(without._keyless)) == (None, None)
