# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_hardening import (
    DIRECTIVES,
    KINDS,
    HardeningError,
    hardening,
    kind_of,
)


def directives(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def reasons(text: str) -> dict[str, str]:
    lines = [line[4:].partition(": ") for line in text.splitlines() if line.startswith("#   ")]
    return {name: reason for name, _colon, reason in lines}


@pytest.mark.parametrize("kind", KINDS)
def test_each_directive_is_there_or_has_its_reason(kind: str) -> None:
    text = hardening(kind)
    for directive in DIRECTIVES:
        there = directive.line in directives(text)
        left_out = directive.name in reasons(text) or directive.line in reasons(text)
        assert there != left_out, directive


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
@pytest.mark.parametrize(("kind", "bound"), [("tool", 1.2), ("cpu", 1.4), ("cuda", 1.4), ("vulkan", 1.4)])
def test_exposure(tmp_path: Path, kind: str, bound: float) -> None:
    unit = tmp_path / "example.service"
    unit.write_text(f"[Service]\nExecStart=/bin/true\nUser=daemon\nGroup=daemon\n{hardening(kind)}\n")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    if "Overall exposure level" not in said.stdout:
        pytest.skip(f"this systemd-analyze cannot: {said.stderr}")
    assert float(said.stdout.split("Overall exposure level")[1].split()[2]) <= bound


def test_a_gpu_keeps_its_devices_even_where_devices_cannot_be_closed() -> None:
    assert "DeviceAllow=char-nvidia* rw" in directives(hardening("cuda"))
    assert "DeviceAllow=char-nvidia* rw" in directives(hardening("cuda", {"DevicePolicy": "unknown"}))
    assert "DeviceAllow=char-drm rw" in directives(hardening("vulkan"))
    assert not [line for line in directives(hardening("cpu")) if line.startswith("DeviceAllow")]
    assert "DeviceAllow=/dev/kfd rw" in directives(hardening("cpu", devices=["/dev/kfd"]))


def test_what_the_machine_refuses_is_left_out_and_said() -> None:
    text = hardening("cpu", {"ProtectProc": "226/NAMESPACE", "SystemCallFilter=~@privileged": "228/SECCOMP"})
    assert "ProtectProc=invisible" not in directives(text)
    assert reasons(text)["ProtectProc"] == "this machine: 226/NAMESPACE"
    assert "SystemCallFilter=@system-service" in directives(text)
    assert "SystemCallFilter=~@privileged" not in directives(text)


def test_a_service_can_do_without_a_directive_with_a_reason() -> None:
    text = hardening("tool", left_out={"PrivateUsers": "it looks at other users' processes"})
    assert reasons(text)["PrivateUsers"] == "it looks at other users' processes"
    assert "PrivateUsers=true" not in directives(text)


def test_no_service_leaves_its_memory_in_a_core_dump() -> None:
    for kind in KINDS:
        assert "LimitCORE=0" in directives(hardening(kind))


def test_root_keeps_the_rights_that_are_named() -> None:
    lines = directives(hardening("tool", values={"CapabilityBoundingSet": "CAP_NET_ADMIN", "ProtectSystem": "full"}))
    assert "CapabilityBoundingSet=CAP_NET_ADMIN" in lines
    assert "ProtectSystem=full" in lines
    assert not {"CapabilityBoundingSet=", "ProtectSystem=strict"} & set(lines)


def test_paths_in_homes_are_seen_and_the_homes_are_not() -> None:
    lines = directives(hardening("cpu", writable=["/srv/a", "/root/b"], readable=["/home/me/models", "/opt/llama"]))
    assert "ProtectHome=tmpfs" in lines
    assert "ProtectHome=true" not in lines
    assert lines[-3:] == ["ReadWritePaths=/srv/a", "BindPaths=/root/b", "BindReadOnlyPaths=/home/me/models"]
    assert "ProtectHome=true" in directives(hardening("cpu", readable=["/homestead"]))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"kind": "gpu"}, "kind: one of tool, cpu, cuda, vulkan was wanted, 'gpu' was found"),
        ({"kind": "cpu", "writable": ["a b"]}, "writable: an absolute path"),
        ({"kind": "cpu", "readable": ["/a%b"]}, "readable: an absolute path"),
        ({"kind": "cpu", "left_out": {"PrivateTemp": "x"}}, "left_out: .*'PrivateTemp' was found"),
        ({"kind": "cpu", "values": {"PrivateTemp": "x"}}, "values: .*'PrivateTemp' was found"),
        ({"kind": "cpu", "values": {"UMask": "0\\nUser=root"}}, "values: UMask: expected words of one line"),
    ],
)
def test_what_no_unit_can_be_written_from(given: dict[str, object], text: str) -> None:
    with pytest.raises(HardeningError, match=text.replace("(", r"\(")):
        hardening(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("devices", "kind"),
    [
        ([], "cpu"),
        (["RPC0", "RPC1"], "cpu"),
        (["CUDA0", "RPC0"], "cuda"),
        (["CUDA0", "Vulkan1"], "vulkan"),
        (["ROCm0"], "vulkan"),
    ],
)
def test_the_kind_follows_from_the_devices(devices: list[str], kind: str) -> None:
    assert kind_of(devices) == kind


def test_every_directive_is_systemds_own() -> None:
    """By the names of systemd.exec(5) and systemd.resource-control(5), with the namespace that shows its effect."""
    mounts = "PrivateTmp PrivateMounts PrivateDevices ProcSubset ProtectControlGroups ProtectHome ProtectKernelLogs"
    mounts += " ProtectKernelModules ProtectKernelTunables ProtectProc ProtectSystem"
    spaces = dict.fromkeys(mounts.split(), "mnt")
    spaces.update(PrivateIPC="ipc", PrivateUsers="user", ProtectHostname="uts")
    plain = "UMask NoNewPrivileges CapabilityBoundingSet AmbientCapabilities KeyringMode LimitCORE LockPersonality"
    plain += " MemoryDenyWriteExecute ProtectClock RemoveIPC RestrictAddressFamilies RestrictNamespaces"
    plain += " RestrictRealtime RestrictSUIDSGID SystemCallArchitectures SystemCallErrorNumber SystemCallFilter"
    plain += " DevicePolicy"
    assert {one.name for one in DIRECTIVES} == {*spaces, *plain.split()}
    assert {one.name: one.space for one in DIRECTIVES if one.space} == spaces
