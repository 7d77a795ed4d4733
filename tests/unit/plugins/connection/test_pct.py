# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pct connection against doubles of ssh, lxc-attach, pct and sudo that really run the command, on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader
from ansible_collections.homelab.llamacpp.plugins.connection import pct
from ansible_collections.homelab.llamacpp.plugins.doc_fragments.node_ssh import ModuleDocFragment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAME = "homelab.llamacpp.pct"

# Guests are files in $GUESTS with their state; the guest's environment must be what the connection asked for.
LXC_ATTACH = """#!/bin/sh
[ "$1" = -n ] && id=$2 && shift 2 || exit 64
[ "$(cat "$GUESTS/$id" 2>/dev/null)" = running ] || { echo "lxc-attach: $id: Failed to get init pid" >&2; exit 1; }
[ "$1" = --clear-env ] && shift || exit 64
while [ "$1" = -v ]; do variables="$variables $2"; shift 2; done
[ "$1" = -- ] && shift || exit 64
exec env -i $variables "$@"
"""

# As on a real node, `pct exec` keeps the environment and returns 255 for its own failures.
PCT = """#!/bin/sh
if [ ! -e "$GUESTS/$2" ]; then
  echo "Configuration file 'nodes/pve/lxc/$2.conf' does not exist" >&2; exit 255
fi
state=$(cat "$GUESTS/$2")
case $1 in
  status) echo "status: $state" ;;
  exec) [ "$state" = running ] || { echo "container '$2' not running!" >&2; exit 255; }
    [ "$3" = -- ] && shift 3 || exit 64
    exec "$@" ;;
esac
"""

SUDO = """#!/bin/sh
[ "$1" = -n ] && shift || exit 64
[ -e "$GUESTS/sudo" ] || { echo "sudo: a password is required" >&2; exit 1; }
exec "$@"
"""

# The arguments, a line each, then a blank one; the last is the command, for the shell of the node.
SSH = """#!/bin/bash
printf '%s\\n' "$@" '' >> "$GUESTS/ssh.log"
case "${@: -2:1}" in root@guest) exec /bin/sh "$GUESTS/session" "${@: -1}" ;; esac
[ ! -e "$GUESTS/no-node" ] || { echo "ssh: connect to host 192.0.2.1 port 22: No route to host" >&2; exit 255; }
exec /bin/sh -c "${@: -1}"
"""

Connect = Callable[..., pct.Connection]


def options() -> dict[str, Any]:
    fragment: dict[str, Any] = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    own: dict[str, Any] = yaml.safe_load(pct.DOCUMENTATION)["options"]
    assert not set(fragment) & set(own), "an option of the ssh connection is documented twice"
    return {**fragment, **own}


@pytest.fixture(scope="module", autouse=True)
def _documented_options() -> None:
    C.config.initialize_plugin_configuration_definitions("connection", NAME, options())


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with guest 110 running and 111 stopped; the folder holds their states."""
    commands, guests = tmp_path / "bin", tmp_path / "guests"
    commands.mkdir()
    guests.mkdir()
    for name, text in {"lxc-attach": LXC_ATTACH, "pct": PCT, "sudo": SUDO, "ssh": SSH}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (guests / "110").write_text("running")
    (guests / "111").write_text("stopped")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("GUESTS", str(guests))
    monkeypatch.setenv("ON_THE_NODE", "yes")
    monkeypatch.setenv("HOME", str(tmp_path))  # of ControlPath sockets
    return guests


@pytest.fixture
def connect(node: Path) -> Connect:
    def connect(**variables: Any) -> pct.Connection:
        connection = pct.Connection(PlayContext())
        connection._load_name = NAME
        given = {"ansible_host": "192.0.2.1", "ansible_pct_vmid": 110, "ansible_pct_session": False, **variables}
        connection.set_options(var_options={name: value for name, value in given.items() if value is not None})
        return connection

    return connect


@pytest.fixture(params=["lxc-attach", "pct"])
def enter(request: pytest.FixtureRequest, connect: Connect) -> Connect:
    """Connect by either command."""
    return lambda **variables: connect(ansible_pct_command=request.param, **variables)


@pytest.fixture(params=["ssh", "local"])
def anyhow(request: pytest.FixtureRequest, enter: Connect) -> Connect:
    """Connect by either command, over ssh or from the node itself."""
    return lambda **variables: enter(ansible_pct_node_connection=request.param, **variables)


def without_versions(places: Any) -> Any:
    """Where a value comes from, without since when: the fragment leaves out ansible-core's versions."""
    if isinstance(places, list) and places and isinstance(places[0], dict):
        return [{key: value for key, value in place.items() if key != "version_added"} for place in places]
    return places


