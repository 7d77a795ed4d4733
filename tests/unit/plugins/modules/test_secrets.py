# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No module returns a secret that it was given, also where Ansible returns the arguments (inject_invocation, -vvv)."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

SECRET = "a-secret-that-nobody-may-read"
MODULES = {
    "instances": [("instances", [{"name": "one", "keys": [SECRET]}])],
    "lxc": [("api_password", SECRET), ("api_token_secret", SECRET)],
    "lxc_snapshot": [("api_password", SECRET), ("api_token_secret", SECRET)],
    "model_file": [("token", SECRET)],
    "open_webui_connection": [("webui_password", SECRET), ("webui_token", SECRET), ("api_key", SECRET)],
    "open_webui_models": [("webui_password", SECRET), ("webui_token", SECRET)],
    "router_info": [("api_key", SECRET)],
    "router_keys": [("keys", [SECRET])],
    "router_model": [("api_key", SECRET)],
    "router_reload": [("api_key", SECRET)],
    "router_service": [("api_key", SECRET)],
}


@pytest.mark.parametrize(
    ("module", "option", "value"),
    [(module, option, value) for module, options in MODULES.items() for option, value in options],
)
def test_arguments_are_returned_without_secrets(
    module: str, option: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"ansible_collections.homelab.llamacpp.plugins.modules.{module}").main
    # Refused before anything is done: an option does not exist, and most miss one that is required.
    given = {option: value, "no_such_option": 1, "_ansible_inject_invocation": True}
    with patch_module_args(given), pytest.raises(SystemExit):
        main()
    output = capsys.readouterr().out
    result = json.loads(output)
    assert result["failed"]
    assert option in result["invocation"]["module_args"]
    assert SECRET not in output
