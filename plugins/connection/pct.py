# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pct
short_description: Into a container through its Proxmox VE node
version_added: 0.1.0
author: The homelab.llamacpp authors (@homelab-llamacpp)
description:
  - Runs tasks in an LXC container (the guest) by way of the Proxmox VE node that it runs on. The guest needs no SSH
    server, no key and no address.
  - The way to the node is ansible-core's own P(ansible.builtin.ssh#connection) connection with all its options, so
    that keys, jump hosts, passwords and ControlPersist work as they do everywhere. C(ansible_host) is the node's
    address.
  - Files take the same way, with their modes.
extends_documentation_fragment:
  - homelab.llamacpp.node_ssh
options:
  vmid:
    description:
      - The container's id on the node.
      - Where several of the variables are set, C(ansible_pct_vmid) counts before C(proxmox_lxc_vmid), and that before
        C(proxmox_vmid), which the inventory plugin of community.proxmox sets.
      - There is no default; without an id every task fails.
    type: int
    vars:
      - name: proxmox_vmid
      - name: proxmox_lxc_vmid
      - name: ansible_pct_vmid
    env:
      - name: ANSIBLE_PCT_VMID
    ini:
      - section: pct_connection
        key: vmid
  command:
    description:
      - What enters the container. Both behave alike.
      - V(lxc-attach) takes some 20 milliseconds.
      - V(pct) is Proxmox VE's own C(pct exec). It takes half a second.
    type: str
    choices: [lxc-attach, pct]
    default: lxc-attach
    vars:
      - name: ansible_pct_command
    env:
      - name: ANSIBLE_PCT_COMMAND
    ini:
      - section: pct_connection
        key: command
  session:
    description:
      - Enters the guest once instead of at each call, so that a task takes as long as it would by plain ssh into the
        guest. One O(command) runs the guest's own C(sshd) program on its standard input and output, and stays open
        until nothing was run for a minute.
      - The guest needs the package C(openssh-server) for it, as the templates of Proxmox VE have it. Its service may
        be disabled, its configuration is not read, and no port is opened.
      - Where a session cannot be opened each call enters by itself, and the next try comes ten minutes later. It is
        not tried without ControlPersist, with a password for the node, or with O(node_connection=local).
    type: bool
    default: true
    vars:
      - name: ansible_pct_session
    env:
      - name: ANSIBLE_PCT_SESSION
    ini:
      - section: pct_connection
        key: session
  guest_user:
    description:
      - User in the guest that commands run as, by C(runuser).
      - To Ansible this is the connection's user, as it decides on C(become) and on the owner of temporary files. So
        C(become) to V(root) does nothing as long as this is V(root), and the guest needs no sudo for it.
    type: str
    default: root
    vars:
      - name: ansible_pct_guest_user
    env:
      - name: ANSIBLE_PCT_GUEST_USER
    ini:
      - section: pct_connection
        key: guest_user
  node_connection:
    description:
      - V(ssh) logs in to the node.
      - V(local) is for a playbook that runs on the node itself. No SSH is used, and the options for it mean nothing.
    type: str
    choices: [ssh, local]
    default: ssh
    vars:
      - name: ansible_pct_node_connection
    env:
      - name: ANSIBLE_PCT_NODE_CONNECTION
    ini:
      - section: pct_connection
        key: node_connection
  node_sudo:
    description:
      - Whether O(command) and C(pct status) are run by C(sudo) on the node. It must not ask for a password.
      - By default they are where the user on the node is not root.
    type: bool
    vars:
      - name: ansible_pct_node_sudo
    env:
      - name: ANSIBLE_PCT_NODE_SUDO
    ini:
      - section: pct_connection
        key: node_sudo
  remote_user:
    description:
      - User to log in to the node with. The user in the guest is O(guest_user).
    type: str
    default: root
    vars:
      - name: ansible_user
      - name: ansible_ssh_user
    env:
      - name: ANSIBLE_REMOTE_USER
    ini:
      - section: defaults
        key: remote_user
    cli:
      - name: user
    keyword:
      - name: remote_user
  pipelining:
    description:
      - Sends modules through the connection instead of writing them into the guest first, which saves most of the time.
      - Unlike elsewhere it is on by default. Turn it off for a guest whose sudoers file has C(requiretty).
    type: bool
    default: true
    vars:
      - name: ansible_pipelining
      - name: ansible_ssh_pipelining
    env:
      - name: ANSIBLE_PIPELINING
      - name: ANSIBLE_SSH_PIPELINING
    ini:
      - section: defaults
        key: pipelining
      - section: connection
        key: pipelining
      - section: ssh_connection
        key: pipelining
