# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself: are its containers real, does it refuse what Proxmox refuses, does its state last.

Wants root; brings the lab up when it is down, and leaves it up.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LAB = Path(__file__).resolve().parents[2] / "lab" / "lab"
TRIXIE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
# Guests of these tests; whatever carries one of these numbers is removed before and after.
VMID, OTHER = 140, 141
NETWORK = os.environ.get("HOMELAB_LAB_NETWORK", "198.18.77.0/24").rpartition(".")[0]
NODE, ADDRESS = f"{NETWORK}.2", f"{NETWORK}.140"
# A lab beside the shared one, which no other checkout's tests have.
SECOND = os.environ.get("HOMELAB_LAB_NAME", "homelab-llamacpp") + "-test"
THIRD = (int(NETWORK.rpartition(".")[2]) + 100) % 256
SECOND_NETWORK = f"{NETWORK.rpartition('.')[0]}.{THIRD}"

STATE = Path(os.environ.get("HOMELAB_LAB_STATE", "/var/lib/homelab-llamacpp-lab"))
# One connection for all of these tests: a login each would take most of their time.
SSH = [
    *("ssh", "-F", "/dev/null", "-i", str(STATE / "id_ed25519"), "-o", f"UserKnownHostsFile={STATE / 'known_hosts'}"),
    *("-o", "BatchMode=yes", "-o", "ControlMaster=auto", "-o", "ControlPersist=600"),
    *("-o", f"ControlPath={STATE}/test-lab-ssh", f"root@{NODE}"),
]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")


class Result:
    """What a command on the node said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.rc, self.out, self.err = done.returncode, done.stdout.strip(), done.stderr.strip()

    @property
    def json(self) -> Any:
        """Its stdout as data."""
        return json.loads(self.out)


def node(command: str) -> Result:
    """Run a shell command on the node."""
    return Result(subprocess.run([*SSH, command], check=False, capture_output=True, text=True, timeout=600))


def ok(command: str) -> str:
    """Run a shell command on the node that must work; its stdout.

    pvesh ends with 0 although its task has failed, and then says so on stderr.
    """
    done = node(command)
    assert (done.rc, done.err) == (0, ""), f"{command}: {done.out} {done.err}"
    return done.out


def guest(command: str, vmid: int = VMID) -> str:
    """Run a shell command in the guest that must work; its stdout."""
    return ok(f"lxc-attach -n {vmid} --clear-env -v PATH=/usr/sbin:/usr/bin -- sh -c {json.dumps(command)}")


def config(vmid: int = VMID) -> dict[str, Any]:
    """The guest's current configuration."""
    data: dict[str, Any] = json.loads(ok(f"pvesh get /nodes/pve/lxc/{vmid}/config --current 1 --output-format json"))
    return data


def status(vmid: int = VMID) -> str:
    """running or stopped."""
    return ok(f"pct status {vmid}").removeprefix("status: ")


def wait_for(what: str, happened: Any, seconds: float = 180) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def booted(vmid: int = VMID) -> str:
    """What systemd says of itself once it has booted. A container is there before its systemd answers."""
    ask = f"lxc-attach -n {vmid} --clear-env -v PATH=/usr/bin -- systemctl is-system-running --wait"
    wait_for("systemd", lambda: node(ask).out not in ("offline", "unknown", "initializing", "starting", ""))
    return node(ask).out


def create(vmid: int = VMID, extra: str = "", unprivileged: int = 1) -> None:
    """Make a guest with the test's address."""
    ok(
        f"pvesh create /nodes/pve/lxc -vmid {vmid} -ostemplate {TRIXIE} -hostname t{vmid} -rootfs local-lvm:4 "
        f"-memory 512 -unprivileged {unprivileged} -features nesting=1 "
        f"-net0 name=eth0,bridge=vmbr0,ip={NETWORK}.{vmid}/24,gw={NETWORK}.1 {extra}"
    )


