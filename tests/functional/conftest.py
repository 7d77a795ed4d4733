# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the modules that talk to Proxmox are run here: in this process, over HTTPS, against fakepve."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import _internal
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import init_plugin_loader
from hypothesis import settings

# As in tests/unit/conftest.py: the same cases in every run, or with HYPOTHESIS_RANDOM=1 new ones.
if not os.environ.get("HYPOTHESIS_RANDOM"):
    settings.load_profile("ci")

# Before any test imports the collection: then Ansible's own loader finds its filters, too.
if os.environ.get("ANSIBLE_COLLECTIONS_PATH"):
    init_plugin_loader([os.environ["ANSIBLE_COLLECTIONS_PATH"]])

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def as_on_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module return its warnings: the loader above makes this process a controller, which displays them."""
    monkeypatch.setattr(_internal, "is_controller", False)


@pytest.fixture
def run_module(
    fakepve: Any, fakepve_cafile: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> RunModule:
    """Run a module once as root@pam on container 130; `check` is check mode, an option that is None is left out."""
    # By name: the lab's tests want Ansible's own loader to be there before the collection is imported.
    engine = "ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox"
    monkeypatch.setattr(f"{engine}.POLL", 0.02)
    monkeypatch.setattr(f"{engine}.LOCK_POLL", 0.05)

    def run_once(module: ModuleType, check: bool = False, **options: Any) -> dict[str, Any]:
        defaults = {
            "api_host": "127.0.0.1",
            "api_port": fakepve.port,
            "api_user": "root@pam",
            "api_password": "secret",
            "ca_path": fakepve_cafile,
            "node": "pve1",
            "vmid": 130,
        }
        given = {key: value for key, value in {**defaults, **options}.items() if value is not None}
        internal = {"_ansible_check_mode": check, "_ansible_inject_invocation": True}
        with patch_module_args({**given, **internal}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        secrets = {"api_password", "api_token_secret"} & given.keys()
        arguments = result.pop("invocation")["module_args"]
        assert all(arguments[name] == "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" for name in secrets)
        return result

    return run_once
