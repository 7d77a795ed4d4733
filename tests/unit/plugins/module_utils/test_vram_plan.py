# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf import read_model
from ansible_collections.homelab.llamacpp.plugins.module_utils._gguf_facts import facts_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_load import VramError
from ansible_collections.homelab.llamacpp.plugins.module_utils._vram_plan import CONFLICTS, vram_plan
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine with other work, too

BARE: dict[str, Any] = {"overhead_mib": 0, "margin_mib": 0}  # sums that can be done in the head


def given_models(*totals: float, **options: Any) -> list[dict[str, Any]]:
    """Models m0, m1 and so on by their totals in MiB."""
    options.setdefault("ctx-size", 4096)
    return [{"name": f"m{index}", "vram_mib": total, "options": options} for index, total in enumerate(totals)]


def on(model: dict[str, Any], device: str) -> dict[str, Any]:
    return {**model, "options": {**model["options"], "device": device}}


# --- the limit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("totals", "limit"),
    [
        ((4000, 5000), 2),
        ((4000, 5000, 6000), 1),  # 4000 + 5000 fit, 5000 + 6000 do not
        ((4000, 4000, 5000, 1000), 2),
        ((10000,), 1),
        ((5000, 5000, 0), 3),
        ((), 1),
    ],
)
def test_every_set_of_the_limit_fits_on_10000_mib(totals: tuple[int, ...], limit: int) -> None:
    assert vram_plan(given_models(*totals), [10000], **BARE)["models_max"] == limit


def test_a_context_for_each_model_counts() -> None:
    models = given_models(4700, 4700)
    assert vram_plan(models, [10000], overhead_mib=300, margin_mib=0)["models_max"] == 2
    assert vram_plan(models, [10000], overhead_mib=301, margin_mib=0)["models_max"] == 1


def test_the_defaults_are_a_context_of_300_and_1024_kept_free() -> None:
    assert vram_plan(given_models(4188, 4188), [10000])["models_max"] == 2
    assert vram_plan(given_models(4188, 4188.001), [10000])["models_max"] == 1


def test_reserved_and_kept_free_are_one_number_or_one_a_device() -> None:
    models = given_models(9000)
    plan = vram_plan(models, [10000, 10000], overhead_mib=[100, 200], margin_mib=[0, 24], reserved_mib=[5000, 0])
    assert [device["usable_mib"] for device in plan["devices"]] == [5000, 9976]
    # split in proportion to what is not reserved, 1 to 2, and a context on each
    assert [row["total_mib"] for row in plan["models"][0]["devices"]] == [3100, 6200]


def test_models_on_devices_of_their_own_do_not_meet() -> None:
    first, second, third = given_models(9000, 9000, 500)
    plan = vram_plan([on(first, "CUDA0"), on(second, "CUDA1"), third], [10000, 10000], **BARE)
    assert plan["models_max"] == 3
    assert plan["conflicts"] == []


def test_a_model_on_the_cpu_takes_nothing() -> None:
    plan = vram_plan([on(given_models(90000)[0], "none")], [10000])
    assert plan["models_max"] == 1
    assert plan["models"][0]["total_mib"] == 0


def test_conflicts_are_the_smallest_sets_with_what_is_missing() -> None:
    plan = vram_plan(given_models(6000, 5000, 4000, 1000), [10000], **BARE)
    assert plan["models_max"] == 1
    assert plan["conflicts"] == [
        {
            "models": models,
            "device": "CUDA0",
            "needed_mib": 11000,
            "available_mib": 10000,
            "shortfall_mib": 1000,
            "fits_with": None,  # nothing is known of their contexts
        }
        for models in (["m0", "m1"], ["m0", "m2", "m3"])
    ]


def test_a_conflict_names_the_device_where_most_is_missing() -> None:
    models = [{**model, "options": {**model["options"], "tensor-split": "1,3"}} for model in given_models(8000, 8000)]
    (conflict,) = vram_plan(models, [3900, 11000], **BARE)["conflicts"]
    assert (conflict["device"], conflict["shortfall_mib"]) == ("CUDA1", 1000)


