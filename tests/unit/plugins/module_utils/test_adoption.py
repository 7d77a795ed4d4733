# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _adoption
from ansible_collections.homelab.llamacpp.plugins.module_utils._adoption import Adoption, Words

KEY = "sk-0123456789abcdef"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for name in (
        "a.gguf",
        "eyes/eyes.gguf",
        "eyes/mmproj.gguf",
        "split/s-00001-of-00002.gguf",
        "split/s-00002-of-00002.gguf",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"GGUF")
    return folder


def adopt(tmp_path: Path, *words: str, **environment: str) -> Adoption:
    return Adoption(words, environment, str(tmp_path), "/var/lib/llama-router/models")


def by_name(adoption: Adoption) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in adoption.inventory["llamacpp_models"]}


def test_the_guides_folder_form(tmp_path: Path, models: Path) -> None:
    found = adopt(
        tmp_path,
        *("--models-dir", "models", "--models-max", "3", "--threads", "4", "-ngl", "99", "--flash-attn", "--jinja"),
        *("--no-webui", "--sleep-idle-seconds", "900", "--host", "0.0.0.0", "--port", "8012", "--api-key", KEY),
        CUDA_VISIBLE_DEVICES="0,1",
    )
    assert found.keys == [KEY]
    assert KEY not in repr(found.inventory) + repr(found.corrected) + repr(found.left)
    models_found = found.inventory.pop("llamacpp_models")
    assert found.inventory == {
        "llama_router_host": "0.0.0.0",
        "llama_router_port": 8012,
        "llama_router_models_max": 3,
        "llama_router_sleep_idle_seconds": 900,
        "llama_router_options": {"no-ui": True},
        "llama_router_common_options": {"threads": 4, "n-gpu-layers": 99, "flash-attn": "on", "jinja": True},
        "llama_router_gpus": [0, 1],
    }
    assert models_found == [
        {"name": "a", "source": {"path": f"{models}/a.gguf"}},
        {"name": "eyes", "source": {"path": f"{models}/eyes"}},
        {"name": "split", "source": {"path": f"{models}/split/s-00001-of-00002.gguf"}},
    ]


def test_presets_without_what_has_no_effect(tmp_path: Path, models: Path) -> None:
    (tmp_path / "models.ini").write_text(
        "version = 1\n[*]\nthreads = 12\nctx-size = 4096\nno-mmap = true\n"
        "[chat]\nmodel = models/a.gguf\nalias = one,two\nport = 9\npin = true\nLLAMA_ARG_THREADS = 2\n"
        "[qwen3:8b]\nhf-repo = Qwen/Qwen3-8B-GGUF:Q4_K_M\n[gone]\nmodel = nowhere.gguf\n[none]\njinja = on\n"
        "[eyes]\nctx-size = 1024\n"
    )
    found = adopt(
        tmp_path, "--models-preset", "models.ini", "--models-dir", "models", "--threads", "4", LLAMA_ARG_BATCH="64"
    )
    assert found.inventory["llama_router_common_options"] == {
        "batch-size": 64,
        "ctx-size": 4096,
        "load-mode": "none",
        "threads": 4,
    }
    models_found = by_name(found)
    assert models_found["chat"] == {"name": "chat", "source": {"path": f"{models}/a.gguf"}, "aliases": ["one", "two"]}
    assert models_found["qwen3-8B"]["source"] == {"repo": "Qwen/Qwen3-8B-GGUF", "quant": "Q4_K_M"}
    assert models_found["qwen3-8B"]["aliases"] == ["qwen3:8B"]
    assert models_found["eyes"]["options"] == {"ctx-size": 1024}
    assert sorted(models_found) == ["a", "chat", "eyes", "qwen3-8B", "split"]
    told = "\n".join(found.corrected)
    assert "[*] threads = 12 had no effect" in told
    assert "[chat] LLAMA_ARG_THREADS = 2 had no effect" in told
    assert "[chat] port belongs to the router" in told
    assert "[chat] pin is no option any more" in told
    assert "[*] no-mmap is no option any more: load-mode: none" in told
    assert [line.partition(":")[0] for line in found.left] == ["the router asks for no key", "gone", "none"]


@pytest.mark.parametrize(("target", "method"), [("", "hardlink"), ("/proc/models", "copy")])
def test_where_the_service_sees_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, target: str, method: str
) -> None:
    monkeypatch.setattr(_adoption, "HIDDEN", (f"{tmp_path}/",))
    found = Adoption(["--models-dir", "models"], {}, str(tmp_path), target or f"{tmp_path}/to/come")
    assert by_name(found)["a"]["source"] == {"path": f"{models}/a.gguf", "method": method}
    assert bool(found.corrected) == (method == "copy")


def test_options_in_the_environment(tmp_path: Path, models: Path) -> None:
    found = adopt(
        tmp_path,
        *("--port", "8012", "--api-key", KEY),
        **{"LLAMA_ARG_HOST": "0.0.0.0", "LLAMA_ARG_PORT": "9", "LLAMA_ARG_MODELS_DIR": "models"},
        **{"LLAMA_ARG_MODELS_MAX": "2", "LLAMA_ARG_THREADS": "4", "LLAMA_ARG_NO_SUCH": "1", "THREADS": "5"},
    )
    assert sorted(by_name(found)) == ["a", "eyes", "split"]
    del found.inventory["llamacpp_models"]
    assert found.inventory == {
        "llama_router_host": "0.0.0.0",
        "llama_router_port": 8012,
        "llama_router_models_max": 2,
        "llama_router_common_options": {"threads": 4},
    }


