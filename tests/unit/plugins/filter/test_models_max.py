# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.filter import models_max, vram_plan

FILTERS = {**models_max.FilterModule().filters(), **vram_plan.FilterModule().filters()}
SIDECARS = Path(models_max.__file__).parent
MODELS = [
    {"name": "qwen3-8b", "size": "8b", "options": {"ctx-size": 32768}},
    {"name": "qwen3-32b", "size": "32b", "options": {"ctx-size": 32768}},
    {"name": "llama-70b", "size": "70b", "options": {"ctx-size": 8192, "cache-type-k": "q8_0", "cache-type-v": "q8_0"}},
]


def test_the_limit_is_the_plans() -> None:
    limit = FILTERS["models_max"](MODELS, [24576, 24576])
    assert isinstance(limit, int)
    assert limit == FILTERS["vram_plan"](MODELS, [24576, 24576])["models_max"] == 1
    assert FILTERS["models_max"](MODELS[:2], [24576, 24576]) == 2


def test_keywords_reach_the_plan() -> None:
    models = [{"name": "a", "vram_mib": 5000}, {"name": "b", "vram_mib": 5000}]
    assert FILTERS["models_max"](models, [10000], overhead_mib=0, margin_mib=0, reserved_mib=0) == 2
    assert FILTERS["models_max"](models, [10000], overhead_mib=0, margin_mib=0, reserved_mib=1) == 1
    own = {
        "9b": dict(
            zip(("weights_mib", "output_mib", "layers", "kv_kib_per_token", "compute_mib", "embd", "heads"), [1] * 7)
        )
    }
    assert FILTERS["models_max"]([{"name": "a", "size": "9b", "options": {"c": 256}}], [10000], sizes=own) == 1


@pytest.mark.parametrize("name", ["models_max", "vram_plan"])
def test_an_error_is_the_filters_error(name: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"the model 'llama-70b' does not fit alone.*short"):
        FILTERS[name](MODELS[::2], [24576])


@pytest.mark.parametrize("name", ["models_max", "vram_plan"])
def test_the_sidecar_names_the_keywords_and_their_defaults(name: str) -> None:
    from ansible_collections.homelab.llamacpp.plugins.module_utils import _vram_plan

    sidecar: dict[str, Any] = yaml.safe_load((SIDECARS / f"{name}.yml").read_text())["DOCUMENTATION"]
    options = sidecar["options"]
    keywords = inspect.signature(_vram_plan.vram_plan).parameters
    assert set(options) == {"_input", *keywords} - {"models"}
    assert options["overhead_mib"]["default"] == _vram_plan.OVERHEAD_MIB
    assert options["margin_mib"]["default"] == _vram_plan.MARGIN_MIB
