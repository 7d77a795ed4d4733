# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import urllib.request

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._http_service import Service, base_url, kind

URL = "http://192.0.2.20:8012/v1"


def service(url: str) -> Service:
    return Service(url, "a server", "its_url", "start it", "its journal")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("http://192.0.2.20:8012", URL),
        ("http://192.0.2.20:8012/", URL),
        (" HTTP://192.0.2.20:8012/v1/\n", URL),
        ("https://Llama.example.com:443", "https://llama.example.com/v1"),
        ("http://[2001:db8::1]:8012", "http://[2001:db8::1]:8012/v1"),
        ("https://example.com/llama", "https://example.com/llama/v1"),
    ],
)
def test_one_address_in_many_words(given: str, wanted: str) -> None:
    assert base_url(given, "url") == wanted


@pytest.mark.parametrize(
    "url",
    [
        "192.0.2.20:8012",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://x:0",
        "http://x?y=1",
        "http://x/#y",
        "http://[::1",
        "http://a b",
        "http://x/\n",
        "http://bücher.example",
        "",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="its_url: http://HOST:PORT or https://HOST:PORT was wanted, "):
        service(url).checked()


@pytest.mark.parametrize("url", ["http://me:secret@host:1", "http://me:s@cret/secret@host", "http://me:secret@h\u2100"])
def test_a_password_in_the_address_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="without a name and a password, 'h") as caught:
        base_url(url, "url")
    assert "secret" not in str(caught.value)


def test_upper_case_is_tls_as_well() -> None:
    def contexts(url: str) -> list[bool]:
        opener = service(url).opener(validate_certs=False, ca_path=None)
        handlers = [one for one in opener.handlers if isinstance(one, urllib.request.HTTPSHandler)]
        return [one._context.check_hostname for one in handlers]  # type: ignore[attr-defined]

    assert contexts("HTTPS://host") == contexts("https://host") == [False]


def test_what_an_answer_is_that_was_not_wanted() -> None:
    assert kind({"Content-Type": "text/html; charset=utf-8"}) == "a web page"
    assert kind({"Content-Type": "text/plain"}) == "text/plain, no JSON"
    assert kind({}) == "nothing, no JSON"
    assert kind({"WWW-Authenticate": "Basic", "Content-Type": "text/html"}).startswith("a login of its own")
    for ticket in ("", "?ticket=secret", "#ticket=secret"):
        sent_on = kind({"Location": f"https://login.example.org/in{ticket}", "Content-Type": "text/html"})
        assert sent_on == "a redirect to https://login.example.org/in"