def test_a_token_of_the_hub_is_told_of_and_not_shown(tmp_path: Path, models: Path) -> None:
    token = "hf_0123456789"
    (tmp_path / "models.ini").write_text(f"[*]\nhft = {token}\n[chat]\nmodel = models/a.gguf\nHF_TOKEN = {token}\n")
    found = adopt(tmp_path, "--models-preset", "models.ini", "--hf-token", token, "--api-key", KEY)
    assert token not in repr(found.inventory) + repr(found.corrected) + repr(found.left)
    told = [line for line in found.left if "(llama_models_token out of a vault)" in line]
    assert [line.partition(" has ")[0] for line in told] == ["the command line", "[*]", "[chat]"]


def test_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# old\n{KEY}x\n\n")
    found = adopt(tmp_path, "--api-key", f"{KEY},short", "--api-key-file", "keys", LLAMA_API_KEY=KEY)
    assert found.keys == [KEY, f"{KEY}x"]
    assert found.given == [KEY, "short", f"{KEY}x"]
    assert any("1 of 3 keys" in line for line in found.left)
    assert "short" not in " ".join(found.left).replace("shorter", "")


@pytest.mark.parametrize(
    ("words", "options", "unknown"),
    [
        (["-c", "4096", "-fa", "off"], {"ctx-size": 4096, "flash-attn": "off"}, []),
        (["-fa", "-c", "1"], {"flash-attn": "on", "ctx-size": 1}, []),
        (["--no-jinja", "--no-mmap"], {"jinja": False, "load-mode": "none"}, ["--no-mmap: no option any more"]),
        (["--from-tomorrow", "x", "-c", "1"], {"ctx-size": 1}, ["--from-tomorrow x: not known"]),
        (["-c"], {}, ["-c: its value is missing"]),
        (["-r", "a", "-r", "b"], {"reverse-prompt": "a"}, ["--reverse-prompt b: a preset can have it only once"]),
    ],
)
def test_words(words: list[str], options: dict[str, Any], unknown: list[str]) -> None:
    read = Words(words)
    assert read.options == options
    assert len(read.unknown) == len(unknown)
    for told, wanted in zip(read.unknown, unknown):
        assert told.startswith(wanted)


def test_options_that_run_commands_are_told_of_and_not_adopted(tmp_path: Path, models: Path) -> None:
    (tmp_path / "models.ini").write_text('[chat]\nmodel = models/a.gguf\nmcp-servers-json = {"env": "secret-of-mcp"}\n')
    found = adopt(
        tmp_path,
        *("--models-preset", "models.ini", "--tools", "all", "--agent", "--api-key", KEY),
        **{"LLAMA_ARG_MCP_SERVERS_CONFIG": "/etc/mcp.json", "LLAMA_ARG_UI_MCP_PROXY": "0"},
    )
    assert by_name(found)["chat"] == {"name": "chat", "source": {"path": f"{models}/a.gguf"}}
    assert found.inventory["llama_router_common_options"] == {"webui-mcp-proxy": False}
    assert [line.partition(" lets ")[0] for line in found.left] == [
        "the environment has mcp-servers-config",
        "the command line has tools",
        "the command line has agent",
        "[chat] has mcp-servers-json",
    ]
    assert "secret-of-mcp" not in repr(found.inventory) + repr(found.left)


def test_a_secret_of_an_option_that_is_not_known_is_not_shown(tmp_path: Path) -> None:
    found = adopt(tmp_path, "--new-token", "first-secret", "--new-password=second-secret", "--api-key", KEY)
    assert len(found.left) == 2
    assert "secret" not in repr(found.left)


def test_a_password_in_a_url_is_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "models.ini").write_text("[chat]\nmodel-url = https://me:hidden@example.org/a.gguf\n")
    found = adopt(tmp_path, "--models-preset", "models.ini", "--api-key", KEY)
    assert found.inventory["llamacpp_models"] == []
    assert "hidden" not in repr(found.left)


@pytest.mark.parametrize("port", ["8012@example.org", "0", "65536", "", "\u0663"])
def test_a_port_that_is_none_sends_no_key_elsewhere(tmp_path: Path, port: str) -> None:
    found = adopt(tmp_path, "--port", port, "--api-key", KEY)
    assert found.port is None
    assert found.left == [f"--port {port}: it is no port"]


def test_names_that_no_preset_can_carry_are_told_of(tmp_path: Path, models: Path) -> None:
    for name in ("a\nb.gguf", "a\rb.gguf", "a\u2028b.gguf", "\udcff.gguf"):
        (models / name).write_bytes(b"GGUF")
    found = adopt(tmp_path, "--models-dir", "models", "--api-key", KEY)
    assert sorted(by_name(found)) == ["a", "eyes", "split"]
    told = [line for line in found.corrected if "has a name that no preset can have" in line]
    assert len(told) == 4
    assert all(line.isprintable() for line in found.corrected + found.left)