def test_two_hundred_models_are_planned() -> None:
    models = [
        {"name": f"m{index}", "size": size, "options": {"ctx-size": ctx}}
        for index, (size, ctx) in enumerate(
            itertools.product(("1.7b", "3b", "8b", "14b", "32b"), range(1000, 41000, 1000))
        )
    ]
    plan = vram_plan(models, [24576, 24576, 16380])
    assert len(models) == 200
    assert plan["models_max"] == 1
    assert len(plan["conflicts"]) == CONFLICTS
    assert "more sets do not fit together than the 20 that are listed" in plan["warnings"]


def test_the_search_for_conflicts_ends_where_hardly_any_set_is_one() -> None:
    """All but the least of 60 models fit together: the sets to look at are many, the conflict is one."""
    plan = vram_plan(given_models(*[100] * 60), [5999], **BARE)
    assert plan["models_max"] == 59
    assert [len(conflict["models"]) for conflict in plan["conflicts"]] == [60]


# --- how a model is split ---------------------------------------------------------------------------------------


def totals_of(options: dict[str, Any], devices: list[Any], total: int = 6000) -> list[float]:
    plan = vram_plan([{"name": "m", "vram_mib": total, "options": options}], devices, **BARE)
    return [row["total_mib"] for row in plan["models"][0]["devices"]]


@pytest.mark.parametrize(
    ("options", "totals"),
    [
        ({}, [2000, 4000]),
        ({"device": "CUDA1"}, [0, 6000]),
        ({"dev": "CUDA0"}, [6000, 0]),
        ({"LLAMA_ARG_DEVICE": ["CUDA1", "CUDA0"], "ts": "2,1"}, [2000, 4000]),
        ({"tensor-split": "3,1"}, [4500, 1500]),
        ({"tensor-split": [3, 1]}, [4500, 1500]),
        ({"tensor-split": "1"}, [6000, 0]),
        ({"split-mode": "none"}, [6000, 0]),
        ({"sm": "none", "mg": 1}, [0, 6000]),
        ({"split-mode": "none", "main-gpu": 0, "device": "CUDA1"}, [0, 6000]),
        ({"device": None}, [2000, 4000]),
    ],
)
def test_a_total_is_split_as_the_options_say(options: dict[str, Any], totals: list[float]) -> None:
    assert totals_of(options, [8000, 16000]) == totals


def test_layers_are_counted_in_the_order_of_the_device_option() -> None:
    """The output layer is on the last device that the option names."""
    options = {"ctx-size": 4096, "device": "CUDA1,CUDA0"}
    rows = vram_plan([{"name": "m", "size": "3b", "options": options}], [24576, 24576])["models"][0]["devices"]
    assert [(row["weights_mib"], row["kv_mib"]) for row in rows] == [
        (pytest.approx(1059.276, rel=5e-3), 208),
        (pytest.approx(859.078, rel=5e-3), 240),
    ]


@pytest.mark.parametrize(
    ("devices", "wanted"),
    [
        ([{"name": "NVIDIA GeForce RTX 3090", "memory_total_mib": 24576, "index": 1}], "CUDA1"),
        ([{"name": "RPC0", "total_mib": 24576}], "RPC0"),
        ([{"device": "Vulkan3", "name": "AMD Radeon", "memory_total_mib": "24576"}], "Vulkan3"),
        (["24576"], "CUDA0"),
        ([24576.5], "CUDA0"),
    ],
)
def test_a_device_is_called_as_the_server_calls_it(devices: list[Any], wanted: str) -> None:
    assert vram_plan([], devices)["devices"][0]["name"] == wanted


# --- the presets that make it true ------------------------------------------------------------------------------


