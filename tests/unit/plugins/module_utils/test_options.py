# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _options
from ansible_collections.homelab.llamacpp.plugins.module_utils._options import (
    OPTIONS,
    canonical,
    complaint,
    find,
    from_text,
    meaning,
    to_text,
)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("c", ("ctx-size", False)),
        ("ctx-size", ("ctx-size", False)),
        ("LLAMA_ARG_CTX_SIZE", ("ctx-size", False)),
        ("no-jinja", ("jinja", True)),
        ("nkvo", ("kv-offload", True)),
        ("LLAMA_ARG_NO_KV_OFFLOAD", ("kv-offload", False)),  # llama-server reverses no environment name in a preset
        ("no-mmproj", ("mmproj-auto", True)),
        ("no-host", ("no-host", False)),
        ("ngl", ("n-gpu-layers", False)),
        ("load-on-startup", ("load-on-startup", False)),
        ("of-tomorrow", ("of-tomorrow", False)),
    ],
)
def test_names_of_one_option(key: str, expected: tuple[str, bool]) -> None:
    assert canonical(key) == expected


def test_the_table_is_whole() -> None:
    assert len({option.name for option in OPTIONS.values()}) == 261
    for key, option in OPTIONS.items():
        assert key in (*option.names, *option.negations, option.env, _options.misleading_env(option))
        assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.-]*", key)
        # A name that two lines of the table claimed would be found under the later one alone.
        assert all(OPTIONS[name] is option for name in (*option.names, *option.negations))
    assert {option.kind for option in OPTIONS.values()} == {
        *("flag", "int", "float", "string", "json", "list", "repeatable", "pair", "removed", "exits")
    }
    assert all(find(key) for key in _options.RESERVED)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("jinja", True, "true"),
        ("jinja", False, "false"),
        ("no-jinja", True, "true"),
        ("jinja", "on", "true"),
        ("jinja", "disabled", "false"),
        ("jinja", 0, "false"),
        ("ctx-size", 32768, "32768"),
        ("ctx-size", "32768", "32768"),
        ("cache-ram", -1, "-1"),
        ("ngl", "all", "all"),
        ("ngl", 99, "99"),
        ("temp", 0.7, "0.7"),
        ("temp", 1, "1"),
        ("temp", "1e-3", "1e-3"),
        ("flash-attn", True, "on"),
        ("flash-attn", "auto", "auto"),
        ("lazy-mode", False, "off"),
        ("alias", ["a", "b"], "a,b"),
        ("alias", "a,b", "a,b"),
        ("tensor-split", [3, 1.5], "3,1.5"),
        ("reverse-prompt", "User:", "User:"),
        ("chat-template-kwargs", {"enable_thinking": False}, '{"enable_thinking": false}'),
        ("model", "", ""),
        ("of-tomorrow", True, "true"),
        ("of-tomorrow", [1, "b"], "1,b"),
        ("of-tomorrow", 1.5, "1.5"),
    ],
)
def test_values_as_text(key: str, value: object, text: str) -> None:
    assert to_text(key, value) == text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("jinja", "no", "reads 'no' as true. Write jinja: false"),
        ("jinja", "False", "reads 'False' as true. Write jinja: false"),
        ("jinja", "", "reads '' as true. Write jinja: false"),
        ("jinja", "perhaps", "Write jinja: true or false"),
        ("jinja", ["true"], "takes true or false"),
        ("no-jinja", "yes", "reads 'yes' as false. Write no-jinja: true"),
        ("load-on-startup", "yes", "reads 'yes' as false. Write load-on-startup: true"),
        ("LLAMA_ARG_NO_JINJA", True, "means jinja in a preset, not its opposite; write jinja: true or false"),
        ("ctx-size", "32k", "takes a whole number, found '32k'"),
        ("ctx-size", 8192.5, "takes a whole number, found '8192.5'"),
        ("ctx-size", True, "is no flag, found true; write its value (a whole number)"),
        ("ctx-size", [1, 2], "takes one value in a preset, found a list of 2"),
        ("ngl", "lots", "takes a whole number or auto or all, found 'lots'"),
        ("temp", "warm", "takes a number, found 'warm'"),
        ("temp", float("nan"), "is not a number"),
        ("model", True, "is no flag"),
        ("model", {"a": 1}, "takes text, found dict"),
        ("reverse-prompt", ["a", "b"], "only a command line may repeat it"),
        ("alias", [], "empty list"),
        ("alias", ["a,b"], "without a comma"),
        ("alias", [""], "must be text"),
        ("alias", [" a"], "must be text"),
        ("alias", [True], "must be text"),
        ("of-tomorrow", {"a": 1}, "found dict"),
    ],
)
def test_values_that_llama_server_would_misread(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        to_text(key, value)


def test_json_of_a_mapping_has_nothing_that_begins_a_comment() -> None:
    value = {"prompt": "a; b # c", "größe": [1, None, True]}
    text = to_text("chat-template-kwargs", value)
    assert not set(";#") & set(text)
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("jinja", "on", True),
        ("jinja", "0", False),
        ("jinja", "no", True),
        ("jinja", "", True),
        ("no-jinja", "1", True),
        ("no-jinja", "yes", False),
        ("swa-full", "False", True),
        ("load-on-startup", "yes", False),
        ("load-on-startup", "enabled", True),
        ("ctx-size", "8192", 8192),
        ("ctx-size", "+8192", "+8192"),
        ("ctx-size", "lots", "lots"),
        ("temp", "0.7", 0.7),
        ("temp", "0.70", "0.70"),
        ("temp", "1", 1),
        ("temp", "nan", "nan"),
        ("alias", "1", "1"),
        ("of-tomorrow", "true", "true"),
    ],
)
def test_texts_as_llama_server_understands_them(key: str, text: str, value: object) -> None:
    found = from_text(key, text)
    assert found == value
    assert type(found) is type(value)