notes:
  - A guest that is down, or that does not exist, is unreachable, and the message says which of the two. Any exit code
    of a command, 255 and death by a signal (128 and its number) included, is the command's own.
  - A guest can be entered as soon as its init runs, before its services and its network are up. After a start wait with
    M(ansible.builtin.wait_for_connection), and then for C(systemctl is-system-running --wait).
  - M(ansible.builtin.reboot) takes the node's boot id for the guest's, and a reboot of the guest does not change it.
    Give it C(boot_time_command=cut -d' ' -f22 /proc/1/stat), the time at which the guest's init was started.
  - The guests of a node share its ControlPersist connection, so C(meta=reset_connection) leaves that alone, and ends
    the guest's O(session).
  - sshd on the node takes 10 sessions for each connection (C(MaxSessions)). With more forks or guests than that the
    rest log in on their own, which is slower.
  - No terminal is allocated, so a command goes on in the guest when Ansible is killed.
  - The environment in the guest is that of a fresh login with the locale C.UTF-8, whatever it is on the node.
"""

EXAMPLES = r"""
# Inventory: one guest, its node, and how to get from one to the other.
# all:
#   hosts:
#     pve1:
#       ansible_host: 192.0.2.10
#       ansible_user: root
#     llm1:
#       ansible_connection: homelab.llamacpp.pct
#       ansible_host: 192.0.2.10
#       proxmox_lxc_node: pve1
#       proxmox_lxc_vmid: 110
#
# A node that root may not log in to: "admin" may run lxc-attach and pct by sudo without a password.
#     llm2:
#       ansible_connection: homelab.llamacpp.pct
#       ansible_host: 192.0.2.11
#       ansible_user: admin
#       ansible_pct_vmid: 120
#
# For a playbook that runs in the node's own shell:
#     pve1:
#       ansible_connection: local
#     llm1:
#       ansible_connection: homelab.llamacpp.pct
#       ansible_pct_node_connection: local
#       proxmox_lxc_vmid: 110

- name: Wait until a guest that was just started is ready
  hosts: llm1
  gather_facts: false
  tasks:
    - name: Enter the guest
      ansible.builtin.wait_for_connection:
        timeout: 60

    - name: Wait for its services
      ansible.builtin.raw: systemctl is-system-running --wait
      changed_when: false
      failed_when: false
"""

import itertools
import os
import re
import secrets
import shlex
import stat
from pathlib import Path
from typing import Any

import yaml
from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection.ssh import AnsibleControlPersistBrokenPipeError
from ansible.plugins.connection.ssh import Connection as SshConnection
from ansible.utils.display import Display
from ansible.utils.path import unfrackpath
from ansible_collections.homelab.llamacpp.plugins.doc_fragments.node_ssh import NOT_OURS
from ansible_collections.homelab.llamacpp.plugins.plugin_utils._guest_session import SERVE, Session

display = Display()


def _hand_over_options() -> None:
    """Give Ansible the options of this connection. Most of them it holds parsed already, as the ssh connection's.

    By itself it would parse the documentation above and its fragment in the worker of every task, which takes longer
    than a call does. Where it does not hold the ssh connection's it still does.
    """
    inherited = C.config.get_configuration_definitions("connection", "ssh")
    if inherited and not C.config.has_configuration_definition("connection", __name__):
        own = yaml.load(DOCUMENTATION, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["options"]
        kept = {option: inherited[option] for option in inherited if option not in NOT_OURS}
        C.config.initialize_plugin_configuration_definitions("connection", __name__, {**kept, **own})


_hand_over_options()

_ENVIRONMENT = (
    "HOME=/root",
    "LANG=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)

# What runs in the guest: $0 is a mark, $1 the command. The mark on stdout says that the guest was entered, and that the
# command's output begins. The exit code travels behind the mark on stderr, because ssh takes 255 for a lost connection
# and lxc-attach has no code of its own for "could not enter".
_RUN = 'echo "$0"; umask 022; cd 2>/dev/null || cd /; /bin/sh -c "$1"; echo "$0 $?" >&2'

# Bytes of a file that travel in one call: the ssh connection holds a call's data in memory, and takes quadratic time
# to collect its output.
_CHUNK = 8 * 1024 * 1024


class _Input(bytes):
    """Data for a command's stdin, which is then closed. The ssh connection would give it a terminal for no data."""

    def __bool__(self) -> bool:
        return True


