# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models come, change and go on a router that answers meanwhile; what cannot be is refused before anything is done."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import MODELS_DIR, on_node, play

EYES = {
    "name": "eyes",
    "source": {"repo": "homelab/eyes-GGUF", "quant": "Q8_0"},
    "projector": {"file": "mmproj-F16.gguf"},
    "options": {"ctx-size": 512},
}
# Asks for more than it will ever get, and notes each piece that comes.
STREAM = """
import json, urllib.request
key = open("/etc/llama-router/api-keys").readline().strip()
body = {"model": "tiny", "prompt": "once", "max_tokens": 10**9, "ignore_eos": True, "stream": True}
request = urllib.request.Request("http://127.0.0.1:8012/v1/completions", json.dumps(body).encode(),
                                 {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
for line in urllib.request.urlopen(request, timeout=600):
    print("piece", flush=True)
"""
Models = list[dict[str, Any]]


def process(host: Any, model: str) -> str:
    """Of a model that runs; the bracket keeps the shell that asks from finding itself."""
    found: str = host.check_output(f"pgrep --full '[a]lias {model} '")
    return found


def another_piece(host: Any) -> None:
    """Wait until the stream goes on: one more than there are now."""
    pieces = "cat /run/stream 2>/dev/null | wc -l"
    host.check_output(
        f"now=$({pieces}); while [ $({pieces}) = $now ]; do systemctl --quiet is-active stream || exit; sleep 0.1; done"
    )


def test_what_was_fetched_is_what_the_hub_has(host: Any) -> None:
    there = on_node("cd /srv/hub/homelab && sha256sum tiny-GGUF/tiny-Q8_0.gguf split-GGUF/Q4_K_M/*")
    here = host.check_output(f"cd {MODELS_DIR} && sha256sum tiny.gguf split/*")
    assert sorted(line[:64] for line in here.splitlines()) == sorted(line[:64] for line in there.splitlines())


def test_files_are_roots_and_for_all_to_read(host: Any) -> None:
    """As the guest sees it: root in here is another user on the node."""
    assert host.check_output(f"cd {MODELS_DIR} && stat --format '%U %G %a' . split tiny.gguf split/*").splitlines() == [
        *["root root 755"] * 2,
        *["root root 644"] * 4,
    ]
    assert host.check_output(f"runuser -u llama-router -- head -c 4 {MODELS_DIR}/tiny.gguf") == "GGUF"


def test_they_answer_by_every_name(router: Any) -> None:
    assert sorted(router.statuses()) == ["split", "tiny"]
    for name in ("tiny", "small", "split"):
        assert router.chat(name)[0] == 200


def test_the_plan_refuses_before_anything_is_fetched(host: Any, listed: Models) -> None:
    huge = {"name": "huge", "source": {"repo": "homelab/huge-GGUF", "quant": "Q4_K_M"}, "options": {"ctx-size": 4096}}
    done = play("models", [*listed, huge])
    assert done.failed
    assert done.said("the model 'huge' does not fit alone"), done.output
    assert "The models directory" not in done.output.split("PLAY RECAP")[0].rpartition("TASK")[2]
    assert host.check_output(f"ls -A {MODELS_DIR} | grep -c huge || true") == "0"


def test_check_mode_says_what_would_be(host: Any, listed: Models) -> None:
    before = host.check_output(f"ls -lA --time-style=full-iso {MODELS_DIR}")
    done = play("models", [*listed, EYES], "--check", "--diff")
    assert not done.failed, done.output
    assert done.changed
    assert done.said("eyes: to be fetched", "any 3 of them fit"), done.output
    assert host.check_output(f"ls -lA --time-style=full-iso {MODELS_DIR}") == before


def test_models_come_and_go_while_another_answers(host: Any, router: Any, listed: Models) -> None:
    """One request streams from before the first playbook until after the last, from the same process."""
    assert router.chat("tiny")[0] == 200
    before = process(host, "tiny")
    unit = "systemd-run --quiet --collect --unit stream --property StandardOutput=truncate:/run/stream"
    host.check_output(f"{unit} python3 -c %s", STREAM)
    another_piece(host)

    added = play("models", [*listed, EYES])
    assert not added.failed, added.output
    assert added.said("eyes: to be fetched", "a higher one would restart the router"), added.output
    assert sorted(router.statuses()) == ["eyes", "split", "tiny"]
    assert "mmproj-F16.gguf" in host.check_output(f"ls {MODELS_DIR}/eyes")

    removed = play("models", [*listed, {"name": "eyes", "state": "absent"}])
    assert not removed.failed, removed.output
    assert removed.said("eyes: to be removed"), removed.output
    assert sorted(router.statuses()) == ["split", "tiny"]
    assert "eyes" not in host.check_output(f"ls -A {MODELS_DIR}")

    another_piece(host)
    host.run("systemctl stop stream")
    assert process(host, "tiny") == before