def test_presets_fix_the_context_and_the_split() -> None:
    models = [
        {"name": "a", "size": "8b", "options": {"c": 8192}},
        {"name": "b", "vram_mib": 100, "options": {"device": "CUDA1", "LLAMA_ARG_CTX_SIZE": "4096"}},
        {"name": "c", "vram_mib": 100, "options": {"ctx-size": 1024, "ts": "1,9"}},
    ]
    assert vram_plan(models, [8192, 24576])["presets"] == {
        "a": {"ctx-size": "8192", "tensor-split": "1,3"},
        "b": {"ctx-size": "4096"},
        "c": {"ctx-size": "1024"},
    }


def test_a_planned_split_plans_the_same_when_it_is_written_out() -> None:
    models = [{"name": "a", "size": "14b", "options": {"ctx-size": 8192}}]
    plan = vram_plan(models, [12288, 24564])
    models[0]["options"] = plan["presets"]["a"]
    assert vram_plan(models, [12288, 24564])["models"] == plan["models"]


# --- a model by its size ----------------------------------------------------------------------------------------


def test_a_model_by_its_size_is_in_parts_that_add_up() -> None:
    models = [{"name": "a", "size": "8B", "options": {"ctx-size": 8192}}]
    plan = vram_plan(models, [24576])
    (row,) = plan["models"][0]["devices"]
    assert row == {
        "device": "CUDA0",
        "weights_mib": 4455.344,
        "kv_mib": 1152,
        "state_mib": 0,
        "compute_mib": 112,
        "context_mib": 300,
        "total_mib": 6019.344,
    }
    assert plan["models"][0]["exactness"] == "table"
    assert plan["warnings"] == []


@pytest.mark.parametrize(
    ("options", "kv"),
    [
        ({}, 1152),
        ({"ctk": "q8_0", "ctv": "q8_0"}, 612),
        ({"parallel": 4}, 1152),
        ({"np": 3}, 1188),  # three streams of 2816 cells
        ({"parallel": 3, "kv-unified": True}, 1152),
        ({"parallel": 3, "no-kv-unified": True}, 1188),
        ({"parallel": -1}, 1152),
    ],
)
def test_the_options_that_the_cache_depends_on(options: dict[str, Any], kv: float) -> None:
    model = {"name": "a", "size": "8b", "options": {"ctx-size": 8192, **options}}
    assert vram_plan([model], [24576])["models"][0]["devices"][0]["kv_mib"] == kv


def test_the_largest_context_is_where_it_stops_to_fit() -> None:
    def plan(ctx_size: int) -> dict[str, Any]:
        return vram_plan([{"name": "a", "size": "8b", "options": {"ctx-size": ctx_size}}], [12288])

    largest = plan(4096)["models"][0]["max_ctx_size"]
    assert plan(largest)["models_max"] == 1
    with pytest.raises(VramError, match=f"does not fit alone.*with ctx-size = {largest} it fits"):
        plan(largest + 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mmproj": "/m/mmproj.gguf"}, "a: mmproj = /m/mmproj.gguf is not modelled: planned without it"),
        ({"n-gpu-layers": 20}, "a: n-gpu-layers = 20 is not modelled: planned as if every layer were on the devices"),
        ({"md": "/m/draft.gguf"}, "a: model-draft = /m/draft.gguf is not modelled: planned without it"),
    ],
)
def test_what_the_table_does_not_know_is_said(options: dict[str, Any], text: str) -> None:
    model = {"name": "a", "size": "8b", "options": {"ctx-size": 8192, **options}}
    assert vram_plan([model], [24576])["warnings"] == [text]


def test_a_total_without_a_context_is_said() -> None:
    assert vram_plan([{"name": "a", "vram_mib": 1}], [24576])["warnings"] == [
        "a: vram_mib holds for one ctx-size only, and its options set none"
    ]


def test_a_total_counts_before_a_size() -> None:
    model = {"name": "a", "vram_mib": 1000, "size": "70b", "options": {"ctx-size": 8192}}
    assert vram_plan([model], [8192], **BARE)["models"][0]["total_mib"] == 1000


# --- a model by its file ----------------------------------------------------------------------------------------

HEADERS = Path(__file__).parents[3] / "fixtures" / "gguf_headers"


