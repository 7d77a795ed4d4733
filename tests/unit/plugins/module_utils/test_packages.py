# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._packages import PackageError, installed_version, known

LISTED = "one\thold\tinstalled\t1:2.0-1\ngone\tdeinstall\tconfig-files\t1.0\nnever\tunknown\tnot-installed\t\n"


def dpkg(status: int, output: str = LISTED, errors: str = "") -> object:
    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        assert argv[0] == "dpkg-query"
        return status, output, errors

    return run


@pytest.mark.parametrize("status", [0, 1])
def test_what_dpkg_knows(status: int) -> None:
    found = known(dpkg(status), ["one", "gone", "never", "unheard"])  # type: ignore[arg-type]
    assert found[0] == {"name": "one", "selection": "hold", "state": "installed", "version": "1:2.0-1"}
    assert [package["state"] for package in found] == ["installed", "config-files", "not-installed"]
    assert found[2]["version"] == ""


def test_only_an_installed_package_has_a_version() -> None:
    assert installed_version(dpkg(0), "one") == "1:2.0-1"  # type: ignore[arg-type]
    assert installed_version(dpkg(0, LISTED.splitlines()[1] + "\n"), "gone") is None  # type: ignore[arg-type]
    assert installed_version(dpkg(1, ""), "unheard") is None  # type: ignore[arg-type]


def test_a_machine_without_dpkg_is_told() -> None:
    with pytest.raises(PackageError, match="it ended with 127: not found"):
        known(dpkg(127, "", "not found"), ["one"])  # type: ignore[arg-type]
