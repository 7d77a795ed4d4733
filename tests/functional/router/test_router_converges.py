# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""router_service with a double of systemd that runs the real llama-server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _router_files
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import Router
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Unit
from router_host import UNIT, Host
from router_server import LLAMA_SERVER, free_port, wait_until


class Killed(BaseException):
    """Stands for the end of a run that nothing can catch."""


def test_from_nothing(host: Host) -> None:
    host.unit.rename(host.folder / "later")
    host.keys.rename(host.folder / "later-keys")
    seen = host.converge(check=True)  # as in a check mode run of everything on a bare guest
    assert (seen["changed"], seen["action"]) == (True, "start")
    refused = host.converge(api_key_file=None)
    assert "systemd says not-found" in refused["msg"]
    (host.folder / "later").rename(host.unit)
    (host.folder / "later-keys").rename(host.keys)

    done = host.converge()
    assert (done["changed"], done["action"], done["loaded"]) == (True, "start", [])
    assert host.status() == dict.fromkeys(("alpha", "beta", "gamma"), "unloaded")


def test_nothing_to_do_is_one_look(host: Host) -> None:
    host.converge()
    host.load("alpha")
    pid = host.pid()
    host.calls()
    for check in (True, False):
        done = host.converge(check=check)
        assert (done["changed"], done["action"], done["changed_files"]) == (False, "none", [])
        assert host.calls() == ["show"]
    assert (host.pid(), host.loaded()) == (pid, ["alpha"])
    assert not host.pending.exists()


def test_other_presets_are_a_reload(host: Host) -> None:
    host.converge()
    host.load("alpha", "beta")
    host.write_presets(alpha={"ctx_size": "128"}, beta={}, delta={})
    pid = host.pid()
    seen = host.converge(check=True)
    assert (seen["changed"], seen["action"], seen["changed_files"]) == (True, "reload", [str(host.presets)])
    assert set(host.status()) == {"alpha", "beta", "gamma"}

    done = host.converge()
    assert (done["action"], done["changed_files"]) == ("reload", [str(host.presets)])
    assert done["stopped"] == ["alpha"]
    assert done["loaded"] == ["alpha", "beta"]
    assert host.status() == {"alpha": "loaded", "beta": "loaded", "delta": "unloaded"}
    assert host.pid() == pid
    assert not host.pending.exists()
    assert not host.converge()["changed"]


def test_a_model_that_is_gone_is_said(host: Host) -> None:
    host.converge()
    host.load("alpha", "beta")
    host.write_presets(beta={})
    done = host.converge()
    assert (done["stopped"], done["loaded"]) == (["alpha"], ["beta"])
    assert done["warnings"] == ["alpha ran before, the router does not know it any more"]
    assert not host.converge()["changed"]


def test_a_new_alias_of_a_running_model(host: Host) -> None:
    host.converge()
    host.load("alpha", "beta")
    host.write_presets(alpha={"alias": "one, eins"}, beta={}, gamma={})
    done = host.converge()
    assert (done["action"], done["stopped"], done["loaded"]) == ("reload", ["alpha"], ["alpha", "beta"])
    assert sorted(host.client.models()[0].aliases) == ["eins", "one"]
    assert host.loaded() == ["alpha", "beta"]
    assert not host.converge()["changed"]


def test_presets_that_the_router_refuses(host: Host) -> None:
    host.converge()
    host.load("alpha")
    host.presets.write_text("[alpha]\nfrob = 1\n")
    for _time in range(2):
        done = host.converge()
        assert done["failed"]
        assert not done["changed"]
        assert "option 'frob' not recognized" in done["msg"]
        assert host.loaded() == ["alpha"]
        assert not host.pending.exists()
    host.write_presets(alpha={}, beta={}, gamma={})
    assert not host.converge()["changed"]


def test_another_file_in_the_models_folder(host: Host) -> None:
    host.converge()
    host.load("alpha")
    shutil.copy(host.models / "beta.gguf", host.folder_of_models / "new.gguf")
    for name in ("mmproj-new.gguf", "mtp-new.gguf", "new.GGUF", "new.gguf.part"):
        shutil.copy(host.models / "broken.gguf", host.folder_of_models / name)
    seen = host.converge(check=True)
    assert (seen["action"], seen["changed_files"]) == ("reload", [str(host.folder_of_models)])
    done = host.converge()
    assert (done["changed"], done["action"], done["stopped"]) == (True, "reload", [])
    assert set(host.status()) == {"alpha", "beta", "gamma", "new"}
    assert not host.converge()["changed"]

    folder = host.folder_of_models / "shards"
    folder.mkdir()
    (host.folder_of_models / "new.gguf").rename(folder / "new-00001-of-00002.gguf")
    (host.folder_of_models / "dangling.gguf").symlink_to("nowhere.gguf")
    assert host.converge()["changed"]
    assert set(host.status()) == {"alpha", "beta", "gamma", "shards"}
    assert not host.converge()["changed"]