@cache
def facts(model: str) -> dict[str, Any]:
    found = facts_of(read_model(str(HEADERS / f"{model}.gguf")))
    assert found is not None
    return found


def of_file(name: str, model: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "facts": facts(model), "options": {"ctx-size": 8192, **options}}


def test_a_model_by_its_file_is_in_parts_with_reasons() -> None:
    plan = vram_plan([of_file("a", "Granite-4.0-H-Tiny-Q4_K_M")], [24576])
    (row,) = plan["models"][0]["devices"]
    assert (row["weights_mib"], row["kv_mib"], row["state_mib"]) == (4031.551, 64, 221.484)
    assert row["total_mib"] == pytest.approx(4031.551 + 285.484 + 57.91 + 300, rel=0.01)
    assert plan["models"][0]["exactness"] == "exact"
    assert plan["models"][0]["host_mib"] == pytest.approx(120.586 + 20.016, abs=0.1)
    assert plan["models"][0]["prompt_cache_mib"] == 8192
    assert set(plan["models"][0]["reasons"]) == {"weights", "kv", "state", "compute", "context"}
    assert plan["warnings"] == []


def test_what_is_measured_counts_before_what_is_read_and_that_before_the_table() -> None:
    model = {**of_file("a", "Qwen3-8B-Q4_K_M"), "size": "70b"}
    assert vram_plan([model], [24576])["models"][0]["exactness"] == "exact"
    assert vram_plan([{**model, "vram_mib": 100}], [24576], **BARE)["models"][0]["total_mib"] == 100


def test_without_a_context_the_error_says_what_fits() -> None:
    model = {"name": "a", "facts": facts("Qwen3-8B-Q4_K_M")}
    with pytest.raises(VramError, match=r"needs a ctx-size of 1 or more .* up to 28928 fits with nothing else loaded"):
        vram_plan([model], [10000])
    model["options"] = {"ctx-size": 28928}
    assert vram_plan([model], [10000])["models"][0]["max_ctx_size"] == 28928


def test_no_more_context_is_of_use_than_what_was_trained_for_each_slot() -> None:
    plan = vram_plan([of_file("a", "Qwen3-1.7B-Q4_K_M", parallel=2)], [81920])
    assert plan["models"][0]["max_ctx_size"] == 2 * 40960


def test_users_with_a_context_each() -> None:
    model = {"name": "a", "facts": facts("Qwen3-8B-Q4_K_M"), "context_per_user": 10000, "users": 3}
    plan = vram_plan([model], [24576])
    assert plan["presets"]["a"] == {"ctx-size": "30720", "parallel": "3", "kv-unified": "false"}
    assert plan["models"][0]["devices"][0]["kv_mib"] == 3 * 10240 * 144 / 1024
    again = vram_plan([{"name": "a", "facts": model["facts"], "options": plan["presets"]["a"]}], [24576])
    assert again["models"] == plan["models"]
    single = vram_plan([{"name": "a", "size": "8b", "context_per_user": 4096}], [24576])
    assert single["presets"]["a"] == {"ctx-size": "4096", "parallel": "1", "kv-unified": "false"}


@pytest.mark.parametrize(("slots", "ctx_size"), [({}, "32768"), ({"np": 2, "kvu": True}, "16384")])
def test_the_servers_own_way_to_share_a_context(slots: dict[str, Any], ctx_size: str) -> None:
    model = {"name": "a", "facts": facts("Qwen3-8B-Q4_K_M"), "options": {"kv-unified-per-slot": 8192, **slots}}
    assert vram_plan([model], [24576])["presets"]["a"] == {"ctx-size": ctx_size}


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"users": 2}, "`users` = 2 needs a `context_per_user`"),
        ({"context_per_user": 0}, "context_per_user and users must be 1 or more"),
        ({"context_per_user": 1, "users": 0}, "context_per_user and users must be 1 or more; found: 1 and 0"),
        ({"context_per_user": "lots"}, "context_per_user must be a whole number; found: 'lots'"),
        ({"context_per_user": 1, "options": {"c": 1, "np": 2}}, "take ctx-size, parallel out of its options"),
    ],
)
def test_users_that_are_not_clear_are_refused(extra: dict[str, Any], text: str) -> None:
    with pytest.raises(VramError, match=text):
        vram_plan([{"name": "a", "size": "8b", **extra}], [24576])


