# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.llamacpp.plugins.filter.instance_plan import FilterModule as InstancePlan
from ansible_collections.homelab.llamacpp.plugins.filter.unit_hardening import FilterModule
from ansible_collections.homelab.llamacpp.plugins.filter.unit_word import FilterModule as UnitWord

unit_hardening = FilterModule().filters()["unit_hardening"]
unit_word = UnitWord().filters()["unit_word"]
instance_plan = InstancePlan().filters()["instance_plan"]


def test_a_kind_or_the_devices_it_follows_from() -> None:
    assert unit_hardening(["CUDA0"]) == unit_hardening("cuda")
    assert unit_hardening([]) == unit_hardening("cpu")
    assert "#   ProtectProc: this machine: 226/NAMESPACE" in unit_hardening("cpu", {"ProtectProc": "226/NAMESPACE"})


@pytest.mark.parametrize(
    "given", [{"writable": "/srv"}, {"devices": [1]}, {"refused": ["ProtectProc"]}, {"left_out": "x"}]
)
def test_what_is_of_another_type_is_an_error_of_the_filter(given: dict[str, object]) -> None:
    with pytest.raises(AnsibleFilterError, match=f"unit_hardening: {next(iter(given))}: .* was wanted|were wanted"):
        unit_hardening("cpu", **given)
    with pytest.raises(AnsibleFilterError, match="unit_hardening: kind"):
        unit_hardening("gpu")


def test_a_word_is_made_of_anything() -> None:
    assert unit_word(8012) == '"8012"'
    assert unit_word("A=$B", variables=False) == '"A=$B"'


def test_instances_that_cannot_run_are_an_error_of_the_filter() -> None:
    with pytest.raises(AnsibleFilterError, match="a list of instances"):
        instance_plan({"name": "coder"})
    with pytest.raises(AnsibleFilterError, match="instance coder: port"):
        instance_plan([{"name": "coder", "path": "/srv/coder.gguf"}])