def test_a_model_that_was_replaced_while_it_runs(host: Host) -> None:
    """Also when the run that placed it ended right after: nothing but the record and the process's age tells it."""
    folder = str(host.folder_of_models)

    def place(source: str) -> dict[str, Any]:
        model = {"name": "theirs", "source": {"path": str(host.models / f"{source}.gguf"), "method": "copy"}}
        return host.call("model_file", models_dir=folder, models=[model])

    def process() -> tuple[int, dict[str, Any]]:
        theirs = next(model for model in host.client.models() if model.id == "theirs")
        return theirs.port, dict(theirs.meta)

    assert place("beta")["changed"]
    host.converge(placed_in=folder)
    host.load("alpha", "theirs")
    assert not place("beta")["changed"]
    assert not host.converge(placed_in=folder)["changed"]
    others = next(model.port for model in host.client.models() if model.id == "alpha")
    before = process()

    assert place("broken-not")["failed"]
    assert not host.converge(placed_in=folder)["changed"]
    assert place("slow")["changed"]
    seen = host.converge(check=True, placed_in=folder)
    assert (seen["action"], seen["changed_files"], seen["stopped"]) == ("reload", [folder], ["theirs"])
    assert process() == before
    done = host.converge(placed_in=folder)
    assert (done["action"], done["stopped"]) == ("reload", ["theirs"])
    assert set(done["loaded"]) == {"alpha", "theirs"}
    assert process()[0] != before[0]
    assert process()[1] != before[1]
    assert next(model.port for model in host.client.models() if model.id == "alpha") == others
    assert not host.converge(placed_in=folder)["changed"]
    assert not host.pending.exists()


def test_another_unit_is_a_restart(host: Host) -> None:
    host.converge()
    host.load("beta", "alpha")
    host.write_unit(limit=3)
    pid = host.pid()
    seen = host.converge(check=True)
    assert (seen["action"], seen["changed_files"], seen["stopped"]) == ("restart", [str(host.unit)], ["alpha", "beta"])
    assert (host.pid(), host.loaded()) == (pid, ["alpha", "beta"])
    host.calls()
    done = host.converge()
    assert (done["action"], done["stopped"], done["loaded"]) == ("restart", ["alpha", "beta"], ["alpha", "beta"])
    assert host.calls()[:4] == ["show", "daemon-reload", "reset-failed", "restart"]
    assert host.client.props()["max_instances"] == 3
    assert host.loaded() == ["alpha", "beta"]
    assert host.pid() != pid
    assert not host.converge()["changed"]


def test_another_port(host: Host) -> None:
    """The old one is held while the router restarts, and it comes up on the new one."""
    host.converge()
    host.load("alpha")
    host.port = free_port()
    host.write_unit()
    done = host.converge()
    assert (done["action"], done["loaded"], done["warnings"]) == ("restart", ["alpha"], [])
    assert host.converge()["action"] == "none"


def test_a_lower_limit(host: Host) -> None:
    host.converge()
    host.load("alpha", "beta")
    host.write_unit(limit=1)
    done = host.converge()
    assert (done["stopped"], done["loaded"]) == (["alpha", "beta"], ["alpha"])
    assert done["warnings"] == ["beta ran before, there is no room within the limit of 1"]
    assert not host.converge()["changed"]


def test_what_loads_at_start_keeps_its_slot(host: Host) -> None:
    host.converge()
    host.load("alpha", "beta")
    host.write_presets(alpha={}, beta={}, gamma={"load_on_startup": "true"})
    host.write_unit(extra="# changed\n")
    done = host.converge()
    assert (done["action"], done["loaded"]) == ("restart", ["alpha"])
    assert done["warnings"] == ["beta ran before, there is no room within the limit of 2"]
    wait_until(lambda: host.loaded() == ["alpha", "gamma"])


def test_another_key(host: Host) -> None:
    """The router that runs knows only the old key, and what it runs is loaded again all the same."""
    host.converge()
    host.load("alpha", "gamma")
    host.keys.write_text("test-key-2\n")
    assert host.converge(check=True)["stopped"] == ["alpha", "gamma"]
    done = host.converge()
    assert (done["action"], done["changed_files"]) == ("restart", [str(host.keys)])
    assert done["loaded"] == ["alpha", "gamma"] == host.loaded()
    assert not host.converge()["changed"]


def test_restarted_on_demand(host: Host) -> None:
    host.converge()
    host.load("alpha")
    pid = host.pid()
    done = host.converge(state="restarted")
    assert (done["changed"], done["action"], done["loaded"]) == (True, "restart", ["alpha"])
    assert host.pid() != pid


def test_a_crash_and_a_reboot_in_between(host: Host) -> None:
    host.converge()
    os.kill(host.pid(), signal.SIGKILL)
    wait_until(lambda: host.pid() == 0)  # systemd knows of it
    done = host.converge()  # the pause of 30 s between two tries is not sat out
    assert done["action"] == "start"
    assert not host.converge()["changed"]
    subprocess.run(["systemctl", "stop", UNIT], check=True)
    assert host.converge()["action"] == "start"
    assert not host.converge()["changed"]