def test_common_options_count_unless_the_model_has_its_own() -> None:
    models = [of_file("a", "Qwen3-8B-Q4_K_M"), of_file("b", "Qwen3-8B-Q4_K_M", ctk="f16", ctv="f16")]
    plan = vram_plan(models, [24576], common={"cache-type-k": "q8_0", "cache-type-v": "q8_0"})
    assert [model["devices"][0]["kv_mib"] for model in plan["models"]] == [612, 1152]
    with pytest.raises(VramError, match=r"^the common options: c takes a whole number"):
        vram_plan(models, [24576], common={"c": "lots"})


@pytest.mark.parametrize(
    ("model", "limits", "text"),
    [
        (of_file("a", "Qwen3-8B-Q4_K_M", c=65536), {}, "a: a context of 65536 tokens is beyond the 40960"),
        (
            {**of_file("a", "Qwen3-8B-Q4_K_M"), "facts": {**facts("Qwen3-8B-Q4_K_M"), "measured": False}},
            {},
            "a: no test covers the architecture qwen3",
        ),
        (of_file("a", "Qwen3-8B-Q4_K_M", ctk="q8_0"), {"margin_mib": 0}, "a: with a quantized cache CUDA may take"),
        (of_file("a", "Qwen3-8B-Q4_K_M", mmproj="/m"), {}, "a: mmproj = /m is not in its facts: planned without it"),
        (of_file("a", "Qwen3-8B-Q4_K_M", sm="row"), {}, "a: split-mode = row is not modelled"),
        (of_file("a", "Qwen3-8B-Q4_K_M", ot="x=CPU"), {}, "a: override-tensor = x=CPU is not modelled"),
    ],
)
def test_what_the_plan_cannot_know_is_said(model: dict[str, Any], limits: dict[str, Any], text: str) -> None:
    if "c" in model["options"]:
        model = {**model, "options": {"c": model["options"]["c"]}}
    (warning,) = vram_plan([model], [49152], **limits)["warnings"]
    assert warning.startswith(text)


def test_a_conflict_says_with_which_context_all_fit() -> None:
    models = [of_file("a", "Qwen3-8B-Q4_K_M"), {**of_file("b", "Qwen3-8B-Q4_K_M"), "options": {"c": 40960}}]
    (conflict,) = vram_plan(models, [16384])["conflicts"]
    advised = conflict["fits_with"]
    assert advised["model"] == "b"
    models[1]["options"] = {"c": advised["ctx_size"]}
    assert vram_plan(models, [16384])["models_max"] == 2
    models[1]["options"] = {"c": advised["ctx_size"] + 256}
    assert vram_plan(models, [16384])["models_max"] == 1


def test_two_devices_run_a_pipeline_unless_a_tensor_is_overridden() -> None:
    piped, plain = (
        vram_plan([of_file("a", "Qwen3-8B-Q4_K_M", **options)], [8192, 8192])["models"][0]["devices"][0]["compute_mib"]
        for options in ({}, {"ot": "x=CPU"})
    )
    assert piped == pytest.approx(232, abs=0.1)
    assert plain == pytest.approx(112, abs=0.1)


# --- a device for each ------------------------------------------------------------------------------------------


def test_a_packing_is_told_and_made_when_asked_for() -> None:
    """Two splits do not fit with a context on each device; with a device for each they do."""
    models = [{"name": f"m{index}", "vram_mib": 9000, "options": {"ctx-size": 4096}} for index in range(2)]
    devices = [10000, 10000]
    split = vram_plan(models, devices, overhead_mib=900, margin_mib=0)
    assert split["models_max"] == 1
    assert split["packing"] == {"models_max": 2, "devices": {"m0": "CUDA0", "m1": "CUDA1"}}
    packed = vram_plan(models, devices, overhead_mib=900, margin_mib=0, pack=True)
    assert packed["models_max"] == 2
    assert packed["presets"] == {
        "m0": {"ctx-size": "4096", "device": "CUDA0"},
        "m1": {"ctx-size": "4096", "device": "CUDA1"},
    }
    for model in models:
        model["options"] = packed["presets"][model["name"]]
    assert vram_plan(models, devices, overhead_mib=900, margin_mib=0)["models_max"] == 2


