# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.filter.from_preset_ini import FilterModule as FromFilters
from ansible_collections.homelab.llamacpp.plugins.filter.to_preset_ini import FilterModule as ToFilters

to_preset_ini = ToFilters().filters()["to_preset_ini"]
from_preset_ini = FromFilters().filters()["from_preset_ini"]

DATA = {
    "*": {"flash-attn": "on", "jinja": True},
    "Qwen3-8B-Q4_K_M": {"ctx-size": 32768, "alias": "qwen,default-chat", "temp": 0.7, "no-warmup": False},
    "org/model:Q4_K_M": {},
}
TEXT = """\
version = 1

[*]
flash-attn = on
jinja = true

[Qwen3-8B-Q4_K_M]
ctx-size = 32768
alias = qwen,default-chat
temp = 0.7
no-warmup = false

[org/model:Q4_K_M]
"""


def test_there_and_back() -> None:
    assert to_preset_ini(DATA) == TEXT
    assert from_preset_ini(TEXT) == DATA


def test_lists_switches_and_what_is_left_out() -> None:
    data = {"m": {"alias": ["a", "b"], "flash-attn": False, "ctx-size": None}}
    assert to_preset_ini(data) == "version = 1\n\n[m]\nalias = a,b\nflash-attn = off\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"m": {"tags": "a;b"}}, "to_preset_ini: section 'm': tags: its value holds ';'"),
        ("text", "to_preset_ini: a preset is a mapping of sections to their options, found str"),
        (None, "to_preset_ini: a preset is a mapping of sections to their options, found NoneType"),
    ],
)
def test_data_that_cannot_be_written(data: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        to_preset_ini(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[m]\n threads = 1\n", "from_preset_ini: line 2: ' threads = 1' has blanks before it"),
        ({"m": {}}, "from_preset_ini: wants the text of a preset file, found dict"),
    ],
)
def test_text_that_cannot_be_read(text: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        from_preset_ini(text)