def ssh_calls(node: Path) -> list[list[str]]:
    log = node / "ssh.log"
    return [call.split("\n") for call in log.read_text().split("\n\n")[:-1]] if log.exists() else []


def test_options_of_the_ssh_connection_are_there() -> None:
    documented = options()
    list(connection_loader.all(class_only=True))  # as Ansible does before it makes workers
    C.config._plugins["connection"].pop(pct.__name__, None)
    pct._hand_over_options()
    handed_over = C.config.get_configuration_definitions("connection", pct.__name__)
    assert set(handed_over) == set(documented)
    for name, option in documented.items():
        for key in ("type", "default", "choices", "vars", "env", "ini", "cli", "keyword"):
            assert without_versions(handed_over[name].get(key)) == without_versions(option.get(key)), (name, key)
    for name in ("host", "port", "password", "private_key_file", "ssh_args", "ssh_common_args", "control_path_dir"):
        assert documented[name].get("vars"), name
    assert "use_tty" not in documented
    assert "sftp_executable" not in documented
    assert "version_added" not in ModuleDocFragment.DOCUMENTATION


def test_output_and_exit_code(anyhow: Connect) -> None:
    assert anyhow().exec_command("echo out; printf err >&2; exit 7") == (7, b"out\n", b"err")
    assert anyhow().exec_command("true") == (0, b"", b"")


@pytest.mark.parametrize("code", [1, 127, 254, 255])
def test_every_exit_code_is_the_commands_own(anyhow: Connect, code: int) -> None:
    assert anyhow().exec_command(f"exit {code}")[0] == code


def test_a_signal_is_not_a_lost_connection(anyhow: Connect) -> None:
    assert anyhow().exec_command("kill -9 $$")[0] == 128 + signal.SIGKILL


def test_stdin_is_binary(anyhow: Connect) -> None:
    data = bytes(range(256)) * 500 + b"\r\n\x04\x03"
    assert anyhow().exec_command("cat", in_data=data, sudoable=False) == (0, data, b"")


def test_local_stdin_without_data_is_closed(connect: Connect) -> None:
    assert connect(ansible_pct_node_connection="local").exec_command("cat") == (0, b"", b"")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_quoted_once(connect: Connect, text: str) -> None:
    quoted = text.replace("'", "'\\''")
    assert connect().exec_command(f"printf %s '{quoted}'")[1].decode() == text


def test_environment_is_a_fresh_login(anyhow: Connect) -> None:
    out = anyhow().exec_command("env; umask; pwd")[1].decode()
    assert "LANG=C.UTF-8\n" in out
    assert "HOME=/root\n" in out
    assert "ON_THE_NODE" not in out
    assert "LC_ALL" not in out
    assert out.splitlines()[-2:] == ["0022", "/root" if os.access("/root", os.X_OK) else "/"]


def test_guest_is_down(anyhow: Connect) -> None:
    with pytest.raises(AnsibleConnectionFailure, match=r"guest 111 .* is not running.*pct start 111"):
        anyhow(ansible_pct_vmid=111).exec_command("true")