def test_what_only_fits_split_and_what_is_placed_stays() -> None:
    models = [*given_models(15000), on({**given_models(2000)[0], "name": "p"}, "CUDA1"), *given_models(100, 2000)[1:]]
    plan = vram_plan(models, [10000, 10000], pack=True, **BARE)
    assert plan["packing"] == {"models_max": 3, "devices": {"m1": "CUDA0"}}
    assert [row["total_mib"] for row in plan["models"][0]["devices"]] == [7500, 7500]
    assert plan["presets"]["p"] == {"ctx-size": "4096"}


def test_a_packing_of_files_is_what_the_presets_give() -> None:
    names = ("Qwen3-8B-Q4_K_M", "Llama-3.2-3B-Q4_K_M", "gemma-3-4b-Q4_K_M", "Qwen3-1.7B-Q4_K_M")
    models = [of_file(name, name) for name in names]
    devices = [9400, 9400]
    split, packed = vram_plan(models, devices), vram_plan(models, devices, pack=True)
    assert split["models_max"] < packed["models_max"] == split["packing"]["models_max"]
    for model in models:
        model["options"] = packed["presets"][model["name"]]
    assert vram_plan(models, devices)["models"] == packed["models"]


# --- what is refused --------------------------------------------------------------------------------------------


def test_a_model_that_cannot_fit_alone_is_named_with_what_is_missing() -> None:
    text = (
        "^the model 'm1' does not fit alone: it needs 9300 MiB on CUDA0, where 8976 MiB can be used"
        r" \(10000 MiB less 0 MiB reserved and 1024 MiB kept free\): 324 MiB short; lower its ctx-size"
    )
    with pytest.raises(VramError, match=text):
        vram_plan(given_models(1000, 9000), [10000])


def test_more_models_at_start_than_the_limit_are_refused() -> None:
    models = given_models(4000, 4000, 9000)
    for model in models[:2]:
        model["options"] = {"ctx-size": 4096, "load-on-startup": True}
    with pytest.raises(VramError, match=r"2 models have load-on-startup \(m0, m1\), but only any 1 .* 1 of them"):
        vram_plan(models, [10000], **BARE)
    models[1]["options"]["load-on-startup"] = False
    assert vram_plan(models, [10000], **BARE)["models_max"] == 1


MODEL = {"name": "a", "vram_mib": 100, "options": {"ctx-size": 4096}}