def remove() -> None:
    """Take the tests' guests away."""
    for vmid in (VMID, OTHER):
        node(f"pct stop {vmid} 2>/dev/null; pct destroy {vmid} --force 1")


@pytest.fixture(scope="module", autouse=True)
def lab() -> Iterator[None]:
    """A lab that is up, without these tests' guests."""
    subprocess.run([str(LAB), "up"], check=True, timeout=600)
    subprocess.run([*SSH, "-O", "exit"], check=False, capture_output=True)  # of a run that was killed
    remove()
    yield
    remove()
    subprocess.run([*SSH, "-O", "exit"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def container(lab: None) -> None:
    """An unprivileged guest, running."""
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJLabTestKeyLabTestKeyLabTestKeyLabTestK t"
    create(extra=f"-password geheim123 -ssh-public-keys '{key}'")
    ok(f"pct start {VMID}")


@pytest.mark.usefixtures("container")
class TestGuest:
    """An unprivileged guest of the lab."""

    def test_boots_systemd_with_nothing_failed(self) -> None:
        """systemd gets through; no unit fails."""
        assert booted() == "running"

    def test_has_what_the_official_template_has(self) -> None:
        """Packages by Debian's priorities, postfix, ifupdown2; units that Proxmox masks."""
        assert booted() == "running"
        packages = "postfix ifupdown2 isc-dhcp-client openssh-server man-db locales bash-completion systemd-timesyncd"
        assert guest(f"dpkg --status {packages} >/dev/null && echo all") == "all"
        for unit in ("sys-kernel-config.mount", "sys-kernel-debug.mount", "systemd-journald-audit.socket"):
            assert node(f"lxc-attach -n {VMID} -- systemctl is-enabled {unit}").out == "masked"
        assert guest("systemctl is-active networking postfix ssh").split() == ["active"] * 3

    def test_is_unprivileged(self) -> None:
        """Its root is user 100000 on the node."""
        assert guest("cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
        pid = ok(f"lxc-info -n {VMID} -p -H")
        assert ok(f"stat -c %u /proc/{pid}") == "100000"
        assert guest("stat -c %u:%g /etc/shadow | cut -d: -f1") == "0"

    def test_has_its_name_address_and_keys(self) -> None:
        """What was asked for at creation is in its root filesystem."""
        assert guest("hostname") == f"t{VMID}"
        wait_for("the address", lambda: f"{ADDRESS}/24" in guest("ip -4 -o address show dev eth0"))
        assert f"default via {NETWORK}.1" in guest("ip route")
        assert "LabTestKey" in guest("cat /root/.ssh/authorized_keys")
        assert guest("stat -c %a /root/.ssh/authorized_keys") == "600"
        assert guest("getent shadow root | cut -d: -f2 | cut -c1-3").startswith("$")

    def test_reaches_the_package_mirror(self) -> None:
        """Through vmbr0, the lab's bridge and its NAT."""
        wait_for("name resolution", lambda: node(f"lxc-attach -n {VMID} -- getent hosts deb.debian.org").rc == 0)
        assert "Reading package lists" in guest("apt-get update 2>&1 | tail -n 1")

    def test_device_appears_with_its_shifted_owner_and_mode(self) -> None:
        """devN in a running guest: the node's numbers, the guest's group, the mode asked for; and it opens."""
        ok("test -e /dev/nvidia0 || mknod -m 666 /dev/nvidia0 c 1 3")
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -dev0 /dev/nvidia0,gid=44,uid=1,mode=0640")
        assert guest("stat -c %F:%t:%T:%u:%g:%a /dev/nvidia0") == "character special file:1:3:1:44:640"
        assert guest("head -c 1 /dev/nvidia0 | wc -c; echo x >/dev/nvidia0") == "0"
        passthrough = f"/var/lib/lxc/{VMID}/passthrough/dev/nvidia0"
        assert ok(f"stat -c %u:%g {passthrough}") == "100001:100044"

    def test_device_is_there_after_a_reboot_of_the_guests_own(self) -> None:
        """A guest that reboots itself comes back, with the configuration as it is now."""
        assert booted() == "running"
        before = ok(f"lxc-info -n {VMID} -p -H")
        node(f"lxc-attach -n {VMID} --clear-env -- systemctl reboot")
        # While the container's monitor restarts it may drop the question: lxc-info then prints no number.
        wait_for("a new first process", lambda: node(f"lxc-info -n {VMID} -p -H").out not in ("", "-1", before))
        wait_for("the API to see it", lambda: status() == "running")
        assert booted() == "running"
        assert guest("stat -c %g:%a /dev/nvidia0") == "44:640"

    def test_removing_a_device_is_pending_until_a_restart(self) -> None:
        """As on Proxmox: plugging is hot, unplugging is not."""
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -delete dev0")
        assert "dev0" in config()
        assert "dev0" not in json.loads(ok(f"pvesh get /nodes/pve/lxc/{VMID}/config --output-format json"))
        assert guest("test -c /dev/nvidia0 && echo there") == "there"
        ok(f"pct reboot {VMID}")
        booted()
        assert "dev0" not in config()
        assert guest("test -e /dev/nvidia0 || echo gone") == "gone"

    def test_address_changes_while_it_runs(self) -> None:
        """netN is hot too."""
        other = f"{NETWORK}.149/24"
        net = config()["net0"].replace(f"{ADDRESS}/24", other)
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -net0 {net}")
        assert other in guest("ip -4 -o address show dev eth0")
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -net0 {net.replace(other, ADDRESS + '/24')}")
        assert f"{ADDRESS}/24" in guest("ip -4 -o address show dev eth0")

    def test_snapshot_and_rollback_are_real(self) -> None:
        """What is written after the snapshot is gone after the rollback; what was before is back."""
        guest("echo before >/root/witness")
        ok(f"pvesh create /nodes/pve/lxc/{VMID}/snapshot -snapname clean")
        guest("echo after >/root/witness; rm /etc/hostname")
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -tags changed")
        ok(f"pvesh create /nodes/pve/lxc/{VMID}/snapshot/clean/rollback -start 1")
        assert status() == "running"
        assert guest("cat /root/witness") == "before"
        assert "tags" not in config()
        ok(f"pvesh delete /nodes/pve/lxc/{VMID}/snapshot/clean")
        assert (
            node(f"pvesh create /nodes/pve/lxc/{VMID}/snapshot/clean/rollback").err == "snapshot 'clean' does not exist"
        )

    def test_volume_mount_is_writable_and_does_not_block_snapshots(self) -> None:
        """A volume mount point is the guest's own, hot-plugged, and part of a snapshot."""
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -mp0 local-lvm:1,mp=/srv/data")
        guest("echo one >/srv/data/file; chown 1000 /srv/data/file")
        ok(f"pvesh create /nodes/pve/lxc/{VMID}/snapshot -snapname data")
        guest("echo two >/srv/data/file")
        ok(f"pvesh create /nodes/pve/lxc/{VMID}/snapshot/data/rollback -start 1")
        assert guest("cat /srv/data/file; stat -c %u /srv/data/file") == "one\n1000"
        ok(f"pvesh delete /nodes/pve/lxc/{VMID}/snapshot/data")

    def test_bind_mount_shows_the_nodes_files_and_blocks_snapshots(self) -> None:
        """As on Proxmox: owners are not shifted, and no snapshot while it is there."""
        ok("mkdir -p /srv/models && echo weights >/srv/models/a.gguf")
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -mp1 /srv/models,mp=/srv/models,ro=1")
        assert guest("cat /srv/models/a.gguf; stat -c %U /srv/models/a.gguf") == "weights\nnobody"
        refused = node(f"pvesh create /nodes/pve/lxc/{VMID}/snapshot -snapname no --output-format json")
        assert (refused.rc, refused.err) == (0, "snapshot feature is not available")
        assert refused.json.startswith("UPID:pve:")
        ok(f"pct reboot {VMID}")
        assert node(f"lxc-attach -n {VMID} -- touch /srv/models/x").rc != 0
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -delete mp1")

    def test_missing_device_makes_the_start_fail(self) -> None:
        """In Proxmox's words; pvesh ends with 0, pct does not, and the task knows."""
        ok("test -e /dev/nvidia-uvm || mknod -m 666 /dev/nvidia-uvm c 1 3")
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -dev1 /dev/nvidia-uvm")
        ok(f"pct shutdown {VMID}")
        ok("rm /dev/nvidia-uvm")
        failed = node(f"pvesh create /nodes/pve/lxc/{VMID}/status/start --output-format json")
        assert (failed.rc, failed.err) == (0, "Device /dev/nvidia-uvm does not exist")
        task = json.loads(ok(f"pvesh get /nodes/pve/tasks/{failed.json}/status --output-format json"))
        assert task["exitstatus"] == "Device /dev/nvidia-uvm does not exist"
        assert status() == "stopped"
        failed = node(f"pct start {VMID}")
        assert (failed.rc != 0, failed.err) == (True, "Device /dev/nvidia-uvm does not exist")
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -delete dev1")
        ok(f"pct start {VMID}")

    def test_its_own_poweroff_is_noticed(self) -> None:
        """Nobody tells the API; it sees."""
        booted()
        node(f"lxc-attach -n {VMID} --clear-env -- systemctl poweroff")
        wait_for("stopped", lambda: status() == "stopped")
        ok(f"pct start {VMID}")

    def test_state_survives_the_daemon(self) -> None:
        """A restart of the double: guests run on and are known, configuration and all."""
        ok(f"pvesh set /nodes/pve/lxc/{VMID}/config -description 'two\nlines' -onboot 1 -startup order=2")
        assert config()["description"] == "two\nlines\n"
        before, pid = config(), ok(f"lxc-info -n {VMID} -p -H")
        ok("systemctl restart pve-double")
        assert config() == before
        assert (status(), ok(f"lxc-info -n {VMID} -p -H")) == ("running", pid)
        booted()
        node(f"lxc-attach -n {VMID} --clear-env -- systemctl poweroff")
        wait_for("a poweroff to be noticed still", lambda: status() == "stopped")


class TestRefusals:
    """Proxmox's own words, where fakepve alone would let it pass."""

    def test_privileged_guest_runs(self) -> None:
        """Unshifted, with its own root."""
        create(OTHER, unprivileged=0)
        ok(f"pct start {OTHER}")
        # Nobody gave it a password: none fits, and root is not locked.
        assert guest("getent shadow root | cut -d: -f2", OTHER) == "*"
        assert booted(OTHER) == "running"
        assert guest("cat /proc/self/uid_map", OTHER).split() == ["0", "0", "4294967295"]
        assert node(f"pct destroy {OTHER}").err == f"unable to destroy CT {OTHER} - container is running"
        ok(f"pct destroy {OTHER} --force 1")
        assert node(f"test -e /var/lib/vz/lab-volumes/local-lvm/vm-{OTHER}-disk-0").rc != 0
        assert (
            node(f"pvesh get /nodes/pve/lxc/{OTHER}/config").err
            == f"Configuration file 'nodes/pve/lxc/{OTHER}.conf' does not exist"
        )

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("/dev/absent", "Device /dev/absent does not exist"),
            ("/dev/shm", "/dev/shm is not a device"),
        ],
    )
    @pytest.mark.usefixtures("container")
    def test_device_that_is_none(self, value: str, words: str) -> None:
        """A path that the node does not have, and a folder."""
        refused = node(f"pvesh set /nodes/pve/lxc/{VMID}/config -dev2 {value}")
        assert refused.rc != 0
        assert refused.err == words
        assert "dev2" not in config()

    @pytest.mark.usefixtures("container")
    def test_mode_of_a_device_is_checked_by_the_schema(self) -> None:
        """400, and the parameter's name."""
        refused = node(f"pvesh set /nodes/pve/lxc/{VMID}/config -dev2 /dev/null,mode=660")
        assert refused.rc != 0
        assert refused.err.startswith("400 Parameter verification failed.\ndev2: ")

    @pytest.mark.usefixtures("container")
    def test_words_of_refused_options(self) -> None:
        """An option that the schema lacks is unknown to pvesh itself; a usage line follows, the status says nothing."""
        refused = node(f"pvesh set /nodes/pve/lxc/{VMID}/config -flying 1")
        assert refused.err.splitlines() == [
            "Unknown option: flying",
            "400 unable to parse option",
            "pvesh set <api_path> [OPTIONS] [FORMAT_OPTIONS]",
        ]
        refused = node(f"pvesh set /nodes/pve/lxc/{VMID}/config -net1 name=eth1,bridge=vmbr0,ip=300.1.1.1/24")
        assert "\nnet1.ip: " in refused.err
        statuses = {node(f"pvesh set /nodes/pve/lxc/{VMID}/config -cores many").rc for _try in range(20)}
        assert statuses <= {1, 2, 255}
        assert len(statuses) > 1

    def test_template_that_is_not_there(self) -> None:
        """The task fails, and nothing of the container stays."""
        refused = node(
            f"pvesh create /nodes/pve/lxc -vmid {OTHER} -ostemplate local:vztmpl/none.tar.zst -rootfs local-lvm:4"
        )
        assert refused.rc == 0
        assert refused.err == f"unable to create CT {OTHER} - volume 'local:vztmpl/none.tar.zst' does not exist"
        assert node(f"pct status {OTHER}").rc != 0

    def test_bridge_that_is_not_there(self) -> None:
        """The start fails by the bridge's name."""
        create(OTHER, "-net1 name=eth1,bridge=vmbr9")
        assert node(f"pct start {OTHER}").err == "bridge 'vmbr9' does not exist"
        ok(f"pct destroy {OTHER}")

    def test_bridge_that_is_not_there_is_written(self) -> None:
        """Of a stopped container the file is written before the PUT fails; a running one takes nothing of a PUT."""
        create(OTHER)
        set_config = f"pvesh set /nodes/pve/lxc/{OTHER}/config"
        refused = node(f"{set_config} -net0 name=eth0,bridge=vmbr9 -cores 2")
        assert (refused.rc != 0, refused.err) == (True, "bridge 'vmbr9' does not exist")
        assert "bridge=vmbr9" in config(OTHER)["net0"]
        assert config(OTHER)["cores"] == 2
        ok(f"{set_config} -net0 name=eth0,bridge=vmbr0,ip=manual")
        ok(f"pct start {OTHER}")
        before = config(OTHER)
        refused = node(f"{set_config} -net1 name=eth1,bridge=vmbr9 -cores 3 -delete features")
        assert "net1: unable to hotplug net1: bridge 'vmbr9' does not exist" in refused.err
        assert config(OTHER) == before
        assert "pending" not in ok(f"pvesh get /nodes/pve/lxc/{OTHER}/pending --output-format json")
        ok(f"pct destroy {OTHER} --force 1")

    @pytest.mark.usefixtures("container")
    def test_token_of_root_may_not_pass_a_device(self) -> None:
        """Device passthrough is for root@pam alone."""
        secret = ok("cat /etc/pve-double/token")
        request = urllib.request.Request(
            f"https://{NODE}:8006/api2/json/nodes/pve/lxc/{VMID}/config",
            b"dev2=/dev/null",
            method="PUT",
            headers={"Authorization": f"PVEAPIToken=root@pam!lab={secret}"},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, context=ssl._create_unverified_context())
        assert caught.value.code == 403
        refused = json.load(caught.value)
        assert "device passthrough is only allowed for root@pam" in refused["message"]

    def test_templates_are_the_real_ones(self) -> None:
        """pveam, the storage and the API name the same files, and they are there."""
        available = [line.split()[1] for line in ok("pveam available --section system").splitlines()]
        assert TRIXIE.rsplit("/", 1)[1] in available
        for name in available:
            assert f"local:vztmpl/{name}" in ok("pveam list local")
            ok(f"test -s /var/lib/vz/template/cache/{name}")
        refused = node("pveam download local nothing.tar.zst")
        assert refused.err == "400 Parameter verification failed.\ntemplate: no such template"

    def test_what_the_lab_cannot_do_is_refused(self) -> None:
        """Never a success that nothing stands behind."""
        assert "does not make this real" in node(f"pvesh create /nodes/pve/lxc/{VMID}/clone -newid 142").err


class TestHost:
    """What a lab does to this machine, tried on a second one beside the shared lab."""

    @pytest.fixture
    def second(self, tmp_path: Path) -> Iterator[dict[str, str]]:
        """The environment of a lab of its own; it is taken down at the end, whatever happened."""
        environment = {
            **os.environ,
            "HOMELAB_LAB_NAME": SECOND,
            "HOMELAB_LAB_BRIDGE": f"hlabt{THIRD}",
            "HOMELAB_LAB_NETWORK": f"{SECOND_NETWORK}.0/24",
            "HOMELAB_LAB_STATE": str(tmp_path / "state"),
        }
        yield environment
        subprocess.run([str(LAB), "down", "--purge"], check=True, env=environment, timeout=900)

    @staticmethod
    def traces() -> dict[str, str]:
        """Everything on this machine that a lab could leave."""

        def said(*command: str) -> str:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        return {
            "mounts": Path("/proc/mounts").read_text(),
            "interfaces": "\n".join(sorted(os.listdir("/sys/class/net"))),
            "tables": said("nft", "list", "tables"),
            "loop devices": said("losetup", "--list", "--noheadings", "--output", "BACK-FILE"),
            "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
            "processes": subprocess.run(
                ["pgrep", "-af", f"{SECOND}-lab|{SECOND_NETWORK}[.]"], check=False, capture_output=True, text=True
            ).stdout,
        }

    def nothing_left(self, before: dict[str, str]) -> None:
        """This machine is as it was. The kernel takes a network namespace apart after its last process."""
        deadline = time.monotonic() + 30
        while self.traces() != before and time.monotonic() < deadline:
            time.sleep(0.2)
        assert self.traces() == before

    def run(self, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
        """Run a lab command on the second lab that must work."""
        done = subprocess.run(
            [str(LAB), *words], check=False, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def test_down_leaves_nothing_and_containers_survive_it(self, second: dict[str, str]) -> None:
        """Down and up again: the machine is as before in between, the onboot guest runs afterwards."""
        before = self.traces()
        self.run(second, "up")
        self.run(
            second,
            "ssh",
            f"pvesh create /nodes/pve/lxc -vmid {VMID} -ostemplate {TRIXIE} -hostname again "
            "-rootfs local-lvm:4 -features nesting=1 -onboot 1 -start 1",
        )
        self.run(second, "ssh", f"lxc-attach -n {VMID} -- touch /root/witness")
        self.run(second, "down")
        self.nothing_left(before)
        self.run(second, "up")
        assert self.run(second, "ssh", f"pct status {VMID}").stdout == "status: running\n"
        self.run(second, "ssh", f"lxc-attach -n {VMID} -- test -e /root/witness")

    @pytest.mark.parametrize("seconds", [0.3, 1.0, 1.7, 2.5, 4.0])
    def test_down_after_a_kill_leaves_nothing(self, second: dict[str, str], seconds: float) -> None:
        """Kill -9 of `up` and of the node's power supply at some point on the way."""
        before = self.traces()
        up = subprocess.Popen([str(LAB), "up"], env=second, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        up.kill()
        up.wait()
        kinds = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        supply = Path(next(words[1] for words in kinds if words[2] == "cgroup2"), f"{SECOND}-lab/power/cgroup.procs")
        for pid in supply.read_text().split() if supply.exists() else []:
            os.kill(int(pid), signal.SIGKILL)
        self.run(second, "down")
        self.nothing_left(before)