def test_guest_does_not_exist(anyhow: Connect) -> None:
    with pytest.raises(AnsibleConnectionFailure, match=r"no guest 112 on node .* Check ansible_pct_vmid"):
        anyhow(ansible_pct_vmid=112).exec_command("true")


def test_guest_goes_down_during_the_command(enter: Connect) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="was left before the command ended: half a line"):
        enter().exec_command("echo half a line >&2; kill -9 $PPID")


def test_node_is_unreachable(connect: Connect, node: Path) -> None:
    (node / "no-node").touch()
    with pytest.raises(AnsibleConnectionFailure, match=r"via ssh: .*No route to host"):
        connect().exec_command("true")


def test_no_id(connect: Connect) -> None:
    with pytest.raises(AnsibleError, match="set ansible_pct_vmid or proxmox_lxc_vmid") as error:
        connect(ansible_pct_vmid=None).exec_command("true")
    assert not isinstance(error.value, AnsibleConnectionFailure)


def test_which_id_counts(connect: Connect, node: Path) -> None:
    (node / "115").write_text("running")
    assert connect(ansible_pct_vmid=None, proxmox_lxc_vmid="115").exec_command("true")[0] == 0
    assert "-n 115 " in ssh_calls(node)[-1][-1]
    connect(ansible_pct_vmid=110, proxmox_lxc_vmid=115).exec_command("true")
    assert "-n 110 " in ssh_calls(node)[-1][-1]


def test_node_user_is_not_the_guests(enter: Connect, node: Path) -> None:
    (node / "sudo").touch()
    connection = enter(ansible_user="admin")
    assert connection.exec_command("exit 3")[0] == 3
    assert 'User="admin"' in ssh_calls(node)[-1]
    assert "sudo -n " in ssh_calls(node)[-1][-1]
    assert connection.get_option("remote_user") == "root"


def test_root_needs_no_sudo_and_sudo_can_be_forced(connect: Connect, node: Path) -> None:
    connect().exec_command("true")
    assert "sudo" not in ssh_calls(node)[-1][-1]
    (node / "sudo").touch()
    connect(ansible_pct_node_sudo=True).exec_command("true")
    assert "sudo -n lxc-attach" in ssh_calls(node)[-1][-1]


def test_sudo_asks_for_a_password(enter: Connect) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="needs sudo without a password"):
        enter(ansible_user="admin").exec_command("true")


def test_guest_user(connect: Connect, node: Path) -> None:
    connection = connect(ansible_pct_guest_user="llama-router", ansible_user="root")
    assert connection.get_option("remote_user") == "llama-router"
    assert connection._run_command("id", "mark")[:4] == ["runuser", "-s", "/bin/sh", "-c"]
    assert connection._run_command("id", "mark")[5:] == ["--", "llama-router", "mark", "id"]


def test_guests_of_a_node_share_a_connection_that_reset_leaves_alone(connect: Connect, node: Path) -> None:
    connect(ansible_pct_guest_user="bob")._build_command("ssh", "ssh")
    paths = {
        arg
        for variables in ({}, {"ansible_pct_vmid": 111}, {"ansible_pct_guest_user": "bob"})
        for arg in connect(**variables)._build_command("ssh", "ssh")
        if arg.startswith(b"ControlPath=")
    }
    assert len(paths) == 1
    connect().reset()
    assert ssh_calls(node) == []


def test_no_terminal_is_allocated(connect: Connect, node: Path) -> None:
    connection = connect(ansible_ssh_args="-o RequestTTY=force", ansible_ssh_use_tty=True)
    connection.exec_command("true")
    assert ssh_calls(node)[-1][-3:-1] == ["-T", "192.0.2.1"]
    assert connection.is_pipelining_enabled()
    assert not connection.has_tty


@pytest.fixture
def in_session(connect: Connect, node: Path) -> Connect:
    """Connect in a session; what lies in `session` runs as root's shell of the guest would, $1 is the command."""
    (node / "session").write_text('exec /bin/sh -c "$1"')
    return lambda **variables: connect(ansible_pct_session=True, **variables)