@pytest.mark.parametrize(
    ("models", "devices", "limits", "text"),
    [
        ("a", [1], {}, "the models must be a list of dicts.*found: 'a'"),
        (["a"], [8192], {}, "the model 0 needs a dict with a `name`; found: 'a'"),
        ([{"vram_mib": 1}], [8192], {}, "the model 0 needs a dict with a `name`"),
        ([{"name": "a"}], [8192], {}, "the model 'a': it needs one of `vram_mib`.*found: name"),
        (
            [{"name": "a", "vram_mib": "x"}],
            [8192],
            {},
            "the model 'a': vram_mib must be a number of 0 or more; found: 'x'",
        ),
        ([{"name": "a", "vram_mib": -1}], [8192], {}, "vram_mib must be a number of 0 or more; found: -1"),
        ([{"name": "a", "vram_mib": True}], [8192], {}, "vram_mib must be a number of 0 or more; found: True"),
        ([{"name": "a", "vram_mib": float("inf")}], [8192], {}, "vram_mib must be a number of 0 or more; found: inf"),
        ([{"name": "a", "vram_mib": float("nan")}], [8192], {}, "vram_mib must be a number of 0 or more; found: nan"),
        ([{"name": "a", "size": "8b"}], [8192], {}, "the model 'a': it needs a ctx-size of 1 or more in its options"),
        ([{"name": "a", "size": "8b", "options": {"c": 0}}], [8192], {}, "it needs a ctx-size"),
        ([{"name": "a", "size": "8b", "options": {"c": "lots"}}], [8192], {}, "the model 'a': c takes a whole number"),
        ([{"name": "a", "size": "8b", "options": {"c": 1, "ub": 0}}], [8192], {}, "ubatch-size and batch-size must be"),
        (
            [{"name": "a", "size": "7b", "options": {"c": 1}}],
            [8192],
            {},
            "the model 'a': the size '7b' is not in the table",
        ),
        ([{"name": "a", "facts": {}, "options": {}}], [8192], {}, "its `facts` must be what gguf_info returns"),
        ([MODEL, MODEL], [8192], {}, "two models have the name 'a'"),
        ([{**MODEL, "options": "c=1"}], [8192], {}, "its options must be a dict of preset keys; found: 'c=1'"),
        ([{**MODEL, "options": {"c": 1, "ctx-size": 2}}], [8192], {}, "c and ctx-size are one option"),
        ([on(MODEL, "CUDA1")], [8192], {}, "`device` must name devices out of CUDA0, each once; found: 'CUDA1'"),
        ([on(MODEL, "CUDA0,CUDA0")], [8192], {}, "each once; found: 'CUDA0'"),
        ([{**MODEL, "options": {"ts": "1,1"}}], [8192], {}, "tensor-split needs up to 1 numbers"),
        ([{**MODEL, "options": {"ts": "0"}}], [8192], {}, "one of them above 0; found: '0'"),
        ([{**MODEL, "options": {"sm": "none", "mg": 1}}], [8192], {}, "main-gpu must be 0 to 0; found: 1"),
        ([MODEL], 8192, {}, "the devices must be a list"),
        ([MODEL], [], {}, "there is no device.*set it by hand"),
        ([], [], {}, "there is no device"),
        ([MODEL], [{"name": "x"}], {}, "the device 0 needs `memory_total_mib` or `total_mib`; found: {'name': 'x'}"),
        ([MODEL], [None], {}, "the memory of device 0 in MiB must be a number"),
        ([MODEL], [{"name": "RPC0", "total_mib": 1}] * 2, {}, "two devices have the same name, found: RPC0, RPC0"),
        (
            [MODEL],
            [1000],
            {},
            "CUDA0 has 1000 MiB, of which 0 MiB are reserved and 1024 MiB kept free: nothing is left",
        ),
        (
            [MODEL],
            [8192],
            {"reserved_mib": [0, 0]},
            "`reserved_mib` needs one number, or one for each of the 1 devices",
        ),
        ([MODEL], [8192], {"margin_mib": "much"}, "margin_mib must be a number of 0 or more; found: 'much'"),
        ([MODEL], [8192], {"overhead_mib": [-1]}, "`overhead_mib`.0. must be a number of 0 or more; found: -1"),
        ([MODEL], [8192], {"sizes": []}, "`sizes` must be a dict of rows"),
    ],
)
def test_what_is_not_clear_is_refused(models: Any, devices: Any, limits: dict[str, Any], text: str) -> None:
    with pytest.raises(VramError, match=text):
        vram_plan(models, devices, **limits)


# --- properties -------------------------------------------------------------------------------------------------

devices_lists = st.lists(st.integers(4000, 30000), min_size=1, max_size=3)


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[int]]:
    """Models and devices of which every model fits alone."""
    devices = draw(devices_lists)
    names = [f"CUDA{index}" for index in range(len(devices))]
    wanted = st.lists(st.sampled_from(names), unique=True, max_size=len(names)).map(",".join)
    models = [on(model, draw(wanted)) for model in given_models(*draw(st.lists(st.integers(0, 3600), max_size=7)))]
    return models, devices


