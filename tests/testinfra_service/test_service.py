# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each strategy on the running router, one after the other, and its keys. The tests stand in the order of one story."""

from __future__ import annotations

import time
from typing import Any

import pytest
from conftest import KEYS, Service, Site

KEEPER = "llama-router-keeper.service"
VAULT = ["a-key-of-the-vault-0123456789", "another-one-of-the-vault-012345"]
ALPHA = {"name": "alpha", "source": {"path": "/srv/models/alpha-Q4_K_M.gguf"}}
BETA = {"name": "beta", "source": {"path": "/srv/models/beta-Q8_0.gguf"}}
GAMMA = {"name": "gamma", "source": {"path": "/srv/models/gamma.gguf"}}

# An answer without end.
STREAM = """
import json, sys, urllib.request
key = open(sys.argv[1]).readline().strip()
body = {"model": "beta", "prompt": "once", "max_tokens": 10**6, "ignore_eos": True, "stream": True}
request = urllib.request.Request("http://127.0.0.1:8012/v1/completions", json.dumps(body).encode(),
                                 {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
for line in urllib.request.urlopen(request, timeout=600):
    pass
"""

# Every key that there ever was, and all that the plays said.
seen_keys: set[str] = set(VAULT)
said: list[str] = []


def test_lru_evicts_who_was_used_the_longest_ago(host: Any, service: Service) -> None:
    seen_keys.update(service.keys())
    service.use("alpha", "beta", "alpha", "gamma")
    service.settle(alpha="loaded", gamma="loaded")
    assert host.run(f"systemctl cat {KEEPER}").rc != 0


def test_keys_are_roots_and_the_service_has_a_copy_in_memory(host: Any, service: Service) -> None:
    assert host.check_output(f"stat --format '%U %G %a' {KEYS}") == "root root 400"
    copy = "/run/credentials/llama-router.service/api-keys"
    pid = host.check_output("systemctl show llama-router --property MainPID --value")
    assert copy in host.check_output(f"cat /proc/{pid}/cmdline")
    assert host.check_output(f"runuser -u llama-router -- cat {copy}").splitlines() == service.keys()
    assert host.check_output(f"stat --file-system --format %T {copy}") in ("tmpfs", "ramfs")
    assert host.run(f"runuser -u nobody -- cat {copy}").rc != 0


def test_switched_to_idle_with_one_that_is_to_stay(host: Any, service: Service, site: Site) -> None:
    """Also the keys of a vault in place of the generated one, in the same run."""
    service.use("beta")
    times = {"sleep_idle": 2, "unload_idle": 10}
    variables = {f"llama_router_{name}_seconds": seconds for name, seconds in times.items()}
    output = site(
        "-vvv",
        "--diff",
        llama_router_strategy=["idle"],
        llama_router_pinned_patience=4,
        llama_router_api_keys=VAULT,
        llamacpp_models=[{**ALPHA, "pinned": True}, BETA, GAMMA],
        **variables,
    )
    said.append(output)
    told = "strategy: idle, so a request loads a model, they sleep after 2 s, unused ones are unloaded after 10 s"
    assert told in " ".join(output.split())
    assert service.keys() == VAULT
    assert host.check_output(f"systemctl is-active {KEEPER}") == "active"
    security = host.check_output(f"systemd-analyze security --no-pager {KEEPER}")
    assert float(security.split("Overall exposure level")[1].split()[2]) <= 1.2
    assert service.statuses()["alpha"] in ("loading", "loaded"), "it is loaded at the start"


def test_idle_lets_models_sleep_and_then_unloads_them_but_not_who_is_to_stay(service: Service) -> None:
    service.use("beta")
    service.settle(alpha="loaded", beta="sleeping")
    stays = service.process("alpha")
    service.settle(alpha="loaded")
    assert service.process("beta") == "", "its process is gone, and with it a CUDA context"
    assert service.process("alpha") == stays


def test_who_is_to_stay_comes_back_after_it_was_evicted(host: Any, service: Service) -> None:
    service.use("beta", "gamma")
    service.settle(alpha="loaded")
    journal = f"journalctl --sync; journalctl --unit {KEEPER} --output cat --no-pager"
    deadline = time.monotonic() + 120
    # The keeper says so once it has seen what the router did.
    while "alpha is loaded again: it is to stay, and did not run" not in (log := host.check_output(journal)):
        assert time.monotonic() < deadline, log
        time.sleep(0.2)
    assert "alpha is unloaded" not in log