@pytest.mark.usefixtures("as_it_was")
def test_an_update_is_taken_up_by_the_running_model(host: Any, router: Any, listed: Models) -> None:
    assert router.chat("tiny")[0] == 200
    assert router.chat("split")[0] == 200
    before = {name: process(host, name) for name in ("tiny", "split")}
    files = "tiny-Q8_0.gguf tiny-Q4_K_M.gguf"
    on_node(f"cd /srv/hub/homelab/tiny-GGUF && set {files} && mv $1 old && mv $2 $1 && mv old $2")
    done = play("models", listed, llama_models_refresh=True)
    assert not done.failed, done.output
    assert router.loaded() == ["split", "tiny"]
    after = {name: process(host, name) for name in ("tiny", "split")}
    assert after["tiny"] != before["tiny"]
    assert after["split"] == before["split"]
    assert router.chat("small")[0] == 200


@pytest.mark.usefixtures("as_it_was")
def test_what_is_there_already_is_adopted_by_links(host: Any, router: Any, listed: Models) -> None:
    """A folder of an operator's, and a store as Ollama keeps it."""
    store = "/srv/ollama/models"
    sum_ = host.check_output(f"sha256sum {MODELS_DIR}/tiny.gguf")[:64]
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{sum_}"}
    host.check_output(f"mkdir -p /srv/old/deep {store}/blobs {store}/manifests/registry.ollama.ai/library/llama")
    host.check_output(f"cp {MODELS_DIR}/tiny.gguf /srv/old/deep/Old-One.gguf")
    host.check_output(f"cp {MODELS_DIR}/tiny.gguf {store}/blobs/sha256-{sum_}")
    manifest = f"{store}/manifests/registry.ollama.ai/library/llama/1b"
    host.check_output("printf %s %s >%s", "%s", json.dumps({"schemaVersion": 2, "layers": [layer]}), manifest)
    adopted = [{"name": name, "options": {"ctx-size": 512}} for name in ("Old-One", "llama-1b")]
    collections = ["/srv/old", store]
    done = play("models", [*listed, *adopted], llama_models_adopt=collections)
    assert not done.failed, done.output
    assert not play("models", [*listed, *adopted], llama_models_adopt=collections).changed
    links = host.check_output(f"readlink {MODELS_DIR}/Old-One.gguf {MODELS_DIR}/llama-1b.gguf").splitlines()
    assert links == ["/srv/old/deep/Old-One.gguf", f"{store}/blobs/sha256-{sum_}"]
    for name in ("Old-One", "llama-1b"):
        assert router.chat(name)[0] == 200


def test_what_the_inventory_does_not_name_is_told_by_name(host: Any, listed: Models) -> None:
    host.check_output(f"cp {MODELS_DIR}/tiny.gguf {MODELS_DIR}/stray.gguf")
    done = play("models", listed)
    host.check_output(f"rm {MODELS_DIR}/stray.gguf")
    assert done.failed
    assert done.said("holds stray, which the inventory does not name"), done.output


def test_a_folder_that_the_service_cannot_read_is_found_before_it_stops_the_router(
    host: Any, router: Any, listed: Models
) -> None:
    host.check_output(f"mkdir --mode 0700 {MODELS_DIR}/lost+found")
    done = play("models", listed)
    host.check_output(f"rmdir {MODELS_DIR}/lost+found")
    assert done.failed
    assert done.said("the folder lost+found cannot be read", "the router does not start"), done.output
    assert router.chat("tiny")[0] == 200


def test_a_link_into_a_home_is_refused(listed: Models) -> None:
    done = play("models", [*listed, {"name": "mine", "source": {"path": "/root/mine.gguf"}}])
    assert done.failed
    assert done.said("mine: the router's unit hides /home, /root and /run/user"), done.output