def needs(plan: dict[str, Any]) -> dict[str, list[float]]:
    return {model["name"]: [row["total_mib"] for row in model["devices"]] for model in plan["models"]}


def fits(chosen: tuple[str, ...], plan: dict[str, Any]) -> bool:
    """Whether a set of models fits, added up in the plainest way."""
    used = needs(plan)
    return all(
        sum(used[name][index] for name in chosen) <= device["usable_mib"] + 1e-2
        for index, device in enumerate(plan["devices"])
    )


@STEADY
@given(catalogues())
def test_the_limit_is_what_trying_every_set_says(catalogue: tuple[list[dict[str, Any]], list[int]]) -> None:
    models, devices = catalogue
    plan = vram_plan(models, devices, overhead_mib=100, margin_mib=200)
    names = [model["name"] for model in models]
    good = [size for size in range(len(names) + 1) if all(fits(s, plan) for s in itertools.combinations(names, size))]
    assert plan["models_max"] == max(1, *good)


@STEADY
@given(catalogues())
def test_the_conflicts_are_what_trying_every_set_says(catalogue: tuple[list[dict[str, Any]], list[int]]) -> None:
    models, devices = catalogue
    plan = vram_plan(models, devices, overhead_mib=100, margin_mib=200)
    smallest: list[tuple[str, ...]] = []
    for size in range(1, len(models) + 1):
        for chosen in itertools.combinations([model["name"] for model in models], size):
            if not fits(chosen, plan) and not any(set(small) <= set(chosen) for small in smallest):
                smallest.append(chosen)
    found = [tuple(conflict["models"]) for conflict in plan["conflicts"]]
    assert len(found) == min(len(smallest), CONFLICTS)
    assert set(found) <= set(smallest)
    assert all(conflict["shortfall_mib"] > 0 for conflict in plan["conflicts"])


@STEADY
@given(catalogues(), st.integers(0, 6), st.integers(0, 2000))
def test_growing_a_model_never_raises_the_limit(
    catalogue: tuple[list[dict[str, Any]], list[int]], index: int, more: int
) -> None:
    models, devices = catalogue
    assume(models)
    before = vram_plan(models, devices, **BARE)["models_max"]
    models[index % len(models)]["vram_mib"] += more
    try:
        after = vram_plan(models, devices, **BARE)["models_max"]
    except VramError:
        return  # it does not fit alone any more
    assert 1 <= after <= before


@STEADY
@given(st.lists(st.integers(0, 3600), max_size=7), st.integers(4000, 30000), st.integers(1, 3), st.integers(0, 300))
def test_one_more_device_like_the_others_never_lowers_the_limit(
    totals: list[int], memory: int, count: int, overhead: int
) -> None:
    """With devices of other sizes it can: each model's context on a small one may fill that."""
    models = given_models(*totals)
    limits = [
        vram_plan(models, [memory] * devices, overhead_mib=overhead, margin_mib=0)["models_max"]
        for devices in (count, count + 1)
    ]
    assert 1 <= limits[0] <= limits[1]


@pytest.mark.parametrize(
    ("used", "warned"),
    [
        (None, False),
        (0, False),
        (1000 + 2 * 3000, False),  # what is reserved, and two of the three models, which are all that may be loaded
        (1000 + 2 * 3000 + 1, True),
    ],
)
def test_memory_in_use_warns_and_changes_no_plan(used: int | None, warned: bool) -> None:
    models = [{"name": name, "vram_mib": 3000} for name in ("a", "b", "c")]
    keywords = {"overhead_mib": 0, "margin_mib": 0, "reserved_mib": 1000}
    plan = vram_plan(models, [{"name": "CUDA0", "memory_total_mib": 8000, "memory_used_mib": used}], **keywords)
    warnings = [text for text in plan.pop("warnings") if "in use" in text]
    assert plan == {key: value for key, value in vram_plan(models, [8000], **keywords).items() if key != "warnings"}
    assert [("CUDA0" in text, "1 MiB more in use" in text) for text in warnings] == [(True, True)] * warned