def test_a_session_is_entered_once_and_runs_everything(in_session: Connect, node: Path) -> None:
    assert in_session().exec_command("echo out; printf err >&2; exit 255") == (255, b"out\n", b"err")
    (call,) = ssh_calls(node)
    (proxy,) = [arg for arg in call if arg.startswith("ProxyCommand=")]
    assert "lxc-attach -n 110 --clear-env" in proxy
    assert "%" not in proxy.replace("%%", "")
    identity = Path(next(arg for arg in call if arg.startswith("IdentityFile=")).partition("=")[2])
    assert identity.stat().st_mode & 0o777 == 0o600
    assert identity.parent.stat().st_mode & 0o777 == 0o700
    assert identity.with_suffix(".pub").read_text().strip() in (node / "ssh.log").read_text()


def test_what_a_shell_says_before_is_not_the_commands(in_session: Connect, node: Path) -> None:
    (node / "session").write_text('echo Welcome to this machine; exec /bin/sh -c "$1"')
    assert in_session().exec_command("echo out") == (0, b"out\n", b"")


def test_guests_have_sessions_of_their_own_and_one_key(in_session: Connect, node: Path) -> None:
    (node / "112").write_text("running")
    for vmid in (110, 112):
        in_session(ansible_pct_vmid=vmid).exec_command("true")
    one, two = ({arg for arg in call if arg.startswith(("ControlPath=", "IdentityFile="))} for call in ssh_calls(node))
    assert len(one & two) == 1
    assert len(one | two) == 3


def test_without_a_session_each_call_enters_and_it_is_not_tried_again(in_session: Connect, node: Path) -> None:
    (node / "session").write_text("exit 255")
    for _call in range(2):
        assert in_session().exec_command("echo out")[:2] == (0, b"out\n")
    tried = ["root@guest" in call for call in ssh_calls(node)]
    assert tried == [True, False, True, False]  # the first call asked twice
    in_session().reset()
    (node / "session").write_text('exec /bin/sh -c "$1"')
    in_session().exec_command("true")
    assert "root@guest" in ssh_calls(node)[-1]


def test_a_guest_that_is_down_is_no_reason_to_give_up_sessions(in_session: Connect, node: Path) -> None:
    (node / "session").write_text("exit 255")
    (node / "110").write_text("stopped")
    with pytest.raises(AnsibleConnectionFailure, match="is not running"):
        in_session().exec_command("true")
    (node / "110").write_text("running")
    (node / "session").write_text('exec /bin/sh -c "$1"')
    in_session().exec_command("true")
    assert "root@guest" in ssh_calls(node)[-1]


def test_a_guest_that_was_just_starting_is_no_reason_to_give_up_sessions(in_session: Connect, node: Path) -> None:
    (node / "session").write_text('[ -e "$GUESTS/up" ] || { touch "$GUESTS/up"; exit 255; }; exec /bin/sh -c "$1"')
    for _call in range(2):
        assert in_session().exec_command("echo out")[:2] == (0, b"out\n")
    tried = ["root@guest" in call for call in ssh_calls(node)]
    assert tried == [True, False, True, True]


def test_a_command_that_was_begun_is_not_run_again(in_session: Connect, node: Path, tmp_path: Path) -> None:
    (node / "session").write_text('/bin/sh -c "$1" 2>/dev/null; exit 255')  # what ended it does not come back
    with pytest.raises(AnsibleConnectionFailure, match="was left before the command ended"):
        in_session().exec_command(f"echo once >> {tmp_path}/ran")
    assert (tmp_path / "ran").read_text() == "once\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"ansible_password": "secret"},
        {"ansible_ssh_args": "-o ControlMaster=no"},
        {"ansible_pct_node_connection": "local"},
        {"ansible_pct_session": False},
    ],
)
def test_no_session_where_none_can_be(connect: Connect, variables: dict[str, Any]) -> None:
    connection = connect(**{"ansible_pct_session": True, **variables})
    connection.host = "192.0.2.1"
    assert connection._session() is None