def test_meaning_is_equal_for_what_means_the_same() -> None:
    assert meaning("no-jinja", "1") == meaning("jinja", "off") == ("jinja", False)
    assert meaning("temp", "0.70") == meaning("LLAMA_ARG_TEMPERATURE", "0.7")
    assert meaning("c", "4096") == meaning("ctx-size", "4096")
    assert meaning("c", "4096") != meaning("ctx-size", "4097")
    assert meaning("temp", "warm") == ("temperature", "warm")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("mmap", "instead write load-mode: mmap"),
        ("no-mmap", "instead write load-mode: none"),
        ("LLAMA_ARG_MLOCK", "instead write load-mode: mlock"),
        ("pin", "load-on-startup"),
        ("draft", "instead write spec-draft-n-max"),
        ("LLAMA_API_KEY", "belongs to the router"),
        ("ssl-key-file", "belongs to the router"),
        ("no-models-autoload", "belongs to the router"),
        ("host", "belongs to the router"),
        ("list-devices", "print something and exit"),
        ("control-vector-layer-range", "two values"),
        ("ctx-sise", "not an option of llama-server 0.7.0"),
    ],
)
def test_keys_that_do_no_good_in_a_preset(key: str, message: str) -> None:
    assert message in complaint(key)


@pytest.mark.parametrize("key", ["c", "no-jinja", "LLAMA_ARG_CTX_SIZE", "load-on-startup", "no-host"])
def test_keys_without_complaint(key: str) -> None:
    assert complaint(key) == ""


REFUSED = [
    *(
        ("hf-token", "x"),
        ("hft", "x"),
        ("HF_TOKEN", "x"),
        ("--hf_token", "x"),
        ("api-key", "x"),
        ("LLAMA_API_KEY", "x"),
    ),
    *(("tools", "all"), ("LLAMA_ARG_TOOLS", "all"), ("agent", True), ("ag", "on"), ("no-agent", False), ("agent", "x")),
    *(("mcp-servers-config", "/x"), ("mcp_servers_json", {}), ("ui-mcp-proxy", True), ("webui-mcp-proxy", 1)),
    *(("tools-runtime", "docker:x"), ("tools-from-tomorrow", "x"), ("mcp-from-tomorrow", True), ("new-token", "x")),
    *(("model-url", "https://me:pw@example.org/x"), ("rpc", ["a:1", "http://me@b"])),
]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_secrets_and_commands_are_refused(key: str, value: object) -> None:
    assert _options.refusal(key, value)
    assert _options.refusal(key, None) == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("agent", False),
            ("no-agent", True),
            ("agent", "off"),
            ("LLAMA_ARG_AGENT", "0"),
            ("webui-mcp-proxy", "false"),
        ),
        *(("ctx-size", 1), ("image-max-tokens", 1), ("api-key-file", "/x"), ("ssl-key-file", "/x"), ("cache-ram", 0)),
        *(("model-url", "https://example.org/a@b"), ("chat-template", "a@b"), ("from-tomorrow", "x")),
    ],
)
def test_other_options_are_not_refused(key: str, value: object) -> None:
    assert _options.refusal(key, value) == ""


def test_only_commands_can_be_allowed_by_name() -> None:
    assert _options.refusal("tools", "all", ["tools"]) == ""
    assert _options.refusal("LLAMA_ARG_UI_MCP_PROXY", True, ["ui-mcp-proxy"]) == ""
    assert _options.refusal("tools", "all", ["agent"])
    assert _options.refusal("hf-token", "x", ["hf-token"])


def test_names_of_refused_options_are_those_of_the_table() -> None:
    for name in (*_options._SECRETS, *_options._POWERS):
        assert _options.canonical(name) == (name, False)
        assert _options.find(name)


def test_what_is_masked() -> None:
    given = {
        "hft": "s1",
        "mcp-servers-json": '{"env": 1}',
        "model-url": "https://u:s2@h/x",
        "ctx-size": 1,
        "agent": True,
    }
    shown = _options.masked_all(given)
    assert shown == {
        **given,
        **dict.fromkeys(("hft", "mcp-servers-json"), _options.SECRET),
        "model-url": f"https://{_options.SECRET}@h/x",
    }
    assert _options.secrets_in({**given, "mcp-servers-json": {"a": {"env": {"T": "s3"}}}}) == {
        "s1",
        "s3",
        given["model-url"],
    }
