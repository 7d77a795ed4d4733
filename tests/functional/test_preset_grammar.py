# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real llama-server judges the preset grammar: what it refuses we refuse, what we write it reads as meant."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _options
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import (
    DEFAULT,
    STATES,
    Preset,
    PresetError,
    apply,
    served_name,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from ports import free_port

LLAMA_SERVER = TESTS / "llama-server"
PARSE_ERROR = "failed to parse server config file"
# What the router takes out of each preset that it shows, besides what belongs to its command line.
NOT_SHOWN = {*_options.RESERVED, "alias", "tags", "log-colors"}

Entries = dict[str, dict[str, Any]]


class Router:
    """A real llama-server that reads its preset file again at each question."""

    def __init__(self, folder: Path) -> None:
        self.preset = folder / "models.ini"
        self.preset.write_text("")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "router.log"
        command = [LLAMA_SERVER, "--host", "127.0.0.1", "--port", str(port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, "--models-preset", self.preset], stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=60).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"llama-server did not start: {self.log.read_text()}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def reads(self, text: str | bytes) -> Entries | str:
        """The models by id as /models lists them once this preset is read, or why it refuses the preset."""
        self.preset.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            with urllib.request.urlopen(self.url + "/models?reload=1", timeout=300) as answer:
                models = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            message: str = json.load(error)["error"]["message"]
            return message
        return {entry["id"]: entry for entry in models if entry["source"] == "preset"}


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    router = Router(tmp_path_factory.mktemp("router"))
    yield router
    router.stop()


def dry_run(folder: Path, text: str | bytes) -> str:
    """ "" when llama-server accepts the preset, else its words: as router_preset asks it."""
    file = folder / "preset.ini"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    command = [LLAMA_SERVER, "--host", "/nonexistent-folder/x.sock", "--models-preset", file]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stderr
    refused = re.search(r"failed to initialize router models: (.*)", said)
    assert refused or "couldn't bind" in said, said
    return refused.group(1) if refused else ""


def understood_by_server(entries: Entries) -> dict[str, dict[str, Any]]:
    """Model → canonical option → meaning, from the presets that the router shows."""
    understood = {}
    for name, entry in entries.items():
        # It shows [name], then one option a line, then an empty line; no value here holds a line end.
        lines = entry["status"]["preset"].removeprefix(f"[{name}]\n").rstrip("\n").split("\n")
        pairs = [line.split(" = ", 1) for line in lines if line]
        understood[name] = dict(_options.meaning(key, text) for key, text in pairs if key not in NOT_SHOWN)
    return understood


def understood_by_us(text: str) -> dict[str, dict[str, Any]]:
    """The same from our reading of the preset: what [*] says holds for all, and `log-colors` is the router's own."""
    data = Preset(text).data()

    def meanings(options: dict[str, Any]) -> dict[str, Any]:
        texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in options.items()}
        pairs = (_options.meaning(key, value) for key, value in texts.items())
        return {name: value for name, value in pairs if name not in NOT_SHOWN}

    common = meanings(data.pop("*", {}))
    return {name: {**common, **meanings(options)} for name, options in data.items()}


# --- the table of options ---------------------------------------------------------------------------------------


def test_the_table_is_what_the_real_help_says() -> None:
    says = subprocess.run([LLAMA_SERVER, "--help"], capture_output=True, check=True).stdout
    maker = [sys.executable, TESTS / "make_options_table.py"]
    made = subprocess.run(maker, input=says, capture_output=True, check=True).stdout.decode()
    assert _options.TABLE.splitlines() == made.splitlines()


def test_every_name_means_what_the_table_says(router: Router) -> None:
    """One section for each of the 600 names: the router shows the option's canonical name, and the negated value."""
    keys = sorted(key for key, option in _options.OPTIONS.items() if option.kind != "pair" and option.name != "version")
    values = {key: key if _options.canonical(key)[0] == "alias" else "false" for key in keys}  # an alias is unique
    entries = router.reads("".join(f"[{key} of the table]\n{key} = {value}\n" for key, value in values.items()))
    assert isinstance(entries, dict), entries
    shown = {name: entry["status"]["preset"].splitlines()[1:] for name, entry in entries.items()}
    for key in keys:
        name, negated = _options.canonical(key)
        # It takes each of them, and drops what belongs to its command line. log-colors it sets itself.
        expected = [] if name in NOT_SHOWN else [f"{name} = {'true' if negated else 'false'}"]
        lines = [line for line in shown[f"{key} of the table"] if line and not line.startswith("log-colors")]
        assert lines == expected, key


