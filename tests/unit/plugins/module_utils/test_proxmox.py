# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one call to Proxmox: what pvesh prints, tasks, locks, errors."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils import _proxmox
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox import Proxmox, Pvesh, connect
from ansible_collections.homelab.llamacpp.plugins.module_utils._proxmox_errors import (
    AccessError,
    LockedError,
    LoginError,
    NodeDownError,
    NotFoundError,
    ParameterError,
    ProxmoxError,
    TaskError,
    UnreachableError,
    explain,
)

UPID = "UPID:pve:00001A2B:0012D687:67000000:vzstart:130:root@pam:"
NONE = dict.fromkeys(
    ("api_host", "api_user", "api_password", "api_token_id", "api_token_secret", "node", "ca_path", "api_fingerprint")
)
OPTIONS = {**NONE, "api_port": 8006, "validate_certs": True, "timeout": 300}


class Shell:
    """A run_command that answers from a list and remembers what it was given."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = list(answers)
        self.argv: list[list[str]] = []
        self.keywords: list[dict[str, Any]] = []

    def __call__(self, argv: list[str], **keywords: Any) -> tuple[int, str, str]:
        self.argv.append(argv)
        self.keywords.append(keywords)
        return self.answers.pop(0)


class Clock:
    """Time that passes only while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def api(shell: Shell, timeout: float = 10) -> Proxmox:
    clock = Clock()
    return Proxmox(Pvesh(shell, "/usr/bin/pvesh"), timeout, clock.sleep, clock)


def status(ended: str) -> tuple[int, str, str]:
    return 0, json.dumps({"upid": UPID, "status": "stopped", "exitstatus": ended}), ""


def log(*lines: str) -> tuple[int, str, str]:
    return 0, json.dumps([{"n": number, "t": line} for number, line in enumerate(lines, 1)]), ""


def test_arguments_of_pvesh() -> None:
    shell = Shell((0, "", ""))
    assert api(shell).call("PUT", "nodes/pve/lxc/130/config", onboot=True, cores=2, delete=None, tags="a b") is None
    assert " ".join(shell.argv[0]) == (
        "/usr/bin/pvesh set /nodes/pve/lxc/130/config -onboot 1 -cores 2 -tags a b --output-format json"
    )
    assert "a b" in shell.argv[0]
    assert shell.keywords[0]["environ_update"]["LC_ALL"].startswith("C")
    assert shell.keywords[0]["expand_user_and_vars"] is False


def test_warnings_on_stderr_are_no_error() -> None:
    shell = Shell((0, '{"status":"running"}\n', "perl: warning: Setting locale failed.\n"))
    assert api(shell).call("GET", "nodes/pve/lxc/130/status/current") == {"status": "running"}


def test_null_and_lines_before_the_data() -> None:
    assert api(Shell((0, "", ""))).call("GET", "x") is None
    assert api(Shell((0, 'note\n[{"a":1}]\n', ""))).call("GET", "x") == [{"a": 1}]
    assert api(Shell((0, "explicitly configured lxc.apparmor.profile\n", ""))).call("PUT", "x") is None
    with pytest.raises(ProxmoxError, match="wanted JSON"):
        api(Shell((0, "hello\n", ""))).call("GET", "x")


def test_task_is_asked_after() -> None:
    shell = Shell((0, f'extracting\nlogical volume created\n"{UPID}"\n', ""), status("OK"))
    assert api(shell).call("POST", "nodes/pve/lxc", vmid=130) == UPID
    assert shell.argv[1][2] == f"/nodes/pve/tasks/{UPID}/status"


def test_failed_task_fails_though_pvesh_exits_0() -> None:
    shell = Shell(
        (0, f'"{UPID}"\n', "startup for container '130' failed\n"),
        status("startup for container '130' failed"),
        log("run_buffer: 571 Script exited with status 1", "TASK ERROR: startup for container '130' failed"),
    )
    with pytest.raises(TaskError) as caught:
        api(shell).call("POST", "nodes/pve/lxc/130/status/start")
    assert "task vzstart of 130 on pve failed: startup for container '130' failed" in str(caught.value)
    assert "Script exited with status 1" in str(caught.value)
    assert caught.value.log[-1].startswith("TASK ERROR")


def test_task_with_warnings_is_no_failure() -> None:
    proxmox = api(Shell((0, f'"{UPID}"', ""), status("WARNINGS: 1"), log("done", "WARN: old systemd")))
    proxmox.call("POST", "nodes/pve/lxc/130/status/start")
    assert proxmox.warnings == ["WARN: old systemd"]


def test_running_task_is_waited_for_and_not_for_ever() -> None:
    running = (0, json.dumps({"status": "running"}), "")
    shell = Shell((0, f'"{UPID}"', ""), running, running, status("OK"))
    api(shell).call("POST", "x")
    assert not shell.answers
    with pytest.raises(TaskError, match="still running after 1 seconds"):
        api(Shell((0, f'"{UPID}"', ""), *[running] * 30), timeout=1).call("POST", "x")


