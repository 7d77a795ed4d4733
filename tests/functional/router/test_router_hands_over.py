# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router handed over from one release to another and back, with the real llama-server and clients that notice."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _port_hold, _router_quiet
from ansible_collections.homelab.llamacpp.plugins.module_utils._llama_releases import LOCK
from router_host import UNIT, Host
from router_server import ENDLESS, LLAMA_SERVER, TESTS, wait_until

sys.path[:0] = [str(TESTS), str(TESTS / "update")]

from load import KeptAlive, Load
from make_releases import KINDS, script

TRIAL = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.homelab.llamacpp.plugins.module_utils import _unit_twin
from ansible_collections.homelab.llamacpp.plugins.modules import router_trial
given = json.load(sys.stdin)
for name, folder in given.pop("places").items():
    setattr(_unit_twin, name, folder)
with patch_module_args(given):
    router_trial.main()
"""


class Guest:
    """A router that serves with release `first`; `second` and one for each way to be bad lie beside it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.root = host.folder / "root"
        (self.root / "releases").mkdir(parents=True)
        for name, kind in {"first": "good", "second": "good", **{kind: kind for kind in KINDS}}.items():
            self.add(name, kind)
        (self.root / "current").symlink_to("releases/first")
        self.stamp = self.root / "current" / "stamp.json"
        files = f"{host.presets} {host.unit} {host.keys} {self.stamp}"
        text = host.unit.read_text().replace(str(LLAMA_SERVER), str(self.root / "current/bin/llama-server"))
        host.unit.write_text(text.replace(f"{host.presets} {host.unit} {host.keys}", files))
        host.write_presets(**{name: {"threads": "1"} for name in ("alpha", "beta", "gamma")})
        assert host.converge(watch=self.watch)["changed"]

    def add(self, name: str, kind: str) -> None:
        server = self.root / "releases" / name / "bin" / "llama-server"
        server.parent.mkdir(parents=True)
        server.write_text(script(kind, 20001, str(LLAMA_SERVER)))
        server.chmod(0o755)
        (server.parent.parent / "stamp.json").write_text(f'{{"name": "{name}"}}\n')

    @property
    def watch(self) -> list[str]:
        return [str(self.host.unit), str(self.host.keys), str(self.stamp)]

    def hand_over(self, release: str | None = None, check: bool = False, **params: Any) -> dict[str, Any]:
        defaults = {
            "root": str(self.root),
            "presets": str(self.host.presets),
            "models_dir": str(self.host.folder_of_models),
            "watch": self.watch,
            "applied": str(self.host.applied),
            "pending": str(self.host.pending),
            "url": f"http://127.0.0.1:{self.host.port}",
            "api_key_file": str(self.host.keys),
            "timeout": 120,
            "load_timeout": 120,
            "quiet_timeout": 300,
            "finish_timeout": 300,
        }
        if release:
            defaults["release"] = release
        return self.host.call("router_handover", check=check, **{**defaults, **params})

    def trial(self, release: str, gate: str) -> dict[str, Any]:
        """The arguments of router_trial."""
        server = self.root / "releases" / release / "bin" / "llama-server"
        asks = {"url": f"http://127.0.0.1:{self.host.port}", "api_key_file": str(self.host.keys)}
        timeout = 3 if release == "silent" else 300
        return {
            "llama_server": str(server),
            "gate": gate,
            "timeout": timeout,
            "presets": str(self.host.presets),
            **asks,
        }

    def try_out(self, release: str, gate: str) -> dict[str, Any]:
        return self.host.call("router_trial", **self.trial(release, gate))

    def link(self, name: str) -> str | None:
        path = self.root / name
        return path.readlink().name if path.is_symlink() else None

    def kept_alive(self, interval: float) -> KeptAlive:
        return KeptAlive("127.0.0.1", self.host.port, "test-key-1", "alpha", interval=interval)

    def load(self) -> Load:
        return Load("127.0.0.1", self.host.port, "test-key-1", "alpha", tokens=20)


def kernel_switch() -> str:
    """What it is while nobody holds a port, other tests at the same time included."""
    with _files.locked(_port_hold.LOCK, 600, create_mode=0o755):
        return Path(_port_hold.MIGRATE).read_text()


