# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.module_utils._nvidia import gpus_of
from ansible_collections.homelab.llamacpp.plugins.modules import gpu_info


def run(capfd: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        gpu_info.main()
    result: dict[str, Any] = json.loads(capfd.readouterr().out)
    result.pop("invocation", None)  # ansible-core before 2.21 repeats the arguments
    return result


def test_it_changes_nothing_and_returns_what_is_documented(capfd: pytest.CaptureFixture[str]) -> None:
    """On whatever machine runs the tests, with a GPU or without."""
    result = run(capfd, packages=["dpkg"])
    assert result.pop("changed") is False
    documented = yaml.safe_load(gpu_info.RETURN)
    assert set(result) == set(documented)
    assert set(result["driver"]) == set(documented["driver"]["contains"])
    assert "packages" not in run(capfd)
    assert set(result["device_nodes"]) == set(documented["device_nodes"]["contains"])


def test_every_field_of_a_gpu_is_documented() -> None:
    line = "0, GPU-1, 00000000:01:00.0, NVIDIA GeForce RTX 3090, 24576, 1, 8.6, 350.00, 350.00, 100.00, 366.00, Enabled"
    (gpu,) = gpus_of(line, {})
    assert set(gpu) == set(yaml.safe_load(gpu_info.RETURN)["gpus"]["contains"])
