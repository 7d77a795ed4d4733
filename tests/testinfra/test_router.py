# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What site.yml left in the guest, looked at from inside: not with the modules that made it."""

from __future__ import annotations

import json
import time
from typing import Any

from conftest import KEYS, URL, Router

UNIT = "llama-router.service"
MODELS = ["SmolLM2-135M-Instruct", "tiny-single", "tiny-split"]


def test_unit_runs_and_starts_with_the_guest(host: Any) -> None:
    service = host.service(UNIT)
    assert service.is_running
    assert service.is_enabled


def test_service_has_its_own_user(host: Any) -> None:
    pid = host.check_output("systemctl show %s --property MainPID --value", UNIT)
    assert host.check_output("ps -o user:20= -p %s", pid).strip() == "llama-router"


def test_key_file_is_roots_alone(host: Any) -> None:
    """The service gets a copy from systemd."""
    keys = host.file(KEYS)
    assert (keys.user, keys.mode) == ("root", 0o400)
    assert len(keys.content_string.strip()) >= 16


def test_key_is_nowhere_else(host: Any) -> None:
    """Not in an argument list, an environment, a unit, a preset or the journal."""
    places = [
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ",
        "cat /etc/systemd/system/*.service /etc/llama-router/models.ini",
        "journalctl --no-pager",
    ]
    search = f"{{ {'; '.join(places)}; }} 2>/dev/null | grep --text --count --fixed-strings --file {KEYS} || true"
    assert host.check_output(search) == "0"


def test_a_call_without_the_key_is_refused(host: Any) -> None:
    assert "401" in host.run(f"python3 -c \"import urllib.request as u; u.urlopen('{URL}/v1/models')\"").stderr


def test_it_is_a_router_at_the_planned_limit(router: Router) -> None:
    status, props = router.ask("GET", "/props")
    assert (status, props["role"], props["max_instances"]) == (200, "router", 2)


def test_plan_is_there_for_others_to_read(host: Any) -> None:
    plan = host.file("/etc/llama-router/plan.json")
    assert plan.mode == 0o644
    planned = json.loads(plan.content_string)
    assert planned["models_max"] == 2
    assert {model["name"]: model["exactness"] for model in planned["models"]} == dict.fromkeys(MODELS, "exact")


def test_ids_are_the_inventorys(router: Router) -> None:
    assert sorted(router.statuses()) == MODELS


def test_a_model_answers_in_english(router: Router) -> None:
    status, answer = router.chat("SmolLM2-135M-Instruct", tokens=40)
    assert status == 200
    words = answer["choices"][0]["message"]["content"].lower().replace(",", " ").replace(".", " ").split()
    assert len({"hello", "i'm", "i", "a", "to", "and", "you", "the", "am"} & set(words)) >= 3, words


def test_an_alias_answers(router: Router) -> None:
    assert router.chat("tiny")[0] == 200


def test_a_third_model_evicts_the_least_recently_used(router: Router) -> None:
    for model in MODELS:
        assert router.chat(model)[0] == 200
    assert router.statuses() == {"SmolLM2-135M-Instruct": "unloaded", "tiny-single": "loaded", "tiny-split": "loaded"}


def test_models_lie_on_both_stand_ins_for_gpus(host: Any, router: Router) -> None:
    """Each card's process for a loaded model holds some of it; without the cards all of it would be on the CPU."""
    assert router.chat("SmolLM2-135M-Instruct")[0] == 200
    # The card's process for a model that was evicted ends a moment after it.
    here = "for pid in $(pgrep ggml-rpc-server); do grep VmData /proc/$pid/status || true; done 2>/dev/null"
    deadline = time.monotonic() + 120
    while len(cards := host.check_output(here).splitlines()) != 2 * 2:
        assert time.monotonic() < deadline, f"wanted two models on two cards, found {cards}"
        time.sleep(0.2)
    held = [int(line.split()[1]) // 1024 for line in cards]
    assert min(held) >= 20, held


def test_a_model_was_looked_at_since_the_start(host: Any) -> None:
    """The play's own proof; the test above is another one, by the memory of the cards."""
    proof = host.file("/run/homelab-llamacpp/llama-router.service.offloaded")
    assert (proof.exists, proof.user) == (True, "root")


def test_nothing_delays_the_next_start(host: Any) -> None:
    """Debian enables at a guest's first start what waits for a network that systemd-networkd does not configure."""
    assert host.file("/etc/systemd/system-preset/00-pve.preset").contains("disable systemd-networkd.service")
    assert host.run("systemctl is-enabled systemd-networkd-wait-online").stdout.strip() == "disabled"


def test_models_have_a_volume_of_their_own(host: Any) -> None:
    """Which backups leave out, and which the router's files are on."""
    assert host.check_output("stat --format %m /var/lib/llama-router/models") == "/var/lib/llama-router"
