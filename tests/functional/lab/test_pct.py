# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pct connection into real containers of the lab: guest 115 runs, 116 was never started, 117 does not exist."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible as ansible_package
import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from homelab_lab.settings import Settings

RUNNING, STOPPED, MISSING = 115, 116, 117
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"

Connect = Callable[..., Any]
COLLECTIONS = os.environ["ANSIBLE_COLLECTIONS_PATH"]

lab = Settings.from_environment()
BOOTED = (
    f"until lxc-attach -n {RUNNING} --clear-env -- /bin/systemctl is-system-running --wait 2>&1"
    " | grep -qxE 'running|degraded'; do sleep 0.2; done"
)


def on_node(command: str, data: bytes | None = None) -> str:
    done = subprocess.run(lab.ssh(command), input=data, capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def make_guest(vmid: int) -> None:
    on_node(
        f"pvesh create /nodes/{lab.node}/lxc --vmid {vmid} --hostname pct{vmid} --ostemplate {TEMPLATE} "
        "--unprivileged 1 --features nesting=1 --memory 512 --rootfs local-lvm:4"
    )


def remove_guest(vmid: int) -> None:
    if f"{vmid}.conf" in on_node("ls /etc/pve/lxc"):
        on_node(f"pct status {vmid} | grep -q stopped || pct stop {vmid}; pvesh delete /nodes/{lab.node}/lxc/{vmid}")


@pytest.fixture(scope="module")
def guests() -> Iterator[None]:
    """The guests, with the users bob (his password is `secret`) and admin in the running one; admin on the node too."""
    for vmid in (RUNNING, STOPPED):
        remove_guest(vmid)
        make_guest(vmid)
    on_node(f"pct start {RUNNING} && {BOOTED}")
    in_guest = (
        "useradd -m -s /bin/bash bob; useradd -m admin; echo bob:secret | chpasswd; "
        "echo 'bob ALL=(ALL) ALL' > /etc/sudoers.d/bob; echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin"
    )
    on_node(
        f"lxc-attach -n {RUNNING} --clear-env -v PATH=/usr/sbin:/usr/bin:/sbin:/bin -- sh -c {shlex.quote(in_guest)}"
    )
    on_node(
        "useradd -m -s /bin/bash pctadmin; install -d -m 700 -o pctadmin -g pctadmin ~pctadmin/.ssh; "
        "install -m 600 -o pctadmin -g pctadmin /root/.ssh/authorized_keys ~pctadmin/.ssh/"
    )
    yield
    on_node("rm -f /etc/sudoers.d/pctadmin; pkill -u pctadmin; userdel -r pctadmin 2>/dev/null; true")
    for vmid in (RUNNING, STOPPED):
        remove_guest(vmid)


@pytest.fixture(scope="module")
def control_path() -> Iterator[str]:
    """A short folder of our own for the ControlPath sockets, whose masters end with the module."""
    folder = Path(f"/tmp/pct-{os.getpid()}")
    folder.mkdir(mode=0o700)
    yield str(folder)
    for socket in folder.iterdir():
        subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "x"], capture_output=True, check=False)
    given_up = [path.name for path in folder.glob("*.refused")]
    shutil.rmtree(folder)
    assert not given_up, "what was meant to be a session was not one"


@pytest.fixture(scope="module")
def common(guests: None, control_path: str) -> dict[str, Any]:
    """How any inventory of the lab's node begins."""
    return {
        "ansible_connection": "homelab.llamacpp.pct",
        "ansible_host": lab.address,
        "ansible_private_key_file": str(lab.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts}",
        "ansible_control_path_dir": control_path,
        "proxmox_lxc_vmid": RUNNING,
    }


@pytest.fixture(params=["session", "lxc-attach", "pct"])
def variables(request: pytest.FixtureRequest, common: dict[str, Any]) -> dict[str, Any]:
    """In a session, and at each call by either command."""
    if request.param == "session":
        return common
    return {**common, "ansible_pct_session": False, "ansible_pct_command": request.param}