def test_a_record_that_is_gone(host: Host) -> None:
    host.converge()
    host.load("alpha")
    host.applied.unlink()
    done = host.converge()
    assert (done["action"], done["changed_files"], done["loaded"]) == ("restart", [str(host.applied)], ["alpha"])
    assert not host.converge()["changed"]


def test_a_unit_that_does_not_record_everything(host: Host) -> None:
    done = host.converge(watch=[str(host.unit), str(host.keys), __file__])
    assert done["failed"]
    assert f"there is no line for {__file__}" in done["msg"]


def test_a_router_that_does_not_come_up(host: Host) -> None:
    host.converge()
    host.load("alpha", "beta")
    host.presets.write_text("[alpha\n")
    host.write_unit(extra="# changed\n")
    done = host.converge()
    assert done["failed"]
    assert done["changed"]
    assert "(activating, auto-restart)" in done["msg"]
    assert "failed to initialize router models" in done["msg"]
    assert "correct the presets" in done["msg"]
    assert json.loads(host.pending.read_text()) == ["alpha", "beta"]

    host.write_presets(alpha={}, beta={}, gamma={})
    done = host.converge()
    assert (done["action"], done["loaded"]) == ("start", ["alpha", "beta"])
    assert host.loaded() == ["alpha", "beta"]
    assert not host.converge()["changed"]


def test_a_unit_that_was_started_too_often(host: Host) -> None:
    host.presets.write_text("[alpha\n")
    for _time in range(6):
        assert "failed to initialize router models" in host.converge()["msg"]
    host.write_presets(alpha={}, beta={}, gamma={})
    assert host.converge()["action"] == "start"


def test_a_start_command_that_fails(host: Host) -> None:
    host.keys.rename(host.folder / "later")
    done = host.converge(api_key_file=None)
    assert done["failed"]
    assert "failed because the control process exited with error code" in done["msg"]
    assert "sha256sum: " in done["msg"]
    (host.folder / "later").rename(host.keys)
    assert host.converge()["action"] == "start"


def test_a_port_that_another_process_has(host: Host) -> None:
    with subprocess.Popen([str(LLAMA_SERVER), "--host", "127.0.0.1", "--port", str(host.port)]) as squatter:
        try:
            wait_until(host.client.healthy)
            done = host.converge()
        finally:
            squatter.terminate()
    assert done["failed"]
    assert not done["changed"]
    assert "another process has its port" in done["msg"]
    assert host.converge()["action"] == "start"


@pytest.mark.parametrize("moment", ["pending written", "reloaded", "restarted", "loaded one"])
@pytest.mark.parametrize("what", ["presets", "unit"])
def test_killed_at_any_moment(host: Host, monkeypatch: pytest.MonkeyPatch, moment: str, what: str) -> None:
    host.converge()
    host.load("alpha", "beta")
    if what == "presets":
        host.write_presets(alpha={"ctx_size": "128"}, beta={"ctx_size": "128"}, gamma={})
    else:
        host.write_unit(limit=3)

    def dies_after(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            function(*args, **kwargs)
            raise Killed

        return run

    place, name = {
        "pending written": (_router_files, "write_pending"),
        "reloaded": (Router, "reload"),
        "restarted": (Unit, "restart"),
        "loaded one": (Router, "load"),
    }[moment]
    passed = (moment, what) in (("reloaded", "unit"), ("restarted", "presets"))
    with monkeypatch.context() as patch:
        patch.setattr(place, name, dies_after(getattr(place, name)))
        if passed:
            host.converge()
        else:
            with pytest.raises(Killed):
                host.converge()
    done = host.converge()
    assert done["changed"] is not passed
    wait_until(lambda: host.loaded() == ["alpha", "beta"])
    assert host.client.props()["max_instances"] == (2 if what == "presets" else 3)
    assert host.client.models()[0].options.get("ctx-size") == ("128" if what == "presets" else None)
    assert not host.converge()["changed"]
    assert not host.pending.exists()


def test_a_model_that_fails_to_load_again(host: Host) -> None:
    host.converge()
    host.load("alpha", "beta")
    host.write_presets(alpha={"threads": "lots"}, beta={"ctx_size": "128"}, gamma={})  # accepted, until it loads
    for _time in range(2):
        done = host.converge()
        assert done["failed"]
        assert "alpha was wanted loaded, its process ended with exit code 1" in done["msg"]
        assert "lots" in done["msg"] or "stoi" in done["msg"]
        assert host.loaded() == ["beta"]
    host.write_presets(alpha={}, beta={"ctx_size": "128"}, gamma={})
    assert host.converge()["loaded"] == ["alpha", "beta"]
    assert not host.converge()["changed"]