@pytest.mark.parametrize("key", ["mmap", "no-mmap", "mlock", "pin", "no-such-option"])
def test_keys_without_an_option_are_refused_and_complained_about(router: Router, key: str) -> None:
    assert f"option '{key}' not recognized" in str(router.reads(f"[m]\n{key} = true\n"))
    assert _options.complaint(key)


@pytest.mark.parametrize(
    "mend", [m.removeprefix("load-mode: ") for m in _options.REPLACED.values() if "load-mode" in m]
)
def test_the_load_modes_that_we_name_exist(mend: str) -> None:
    says = subprocess.run([LLAMA_SERVER, "--help"], capture_output=True, check=True, text=True).stdout
    assert re.search(rf"^ +- {mend}:", says, re.MULTILINE)


# --- traps, one by one ------------------------------------------------------------------------------------------

WORDS = ("on", "enabled", "true", "1", "off", "disabled", "false", "0", "no", "False", "yes", "TRUE", "On")
ACCEPTED = {
    "empty": "",
    "comments alone": "; one\n  # two\n\t;three",
    "version alone": "version = 1\n",
    "version in a section": "[m]\nversion = 3\nthreads = 2\n",
    "blanks around =": "[m]\nctx-size\t =  \t4096  \n",
    "no blanks": "[m]\nctx-size=4096",
    "CRLF": "[m]\r\nctx-size = 4096\r\n\r\n[n]\r\nthreads = 1\r\n",
    "CR": "[m]\rctx-size = 4096\r",
    "no newline at the end": "[m]\nctx-size = 4096",
    "comment ends a value": '[m]\nchat-template-kwargs = {"a":"b#c"}\ntags = a;b\n',
    "comment with no blank before": "[m];c\nthreads = 1;c\nflash-attn =;c\n",
    "quotes stay": '[m]\nmodel = "/x.gguf"\n',
    "empty value": "[m]\nmodel =\nthreads = 1\n",
    "key twice": "[m]\nthreads = 1\nthreads = 2\n",
    "names of one option": "[m]\nctx-size = 1\nLLAMA_ARG_CTX_SIZE = 2\nc = 3\n",
    "short after long": "[m]\nLLAMA_ARG_CTX_SIZE = 2\nc = 3\n",
    "both sides of a flag": "[m]\nno-jinja = true\njinja = true\n",
    "both sides, other order": "[m]\nkv-offload = true\nnkvo = true\n",
    "section twice": "[m]\nthreads = 1\nctx-size = 1\n[n]\nthreads = 3\n[m]\nthreads = 2\n",
    "keys before the first section": "threads = 1\n[m]\nthreads = 2\n",
    "[default] replaces the leading keys": "threads = 1\nctx-size = 2\n[m]\n[default]\nthreads = 2\n",
    "[default] without options": "[default]\n[m]\n",
    "[*] for all": "[m]\nthreads = 2\n[*]\nthreads = 9\nctx-size = 5\nc = 7\n",
    "flags, all words": "".join(
        f"[{word}{number}]\njinja = {word}\nno-warmup = {word}\nswa-full = {word}\nload-on-startup = {word}\n"
        "dedup-cache-models = " + word + "\n"
        for number, word in enumerate(WORDS)
    ),
    "flags, empty": "[m]\njinja =\nno-warmup =\nswa-full =\n",
    "the negation's environment name": "[m]\nLLAMA_ARG_NO_JINJA = true\n[n]\nLLAMA_ARG_NO_KV_OFFLOAD = false\n",
    "no-host is no negation": "[m]\nno-host = true\n",
    "wrong value": "[m]\nthreads = lots\ntemp = warm\n",
    "preset-only": "[m]\nload-on-startup = true\nstop-timeout = 5\ndedup-cache-models = 1\n",
    "preset-only, inner names": "[m]\n__PRESET_LOAD_ON_STARTUP = true\n__PRESET_STOP_TIMEOUT = 3\n",
    "reserved": "[m]\napi-key = x\nssl-key-file = y\nmodels-max = 3\nhost = 1.2.3.4\nport = 99\nthreads = 1\n",
    "trailing blank in a name": "[m ]\nthreads = 1\n[ m]\nthreads = 2\n",
    "odd names": "[a [b] ; c\n[;]\n[#x=y]\n[größe/模型]\nthreads = 1\n",
    "a name over two lines": "[a\nb = 1]\nthreads = 1\n",
    "rewritten names": "[qwen3:8b]\n[x/y:UD-Q4_K_XL]\n[a:b:c.d-e]\n[n:]\n[n:-]\n[n:a-]\n[o:ß-ü]\n[p:q_4]\n"
    "[default:x]\n",
    "two names that become one": "[m:q4]\nthreads = 1\n[m:Q4]\nthreads = 2\n",
    "a name that is rewritten twice over": "[m:a.q4]\nthreads = 1\n[m:b-Q4]\nthreads = 2\n[m:Q4]\nthreads = 3\n",
    "keys with capitals": "[m]\nngl = 3\nCrb = 0-3\nfim-qwen-1.5b-default = false\n",
    "control characters": "[m]\nmodel = a\x0bb\x00c\x7f\n[n\x00\x01]\n",
}