def test_what_is_busy_is_never_unloaded(host: Any, service: Service) -> None:
    host.check_output(f"systemd-run --quiet --collect --unit stream python3 -c %s {KEYS}", STREAM)
    try:
        service.settle(alpha="loaded", beta="loaded")
        time.sleep(13)  # longer than an idle model stays
        assert service.statuses()["beta"] == "loaded"
        assert host.check_output("systemctl is-active stream") == "active"
    finally:
        host.run("systemctl stop stream")


def test_rotated_under_load(host: Any, service: Service, site: Site) -> None:
    """From the vault's keys to one that is made, before theirs, and back to `lru`: who holds either key is served."""
    service.use("beta")
    with service.clients(VAULT[0], "beta") as clients:
        said.append(site("-vvv", "--diff", llama_router_rotate_key="begin"))
        fresh = service.keys()[0]
        seen_keys.update(service.keys())
        assert service.keys() == [fresh, *VAULT]
        with service.clients(fresh, "beta") as others:
            # Answered or lost: each gives up after a while.
            while {asked.kind for asked in others.asked} != {"short", "long"}:
                time.sleep(0.1)
    assert (clients.lost, others.lost) == ([], [])
    assert len(clients.asked) > 20
    assert host.run(f"systemctl cat {KEEPER}").rc != 0


def test_switched_to_manual_without_the_old_keys_and_without_credentials(
    host: Any, service: Service, site: Site
) -> None:
    """Without credentials the service reads its key file itself."""
    kept, *old = service.keys()
    service.use("alpha", "beta")
    variables = {"llama_router_rotate_key": "finish", "llama_router_credentials": False}
    said.append(site("-vvv", "--diff", llama_router_strategy=["manual"], **variables))
    assert service.keys() == [kept]
    assert host.check_output(f"stat --format '%U %G %a' {KEYS}") == "llama-router root 400"
    assert service.clients(kept, "").models() == ""
    assert [service.clients(key, "").models()[:3] for key in old] == ["401", "401"]
    service.settle(alpha="loaded", beta="loaded")


def test_manual_loads_nothing_by_itself(service: Service) -> None:
    status, answer = service.chat("gamma")
    assert (status, answer["error"]["message"]) == (400, "model is not loaded")
    service.settle(alpha="loaded", beta="loaded")
    for name, verb in (("alpha", "unload"), ("beta", "unload"), ("gamma", "load")):
        assert service.ask("POST", f"/models/{verb}", {"model": name})[0] == 200
    service.settle(gamma="loaded")
    service.use("gamma")


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"llama_router_strategy": ["lru", "manual"]},
            "With lru a request for a model loads it, with manual it does not",
        ),
        ({"llama_router_strategy": "idle", "llama_router_metrics": False}, "turn them on, or do without both"),
        ({"llama_router_api_keys": VAULT, "llama_router_rotate_key": "begin"}, "put the new one first, run"),
    ],
)
def test_what_does_not_go_together_is_refused(site: Site, variables: dict[str, Any], told: str) -> None:
    assert told in " ".join(site(fails=True, **variables).split())


def test_no_key_was_ever_seen(host: Any) -> None:
    """Not in an argument list, an environment, a unit, a preset, the plan, the journal, or what the plays showed."""
    assert len(seen_keys) == 4
    for key in seen_keys:
        assert not any(key in output for output in said)
    assert all("llama_router_api_keys" in output or "router_keys" in output for output in said)
    places = [
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ",
        "cat /etc/systemd/system/*.service /run/systemd/transient/*.service",
        "cat /etc/llama-router/*.ini /etc/llama-router/*.json",
        "journalctl --no-pager --all",
        "cat /var/log/*",
    ]
    # The keys themselves go by a file, so that the search does not find itself.
    host.check_output("umask 077; printf %s %s >/run/keys", "%s", "\n".join(seen_keys))
    search = (
        f"{{ {'; '.join(places)}; }} 2>/dev/null | grep --text --count --fixed-strings --file /run/keys; rm /run/keys"
    )
    assert host.check_output(f"{search} || true") == "0"