@pytest.fixture
def guest(host: Host) -> Iterator[Guest]:
    before = kernel_switch()
    yield Guest(host)
    assert kernel_switch() == before


def test_nobody_notices(guest: Guest) -> None:
    guest.host.load("alpha", "beta")
    seen = guest.hand_over("second", check=True)
    assert (seen["changed"], seen["after"], guest.link("current")) == (True, "second", "first")
    with guest.load() as load:
        load.interval = 0.004  # often enough to come in the moment in which a new one listens and is not ready
        done = guest.hand_over("second")
    assert (done["changed"], done["before"], done["after"]) == (True, "first", "second")
    assert sorted(done["loaded"]) == ["alpha", "beta"]
    assert load.lost == []
    assert len(load.asked) > 5
    assert sorted(guest.host.loaded()) == ["alpha", "beta"]
    assert (guest.link("current"), guest.link("fallback")) == ("second", "first")
    assert done["paused_seconds"] > 0

    assert guest.hand_over(state="confirmed")["changed"]
    assert (guest.link("previous"), guest.link("fallback")) == ("first", None)
    pid = guest.host.pid()
    for again in ({"release": "second"}, {"state": "confirmed"}, {"state": "reverted"}):
        assert not guest.hand_over(**again)["changed"]
    assert guest.host.pid() == pid


@pytest.mark.parametrize("interval", [0.02, 0.2, 1])
def test_clients_that_keep_their_connections_lose_nothing(guest: Guest, interval: float) -> None:
    """A connection ends cleanly between two answers, and the next request goes over another one."""
    guest.host.load("alpha", "beta")
    with guest.kept_alive(interval) as load:
        wait_until(lambda: load.answered > load.clients)
        for release in ("second", "first", "second"):
            done = guest.hand_over(release)
            assert done["changed"], done
            assert done["warnings"] == []
            before = load.answered
            wait_until(lambda: load.answered > before + load.clients)  # noqa: B023 - used within this round
    assert load.lost == []
    assert load.closed > 0
    assert load.reset == 0


def test_a_long_answer_is_waited_for(guest: Guest) -> None:
    """No quiet moment is waited for: the router is told to stop only when it has finished."""
    guest.host.load("alpha")
    with guest.load() as load:
        load.tokens = 400
        wait_until(lambda: _router_quiet.busy(guest.host.pid()))
        done = guest.hand_over("second", quiet_timeout=0)
    assert load.lost == []
    assert done["warnings"] == []


@pytest.mark.parametrize("kind", ["exits", "service"])
def test_one_that_does_not_serve_is_taken_back_and_nothing_is_lost(guest: Guest, kind: str) -> None:
    guest.host.load("alpha", "beta")
    with guest.load() as load:
        failed = guest.hand_over(kind)
    assert f"{kind} was wanted to serve" in failed["msg"]
    assert "first serves again" in failed["msg"]
    assert load.lost == []
    assert (guest.link("current"), guest.link("fallback"), guest.link("previous")) == ("first", None, None)
    assert sorted(guest.host.loaded()) == ["alpha", "beta"]


def test_one_that_is_not_confirmed_is_taken_back(guest: Guest) -> None:
    guest.host.load("alpha")
    guest.hand_over("second")
    assert guest.hand_over(state="reverted", check=True)["after"] == "first"
    done = guest.hand_over(state="reverted")
    assert (done["changed"], done["after"], done["loaded"]) == (True, "first", ["alpha"])
    assert guest.link("fallback") is None


def test_a_run_that_ended_between_the_switch_and_the_restart_is_taken_back_without_one(guest: Guest) -> None:
    pid = guest.host.pid()
    (guest.root / "fallback").symlink_to("releases/first")
    (guest.root / "current").unlink()
    (guest.root / "current").symlink_to("releases/silent")
    assert guest.hand_over(state="reverted")["changed"]
    assert (guest.link("current"), guest.host.pid()) == ("first", pid)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_switch_that_was_cut_off_is_made_again_and_taken_back(guest: Guest, restarted: bool) -> None:
    """The release is current already, not confirmed, and does not serve; its process runs, or the former one's does."""
    (guest.root / "fallback").symlink_to("releases/first")
    (guest.root / "current").unlink()
    (guest.root / "current").symlink_to("releases/exits")
    if restarted:
        assert guest.host.converge(watch=guest.watch)["failed"]
    failed = guest.hand_over("exits")
    assert "first serves again" in failed["msg"]
    assert (guest.link("current"), guest.link("fallback")) == ("first", None)
    assert guest.host.status()["alpha"] == "unloaded"