REFUSED = {
    "byte order mark": "\ufeff[m]\nthreads = 1\n",
    "key: value": "[m]\nthreads: 1\n",
    "key without =": "[m]\nthreads\n",
    "[": "[\n",
    "[ without end": "[m\nthreads = 1\n",
    "[]": "[]\nthreads = 1\n",
    "[ ]": "[ ]\n",
    "text after ]": "[m] x\n",
    "dashes": "[m]\n--threads = 1\n",
    "one dash": "[m]\n-t = 1\n",
    "digit first": "[m]\n3d = 1\n",
    "blank before a key": "[m]\n threads = 1\n",
    "tab before a key": "[m]\n\tthreads = 1\n",
    "blank before [": " [m]\nthreads = 1\n",
    "a continued line": "[m]\nmodel = a \\\n  b\n",
    "no key": "[m]\n= 1\n",
    "a key with blanks": "[m]\nctx size = 1\n",
    "a key with an odd letter": "[m]\nctx+size = 1\n",
    "a form feed": "[m]\n\f\n",
    "a no-break space": "[m]\n\xa0threads = 1\n",
    "a comment before =": "[m]\nthreads ; = 1\n",
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_the_server_accepts_we_read_as_it_does(router: Router, tmp_path: Path, text: str) -> None:
    assert str(Preset(text)) == text
    assert dry_run(tmp_path, text) == ""
    entries = router.reads(text)
    assert isinstance(entries, dict), entries
    assert understood_by_server(entries) == understood_by_us(text)


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_server_refuses_we_refuse_first(router: Router, tmp_path: Path, text: str) -> None:
    assert PARSE_ERROR in dry_run(tmp_path, text)
    assert PARSE_ERROR in str(router.reads(text))
    with pytest.raises(PresetError, match=r"^line \d+: .*llama-server refuses|^line \d+: .*write key = value"):
        Preset(text)


def test_a_file_that_is_not_utf8_is_refused_by_the_server(router: Router) -> None:
    assert PARSE_ERROR in str(router.reads(b"[m]\nmodel = /\xff.gguf\n"))
    assert PARSE_ERROR in str(router.reads(b"; caf\xe9\n[m]\n"))


# --- random texts and random data -------------------------------------------------------------------------------

PIECES = (
    *("[m]", "[n:q4]", "[*]", "[", "]", "[]", "[ ]", "[a\nb]", "[default]", "version"),
    *("threads", "c", "ctx-size", "no-jinja", "jinja", "LLAMA_ARG_CTX_SIZE", "--threads", "3", "true", "no", "a,b"),
    *("=", " = ", "=", " = ", ";", "#", " ", "\t", "\n", "\n", "\n", "\r\n", "\r", '"', "\\", ":", "é", "\f", "\ufeff"),
)
NO_FAIR_QUESTION = {"alias", "hf-repo", "hf-repo-draft", "docker-repo", "model-url"}
KNOWN_KEYS = sorted(
    key
    for key, option in _options.OPTIONS.items()
    # Two models of one alias would clash, and what has it look on the network would be no fair question.
    if not _options.complaint(key) and option.name not in NO_FAIR_QUESTION
)
PLAIN_TEXT = st.text(
    st.characters(exclude_characters=";#\r\n\0", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12
).map(lambda text: text.strip(" \t"))
NAMES = (
    st.one_of(
        st.sampled_from(["*", DEFAULT, "m", "a/b:Q4_K_M", "n:UD-Q8_0"]),
        st.text(
            st.characters(exclude_characters="]\r\n\0", exclude_categories=["Cc", "Cs", "Zl", "Zp"]),
            min_size=1,
            max_size=12,
        ),
    )
    .map(lambda name: served_name(name.strip()))
    .filter(lambda name: name.strip() == name != "")
)


def values(key: str) -> st.SearchStrategy[Any]:
    """Values that to_text takes for `key`."""
    option = _options.OPTIONS[key]
    whole, fraction = st.integers(-(2**31), 2**31 - 1), st.floats(allow_nan=False, allow_infinity=False)
    if option.kind == "flag":
        return st.booleans() if key != _options.misleading_env(option) else st.nothing()
    if option.kind == "int":
        return st.one_of(whole, st.sampled_from(option.words)) if option.words else whole
    if option.kind == "float":
        return st.one_of(whole, fraction)
    if option.kind == "json":
        return st.one_of(PLAIN_TEXT, st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3))
    if option.kind == "list":
        return st.one_of(PLAIN_TEXT, st.lists(whole, min_size=1, max_size=3))
    return st.one_of(PLAIN_TEXT, whole)


OPTIONS = (
    st.lists(st.sampled_from([k for k in KNOWN_KEYS if not values(k).is_empty]), max_size=6)
    .map(lambda keys: {_options.canonical(key)[0]: key for key in keys}.values())
    .flatmap(lambda keys: st.fixed_dictionaries({key: values(key) for key in keys}))
)
PRESETS = st.dictionaries(NAMES, OPTIONS, max_size=4)
CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # on a machine with other work, too
TOGETHER = settings(deadline=None, suppress_health_check=CALM, max_examples=300)


@TOGETHER
@given(text=st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
@example(text="[m]\nthreads = 1;\n")
def test_any_text_is_judged_as_the_server_does(router: Router, text: str) -> None:
    entries = router.reads(text)
    try:
        ours = understood_by_us(text)
    except PresetError:
        assert PARSE_ERROR in str(entries)
        return
    assert str(Preset(text)) == text
    if isinstance(entries, str):
        # The grammar was fine: it stumbles over an option, which is a question for the table.
        unknown = re.search(r"option '(.*)' not recognized", entries)
        assert unknown, entries
        assert unknown.group(1) not in _options.OPTIONS
    else:
        assert {name: options for name, options in understood_by_server(entries).items() if "\n" not in name} == {
            name: options for name, options in ours.items() if "\n" not in name
        }


@TOGETHER
@given(data=PRESETS)
@example(data={"m": {"chat-template-kwargs": {"a": "x;y # z"}}})
def test_what_we_write_the_server_reads_as_meant(router: Router, data: dict[str, dict[str, Any]]) -> None:
    text = apply(None, data, "overridden")
    entries = router.reads(text)
    assert isinstance(entries, dict), entries
    server = understood_by_server(entries)
    assert server == understood_by_us(text)
    # And straight from the data, without our reader between.
    common = {_options.canonical(key)[0] for key in data.get("*", {})}
    for name, options in data.items():
        if name == "*" or (name == DEFAULT and not options):
            continue
        expected = {_options.meaning(key, _options.to_text(key, value)) for key, value in options.items()}
        expected = {(key, value) for key, value in expected if key not in NOT_SHOWN}
        assert expected <= set(server[name].items())
        assert set(server[name]) - {key for key, value in expected} <= common


@TOGETHER
@given(before=PRESETS, data=PRESETS, state=st.sampled_from(STATES))
def test_after_any_edit_the_server_reads_what_was_wanted(
    router: Router, before: dict[str, Any], data: dict[str, Any], state: str
) -> None:
    text = apply(None, before, "overridden")
    wanted = dict.fromkeys(data) if state == "deleted" else data
    edited = apply(text, wanted, state)
    entries = router.reads(edited)
    assert isinstance(entries, dict), entries
    assert understood_by_server(entries) == understood_by_us(edited)


@settings(deadline=None, suppress_health_check=CALM, max_examples=25)
@given(data=PRESETS)
def test_the_dry_run_accepts_what_we_write(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    assert dry_run(tmp_path_factory.mktemp("dry"), apply(None, data, "overridden")) == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("chat-template-kwargs", '{"a":"b#c"}'),
        ("tags", "a;b"),
        ("model", "/x.gguf  "),
        ("model", "\t/x.gguf"),
        ("model", "/x.gguf\n[evil]\nmodel = /y"),
        ("reverse-prompt", "a\rb"),
    ],
)
def test_what_the_grammar_cannot_carry_is_lost_on_the_server_and_refused_here(
    router: Router, key: str, value: str
) -> None:
    entries = router.reads(f"[m]\n{key} = {value}\n")
    shown = str(entries["m"]) if isinstance(entries, dict) else entries
    assert f"{key} = {value}\\n" not in shown
    with pytest.raises(PresetError, match=key):
        apply(None, {"m": {key: value}}, "merged")