def test_lock_is_retried_then_told() -> None:
    locked = (255, "", "CT is locked (backup)\n")
    shell = Shell(locked, locked, (0, "", ""))
    api(shell).call("PUT", "x")
    assert not shell.answers
    with pytest.raises(LockedError, match=r"CT is locked \(backup\)\. Waited 5 seconds"):
        api(Shell(*[locked] * 9), timeout=5).call("PUT", "x")
    with pytest.raises(LockedError):
        api(Shell(locked), timeout=5).call("GET", "x")


def test_advice_fits_the_lock() -> None:
    """`pct unlock` takes a lock out of the configuration; a lock file belongs to a process."""
    file = (255, "", "can't lock file '/run/lock/lxc/pve-config-130.lock' - got timeout\n")
    with pytest.raises(LockedError, match=r"`fuser -v /run/lock/lxc/pve-config-130\.lock` shows which") as caught:
        api(Shell(*[file] * 9), timeout=3).call("PUT", "x")
    assert "`pct unlock` does nothing" in str(caught.value)
    with pytest.raises(LockedError, match=r"`pct unlock` on the node takes it away"):
        api(Shell(*[(255, "", "CT is locked (backup)\n")] * 9), timeout=3).call("PUT", "x")


def test_what_comes_late_is_asked_for_again() -> None:
    answers = [None, None, "there"]
    assert api(Shell()).until(lambda: answers.pop(0), 10) == "there"
    tries: list[int] = []
    assert api(Shell()).until(lambda: tries.append(1), 2) is None
    assert len(tries) == 2 / _proxmox.POLL + 1


def test_lock_that_only_the_task_met_is_retried() -> None:
    shell = Shell(
        (0, f'"{UPID}"', "CT is locked (snapshot)\n"),
        status("CT is locked (snapshot)"),
        log("TASK ERROR: CT is locked (snapshot)"),
        (0, f'"{UPID}"', ""),
        status("OK"),
    )
    assert api(shell).call("POST", "nodes/pve/lxc/130/status/start") == UPID


