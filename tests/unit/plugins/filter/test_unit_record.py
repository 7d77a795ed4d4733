# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.filter.unit_record import unit_record
from ansible_collections.homelab.llamacpp.plugins.module_utils import _unit_record


def test_line_keeps_the_words_whole() -> None:
    line = unit_record(["/etc/a b", "/etc/100%$x"], credential="/etc/router/api-keys")
    assert line.startswith("ExecStartPre=-+/bin/sh -c ")
    # systemd's own quoting, as far as these words go.
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.partition("=")[2])]
    assert words[2] == _unit_record.script(True)
    assert words[3:] == ["record", "%n", "%d/api-keys", "/etc/router/api-keys", "/etc/a b", "/etc/100%$x"]
    assert "%d" not in unit_record(["/etc/a"])


@pytest.mark.parametrize("paths", ["/etc/a", [None], ["relative"], None, {"/a": 1}])
def test_other_than_paths_is_refused(paths: object) -> None:
    with pytest.raises(AnsibleFilterError, match="expected absolute paths"):
        unit_record(paths)
    with pytest.raises(AnsibleFilterError, match="expected absolute paths"):
        unit_record(["/etc/a"], credential="relative")
