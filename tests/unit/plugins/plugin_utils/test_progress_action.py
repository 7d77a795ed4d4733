# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.plugin_utils._progress import plain_result


def test_a_plain_result_is_read() -> None:
    assert plain_result('{"changed": true, "models": []}') == {"changed": True, "models": [], "finished": True}


@pytest.mark.parametrize(
    "result",
    [{"failed": True, "msg": "no"}, {"warnings": ["x"]}, {"deprecations": []}, {"exception": "x"}, [], "x", None],
)
def test_what_ansible_has_to_convert_is_left_to_it(result: Any) -> None:
    assert plain_result(json.dumps(result)) is None


def test_a_file_that_is_not_there_yet_is_no_result() -> None:
    assert plain_result("") is None
    assert plain_result('{"changed": tr') is None