@pytest.mark.parametrize(
    ("err", "kind", "words"),
    [
        ("Configuration file 'nodes/pve/lxc/130.conf' does not exist\n", NotFoundError, "130.conf"),
        ("403 Permission check failed (/vms/130, VM.Audit)\n", AccessError, "VM.Audit"),
        ("changing feature flags (except nesting) is only allowed for root@pam\n", AccessError, "leave api_host out"),
        ("please run as root\n", AccessError, "become: true"),
        ("can't lock file '/run/lock/lxc/pve-config-130.lock' - got timeout\n", LockedError, "got timeout"),
        ("hostname lookup 'pvx' failed - failed to get address info for: pvx\n", UnreachableError, "Is node right"),
        ("ipcc_send_rec[1] failed: Connection refused\n", UnreachableError, "cluster service"),
        ("CT 130 already exists on node 'pve2'\n", ProxmoxError, "already exists"),
    ],
)
def test_errors_of_pvesh(err: str, kind: type[ProxmoxError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        api(Shell(*[(255, "", err)] * 9), timeout=3).call("PUT", "x")
    assert caught.type is kind


def test_bad_parameters_are_told_by_key_and_the_usage_is_not() -> None:
    err = (
        "400 Parameter verification failed.\ncores: value must have a maximum value of 8192\n"
        "memory: type check ('integer') failed - got 'much'\npvesh set <api_path> [OPTIONS] [FORMAT_OPTIONS]\n"
    )
    with pytest.raises(ParameterError) as caught:
        api(Shell((255, "", err))).call("PUT", "x")
    assert set(caught.value.errors) == {"cores", "memory"}
    assert "pvesh set" not in str(caught.value)


@pytest.mark.parametrize("over", ["pvesh", "https"])
def test_every_line_of_refused_parameters_is_shown(over: str) -> None:
    """The line that explains a property has a key with a dot."""
    net = "invalid format - format error\nnet0.ip: invalid format - value does not look like a valid ipv4 address\n\n"
    features = "invalid format - format error\nfeatures.flying: property is not defined\n  in schema\n\n"
    if over == "pvesh":
        err = f"400 Parameter verification failed.\nfeatures: {features}net0: {net}pvesh set <api_path> [OPTIONS]\n"
        with pytest.raises(ParameterError) as caught:
            api(Shell((1, "", err))).call("PUT", "x")
        found: Exception = caught.value
    else:
        found = explain("Parameter verification failed.", 400, {"net0": net, "features": features})
    assert isinstance(found, ParameterError)
    assert str(found) == (
        "Proxmox refuses features: invalid format - format error; "
        "features.flying: property is not defined in schema; "
        "net0: invalid format - format error; "
        "net0.ip: invalid format - value does not look like a valid ipv4 address"
    )
    assert set(found.errors) == {"features", "features.flying", "net0", "net0.ip"}


def test_option_that_this_version_lacks() -> None:
    err = "Unknown option: entrypoint\n400 unable to parse option\npvesh set <api_path> [OPTIONS] [FORMAT_OPTIONS]\n"
    with pytest.raises(ParameterError) as caught:
        api(Shell((255, "", err))).call("PUT", "x")
    assert str(caught.value) == "Proxmox refuses entrypoint: this version of Proxmox VE has no such option"


def test_text_of_the_node_is_no_more_than_text() -> None:
    """Control characters of a log or an error do not reach a terminal, and no line is without end."""
    bad = "\x1b]0;title\x07 \x9b31m" + "x" * 5000
    for error in (
        explain(bad),
        explain("Parameter verification failed.", 400, {"net0": bad}),
        explain(f"CT is locked (backup)\n{bad}"),
    ):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", str(error))
        assert len(str(error)) < 2000
    shell = Shell((0, f'"{UPID}"', ""), status(bad), log(bad))
    with pytest.raises(TaskError) as caught:
        api(shell).call("POST", "x")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", str(caught.value))


def test_no_word_at_all() -> None:
    with pytest.raises(ProxmoxError, match="exit status 2"):
        api(Shell((2, "", ""))).call("GET", "x")


def test_statuses_of_https() -> None:
    assert isinstance(explain("authentication failure", 401), LoginError)
    assert isinstance(explain("No route to host", 595), NodeDownError)
    refused = explain("Parameter verification failed.", 400, {"net0": "invalid format"})
    assert isinstance(refused, ParameterError)
    assert str(refused) == "Proxmox refuses net0: invalid format"


def test_connect_to_the_node_itself() -> None:
    _api, node = connect(OPTIONS, Shell(), "/usr/bin/pvesh")
    assert node == os.uname().nodename.split(".")[0]
    with pytest.raises(UnreachableError, match="not a Proxmox VE node"):
        connect(OPTIONS, Shell(), None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_user": "root@pam", "api_password": "s3cret"}, "api_user and api_password without api_host"),
        ({"api_host": "pve"}, "api_host without node"),
        ({"api_host": "pve", "node": "pve", "api_user": "root@pam"}, "api_host wants api_user with api_password"),
        ({"api_host": "pve", "node": "pve", "api_token_id": "a", "api_token_secret": "b"}, "api_host wants"),
        (
            {"api_host": "pve", "node": "pve", "api_token_id": "u@pam!a", "api_token_secret": "b", "api_password": "c"},
            "not both",
        ),
    ],
)
def test_connect_refuses_half_a_login(options: dict[str, str], words: str) -> None:
    with pytest.raises(ProxmoxError, match=words) as caught:
        connect({**OPTIONS, **options}, Shell(), None)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "root", "here"),
    [
        ({}, True, True),
        ({"node": os.uname().nodename.split(".")[0]}, True, True),
        ({"node": "another"}, True, False),
        ({"api_host": "pve", "node": "pve", "api_token_id": "root@pam!a", "api_token_secret": "b"}, False, False),
    ],
)
def test_who_asks_and_from_where(options: dict[str, str], root: bool, here: bool) -> None:
    proxmox, _node = connect({**OPTIONS, **options}, Shell(), "/usr/bin/pvesh")
    assert (proxmox.root, proxmox.here) == (root, here)


class Ended:
    """Files of a node that know how tasks ended."""

    def __init__(self, ended: str | None, *log: str) -> None:
        self.ended, self.log = ended or "", list(log)
        self.known = ended is not None

    def task(self, upid: str) -> Any:
        assert upid == UPID
        return self if self.known else None


class Transport:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def request(self, method: str, path: str, params: Any) -> Any:
        self.asked.append(f"{method} {path}")
        if path.endswith("/status"):
            return {"status": "stopped", "exitstatus": "OK"}
        if path.endswith("/log"):
            assert params == {"limit": "1000"}
            return [{"t": "one"}, {"n": 2}]
        return UPID


def test_how_a_task_ended_is_in_the_nodes_files() -> None:
    transport = Transport()
    files: Any = Ended("OK", "one")
    api = Proxmox(transport, files=files)
    assert api.call("POST", "x") == UPID
    assert api.task_log(UPID) == ["one"]
    assert transport.asked == ["POST x"]
    files.ended = "command failed"
    with pytest.raises(TaskError, match="task vzstart of 130 on pve failed: command failed") as caught:
        api.call("POST", "x")
    assert caught.value.log == ["one"]
    assert len(transport.asked) == 2


def test_a_task_that_the_files_do_not_know_is_asked_for() -> None:
    transport = Transport()
    files: Any = Ended(None)
    api = Proxmox(transport, files=files)
    api.call("POST", "x")
    assert api.task_log(UPID) == ["one", ""]
    assert transport.asked == ["POST x", f"GET nodes/pve/tasks/{UPID}/status", f"GET nodes/pve/tasks/{UPID}/log"]


def test_a_read_that_answers_with_a_task_waits_for_none() -> None:
    transport = Transport()
    assert Proxmox(transport).call("GET", "x") == UPID
    assert transport.asked == ["GET x"]