@pytest.mark.parametrize(("password", "expected"), [("right", (0, b"became\n")), ("wrong", None)])
def test_become_with_a_password(anyhow: Connect, password: str, expected: tuple[int, bytes] | None) -> None:
    connection = anyhow()
    become = become_loader.get("su")
    become.set_options(direct={"become_user": "bob", "become_pass": password})
    connection.set_become_plugin(become)
    # As `su` behaves: a prompt on stderr, the password on stdin, then the command that Ansible had it run.
    become.build_become_command("true", connection._shell)
    command = (
        "printf 'Password: ' >&2; read answer; "
        f'if [ "$answer" = right ]; then echo {become.success}; echo became; '
        "else echo 'su: Authentication failure' >&2; exit 1; fi"
    )
    if expected:
        assert connection.exec_command(command)[:2] == expected
    else:
        with pytest.raises(AnsibleError, match="Incorrect su password"):
            connection.exec_command(command)


ODD_NAMES = ["plain", "with 'quote' and $HOME", "-n", "new\nline", "ünï", "glob*[a]"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_files_with_odd_names(connect: Connect, tmp_path: Path, name: str) -> None:
    source, target, back = tmp_path / "source", tmp_path / name, tmp_path / "back"
    source.write_bytes(b"\0\xff\r\n" * 5)
    connect().put_file(str(source), str(target))
    connect().fetch_file(str(target), str(back))
    assert target.read_bytes() == back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 3500])
def test_files_of_any_size(anyhow: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(pct, "_CHUNK", 1000)
    source, target, back = (tmp_path / name for name in ("source", "target", "back"))
    source.write_bytes(os.urandom(size))
    target.write_bytes(b"something longer that was there before" * 200)
    anyhow().put_file(str(source), str(target))
    assert target.read_bytes() == source.read_bytes()
    anyhow().fetch_file(str(target), str(back))
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o644, 0o755])
def test_modes_are_kept(connect: Connect, tmp_path: Path, mode: int) -> None:
    source, target, back = (tmp_path / name for name in ("source", "target", "back"))
    source.write_text("secret")
    source.chmod(mode)
    connect().put_file(str(source), str(target))
    connect().fetch_file(str(target), str(back))
    assert target.stat().st_mode & 0o777 == mode
    assert back.stat().st_mode & 0o777 == mode


def test_nobody_reads_a_file_in_transit(connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pct, "_CHUNK", 10)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 25)
    source.chmod(0o644)
    target.touch()
    target.chmod(0o666)
    connection, modes = connect(), []
    transfer = connection._transfer

    def watched(script: str, data: bytes, what: str) -> bytes:
        out = transfer(script, data, what)
        modes.append(target.stat().st_mode & 0o777)
        return out

    monkeypatch.setattr(connection, "_transfer", watched)
    connection.put_file(str(source), str(target))
    assert modes == [0o600, 0o600, 0o644]


def test_a_file_that_is_not_there(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(AnsibleFileNotFound):
        connect().put_file(str(tmp_path / "none"), str(tmp_path / "target"))
    back = tmp_path / "back"
    back.write_text("kept")
    with pytest.raises(AnsibleError, match=r"Cannot fetch .*/none from guest 110: .*(No such file|cannot open)"):
        connect().fetch_file(str(tmp_path / "none"), str(back))
    assert back.read_text() == "kept"


def test_a_folder_is_not_fetched(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(AnsibleError, match="Is a directory"):
        connect().fetch_file(str(tmp_path), str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_a_file_that_cannot_be_put(connect: Connect, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("data")
    with pytest.raises(AnsibleError, match=r"Cannot put .*/source to /nowhere/target in guest 110: .*nowhere"):
        connect().put_file(str(source), "/nowhere/target")
