# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.modules.llama_adoption_info import AdoptionInfo, Refused

KEY = "sk-0123456789abcdef"


class Host:
    """Units that do not run, each with a llama-server and these words."""

    def __init__(self, **units: Sequence[str]) -> None:
        self.units = {f"{name.replace('_', '-')}.service": words for name, words in units.items()}

    def __call__(self, argv: Sequence[str]) -> tuple[int, str, str]:
        if argv[0] == "busctl":
            (words,) = (
                words for unit, words in self.units.items() if unit.replace("-", "_2d").replace(".", "_2e") in argv[4]
            )
            return 0, json.dumps({"data": [["/opt/llama-server", ["/opt/llama-server", *words], False]]}), ""
        if argv[0] != "systemctl":
            return 0, "Available devices:\n  CUDA0: NVIDIA GeForce RTX 3090 (24268 MiB, 24000 MiB free)\n", ""
        if argv[1] == "show":
            shown = "ExecStart={ path=/opt/llama-server }\nActiveState=inactive\nUnitFileState=disabled\nMainPID=0\n"
            return 0, "\n".join(f"Id={unit}\n{shown}" for unit in self.units), ""
        return 0, "".join(f"{unit} disabled enabled\n" for unit in self.units), ""


def read(host: Host, **params: Any) -> dict[str, Any]:
    given = {"unit": None, "own": "llama-router.service", "target": "/var/lib/llama-router/models", "keys": False}
    return AdoptionInfo({**given, **params}, host).run()


def test_a_router_beside_others(tmp_path: Path) -> None:
    words = ["--models-dir", str(tmp_path), "--port", "8012", "--api-key", KEY]
    host = Host(llama_server=words, one=["--model", "/x.gguf"], llama_router=words)
    found = read(host)
    assert (found["unit"], found["active"], found["served"]) == ("llama-server.service", False, None)
    assert (found["key_count"], found["api_keys"], found["url"]) == (1, [], "http://127.0.0.1:8012")
    assert KEY not in repr(found)
    assert found["left"] == ["one.service: a server of one model, which stays as it is (role llama_instance runs such)"]
    assert (found["inventory"]["llama_cpp_method"], found["inventory"]["llama_cpp_backend"]) == ("build", "cuda")
    assert "llama_router_cpu_only" not in found["inventory"]
    assert read(host, keys=True)["api_keys"] == [KEY]


def test_none_several_and_another(tmp_path: Path) -> None:
    assert read(Host())["unit"] is None
    words = ["--models-dir", str(tmp_path)]
    with pytest.raises(Refused, match=r"found a\.service, b\.service; name one"):
        read(Host(a=words, b=words))
    assert read(Host(a=words, b=words), unit="b.service")["unit"] == "b.service"
    with pytest.raises(Refused, match=r"c\.service was wanted to run"):
        read(Host(a=words), unit="c.service")
    with pytest.raises(Refused, match="was wanted readable as its llama-server reads it"):
        read(Host(a=["--models-dir", str(tmp_path / "nothing")]))
