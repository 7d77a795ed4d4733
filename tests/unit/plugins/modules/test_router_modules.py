# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for all router modules: which requests they send in check mode, their arguments, and the key.

What a router makes of the requests is judged by the real one, in tests/functional/router and tests/integration.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.modules import router_info
from ansible_collections.homelab.llamacpp.tests.unit.http_double import JSON, Asked, HttpDouble, Told

KEY = "a-secret-key"
Call = Callable[..., dict[str, Any]]

PROPS = {"role": "router", "max_instances": 1, "models_autoload": False, "build_info": "b11669-Debian"}
MODELS = {
    "data": [
        {"id": "up", "status": {"value": "loaded", "args": ["--port", "4711"], "preset": "[up]\nctx-size = 8\n"}},
        {"id": "down", "status": {"value": "unloaded", "args": [], "preset": ""}},
    ]
}


class Recorder(HttpDouble):
    """Answers like a router with one model that runs and one that does not; keeps the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def answer(self, asked: Asked) -> Told:
        self.seen.append(f"{asked.method} {asked.path}")
        answers: dict[str, Any] = {"/health": {"status": "ok"}, "/props": PROPS, "/models": MODELS}
        return Told(200, JSON, json.dumps(answers.get(asked.path.partition("?")[0], {"success": True})))


@pytest.fixture
def router() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(module: str, check: bool = False, **params: Any) -> dict[str, Any]:
        main = importlib.import_module(f"ansible_collections.homelab.llamacpp.plugins.modules.{module}").main
        capsys.readouterr()
        # The arguments are returned as with -vvv, so that a secret among them is seen.
        given = {**params, "_ansible_check_mode": check, "_ansible_inject_invocation": True}
        with patch_module_args(given), pytest.raises(SystemExit):
            main()
        output = capsys.readouterr().out
        assert KEY not in output
        result: dict[str, Any] = json.loads(output)
        assert result.pop("invocation")
        return result

    return run


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """systemctl(active) puts one on PATH that knows a unit in this state; answers the file of its calls."""

    def install(active: str, enabled: str = "enabled") -> Path:
        calls = tmp_path / "calls"
        command = tmp_path / "bin" / "systemctl"
        command.parent.mkdir()
        shown = f"LoadState=loaded\\nActiveState={active}\\nSubState=x\\nNeedDaemonReload=no\\nMainPID=0\\n"
        shown += f"UnitFileState={enabled}\\n"
        command.write_text(f"#!/bin/sh\necho $1 >> {calls}\nprintf '{shown}'\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(command.parent), prepend=":")
        return calls

    return install


@pytest.mark.parametrize(
    ("module", "params", "changed"),
    [
        ("router_info", {}, False),
        ("router_reload", {}, True),
        ("router_model", {"name": ["down"]}, True),
        ("router_model", {"name": ["up"]}, False),
        ("router_model", {"name": ["up"], "state": "unloaded"}, True),
        ("router_model", {"name": ["down"], "state": "unloaded"}, False),
        ("router_model", {"name": ["someone/else-GGUF"], "state": "present"}, True),
        ("router_model", {"name": ["someone/else-GGUF:Q8_0"], "state": "absent"}, False),
    ],
)
def test_check_mode_only_looks(
    router: Recorder, call: Call, module: str, params: dict[str, Any], changed: bool
) -> None:
    done = call(module, check=True, url=router.url, api_key=KEY, **params)
    assert not done.get("failed"), done
    assert done["changed"] is changed
    assert router.seen
    assert set(router.seen) <= {"GET /props", "GET /models", "GET /health"}


@pytest.mark.parametrize(("active", "action"), [("inactive", "start"), ("active", "restart")])
def test_check_mode_of_the_service_only_looks(
    router: Recorder, call: Call, systemctl: Callable[..., Path], tmp_path: Path, active: str, action: str
) -> None:
    calls = systemctl(active)
    files = {name: str(tmp_path / name) for name in ("presets", "applied", "pending", "api_key_file")}
    Path(files["pending"]).write_text('["earlier"]')
    done = call("router_service", check=True, url=router.url, watch=[str(tmp_path / "unit")], **files)
    assert (done["changed"], done["action"]) == (True, action)
    assert done["stopped"] == (["up"] if action == "restart" else [])
    assert done["loaded"] == ["earlier", *done["stopped"]]
    assert set(router.seen) <= {"GET /models", "GET /health"}
    assert calls.read_text() == "show\n"
    assert json.loads(Path(files["pending"]).read_text()) == ["earlier"]


@pytest.mark.parametrize(
    ("found", "wanted", "verb"),
    [
        ("enabled", True, None),
        ("static", True, None),
        ("disabled", True, "enable"),
        ("", True, "enable"),
        ("disabled", False, None),
        ("enabled", False, "disable"),
        ("disabled", None, None),
    ],
)
def test_the_service_starts_with_the_machine(
    router: Recorder, call: Call, systemctl: Callable[..., Path], tmp_path: Path, found: str, wanted: bool | None,
    verb: str | None,
) -> None:  # fmt: skip
    calls = systemctl("active", found)
    files = {name: str(tmp_path / name) for name in ("applied", "pending")}
    Path(files["applied"]).touch()
    given = {} if wanted is None else {"enabled": wanted}
    done = call("router_service", check=True, url=router.url, api_key=KEY, **files, **given)
    assert (done["changed"], done["enabled"], done["action"]) == (verb is not None, verb is not None, "none")
    assert set(calls.read_text().split()) == {"show"}
    done = call("router_service", url=router.url, api_key=KEY, **files, **given)
    assert (done["changed"], done["enabled"]) == (verb is not None, verb is not None)
    assert set(calls.read_text().split()) == {"show", *([verb] if verb else [])}


def test_the_service_needs_systemd(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call("router_service", pending=str(tmp_path / "pending"), url="http://127.0.0.1:1", api_key=KEY)
    assert done["failed"]
    assert "systemctl was wanted, this host has none" in done["msg"]
    assert (done["changed"], done["action"]) == (False, "none")


def test_what_info_tells(router: Recorder, call: Call) -> None:
    info = call("router_info", url=router.url, api_key=KEY)
    assert (info["build"], info["build_number"], info["limit"]) == ("b11669-Debian", 11669, 1)
    assert (info["models_autoload"], info["loaded"]) == (False, ["up"])
    assert [(m["id"], m["ctx_size"], m["options"]) for m in info["models"]] == [
        ("up", 8, {"ctx-size": "8"}),
        ("down", None, {}),
    ]
    # As it is documented: what differs between two runs that change nothing, as a port, is not told.
    documentation = yaml.safe_load(router_info.RETURN)
    assert info.keys() - {"changed"} <= documentation.keys()
    assert all(one.keys() <= documentation["models"]["contains"].keys() for one in info["models"])
    assert {one["id"]: one["status"] for one in info["models"]} == {"up": "loaded", "down": "unloaded"}


@pytest.mark.parametrize("module", ["router_info", "router_reload", "router_model", "router_service"])
@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"api_key": KEY, "api_key_file": "/k"}, "mutually exclusive: api_key|api_key_file"),
        ({"api_key_file": "/nowhere/api-keys"}, "/nowhere/api-keys is wanted, there is no such file"),
        ({"url": "router:8012"}, "url: http://HOST:PORT or https://HOST:PORT was wanted, 'router:8012' was found"),
        ({"api_key": KEY + "\n"}, "api_key: a key of one line was wanted"),
        ({"request_timeout": 0}, "request_timeout: a number of seconds above 0 was wanted, 0 was found"),
        ({"state": "there"}, "state"),
    ],
)
def test_bad_arguments(call: Call, module: str, params: dict[str, Any], told: str) -> None:
    name = {"name": "a"} if module == "router_model" else {}
    done = call(module, **name, **params)
    assert done["failed"]
    assert told in done["msg"]


NAMES = ["down", "up"]


def test_verify_needs_a_router_that_refuses_without_a_key(router: Recorder, call: Call) -> None:
    done = call("router_verify", url=router.url, api_key=KEY, names=NAMES, limit=1, models=[])
    assert "expected the router to refuse a request without a key (401), found that it answers" in done["msg"]


class Strict(Recorder):
    """As the other one, but with a key; what is served has aliases, in an order of its own."""

    def answer(self, asked: Asked) -> Told:
        if "Authorization" not in asked.headers and asked.path != "/health":
            return Told(401, JSON, json.dumps({"error": {"message": "Invalid API Key"}}))
        if asked.path == "/models":
            told = [{**MODELS["data"][0], "aliases": ["b", "a", "C"]}, MODELS["data"][1]]
            return Told(200, JSON, json.dumps({"data": told}))
        return super().answer(asked)


@pytest.mark.parametrize(
    ("names", "limit", "found"),
    [
        (["down", "up = a = b = C"], 1, ""),
        (["up = C = a = b", "down"], 1, ""),
        (["down", "up = a = b"], 1, "Found: down, up = C = a = b at limit 1."),
        (["down", "up = a = b = C"], 2, "the models down, up = a = b = C at limit 2."),
        (["up = a = b = C"], 1, "Found: down, up = C = a = b at limit 1."),
    ],
)
def test_verify_compares_models_aliases_and_limit(call: Call, names: list[str], limit: int, found: str) -> None:
    with Strict() as router:
        done = call("router_verify", url=router.url, api_key=KEY, names=names, limit=limit, models=[])
    assert done.get("failed", False) == bool(found), done
    assert found in done.get("msg", "")