def test_a_key_that_cannot_be_read_is_said_before_anything_is_changed(guest: Guest) -> None:
    pid = guest.host.pid()
    failed = guest.hand_over("second", api_key_file=str(guest.root / "none"))
    assert "there is no such file" in failed["msg"]
    assert (guest.link("current"), guest.link("fallback"), guest.host.pid()) == ("first", None, pid)


def test_a_release_that_is_not_there(guest: Guest) -> None:
    failed = guest.hand_over("third")
    assert "third was wanted" in failed["msg"]
    assert "first" in failed["msg"]
    assert guest.link("fallback") is None


def test_good_releases_pass_every_trial(guest: Guest) -> None:
    assert "msg" not in guest.try_out("second", "presets")
    done = guest.try_out("second", "answer")
    assert (done["model"], done["on_gpu"]) == ("alpha", False)
    assert done["answer"]


@pytest.mark.parametrize(
    ("kind", "gate", "words"),
    [
        ("exits", "presets", "it ended with 127 and said: error: symbol lookup error"),
        ("exits", "answer", "it ended with 127 before it was ready; it said: error: symbol lookup error"),
        ("silent", "answer", "it does not serve after 3 s"),
        ("dies", "answer", "it loaded the model and ended with 134 when it was asked"),
    ],
)
def test_a_bad_one_fails_its_trial_and_the_router_goes_on(guest: Guest, kind: str, gate: str, words: str) -> None:
    pid = guest.host.pid()
    assert words in guest.try_out(kind, gate)["msg"]
    assert guest.host.pid() == pid
    assert set(guest.host.status().values()) == {"unloaded"}


def twins(guest: Guest) -> list[dict[str, Any]]:
    """What systemd knows of trials."""
    return [json.loads(file.read_text()) for file in guest.host.folder.glob("llama-trial-*.service.json")]


def test_a_trial_that_is_killed_leaves_no_server(guest: Guest) -> None:
    trial = subprocess.Popen([sys.executable, "-c", TRIAL], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert trial.stdin
    json.dump({**guest.trial("silent", "answer"), "timeout": 300, "places": guest.host.twins}, trial.stdin)
    trial.stdin.close()
    wait_until(lambda: any(twin["pid"] for twin in twins(guest)))
    (server,) = (twin["pid"] for twin in twins(guest))
    trial.kill()
    trial.wait()
    wait_until(lambda: not Path(f"/proc/{server}").exists())
    wait_until(lambda: not list(guest.host.folder.glob("llama-trial-*.service")))
    wait_until(lambda: not list((guest.host.folder / "run/homelab").iterdir()))


def test_a_trial_leaves_nothing(guest: Guest) -> None:
    guest.try_out("second", "presets")
    guest.try_out("second", "answer")
    assert len(twins(guest)) == 2
    assert not any(twin["pid"] for twin in twins(guest))
    assert not list(guest.host.folder.glob("llama-trial-*.service"))
    assert list((guest.host.folder / "run/homelab").iterdir()) == []


def test_a_trial_takes_nothing_from_the_routers_process(guest: Guest) -> None:
    """Its command line and environment are the process's own to change: this one has others than its unit."""
    seen = guest.host.folder / "seen"
    command = guest.root / "releases/second/bin/llama-server"
    command.write_text(command.read_text().replace("\n", f'\n{{ env; echo "$@"; }} >>{seen}\n', 1))
    guest.host.unit.write_text(guest.host.unit.read_text() + "Environment=FROM_UNIT=1\n")
    subprocess.run(["systemctl", "stop", UNIT], check=True)
    evil = {**os.environ, "LD_PRELOAD": "/nonexistent/evil.so", "EVIL": "1"}
    argv = [str(LLAMA_SERVER), "--host", "127.0.0.1", "--port", str(guest.host.port), "--models-dir"]
    argv += [str(guest.host.folder_of_models), "--api-key-file", str(guest.host.keys), "--evil-option"]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *argv], env=evil) as process:
        memory = guest.host.folder / f"{UNIT}.json"
        up = {"active": "active", "sub": "running", "pid": process.pid}
        memory.write_text(json.dumps({**json.loads(memory.read_text()), **up}))
        done = guest.try_out("second", "presets")
        process.kill()
    memory.write_text(json.dumps({**json.loads(memory.read_text()), "active": "inactive", "sub": "dead", "pid": 0}))
    assert "msg" not in done
    text = seen.read_text()
    assert "--models-max 2" in text  # as the unit has it
    assert "evil" not in text.lower()


