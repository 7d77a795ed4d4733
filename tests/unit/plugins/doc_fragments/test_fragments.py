# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that several modules share are those that their fragment documents. Sanity compares the modules' own."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.homelab.llamacpp.plugins.doc_fragments import open_webui, proxmox, router, router_unit
from ansible_collections.homelab.llamacpp.plugins.module_utils import (
    _open_webui,
    _proxmox,
    _router_api,
    _router_service,
)

SHARED = {
    "open_webui": (open_webui, _open_webui.ARGUMENTS),
    "proxmox": (proxmox, _proxmox.ARGUMENT_SPEC),
    "router": (router, _router_api.ARGUMENTS),
    "router_unit": (router_unit, _router_service.UNIT_ARGUMENTS),
}


@pytest.mark.parametrize("name", SHARED)
def test_the_fragment_documents_the_arguments(name: str) -> None:
    fragment, arguments = SHARED[name]
    documented = yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"]

    def told(option: dict[str, Any]) -> dict[str, Any]:
        return {key: option.get(key) for key in ("type", "elements", "choices")} | {"default": option.get("default")}

    assert {option: told(given) for option, given in arguments.items()} == {
        option: told(given) for option, given in documented.items()
    }


def test_options_that_exclude_or_need_each_other_exist() -> None:
    for pairs in (_open_webui.EXCLUSIVE, _open_webui.TOGETHER, _open_webui.ONE_OF):
        assert {option for pair in pairs for option in pair} <= _open_webui.ARGUMENTS.keys()
    assert {option for pair in _router_api.EXCLUSIVE for option in pair} <= _router_api.ARGUMENTS.keys()