@pytest.fixture
def connect_with() -> Connect:
    """A connection with these variables."""

    def connect(**variables: Any) -> Any:
        connection = connection_loader.get("homelab.llamacpp.pct", PlayContext())
        connection.set_options(var_options=variables)
        return connection

    return connect


@pytest.fixture
def connect(connect_with: Connect, variables: dict[str, Any]) -> Connect:
    """A connection with more variables."""
    return lambda **more: connect_with(**{**variables, **more})


@pytest.fixture
def play(variables: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs tasks against hosts (name to variables) and returns the output; tasks assert for themselves."""

    def play(tasks: list[dict[str, Any]], on: dict[str, Any] | None = None, ok: bool = True, **keywords: Any) -> str:
        inventory = {"all": {"vars": variables, "hosts": on or {"guest": {}}}}
        (tmp_path / "inventory.json").write_text(json.dumps(inventory))
        plays = [{"hosts": "all", "gather_facts": False, "tasks": tasks, **keywords}]
        (tmp_path / "play.yml").write_text(json.dumps(plays))
        (tmp_path / "ansible.cfg").write_text("[defaults]\nforks = 20\ninterpreter_python = auto_silent\n")
        done = subprocess.run(
            ["ansible-playbook", "-i", "inventory.json", "play.yml"],
            cwd=tmp_path,
            env={**os.environ, "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout + done.stderr

    return play


def masters(folder: str, of_guests: bool = False) -> set[str]:
    """What the ControlPersist masters in this folder say: that they run, and their process ids."""
    return {
        subprocess.run(
            ["ssh", "-o", f"ControlPath={socket}", "-O", "check", "x"], capture_output=True, text=True, check=False
        ).stderr.strip()
        for socket in Path(folder).iterdir()
        if socket.is_socket() and socket.name.startswith("pct-") == of_guests
    }


# --- commands --------------------------------------------------------------------------------------------------------


def test_output_and_exit_code(connect: Connect) -> None:
    assert connect().exec_command("echo out; printf err >&2; exit 7") == (7, b"out\n", b"err")
    assert connect().exec_command("hostname; id -un") == (0, b"pct115\nroot\n", b"")


@pytest.mark.parametrize("code", [1, 127, 254, 255])
def test_every_exit_code_is_the_commands_own(connect: Connect, code: int) -> None:
    assert connect().exec_command(f"exit {code}")[0] == code


def test_a_signal_is_not_a_lost_connection(connect: Connect) -> None:
    assert connect().exec_command("kill -9 $$")[0] == 137
    assert connect().exec_command("kill -TERM $$")[0] == 143


def test_stdin_is_binary(connect: Connect) -> None:
    data = os.urandom(300_000) + bytes(range(256)) + b"\r\n\x04\x03\x1a"
    assert connect().exec_command("cat", in_data=data, sudoable=False) == (0, data, b"")


def test_no_terminal(connect: Connect) -> None:
    connection = connect(ansible_ssh_use_tty=True, ansible_ssh_args="-o RequestTTY=force -o ControlMaster=no")
    assert connection.exec_command("tty; test -t 1 || echo none") == (0, b"not a tty\nnone\n", b"")


def test_environment_is_a_fresh_login(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_TIME", "de_DE.UTF-8")  # ssh hands it on to the node
    connection = connect(ansible_ssh_args="-o SendEnv=LC_TIME -o ControlMaster=no")
    rc, out, err = connection.exec_command("env; locale -k charmap; umask; pwd")
    lines = out.decode().splitlines()
    assert (rc, err) == (0, b"")
    assert {"LANG=C.UTF-8", "HOME=/root", 'charmap="UTF-8"', "0022"} <= set(lines)
    assert lines[-1] == "/root"
    assert not [line for line in lines if line.startswith(("SSH_", "LC_", "SUDO_"))]


def test_guest_user(connect: Connect) -> None:
    connection = connect(ansible_pct_guest_user="bob")
    assert connection.exec_command("id -un; pwd; echo ~; exit 255") == (255, b"bob\n/home/bob\n/home/bob\n", b"")
    with pytest.raises(AnsibleConnectionFailure, match="user nobody-here does not exist"):
        connect(ansible_pct_guest_user="nobody-here").exec_command("true")


# --- guests and nodes that cannot be entered -------------------------------------------------------------------------


def test_guest_is_down(connect: Connect, play: Callable[..., str]) -> None:
    with pytest.raises(
        AnsibleConnectionFailure, match=rf"guest {STOPPED} on node .* is not running.*pct start {STOPPED}"
    ):
        connect(proxmox_lxc_vmid=STOPPED).exec_command("true")
    output = play([{"ping": {}}], {"down": {"proxmox_lxc_vmid": STOPPED}}, ok=False)
    assert "unreachable=1    failed=0" in output


def test_guest_does_not_exist(connect: Connect) -> None:
    with pytest.raises(AnsibleConnectionFailure, match=rf"no guest {MISSING} on node .*{MISSING}.conf' does not exist"):
        connect(proxmox_lxc_vmid=MISSING).exec_command("true")


def test_guest_that_has_migrated(connect: Connect) -> None:
    """The message names the node of the cluster that has it."""
    on_node(f"mkdir -p /etc/pve/nodes/pve2/lxc && touch /etc/pve/nodes/pve2/lxc/{MISSING}.conf")
    try:
        with pytest.raises(AnsibleConnectionFailure, match=rf"no guest {MISSING} .*node pve2 of the cluster has it"):
            connect(proxmox_lxc_vmid=MISSING).exec_command("true")
    finally:
        on_node("rm -r /etc/pve/nodes/pve2")


def test_node_cannot_be_reached(connect: Connect) -> None:
    with pytest.raises(AnsibleConnectionFailure, match=r"via ssh: "):
        connect(ansible_port=2).exec_command("true")


def test_guest_goes_down_during_a_command_and_comes_back(connect: Connect, play: Callable[..., str]) -> None:
    connection = connect()
    seen = f"lxc-attach -n {RUNNING} --clear-env -- /bin/sh -c 'test -e /run/begun'"
    stopping = threading.Thread(target=on_node, args=[f"until {seen}; do sleep 0.2; done; pct stop {RUNNING}"])
    stopping.start()
    with pytest.raises(AnsibleConnectionFailure, match=r"was left before the command ended|is not running"):
        connection.exec_command("touch /run/begun; sleep 600")
    stopping.join()

    starting = threading.Timer(3, on_node, [f"pct start {RUNNING}"])
    starting.start()
    wait = {"wait_for_connection": {"timeout": 300, "sleep": 1}}
    # A connection comes before systemd answers.
    is_up = {"until": "state.stdout in ['running', 'degraded']", "retries": 300, "delay": 1}
    up = {"command": "systemctl is-system-running --wait", "register": "state", "failed_when": False, **is_up}
    seen = {"assert": {"that": "state.stdout in ['running', 'degraded']"}}
    reboot = {"reboot": {"boot_time_command": "cut -d' ' -f22 /proc/1/stat", "reboot_timeout": 300}}
    play([wait, up, seen, reboot, up, seen])
    starting.join()


# --- users -----------------------------------------------------------------------------------------------------------


def test_node_user_that_is_not_root(connect: Connect, play: Callable[..., str]) -> None:
    node_user = {"ansible_user": "pctadmin"}
    on_node("rm -f /etc/sudoers.d/pctadmin")
    with pytest.raises(AnsibleConnectionFailure, match="needs sudo without a password"):
        connect(**node_user).exec_command("true")

    allowed = "/usr/bin/lxc-attach, /usr/sbin/pct"
    on_node(f"echo 'pctadmin ALL=(root) NOPASSWD: {allowed}' > /etc/sudoers.d/pctadmin")
    assert connect(**node_user).exec_command("id -un; pwd; exit 255") == (255, b"root\n/root\n", b"")
    data = os.urandom(1_000_000)
    assert connect(**node_user).exec_command("cat", in_data=data, sudoable=False)[1] == data
    with pytest.raises(AnsibleConnectionFailure, match=f"no guest {MISSING}"):
        connect(**node_user, proxmox_lxc_vmid=MISSING).exec_command("true")

    # The guest has a user of its own with the name of the node's: files must still belong to root.
    tasks = [
        {"copy": {"content": "x", "dest": "/root/by-node-user"}},
        {"stat": {"path": "~/by-node-user"}, "register": "file"},
        {"assert": {"that": "file.stat.pw_name == 'root'"}},
    ]
    play(tasks, {"guest": node_user}, become=True)


BECOME: dict[str, dict[str, str]] = {
    "sudo": {"user": "bob"},
    "sudo-with-password": {"user": "root", "from": "bob", "password": "secret"},
    "sudo-to-root": {"user": "root", "from": "admin"},
    "su": {"user": "bob", "method": "su"},
    "su-with-password": {"user": "bob", "method": "su", "from": "admin", "password": "secret"},
    "same-user": {"user": "root"},
}


@pytest.mark.parametrize("pipelining", [True, False])
def test_become(play: Callable[..., str], pipelining: bool) -> None:
    hosts = {
        name: {
            "ansible_become": True,
            "ansible_become_method": how.get("method", "sudo"),
            "ansible_become_user": how["user"],
            "ansible_become_password": how.get("password"),
            "ansible_pct_guest_user": how.get("from", "root"),
            "ansible_pipelining": pipelining,
            # From one user who is not root to another, Ansible needs an ACL or this to hand a module over.
            "ansible_shell_allow_world_readable_temp": True,
        }
        for name, how in BECOME.items()
    }
    file = "/tmp/become-{{ inventory_hostname }}"
    play(
        [
            {"command": "id -un", "register": "who"},
            {"assert": {"that": "who.stdout == ansible_become_user"}},
            {"copy": {"content": "by become", "dest": file}},
            {"file": {"path": file, "state": "absent"}, "register": "removed"},
            {"assert": {"that": "removed is changed"}},
        ],
        hosts,
    )


def test_a_wrong_become_password(play: Callable[..., str]) -> None:
    hosts = {"guest": {"ansible_pct_guest_user": "bob", "ansible_become_password": "wrong"}}
    output = play([{"command": "id"}], hosts, ok=False, become=True)
    assert "Incorrect sudo password" in output
    assert "unreachable=0    failed=1" in output


# --- plays -----------------------------------------------------------------------------------------------------------


def test_everyday_modules(play: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "echo.sh").write_text("#!/bin/sh\nprintf 'from a script'\n")
    play(
        [
            {"setup": {"gather_subset": "min"}, "register": "facts"},
            {"assert": {"that": "facts.ansible_facts.ansible_hostname == 'pct115'"}},
            {"command": "sleep 2", "async": 30, "poll": 1},
            {"script": "{{ playbook_dir }}/echo.sh", "register": "script"},
            {"assert": {"that": "script.stdout == 'from a script'"}},
            {"fetch": {"src": "/etc/hostname", "dest": "fetched/", "flat": True}},
            {"command": "hostname", "delegate_to": "node", "register": "delegated"},
            {"assert": {"that": f"delegated.stdout == '{lab.node}'"}},
        ],
        {"guest": {}, "node": {"ansible_connection": "ssh", "ansible_user": "root"}},
        hosts="guest",
    )


def test_more_forks_than_sessions(play: Callable[..., str]) -> None:
    """sshd takes 10 sessions a connection: the others log in on their own."""
    hosts = {f"guest{number:02}": {} for number in range(14)}
    output = play([{"command": "sleep 3", "register": "slept"}, {"assert": {"that": "slept.rc == 0"}}], hosts)
    assert output.count("unreachable=0    failed=0") == 14


def test_reset_leaves_the_shared_connection_alone(play: Callable[..., str], connect: Connect, tmp_path: Path) -> None:
    """In a folder of its own: one that another test has left behind may end meanwhile by itself."""
    own = {"ansible_control_path_dir": str(tmp_path)}
    connect(**own).exec_command("true")
    (before,) = masters(str(tmp_path))
    assert "Master running" in before
    play([{"command": "true"}, {"meta": "reset_connection"}, {"command": "true"}], {"guest": own})
    assert masters(str(tmp_path)) == {before}
    connect(**own).reset()


# --- sessions --------------------------------------------------------------------------------------------------------


def test_one_session_serves_many_calls_and_reset_ends_it(common: dict[str, Any], connect_with: Connect) -> None:
    for _call in range(3):
        assert connect_with(**common).exec_command("id -un") == (0, b"root\n", b"")
    before = masters(common["ansible_control_path_dir"], of_guests=True)
    assert len(before) == 1
    # Nothing in the guest listens for it, and what it was given lies where root alone reads it.
    listening = connect_with(**common).exec_command("ss -Hltnp | grep -c sshd-session")[1]
    assert listening == b"0\n"
    # One that another test has ended may be there for a moment still.
    assert set(connect_with(**common).exec_command("stat -c %a /run/pct-session.*")[1].split()) == {b"700"}
    connect_with(**common).reset()
    for _try in range(600):
        left = on_node(
            f"lxc-attach -n {RUNNING} --clear-env -- /bin/sh -c 'ls -d /run/pct-session.* 2>/dev/null; true'"
        )
        if not left:
            break
        time.sleep(0.1)
    assert left == ""
    assert connect_with(**common).exec_command("true")[0] == 0
    assert not masters(common["ansible_control_path_dir"], of_guests=True) & before


def test_a_guest_without_sshd(common: dict[str, Any], connect_with: Connect, tmp_path: Path) -> None:
    connect_with(**common).exec_command("mv /usr/sbin/sshd /usr/sbin/sshd.away")
    elsewhere = {**common, "ansible_control_path_dir": str(tmp_path)}
    try:
        for _call in range(2):
            assert connect_with(**elsewhere).exec_command("id -un") == (0, b"root\n", b"")
        assert [path.suffix for path in tmp_path.glob("pct-*.*")] == [".refused"]
    finally:
        connect_with(**common).exec_command("mv /usr/sbin/sshd.away /usr/sbin/sshd")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 8 * 1024 * 1024, 20_000_001])
def test_files_are_binary_safe(connect: Connect, tmp_path: Path, size: int) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(size))
    connect().put_file(str(source), "/var/tmp/put")
    connect().fetch_file("/var/tmp/put", str(back))
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o644, 0o755])
def test_modes_are_kept(connect: Connect, tmp_path: Path, mode: int) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_text("secret")
    source.chmod(mode)
    connect().put_file(str(source), "/var/tmp/moded")
    assert connect().exec_command("stat -c '%a %U' /var/tmp/moded")[1].decode() == f"{mode:o} root\n"
    connect().fetch_file("/var/tmp/moded", str(back))
    connect().exec_command("rm /var/tmp/moded")
    assert back.stat().st_mode & 0o777 == mode


def test_odd_names(connect: Connect, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(b"\0\xff\r\n")
    for name in ("with 'quote' and $HOME", "-n", "new\nline", "ünï", "glob*[a]", "back\\slash"):
        connect().put_file(str(source), f"/var/tmp/{name}")
        connect().fetch_file(f"/var/tmp/{name}", str(back))
        assert back.read_bytes() == source.read_bytes()
        assert connect().exec_command(f"rm -- {shlex.quote('/var/tmp/' + name)}")[0] == 0


def test_what_cannot_be_put_or_fetched(connect: Connect, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_text("data")
    with pytest.raises(AnsibleError, match=r"/nowhere/x in guest 115: .*nowhere"):
        connect().put_file(str(source), "/nowhere/x")
    with pytest.raises(AnsibleError, match="Permission denied"):
        connect(ansible_pct_guest_user="bob").put_file(str(source), "/root/x")
    with pytest.raises(AnsibleError, match=r"/nothing from guest 115: .*No such file"):
        connect().fetch_file("/nothing", str(back))
    with pytest.raises(AnsibleError, match="Permission denied"):
        connect(ansible_pct_guest_user="bob").fetch_file("/etc/shadow", str(back))
    with pytest.raises(AnsibleError, match="directory"):
        connect().fetch_file("/etc", str(back))
    assert not back.exists()


def test_a_full_disk(connect: Connect, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    assert connect().exec_command("mkdir -p /mnt/full && mount -t tmpfs -o size=1m none /mnt/full")[0] == 0
    try:
        with pytest.raises(AnsibleError, match="No space left on device"):
            connect().put_file(str(source), "/mnt/full/file")
    finally:
        connect().exec_command("umount /mnt/full")


# --- the node's own shell --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ansible_on_node(guests: None) -> Iterator[str]:
    """This virtual environment's Ansible, and the collection, in a folder on the node; the command to run it."""
    site = Path(ansible_package.__file__).parents[1]
    packages = ("ansible", "jinja2", "markupsafe", "yaml", "packaging", "resolvelib", "cryptography", "cffi")
    found = [name for name in packages if (site / name).exists()]
    found += [path.name for pattern in ("_cffi_backend*", "*.dist-info") for path in site.glob(pattern)]
    collection = Path(COLLECTIONS, "ansible_collections/homelab/llamacpp").resolve()
    target = on_node("mktemp -d").strip()
    ours = f"{target}/collections/ansible_collections/homelab/llamacpp"
    on_node(f"mkdir -p {ours}")
    for folder, names, into in ((site, found, target), (collection, ["plugins", "meta", "galaxy.yml"], ours)):
        archive = ["tar", "-C", str(folder), "--exclude=__pycache__", "-czf", "-", *names]
        on_node(f"tar -xzf - -C {into}", subprocess.run(archive, capture_output=True, check=True).stdout)
    yield (
        f"cd {target} && PYTHONPATH={target} ANSIBLE_COLLECTIONS_PATH={target}/collections ANSIBLE_LOCALHOST_WARNING=0 "
        f"python3 -m ansible.cli.adhoc -i guest, -e ansible_pct_node_connection=local -e ansible_pct_vmid={RUNNING} "
        "-c homelab.llamacpp.pct -e ansible_python_interpreter=/usr/bin/python3"
    )
    on_node(f"rm -rf {target}")


@pytest.mark.parametrize("command", ["lxc-attach", "pct"])
def test_from_the_nodes_own_shell(ansible_on_node: str, command: str) -> None:
    ansible = f"{ansible_on_node} -e ansible_pct_command={command}"
    assert "pong" in on_node(f"{ansible} guest -m ping")
    assert "pong" in on_node(f"{ansible} -e ansible_pipelining=false guest -m ping")
    assert "pct115" in on_node(f"{ansible} guest -m raw -a hostname")
    assert "rc=255" in on_node(f"{ansible} guest -m raw -a 'exit 255'; true")
    become = "-b --become-method su --become-user bob -e ansible_pct_guest_user=admin -e ansible_become_password=secret"
    assert "(bob)" in on_node(f"{ansible} {become} guest -m raw -a id")
    on_node(
        f"head -c 9000000 /dev/urandom > /tmp/pct-local; {ansible} guest -m copy -a 'src=/tmp/pct-local dest=/tmp/'"
    )
    assert on_node("md5sum < /tmp/pct-local; rm /tmp/pct-local") in on_node(
        f"{ansible} guest -m raw -a 'md5sum < /tmp/pct-local'"
    )
    assert "is not running" in on_node(f"{ansible} -e ansible_pct_vmid={STOPPED} guest -m ping 2>&1; true")