def test_options_that_are_gone_are_named_with_preset_and_line_all_at_once(guest: Guest) -> None:
    guest.host.write_presets(alpha={"ctx_size": "512"}, beta={"threads": "2", "ctx_size": "512"})
    msg = guest.try_out("preset", "presets")["msg"]
    assert "preset 'alpha', line 3: it does not know 'ctx-size'" in msg
    assert "preset 'beta', line 7: it does not know 'ctx-size'" in msg


def test_an_option_of_the_command_line_that_is_gone(guest: Guest) -> None:
    server = guest.root / "releases/second/bin/llama-server"
    server.write_text(server.read_text().replace('exec "$real" "$@"', 'exec "$real" "$@" --no-such-option'))
    msg = guest.try_out("second", "presets")["msg"]
    assert "error: invalid argument: --no-such-option (on the command line of the unit" in msg


@pytest.mark.parametrize("autoload", [True, False])
def test_a_busy_model_outlives_others(guest: Guest, autoload: bool) -> None:
    if not autoload:
        guest.host.unit.write_text(
            guest.host.unit.read_text().replace(" --reuse-port", " --reuse-port --no-models-autoload")
        )
        guest.host.converge(watch=guest.watch)
    guest.host.load("gamma")
    asks = {"url": f"http://127.0.0.1:{guest.host.port}", "api_key_file": str(guest.host.keys)}
    done = guest.host.call("router_swap", **asks)
    assert (done["busy"], done["others"]) == ("alpha", ["beta", "gamma"])
    assert done["tokens"] > 0
    assert guest.host.loaded() == ["gamma"]


def test_a_build_that_kills_busy_models_is_found_out(guest: Guest) -> None:
    endless = {"threads": "1", "context_shift": "on"}  # an answer that does not end before the others are loaded
    guest.host.write_presets(**dict.fromkeys(("alpha", "beta", "gamma"), endless))
    guest.hand_over("kills")
    asks = {"url": f"http://127.0.0.1:{guest.host.port}", "api_key_file": str(guest.host.keys), "tokens": ENDLESS}
    assert "alpha was wanted to finish its answer" in guest.host.call("router_swap", **asks)["msg"]
    assert guest.hand_over(state="reverted")["after"] == "first"


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_where_the_links_are(guest: Guest, tmp_path: Path) -> None:
    pid = guest.host.pid()
    with small_disk(tmp_path / "small", "nr_inodes=100") as small:
        subprocess.run(["cp", "-a", f"{guest.root}/.", str(small)], check=True)
        (small / LOCK).touch()  # of an earlier run
        with contextlib.suppress(OSError):
            for number in range(100):
                (small / str(number)).touch()
        failed = guest.hand_over("second", root=str(small))
        assert "/.fallback.new was wanted written, No space left on device" in failed["msg"]
        assert sorted(path.name for path in small.iterdir() if path.is_symlink()) == ["current"]
    assert guest.host.pid() == pid


def test_a_full_disk_where_the_models_are_remembered(guest: Guest, tmp_path: Path) -> None:
    """Those to load again: nothing was stopped yet."""
    guest.host.load("alpha")
    pid = guest.host.pid()
    with small_disk(tmp_path / "small", "size=4k") as small:
        (small / "filler").write_bytes(b"x" * 4096)
        failed = guest.hand_over("second", pending=str(small / "pending.json"))
    assert "No space left on device" in failed["msg"]
    assert "first serves again" in failed["msg"]
    assert (guest.link("current"), guest.link("fallback"), guest.host.pid()) == ("first", None, pid)