class Connection(SshConnection):
    """Commands and files into a container, through its node."""

    transport = "homelab.llamacpp.pct"
    _logging_in = False

    def get_option(self, option: str, hostvars: dict[str, Any] | None = None) -> Any:
        """To all but the login this connection's user is the guest's: on it hang become, ``~`` and owners of files."""
        if option == "remote_user" and not self._logging_in:
            option = "guest_user"
        return super().get_option(option, hostvars=hostvars)

    @property
    def _is_local(self) -> bool:
        return bool(self.get_option("node_connection") == "local")

    @property
    def _vmid(self) -> str:
        vmid = self.get_option("vmid")
        if vmid is None:
            raise AnsibleError(
                f"The container's id is not known for host {self._play_context.remote_addr}: "
                "set ansible_pct_vmid or proxmox_lxc_vmid in the inventory"
            )
        return str(vmid)

    def _build_command(self, binary: str, subsystem: str, *other_args: bytes | str) -> list[bytes]:
        if self._is_local:
            # The ssh connection deals with a become prompt where it sees its executable: here as the shell's name.
            return [to_bytes(arg) for arg in ("/bin/sh", "-c", other_args[-1], binary)]
        self._logging_in = True
        try:
            command: list[bytes] = super()._build_command(binary, subsystem, *other_args)
        finally:
            self._logging_in = False
        return command

    def _sudo(self) -> list[str]:
        wanted = self.get_option("node_sudo")
        if wanted is None:
            wanted = os.geteuid() != 0 if self._is_local else super().get_option("remote_user") != "root"
        return ["sudo", "-n"] if wanted else []

    def _run_command(self, cmd: str, mark: str) -> list[str]:
        """What root runs in the guest so that its user runs ``cmd``."""
        user = self.get_option("guest_user")
        run = ["/bin/sh", "-c", _RUN] if user == "root" else ["runuser", "-s", "/bin/sh", "-c", _RUN, "--", user]
        return [*run, mark, cmd]

    def _enter(self, *words: str) -> str:
        """What the node's shell runs so that root runs these words in the guest."""
        if self.get_option("command") == "pct":
            enter = ["pct", "exec", self._vmid, "--", "/usr/bin/env", "-i", *_ENVIRONMENT]
        else:
            variables = [arg for variable in _ENVIRONMENT for arg in ("-v", variable)]
            enter = ["lxc-attach", "-n", self._vmid, "--clear-env", *variables, "--"]
        return shlex.join([*self._sudo(), *enter, *words])

    def _ask_status(self, mark: str) -> str:
        """What the node's shell runs so that `_why_not` knows."""
        status = shlex.join([*self._sudo(), "pct", "status", self._vmid])
        # Of a container that the node does not have, the one that has it: it may have migrated.
        places = f"ls -d /etc/pve/nodes/*/lxc/{shlex.quote(self._vmid)}.conf 2>/dev/null"
        return f"{{ echo {mark} failed; {status} || {places}; exit 1; }} >&2"

    def _on_node(self, command: str) -> list[bytes]:
        return self._build_command(self.get_option("ssh_executable"), "ssh", "-T", self.host, command)

    def _why_not(self, err: bytes, mark: str) -> str:
        """Why the guest could not be entered, from what its node said."""
        said, _mark, status = (part.strip() for part in to_text(err).partition(f"{mark} failed\n"))
        guest = f"guest {self._vmid} on node {self.host}"
        elsewhere = re.search(r"(?m)^/etc/pve/nodes/([\w.-]+)/lxc/\d+\.conf$", status)
        if "does not exist" in status and elsewhere:
            return (
                f"There is no {guest}, node {elsewhere[1]} of the cluster has it: set ansible_host (and "
                f"proxmox_lxc_node) to that node, or migrate the container back"
            )
        if "does not exist" in status:
            return (
                f"There is no {guest}: {status}. Check ansible_pct_vmid (or proxmox_lxc_vmid), and that ansible_host "
                "is the node which has this container"
            )
        if "status: stopped" in status:
            return f"The {guest} is not running. Start it there with: pct start {self._vmid}"
        if "sudo:" in status:
            return (
                f"The {guest} cannot be entered: {said}. The node's user needs sudo without a password for "
                f"{self.get_option('command')} and pct, or let Ansible log in as root"
            )
        return (
            f"The {guest} could not be entered, or was left before the command ended: {said or 'no message'} "
            f"(pct says: {status or 'nothing'}). If it is just starting, use wait_for_connection first"
        )

    def _session(self) -> Session | None:
        if self._is_local or not self.get_option("session") or self.get_option("password"):
            return None
        if not self._persistence_controls(self._on_node(""))[0]:
            return None
        folder = Path(unfrackpath(self.get_option("control_path_dir")))
        return Session(
            self.get_option("ssh_executable"),
            folder,
            lambda key: self._on_node(self._enter("/bin/sh", "-c", SERVE, "pct-session", key)),
        )

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a command in the guest; its exit code (128 and the signal's number for a death by signal) and output."""
        self.host = self.get_option("host") or self._play_context.remote_addr
        display.vvv(f"ENTER GUEST {self._vmid} BY {self.get_option('command')}", host=self.host)
        mark = f"pct-{secrets.token_hex(8)}"
        session = self._session()
        if session and not session.may_work:
            session = None
        done = self._by_session(session, cmd, mark, in_data, sudoable) if session else None
        out, err = done or self._by_itself(cmd, mark, in_data, sudoable)
        ended = re.search(rb"%s (\d+)\n" % mark.encode(), err)
        if not ended:
            raise AnsibleConnectionFailure(self._why_not(err, mark))
        # A guest that was only just starting has one a moment later.
        if session and not done and not self._by_session(session, "true", mark, None, sudoable=False):
            session.give_up()
        return int(ended[1]), out.partition(f"{mark}\n".encode())[2], err[: ended.start()] + err[ended.end() :]

    def _by_session(
        self, session: Session, cmd: str, mark: str, in_data: bytes | None, sudoable: bool
    ) -> tuple[bytes, bytes] | None:
        """Output and errors of the command, or nothing if it was not even begun."""
        environment = f"unset SSH_CLIENT SSH_CONNECTION; export {' '.join(_ENVIRONMENT)}"
        argv = session.command(f"{environment}; exec {shlex.join(self._run_command(cmd, mark))}")
        try:
            _rc, out, err = self._bare_run(argv, in_data, sudoable=sudoable, checkrc=False)
        except AnsibleControlPersistBrokenPipeError:
            return None
        if f"{mark}\n".encode() not in out:
            return None
        if not re.search(rb"%s \d+\n" % mark.encode(), err):
            err += self._run(self._on_node(self._ask_status(mark)), None, sudoable=False)[2]
        return out, err

    def _by_itself(self, cmd: str, mark: str, in_data: bytes | None, sudoable: bool) -> tuple[bytes, bytes]:
        if self._is_local and not in_data:
            in_data = _Input()  # lxc-attach would allocate a terminal in the guest on seeing one here
        enter = self._enter(*self._run_command(cmd, mark))
        argv = self._on_node(f"export LC_ALL=C; {enter} || {self._ask_status(mark)}")
        _rc, out, err = self._run(argv, in_data, sudoable=sudoable)
        return out, err

    def _transfer(self, script: str, data: bytes, what: str) -> bytes:
        rc, out, err = self.exec_command(script, in_data=_Input(data), sudoable=False)
        if rc:
            raise AnsibleError(f"Cannot {what} guest {self._vmid}: {to_text(err).strip()}")
        return out

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file into the guest, with its mode; nobody but its owner can read it before it is complete."""
        if not os.path.exists(to_bytes(in_path)):
            raise AnsibleFileNotFound(f"file or module does not exist: {in_path}")
        display.vvv(f"PUT {in_path} TO {out_path}", host=self._play_context.remote_addr)
        target = shlex.quote(out_path)
        what = f"put {in_path} to {out_path} in"
        with open(to_bytes(in_path), "rb") as source:
            mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
            script = f"umask 077; {{ chmod 0600 -- {target} && cat; }} > {target}"
            last = False
            while not last:
                chunk = source.read(_CHUNK)
                last = len(chunk) < _CHUNK
                self._transfer(f"{script} && chmod {mode:04o} -- {target}" if last else script, chunk, what)
                script = f"cat >> {target}"

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file out of the guest; a new file gets its mode, less the umask."""
        display.vvv(f"FETCH {in_path} TO {out_path}", host=self._play_context.remote_addr)
        source = shlex.quote(in_path)

        def part(number: int) -> tuple[bytes, bytes, bytes]:
            # dd copies nothing: it moves the position that head reads from.
            script = f"dd bs={_CHUNK} skip={number} count=0 2>/dev/null && head -c {_CHUNK}"
            script = f"{{ stat -Lc %a -- {source} && {script}; }} < {source}"
            return self._transfer(script, b"", f"fetch {in_path} from").partition(b"\n")

        mode, _newline, chunk = part(0)
        descriptor = os.open(to_bytes(out_path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, int(mode, 8) & 0o777)
        with os.fdopen(descriptor, "wb") as target:
            target.write(chunk)
            for number in itertools.count(1):
                if len(chunk) < _CHUNK:
                    break
                chunk = part(number)[2]
                target.write(chunk)

    def reset(self) -> None:
        """End the guest's session. The node's ControlPersist connection is the other guests' as well."""
        self.host = self.get_option("host") or self._play_context.remote_addr
        session = self._session()
        if session:
            session.end()
        self.close()

    def _is_tty_requested(self) -> bool:
        """Never: a terminal would mix stdout with stderr and change bytes."""
        return False
