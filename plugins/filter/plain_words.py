# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.module_utils import _names


def plain_words(words: Any, also: str = "") -> list[str]:
    """What is wrong with words that go into files as they are; see plain_words.yml."""
    if not isinstance(words, Mapping):
        raise AnsibleFilterError(f"plain_words: expected a mapping of variables, found {type(words).__name__}")
    wrong = []
    for name, value in words.items():
        for word in value if isinstance(value, (list, tuple)) else [value]:
            if word is None or word == "" or isinstance(word, bool):
                continue
            if _names.has_credentials(word):
                wrong.append(f"{name}: expected a URL without a user and a password, which others could read")
                continue
            try:
                _names.plain(word, "a word", also)
            except _names.BadName as error:
                wrong.append(f"{name}: {error}")
    return wrong


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"plain_words": plain_words}
