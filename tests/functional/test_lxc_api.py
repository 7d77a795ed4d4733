# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module lxc over HTTPS, against fakepve on 127.0.0.1."""

from __future__ import annotations

import copy
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import stricter_pve
from ansible_collections.homelab.llamacpp.plugins.module_utils import _lxc, _proxmox
from ansible_collections.homelab.llamacpp.plugins.modules import lxc, lxc_info, lxc_snapshot
from fakepve import schema
from hypothesis import HealthCheck, given, settings
from lxc_options import assert_foretold, some_runs

pytestmark = [
    # fakepve leaves TLS connections to the garbage collector when its loop ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
WANTED = {
    "hostname": "llm",
    "ostemplate": TEMPLATE,
    "storage": "local-lvm",
    "disk_gib": 8,
    "cores": 4,
    "memory_mib": 2048,
    "features": {"nesting": True},
    "net": {"net0": {"name": "eth0", "bridge": "vmbr0", "ip": "192.0.2.10/24", "gw": "192.0.2.1"}},
    "mounts": {"mp0": "local-lvm:20,mp=/models,backup=0"},
    "nameserver": ["192.0.2.1", "192.0.2.2"],
    "tags": ["llama", "AI"],
    "description": "the router\nof this house",
    "onboot": True,
    "startup": "order=2,up=30",
    "ssh_public_keys": ["ssh-ed25519 AAAA a@b", "ssh-ed25519 BBBB c@d"],
    "state": "started",
}
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def pve(fakepve: Any) -> Any:
    """A node pve1 with one template."""
    fakepve.store_file("local", TEMPLATE.split("/", 1)[1], 1000, content="vztmpl")
    return fakepve


@pytest.fixture
def run(pve: Any, run_module: Callable[..., dict[str, Any]]) -> Run:
    """Run the module once."""
    return partial(run_module, lxc)


def changes_made(pve: Any) -> list[str]:
    """The requests that were no reading and no login."""
    return [f"{method} {path}" for method, path, _body in pve.requests if method != "GET" and "ticket" not in path]


def test_check_run_run_again(pve: Any, run: Run) -> None:
    foretold = run(check=True, **WANTED)
    assert foretold["changed"]
    assert foretold["actions"] == ["create", "start"]
    assert changes_made(pve) == []
    assert pve.ct(130) is None

    made = run(**WANTED)
    assert (made["changed"], made["status"], made["actions"]) == (True, "running", ["create", "start"])
    assert made["diff"] == foretold["diff"]
    assert made["diff"]["before"] == {}
    assert made["config"]["unprivileged"] == "1"
    assert "hwaddr=" in made["config"]["net0"]
    created = next(body for method, path, body in pve.requests if method == "POST" and path.endswith("/lxc"))
    assert b"ssh-public-keys=ssh-ed25519+AAAA+a%40b%0Assh-ed25519+BBBB" in created
    assert b"password" not in created

    pve.requests.clear()
    again = run(**WANTED)
    assert not again["changed"], again["diff"]
    assert len(again["calls"]) == 2
    # The login is the only request beside the two.
    assert len(pve.requests) <= 3
    assert again["diff"]["before"] == again["diff"]["after"]


def test_drift_is_put_right_and_nothing_else(pve: Any, run: Run) -> None:
    run(**WANTED)
    found = pve.ct(130)
    mac = found.config["net0"]
    found.config.update(memory=1024, cpulimit=2, mp0=found.config["mp0"] + ",ro=1")
    found.config["net0"] = mac.replace("192.0.2.10/24", "192.0.2.99/24")

    foretold = run(check=True, **WANTED)
    assert pve.ct(130).config["memory"] == 1024
    run_result = run(**WANTED)
    assert run_result["diff"] == foretold["diff"]
    assert run_result["actions"] == ["configure"] == foretold["actions"]
    assert run_result["restart_required"] is True is foretold["restart_required"]
    assert run_result["pending"] == ["mp0"] == foretold["pending"]
    sent = next(body for method, path, body in pve.requests if method == "PUT").decode()
    assert {part.split("=")[0] for part in sent.split("&")} == {"memory", "net0", "mp0"}
    assert found.config["net0"] == mac
    assert found.config["cpulimit"] == 2

    again = run(**WANTED)
    assert not again["changed"]
    assert again["restart_required"] is True
    assert len(again["calls"]) == 2


def test_digest_guards_against_a_change_in_between(pve: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run(**WANTED)
    parse = _lxc.Found.parse

    def with_stale_digest(entries: Any) -> Any:
        return parse([*entries, {"key": "digest", "value": "0" * 40}])

    monkeypatch.setattr(_lxc.Found, "parse", with_stale_digest)
    failed = run(**{**WANTED, "cores": 2})
    assert "detected modified configuration" in failed["msg"]
    assert pve.ct(130).config["cores"] == 4


def test_values_are_taken_away(pve: Any, run: Run) -> None:
    run(**WANTED)
    gone = run(
        net={"net1": None},
        mounts={"mp0": None},
        nameserver=[],
        tags=[],
        description="",
        config={"cpulimit": None},
        state="present",
    )
    assert gone["actions"] == ["configure"]
    assert set(gone["diff"]["before"]["config"]) - set(gone["diff"]["after"]["config"]) == {
        "mp0",
        "nameserver",
        "tags",
        "description",
    }
    assert not run(mounts={"mp0": None}, nameserver=[], tags=[], description="")["changed"]


def test_devices_keep_their_keys_and_the_list_is_whole(pve: Any, run: Run) -> None:
    devices = [{"path": f"/dev/nvidia{number}", "gid": 44, "mode": "0660"} for number in (0, 1)]
    run(**{**WANTED, "devices": devices, "state": "present"})
    assert pve.ct(130).config["dev1"] == "/dev/nvidia1,gid=44,mode=0660"
    changed = run(devices=[devices[1], {"path": "/dev/nvidiactl"}])
    config = pve.ct(130).config
    assert changed["actions"] == ["configure"]
    assert "dev0" not in config
    assert config["dev1"] == "/dev/nvidia1,gid=44,mode=0660"
    assert config["dev2"] == "/dev/nvidiactl"
    assert not run(devices=[{"path": "/dev/nvidiactl", "uid": 0}, devices[1]])["changed"]
    run(devices=[])
    assert not [key for key in pve.ct(130).config if key.startswith("dev")]


def test_device_key_that_waits_to_go_is_not_taken(pve: Any, run: Run) -> None:
    run(**{**WANTED, "devices": [{"path": "/dev/nvidia0"}]})
    gone = run(devices=[])
    assert gone["pending"] == ["dev0"]
    assert not run(devices=[])["changed"]
    swapped = run(devices=[{"path": "/dev/nvidia1"}])
    assert pve.ct(130).config["dev1"] == "/dev/nvidia1"
    assert swapped["pending"] == ["dev0"]


def test_taking_a_waiting_change_back_leaves_nothing_to_wait_for(run: Run) -> None:
    run(**WANTED)
    assert run(features={"nesting": True, "keyctl": True}, nameserver=[])["pending"] == ["features", "nameserver"]
    foretold = run(check=True, **WANTED)
    assert (foretold["actions"], foretold["pending"]) == (["configure"], [])
    assert run(**WANTED)["pending"] == []


def test_stop_and_absent(pve: Any, run: Run) -> None:
    run(**WANTED)
    refused = run(state="absent")
    assert refused["failed"]
    assert "container 130 (llm) on node pve1 is running" in refused["msg"]
    stopped = run(state="stopped")
    assert (stopped["actions"], stopped["status"]) == (["shutdown"], "stopped")
    assert not run(state="stopped")["changed"]
    foretold = run(check=True, state="absent", hostname="llm")
    assert pve.ct(130)
    deleted = run(state="absent", hostname="llm")
    assert deleted["diff"] == foretold["diff"]
    assert deleted["diff"]["after"] == {}
    assert deleted["diff"]["before"]["config"]["hostname"] == "llm"
    assert pve.ct(130) is None
    again = run(state="absent")
    assert not again["changed"]
    assert again["calls"] == ["GET nodes/pve1/lxc/130/pending", "GET cluster/resources"]


def test_absent_refuses_what_it_was_not_meant_for(pve: Any, run: Run) -> None:
    run(**WANTED)
    assert "named shop, found container 130 (llm)" in run(state="absent", hostname="shop", force=True)["msg"]
    run(protection=True)
    assert "is protected" in run(state="absent", force=True)["msg"]
    run(protection=False)
    assert run(state="absent", force=True)["actions"] == ["delete"]


def test_missing_template_lists_those_there(pve: Any, run: Run) -> None:
    failed = run(check=True, **{**WANTED, "ostemplate": "local:vztmpl/alpine.tar.xz"})
    assert f"found on storage local: {TEMPLATE}" in failed["msg"]
    assert "storage 'nas' does not exist" in run(**{**WANTED, "ostemplate": "nas:vztmpl/x.tar"})["msg"]
    assert "found nothing" in run(hostname="llm")["msg"]
    assert changes_made(pve) == []


def test_number_of_a_virtual_machine_or_of_another_node(pve: Any, run: Run) -> None:
    pve.add_vm(131, "windows")
    pve.add_ct(132, "far", node="pve2")
    assert "found a virtual machine with that number, windows on node pve1" in run(**{**WANTED, "vmid": 131})["msg"]
    assert "Set node: pve2" in run(**{**WANTED, "vmid": 132})["msg"]
    assert changes_made(pve) == []


def test_guest_that_is_on_another_node(pve: Any, run: Run) -> None:
    """In a cluster it may have been made there, or have migrated: told in every state, and nothing is made."""
    for node in ("pve2", "pve3"):
        pve.add_ct(int(node[-1]) + 140, "far", node=node)
    for vmid, node in ((142, "pve2"), (143, "pve3")):
        for options in ({}, {"state": "absent", "force": True}, {**WANTED, "hostname": "far"}):
            failed = run(**{**options, "vmid": vmid})
            assert f"Set node: {node}" in failed["msg"]
        assert pve.ct(vmid).node == node
    assert changes_made(pve) == []
    assert run(vmid=142, node="pve2", state="started")["status"] == "running"


def test_info(pve: Any, run: Run, run_module: Callable[..., dict[str, Any]]) -> None:
    info = partial(run_module, lxc_info)
    assert (info()["status"], info()["config"], "elsewhere" in info()) == ("absent", {}, False)
    run(**WANTED)
    run(features={"nesting": True, "keyctl": True})
    found = info()
    assert (found["status"], found["config"]["hostname"], found["pending"]) == ("running", "llm", ["features"])
    pve.add_ct(132, "far", node="pve2")
    assert (info(vmid=132)["status"], info(vmid=132)["elsewhere"]) == ("absent", "pve2")
    assert info(node="pve2", vmid=132)["status"] == "stopped"


def test_half_made_container(pve: Any, run: Run) -> None:
    pve.add_ct(130, "llm", lock="create")
    for options in (WANTED, {"state": "absent"}):
        failed = run(**options)
        assert "is half made (lock: create)" in failed["msg"]
        assert "pct unlock 130 && pct destroy 130" in failed["msg"]
    assert changes_made(pve) == []


@pytest.mark.fakepve(time_scale=0.05)
def test_container_that_is_being_created_right_now(pve: Any, run: Run) -> None:
    pve.ct_secs["create"] = 6000
    late = run(**WANTED, timeout=-9)
    assert "task vzcreate of 130 is still running" in late["msg"]
    assert "is being created right now: wait, run again" in run(**WANTED)["msg"]


def test_what_is_fixed_is_refused_before_anything_changes(pve: Any, run: Run) -> None:
    run(**WANTED)
    pve.requests.clear()
    assert "unprivileged: wanted 0, found 1" in run(**{**WANTED, "cores": 2, "unprivileged": False})["msg"]
    moved = run(**{**WANTED, "cores": 2, "mounts": {"mp0": "nas:20,mp=/models"}})
    assert "pct move-volume" in moved["msg"]
    assert changes_made(pve) == []


def test_lock_is_waited_for_and_then_named(pve: Any, run: Run) -> None:
    run(**WANTED)
    pve.fail("PUT", "/nodes/pve1/lxc/130/config", 500, "CT is locked (backup)", times=3)
    assert run(cores=2)["changed"]
    pve.ct(130).lock = "backup"
    failed = run(cores=3, timeout=0)
    assert "CT is locked (backup)" in failed["msg"]
    assert "pct unlock" in failed["msg"]
    # Nothing to change: a lock is nobody's business.
    assert not run(cores=2)["changed"]


def test_failed_task_tells_its_log(pve: Any, run: Run) -> None:
    run(**{**WANTED, "state": "present"})
    pve.ct(130).start_error = "Device /dev/nvidia-uvm does not exist"
    failed = run(state="started", cores=2)
    assert "task vzstart of 130 on pve1 failed: Device /dev/nvidia-uvm does not exist" in failed["msg"]
    assert "TASK ERROR" in failed["msg"]
    # What was done before the failure is told, and the next run goes on from there.
    assert failed["actions"] == ["configure"]
    pve.ct(130).start_error = None
    assert run(state="started", cores=2)["actions"] == ["start"]


@pytest.mark.fakepve(time_scale=0.05)
def test_tasks_are_waited_for(pve: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pve.ct_secs["create"] = 4
    made = run(**WANTED)
    assert made["status"] == "running"
    assert pve.ct(130).status == "running"
    pve.ct(130).shutdown_secs = 4
    run(state="stopped")
    assert pve.ct(130).status == "stopped"
    run(state="started")
    pve.ct(130).shutdown_secs = 100
    refused = run(state="stopped", timeout=2)
    assert "container did not stop" in refused["msg"]
    assert "force: true kills" in refused["msg"]
    assert run(state="stopped", timeout=2, force=True)["status"] == "stopped"
    pve.ct(130).start_secs = 6000
    monkeypatch.setattr(_proxmox, "GRACE", 0)
    late = run(state="started", timeout=1)
    assert "task vzstart of 130 is still running after 1 seconds" in late["msg"]


TOKEN = {"api_user": None, "api_password": None, "api_token_id": "root@pam!house", "api_token_secret": "s3cret"}


@pytest.fixture
def token(pve: Any) -> dict[str, Any]:
    """The login of a token with every privilege that a token can have for this."""
    pve.apitokens["root@pam!house"] = "s3cret"
    pve.grant("root@pam!house", "/", "VM.Allocate", "VM.Audit", "VM.Config.Options")
    return dict(TOKEN)


def test_token_is_told_at_once_what_it_may_not_set(pve: Any, run: Run, token: dict[str, Any]) -> None:
    wanted = {
        "cores": 3,
        "devices": [{"path": "/dev/nvidia0"}],
        "features": {"nesting": True, "keyctl": True, "fuse": True},
        "mounts": {"mp0": "local-lvm:20,mp=/models,backup=0", "mp1": "/srv/x,mp=/x"},
        "config": {"hookscript": "local:snippets/x.sh"},
    }
    for number in (130, 131):
        if number == 130:
            run(**{**WANTED, "state": "present"})
        pve.requests.clear()
        for check in (True, False):
            failed = run(check, **{**WANTED, **wanted, **token, "vmid": number})
            for word in ("dev0 (/dev/nvidia0)", "features (fuse, keyctl", "mp1 (bind mount of /srv/x)", "hookscript"):
                assert word in failed["msg"]
            assert "mp0" not in failed["msg"]
            assert "run on the node as root" in failed["msg"]
            assert "s3cret" not in json.dumps(failed)
        assert changes_made(pve) == []


def test_token_may_do_the_rest_and_keep_what_root_set(pve: Any, run: Run, token: dict[str, Any]) -> None:
    made = run(**{**WANTED, "state": "present", "mounts": {"mp1": "/srv/x,mp=/x"}}, devices=[{"path": "/dev/kvm"}])
    assert not made.get("failed"), made
    changed = run(**token, cores=3, mounts=[{"volume": "/srv/x", "mp": "/x"}], devices=[{"path": "/dev/kvm"}])
    assert changed["actions"] == ["configure"]
    assert (
        "features (nesting of a privileged container)"
        in run(**{**WANTED, "vmid": 131, "unprivileged": False, **token})["msg"]
    )


def test_a_refusal_that_only_proxmox_knows_changes_nothing(pve: Any, run: Run, token: dict[str, Any]) -> None:
    run(**{**WANTED, "state": "present"})
    pve.fail("PUT", "/nodes/pve1/lxc/130/config", 403, "Permission check failed (/vms/130, VM.Config.CPU)")
    failed = run(**token, cores=3)
    assert failed["msg"].startswith("PUT nodes/pve1/lxc/130/config: Permission check failed (/vms/130, VM.Config.CPU)")
    assert (failed["actions"], pve.ct(130).config["cores"]) == ([], 4)


def test_user_without_rights(pve: Any, run: Run) -> None:
    pve.users["bob@pve"] = "pw"
    pve.grant("bob@pve", "/", "VM.Audit", "Datastore.Audit")
    failed = run(**WANTED, api_user="bob@pve", api_password="pw")
    for lacking in (
        "VM.Allocate on /vms/130 (features, unprivileged, create)",
        "VM.Config.CPU on /vms/130 (cores)",
        "VM.PowerMgmt on /vms/130 (start)",
        "SDN.Use on /sdn/zones/localnetwork/vmbr0 (net0)",
        "Datastore.AllocateSpace on /storage/local-lvm (mp0, rootfs)",
    ):
        assert lacking in failed["msg"]
    assert changes_made(pve) == []
    # All but the start: told before the change, not after it.
    pve.grant("bob@pve", "/", *(f"VM.Config.{what}" for what in ("CPU", "Memory", "Network", "Disk", "Options")))
    run(**{**WANTED, "state": "present"})
    pve.requests.clear()
    failed = run(cores=2, state="started", api_user="bob@pve", api_password="pw")
    assert "wanted the privileges VM.PowerMgmt on /vms/130 (start)" in failed["msg"]
    assert changes_made(pve) == []
    assert run(cores=2, api_user="bob@pve", api_password="pw")["changed"]
    assert "VM.Allocate on /vms/130 (delete)" in run(state="absent", api_user="bob@pve", api_password="pw")["msg"]


def test_wrong_password_and_token(run: Run) -> None:
    failed = run(api_password="wr0ng")
    assert "refused the login of root@pam" in failed["msg"]
    assert "wr0ng" not in json.dumps(failed)
    token = {"api_password": None, "api_token_id": "gone", "api_token_secret": "s3cret"}
    failed = run(**token)
    assert "refused root@pam!gone" in failed["msg"]
    assert "s3cret" not in json.dumps(failed)


def test_node_down_or_unknown(pve: Any, run: Run) -> None:
    with socket.socket() as unused:  # bound, so that nobody else gets it
        unused.bind(("127.0.0.1", 0))
        failed = run(api_port=unused.getsockname()[1])
    assert "cannot be reached: " in failed["msg"]
    assert "Connection refused" in failed["msg"]
    pve.set_node_offline("pve1")
    assert "the node does not answer the cluster" in run()["msg"]
    assert "No route to host" in run()["msg"]
    assert "the cluster knows no such node" in run(node="nowhere")["msg"]


def test_something_else_answers(run: Run, fakepve_cafile: str) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_words: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(fakepve_cafile, fakepve_cafile.replace(".crt", ".key"))
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        failed = run(api_port=server.server_port)
        server.shutdown()
    assert "wanted Proxmox VE's API, found something else (200 OK)" in failed["msg"]


def test_certificate(run: Run) -> None:
    failed = run(ca_path=None)
    assert "is not trusted" in failed["msg"]
    assert "SHA-256 fingerprint is " in failed["msg"]
    assert failed["msg"].count(":") > 31
    assert not run(ca_path=None, validate_certs=False, state="absent")["changed"]
    assert "ca_path: wanted a PEM file" in run(ca_path="/nowhere.pem")["msg"]


def test_pinned_certificate(pve: Any, run: Run, fakepve_cafile: str) -> None:
    der = ssl.PEM_cert_to_DER_cert(Path(fakepve_cafile).read_text())
    right = hashlib.sha256(der).hexdigest()
    # Neither signed by anyone known nor, as localhost, for that name: the fingerprint alone decides.
    for written in (right, ":".join(right[at : at + 2] for at in range(0, 64, 2)).upper()):
        assert not run(ca_path=None, api_fingerprint=written, state="absent")["changed"]
    wrong = "00" * 32
    pve.requests.clear()
    failed = run(api_fingerprint=wrong)
    assert f"is not the pinned one: wanted the fingerprint {wrong}, found " in failed["msg"]
    assert right[:2].upper() + ":" in failed["msg"]
    assert "write this one into api_fingerprint" in failed["msg"]
    # Not even the login went out.
    assert pve.requests == []
    assert "api_fingerprint: wanted SHA-256, 32 pairs" in run(api_fingerprint="AB:CD")["msg"]


def test_second_factor(pve: Any, run: Run) -> None:
    pve.tfa = True
    assert "wants a second factor of root@pam: use a token" in run()["msg"]


def test_bad_parameter_is_named(pve: Any, run: Run) -> None:
    failed = run(**{**WANTED, "cores": 100000})
    assert "Proxmox refuses cores: " in failed["msg"]
    assert pve.ct(130) is None


def test_volumes_grow_and_never_shrink(pve: Any, run: Run) -> None:
    run(**WANTED)
    bigger = {**WANTED, "disk_gib": 16.5, "mounts": {"mp0": "local-lvm:30,mp=/models,backup=0"}}
    foretold = run(check=True, **bigger)
    assert "size=8G" in pve.ct(130).config["rootfs"]
    grown = run(**bigger)
    assert foretold["actions"] == grown["actions"] == ["grow"]
    assert foretold["diff"] == grown["diff"]
    assert "size=16896M" in grown["config"]["rootfs"]
    assert "size=30G" in grown["config"]["mp0"]
    assert grown["restart_required"] is False
    for same in (bigger, WANTED):
        assert not run(**same)["changed"]
    assert "size=16896M" in pve.ct(130).config["rootfs"]


def test_growing_a_mount_point_that_changes_too(pve: Any, run: Run) -> None:
    run(**WANTED)
    wanted = {**WANTED, "mounts": {"mp0": "local-lvm:30,mp=/models,backup=0,ro=1"}, "cores": 1}
    foretold, changed = run(check=True, **wanted), run(**wanted)
    assert changed["actions"] == foretold["actions"] == ["grow", "configure"]
    assert changed["diff"] == foretold["diff"]
    assert changed["pending"] == foretold["pending"] == ["mp0"]
    assert not run(**wanted)["changed"]
    assert "size=30G" in run(**{**wanted, "restart": True})["config"]["mp0"]
    # Grown once more while another change of it waits.
    run(**WANTED, config={})
    more = {**WANTED, "mounts": {"mp0": "local-lvm:40,mp=/models,backup=0"}, "restart": True}
    again, real = run(check=True, **more), run(**more)
    assert (again["actions"], again["diff"]) == (real["actions"], real["diff"])
    assert not run(**more)["changed"]
    assert pve.ct(130).config["mp0"].endswith("mp=/models,size=40G")


def test_volume_taken_back_and_grown(pve: Any, run: Run) -> None:
    run(**WANTED)
    assert run(mounts={"mp0": None})["pending"] == ["mp0"]
    bigger = {"mounts": ["local-lvm:30,mp=/models"]}
    foretold, back = run(check=True, **bigger), run(**bigger)
    assert (back["actions"], back["pending"]) == (["grow", "configure"], [])
    assert (back["diff"], back["actions"]) == (foretold["diff"], foretold["actions"])
    assert not run(**bigger)["changed"]
    assert pve.ct(130).config["mp0"].endswith("size=30G")


@pytest.mark.parametrize(
    ("storage", "kind", "volume", "snapshots"),
    [
        ("local-lvm", {"type": "lvmthin", "vgname": "pve", "thinpool": "data"}, "vm-130-disk-1", True),
        ("local-zfs", {"type": "zfspool", "pool": "rpool/data"}, "subvol-130-disk-1", True),
        ("ceph", {"type": "rbd", "pool": "rbd"}, "vm-130-disk-1", True),
        ("nas", {"type": "nfs", "server": "192.0.2.5", "export": "/x"}, "130/vm-130-disk-1.raw", False),
        ("thick", {"type": "lvm", "vgname": "data"}, "vm-130-disk-1", False),
    ],
)
def test_storages_of_every_kind(
    pve: Any, run: Run, run_module: Any, storage: str, kind: dict[str, str], volume: str, snapshots: bool
) -> None:
    """The names of volumes, their sizes and whether they have snapshots differ; a second run changes nothing of any."""
    pve.storages[storage] = {"active": 1, "content": "images,rootdir", "files": set(), **kind}
    wanted = {**WANTED, "storage": storage, "mounts": {"mp0": f"{storage}:20,mp=/models,backup=0"}}
    foretold, made = run(check=True, **wanted), run(**wanted)
    assert made["diff"] == foretold["diff"]
    assert pve.ct(130).config["mp0"].startswith(f"{storage}:{volume},")
    assert not run(**wanted)["changed"]
    as_list = {**wanted, "mounts": [{"volume": f"{storage}:20", "mp": "/models", "backup": False}]}
    assert not run(**as_list)["changed"]
    bigger = {**wanted, "disk_gib": 9, "mounts": {"mp0": f"{storage}:1024,mp=/models,backup=0"}}
    assert run(**bigger)["actions"] == ["grow"]
    assert "size=1T" in pve.ct(130).config["mp0"]
    for same in (bigger, wanted):
        assert not run(**same)["changed"]
    made = run_module(lxc_snapshot, name="before", if_unsupported="skip")
    assert made["changed"] is snapshots
    assert snapshots or f"mp0 on {storage}" in made["skipped_reason"]


def test_volume_without_a_limit_is_left_alone(pve: Any, run: Run) -> None:
    """A subvolume may have no size; growing it would give it a limit."""
    pve.storages["local-zfs"] = {"type": "zfspool", "active": 1, "content": "rootdir", "files": set(), "pool": "rpool"}
    wanted = {**WANTED, "mounts": {"mp0": "local-zfs:0,mp=/models"}}
    run(**wanted)
    assert not run(**wanted)["changed"]
    pve.ct(130).config["mp0"] = "local-zfs:subvol-130-disk-1,mp=/models"
    assert not run(**{**wanted, "mounts": {"mp0": "local-zfs:20,mp=/models"}})["changed"]


@pytest.fixture
def version_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema of Proxmox VE 8.4, as far as it lacks options of 9 for containers."""
    paths = copy.deepcopy(schema.load().paths)
    for path, method in (("/nodes/{node}/lxc", "POST"), ("/nodes/{node}/lxc/{vmid}/config", "PUT")):
        options = paths[path][method]["parameters"]["properties"]
        for name in ("entrypoint", "env"):
            del options[name]
        del options["net[n]"]["format"]["host-managed"]
    older = schema.Schema(paths)
    monkeypatch.setattr(schema, "load", lambda: older)


@pytest.mark.usefixtures("version_8")
def test_on_version_8(pve: Any, run: Run, run_module: Any) -> None:
    """What the modules send by themselves both versions take; an option of 9 is named."""
    foretold, made = run(check=True, **WANTED), run(**WANTED)
    assert made["diff"] == foretold["diff"], made
    assert not run(**WANTED)["changed"]
    changed = {**WANTED, "cores": 2, "features": {"nesting": True, "keyctl": True}, "disk_gib": 9}
    assert run(**changed, restart=True)["actions"] == ["grow", "configure", "restart"]
    assert run_module(lxc_snapshot, name="before")["changed"]
    refused = run(config={"entrypoint": "/bin/sh"})
    assert "Proxmox refuses entrypoint: this version of Proxmox VE has no such option" in refused["msg"]
    net = {"net0": {"name": "eth0", "bridge": "vmbr0", "host-managed": True}}
    assert "host-managed" in run(net=net)["msg"]
    assert run(state="absent", force=True)["actions"] == ["delete"]


def test_full_storage_is_the_tasks_word(pve: Any, run: Run) -> None:
    run(**WANTED)
    pve.fail("PUT", "/nodes/pve1/lxc/130/resize", 500, "not enough space")
    failed = run(**{**WANTED, "disk_gib": 9, "cores": 1})
    assert ("not enough space" in failed["msg"], failed["actions"]) == (True, [])
    assert pve.ct(130).config["cores"] == 4


def test_file_system_that_does_not_grow_fails_the_run(pve: Any, run: Run) -> None:
    run(**WANTED)
    pve.resize_fails = True
    failed = run(**{**WANTED, "mounts": {"mp0": "local-lvm:30,mp=/models,backup=0"}, "cores": 1})
    assert "mp0 of container 130 has 30G now, but its file system did not grow" in failed["msg"]
    assert (failed["actions"], failed["changed"]) == (["grow"], True)


def test_restart_only_when_allowed(pve: Any, run: Run) -> None:
    run(**WANTED)
    wanted = {**WANTED, "features": {"nesting": True, "keyctl": True}}
    waiting = run(**wanted)
    assert (waiting["actions"], waiting["restart_required"]) == (["configure"], True)
    pve.requests.clear()
    foretold = run(check=True, **wanted, restart=True)
    assert (foretold["actions"], foretold["restart_required"], foretold["status"]) == (["restart"], False, "running")
    assert changes_made(pve) == []
    done = run(**wanted, restart=True)
    assert (done["changed"], done["actions"], done["pending"]) == (True, ["restart"], [])
    assert changes_made(pve) == [f"POST /api2/json/nodes/pve1/lxc/130/status/{step}" for step in ("shutdown", "start")]
    assert pve.ct(130).config["features"] == "keyctl=1,nesting=1"
    assert not run(**wanted, restart=True)["changed"]
    # Nothing waits in a stopped container, so nothing is restarted.
    run(state="stopped")
    assert run(features={"nesting": True}, restart=True)["actions"] == ["configure"]


@pytest.mark.fakepve(time_scale=0.05)
def test_restart_that_fails_says_where_it_left_off(pve: Any, run: Run) -> None:
    run(**WANTED)
    wanted = {"features": {"nesting": True, "keyctl": True}, "restart": True, "timeout": 2}
    pve.ct(130).shutdown_secs = 100
    assert "force: true kills" in run(**wanted)["msg"]
    pve.ct(130).shutdown_secs = 0
    pve.ct(130).start_error = "Device /dev/nvidia-uvm does not exist"
    failed = run(**wanted)
    assert "Device /dev/nvidia-uvm does not exist" in failed["msg"]
    assert "was shut down to restart it, and is stopped now" in failed["msg"]
    assert failed["actions"] == ["restart"]


def test_lists_keep_their_keys_and_take_free_ones(pve: Any, run: Run) -> None:
    networks = [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}, "name=eth1,bridge=vmbr1"]
    mounts = [{"volume": f"local-lvm:{size}", "mp": f"/{name}"} for size, name in ((1, "a"), (2, "b"), (3, "c"))]
    run(**{**WANTED, "state": "present", "net": networks, "mounts": mounts})
    config = dict(pve.ct(130).config)
    assert (config["net1"].split(",")[0], config["mp2"].split(":")[0]) == ("name=eth1", "local-lvm")
    other = {
        "net": [networks[1], {"name": "lan0", "bridge": "vmbr2"}],
        "mounts": [mounts[2], "local-lvm:4,mp=/d", mounts[0]],
    }
    foretold, changed = run(check=True, **other), run(**other)
    assert foretold["diff"] == changed["diff"]
    after = pve.ct(130).config
    assert after["net1"] == config["net1"]
    assert after["net2"].startswith("name=lan0")
    assert "net0" not in after
    assert (after["mp0"], after["mp2"]) == (config["mp0"], config["mp2"])
    assert ("mp1" in after, "mp=/d" in after["mp3"]) == (False, True)
    assert not run(**other)["changed"]
    # What is free again is taken again.
    again = run(net=[*other["net"], networks[0]], mounts=other["mounts"])
    assert "net0" in again["config"]
    failed = run(net=[{"bridge": "vmbr0"}])
    assert "net: wanted a name in every entry" in failed["msg"]
    assert "mounts: /a stands twice" in run(mounts=["local-lvm:1,mp=/a", "local-lvm:1,mp=/a/"])["msg"]
    assert "net: wanted a dictionary or a list, found 'dhcp'" in run(net="dhcp")["msg"]


def test_template_is_found_or_downloaded(pve: Any, run: Run) -> None:
    package = {**WANTED, "ostemplate": "local:vztmpl/debian-13-standard", "state": "present"}
    assert run(check=True, **package)["actions"] == ["create"]
    assert "debian-13-standard_13.10-1_amd64.tar.zst" in stricter_pve.OFFERED
    newest = {**package, "ostemplate": "local:vztmpl/debian-13-standard_13.10-1_amd64.tar.zst"}
    refused = run(**newest, download_template=False)
    assert f"found on storage local: {TEMPLATE}" in refused["msg"]
    assert "download_template: true" in refused["msg"]
    foretold = run(check=True, **newest)
    assert foretold["actions"] == ["download", "create"]
    assert changes_made(pve) == []
    assert run(**newest)["actions"] == ["download", "create"]
    again = run(**{**newest, "vmid": 131})
    assert again["actions"] == ["create"]
    # The newest by its number, not by its letters.
    run(**{**package, "vmid": 132})
    body = [body for method, path, body in pve.requests if method == "POST" and path.endswith("/lxc")][-1]
    assert b"13.10-1" in body
    other = run(**{**package, "vmid": 133, "ostemplate": "local:vztmpl/debian-12-standard"})
    assert other["actions"] == ["download", "create"]
    unknown = run(**{**package, "vmid": 134, "ostemplate": "local:vztmpl/debian-13-standard_14.0-1_amd64.tar.zst"})
    assert "to download: debian-13-standard_13.1-2_amd64.tar.zst, debian-13-standard_13.10-1" in unknown["msg"]


def test_list_of_downloads_is_left_alone_where_nothing_may_be_downloaded(pve: Any, run: Run) -> None:
    wanted = {**WANTED, "ostemplate": "local:vztmpl/debian-12-standard", "download_template": False}
    assert "found on storage local" in run(**wanted)["msg"]
    assert not [path for _method, path, _body in pve.requests if "aplinfo" in path]


def test_new_container_is_read_once(pve: Any, run: Run) -> None:
    made = run(**WANTED)
    # Before and after the create; a start changes nothing of it.
    assert made["calls"].count("GET nodes/pve1/lxc/130/pending") == 2


def test_hostname_of_a_running_container_waits_for_a_restart(pve: Any, run: Run) -> None:
    run(**WANTED)
    foretold, changed = run(check=True, hostname="other"), run(hostname="other")
    assert (changed["pending"], changed["restart_required"]) == (["hostname"], True)
    assert (foretold["pending"], foretold["diff"]) == (changed["pending"], changed["diff"])
    assert run(hostname="third", restart=True)["actions"] == ["configure", "restart"]
    run(state="stopped")
    assert run(hostname="fourth")["pending"] == []


def test_download_that_fails_makes_nothing(pve: Any, run: Run) -> None:
    pve.fail("POST", "/nodes/pve1/aplinfo", 500, "checksum of the download is wrong")
    failed = run(**{**WANTED, "ostemplate": "local:vztmpl/debian-12-standard"})
    assert ("checksum" in failed["msg"], failed["actions"], pve.ct(130)) == (True, [], None)


def test_storages_are_looked_at_first(pve: Any, run: Run) -> None:
    assert (
        "storage: wanted a storage for rootdir, found local with "
        in run(**{**WANTED, "storage": "local", "disk_gib": None, "mounts": None})["msg"]
    )
    assert "rootfs: storage 'nas' does not exist on node pve1" in run(**{**WANTED, "storage": "nas"})["msg"]
    assert "For rootdir there: local-lvm" in run(**{**WANTED, "storage": "nas"})["msg"]
    download = {**WANTED, "ostemplate": "local-lvm:vztmpl/debian-12-standard"}
    assert "ostemplate: wanted a storage for vztmpl, found local-lvm" in run(**download)["msg"]
    pve.storages["local-lvm"]["active"] = 0
    assert "storage 'local-lvm' is not online" in run(**WANTED)["msg"]
    assert changes_made(pve) == []
    pve.storages["local-lvm"]["active"] = 1
    run(**WANTED)
    pve.requests.clear()
    assert "mp1: wanted a storage for rootdir" in run(mounts={"mp1": "local:4,mp=/x"}, cores=1)["msg"]
    assert changes_made(pve) == []


def test_bridges_are_looked_at_first(pve: Any, run: Run) -> None:
    """Proxmox VE creates a container with a bridge that does not exist, and writes one before it refuses it."""
    other = {"net": {"net0": {"name": "eth0", "bridge": "vmbr9", "ip": "dhcp"}}}
    for check in (True, False):
        failed = run(check, **{**WANTED, **other})
        assert "wanted the bridges vmbr9 (net0), node pve1 has vmbr0, vmbr1, vmbr2" in failed["msg"]
    assert changes_made(pve) == []
    run(**{**WANTED, "state": "stopped"})
    for state in ("stopped", "started"):
        run(state=state)
        pve.requests.clear()
        for check in (True, False):
            assert "wanted the bridges vmbr9 (net0)" in run(check, **{**other, "state": state, "cores": 1})["msg"]
        assert changes_made(pve) == []
        assert "vmbr0" in pve.ct(130).config["net0"]
    # One that was written by hand, and that a run does not ask for: told before the start.
    run(state="stopped")
    pve.ct(130).config["net1"] = "name=eth1,bridge=vmbr8,hwaddr=BC:24:11:00:00:02,type=veth"
    pve.requests.clear()
    assert "wanted the bridges vmbr8 (net1)" in run(state="started", cores=1)["msg"]
    assert changes_made(pve) == []


def test_protected_container_keeps_its_volumes(pve: Any, run: Run) -> None:
    run(**WANTED, protection=True)
    pve.requests.clear()
    for options in ({"protection": False, "mounts": {"mp0": None}}, {"mounts": {"mp1": "local-lvm:1,mp=/x"}}):
        assert "Set protection: false in a run before this one" in run(**options, cores=1)["msg"]
    assert changes_made(pve) == []
    run(protection=False)
    assert run(mounts={"mp0": None})["changed"]


def test_made_and_not_there_yet(pve: Any, run: Run) -> None:
    wait = "Configuration file 'nodes/pve1/lxc/130.conf' does not exist"
    pve.fail("GET", "/nodes/pve1/lxc/130/pending", 500, wait, times=4)
    made = run(**WANTED)
    assert (made["actions"], made["status"]) == (["create", "start"], "running")
    assert made["calls"].count("GET nodes/pve1/lxc/130/pending") > 4


def test_devices_that_cannot_be_seen_are_said(run: Run) -> None:
    made = run(**{**WANTED, "state": "present"}, devices=[{"path": "/dev/nvidia0"}])
    assert "cannot be seen whether node pve1 has /dev/nvidia0" in str(made["warnings"])


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(some_runs(devices=["/dev/kvm", "/dev/nvidia0", "/dev/dri/renderD128"], bridges=["vmbr0", "vmbr1"], most=4))
def test_check_mode_foretells_any_run_and_the_next_changes_nothing(pve: Any, run: Run, runs: list[Any]) -> None:
    pve.cts.clear()
    assert_foretold(run, [{"ostemplate": TEMPLATE, **options} for options in runs])
