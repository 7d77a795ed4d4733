# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fakepve with real containers behind it, and as strict as Proxmox where fakepve is looser.

fakepve keeps what the API shows (schema, permissions, words, tasks); every change of a container goes through one of
the hooks here and is made real by the engine first. What cannot be made real is refused, never pretended.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from aiohttp import web
from fakepve import FakePve
from fakepve.certs import make_cert
from fakepve.lxc import FakeCt
from fakepve.model import PveError, TaskError

from . import conf, engine, guest, node, volumes
from .process import ProgramError

PVE = Path("/etc/pve")
TASKS = Path("/var/log/pve/tasks")
SETTINGS = Path("/etc/pve-double")
SOCKET = Path("/run/pve-double/socket")
TOKEN = "root@pam!lab"
# The parameters of the container request that is being answered, also for the task that it starts.
REQUEST: ContextVar[dict[str, Any]] = ContextVar("REQUEST")
Effect = Callable[[Any, dict[str, Any]], Awaitable[None]]


class LabPve(FakePve):  # type: ignore[misc]
    """The API of the lab's node."""

    def __init__(self) -> None:
        self.node = socket.gethostname()
        self.configs = PVE / "nodes" / self.node / "lxc"
        super().__init__(password=(SETTINGS / "password").read_text().strip(), host="0.0.0.0", port=8006)
        self.nodes = {self.node: {"online": True}}
        self.version, self.release_version = node.VERSION, node.RELEASE
        self.time_scale = 1.0
        self.apitokens[TOKEN] = (SETTINGS / "token").read_text().strip()
        # Without an ACL fakepve asks nobody for a privilege; with one, a token of root is not root itself.
        self.grant(TOKEN, "/", "Sys.Audit")
        self.storages = node.storages()
        self._saved: dict[int, str] = {}
        # asyncio itself keeps no hold on a task.
        self._watchers: set[asyncio.Task[None]] = set()
        self._effects: dict[str, Effect] = {
            "vzstop": self._stop,
            "vzdestroy": self._destroy,
            "vzsnapshot": self._snapshot,
            "vzdelsnapshot": self._delete_snapshot,
            "vzrollback": self._rollback,
        }
        # As Proxmox has it: of the file, so that a change of it by hand is seen.
        FakeCt.digest = _digest

    # ------------------------------------------------------------ life of the daemon

    async def serve(self) -> None:
        """Load the containers, take up those that run, and answer on port 8006 and on root's own socket."""
        folders()
        for file in self.configs.glob("*.conf"):
            await self._load(file)
        certificate, key = make_cert(str(SETTINGS), name=self.node, hosts=(self.node, node.address()))[:2]
        await self.start(certificate, key)
        SOCKET.parent.mkdir(exist_ok=True)
        SOCKET.unlink(missing_ok=True)
        mask = os.umask(0o177)
        await web.UnixSite(self.runner, str(SOCKET)).start()
        os.umask(mask)

    async def _load(self, file: Path) -> None:
        config, pending, snapshots = conf.parse(file.read_text())
        vmid = int(file.stem)
        if config.get("lock") == "create":
            # The daemon died while it made this one: there is nothing in it to keep.
            await engine.destroy(vmid, config, {})
            file.unlink()
            return
        ct = FakeCt(vmid, node=self.node, config=config, pending=pending, defaults=False)
        ct.snapshots = snapshots
        self.cts.append(ct)
        if await engine.init_pid(vmid):
            await self._watch(ct)

    def save(self) -> None:
        """Write every configuration that differs from its file, and remove the files of those that are gone."""
        for ct in self.cts:
            for section in (ct.config, ct.pending, *ct.snapshots.values()):
                conf.normalise(section)
        here = {ct.vmid: conf.render(ct.config, ct.pending, ct.snapshots) for ct in self.cts}
        for vmid, text in here.items():
            if self._saved.get(vmid) != text:
                conf.write(self.configs / f"{vmid}.conf", text)
        for vmid in set(self._saved) - set(here):
            (self.configs / f"{vmid}.conf").unlink(missing_ok=True)
        self._saved = here

    # ------------------------------------------------------------ requests

    def _authenticate(self, request: web.Request) -> str | None:
        """Who connects to root's socket is root, as with the real pvesh."""
        assert request.transport is not None
        if request.transport.get_extra_info("socket").family == socket.AF_UNIX:
            return "root@pam"
        user: str | None = super()._authenticate(request)
        return user

    def _lxc_handler(self, fn: Callable[..., Awaitable[Any]]) -> Any:
        """A container route that remembers its parameters for the task, and saves what it changed."""

        async def remember(user: str, values: dict[str, Any]) -> Any:
            REQUEST.set(values)
            try:
                return await fn(user, values)
            finally:
                self.save()

        return super()._lxc_handler(remember)

    def _routes_lab(self) -> list[tuple[str, str, Any]]:
        """What fakepve would make up and the lab knows."""
        return [
            ("GET", "/nodes/{node}/status", self._node_status),
            ("GET", "/nodes/{node}/aplinfo", self._templates),
            ("POST", "/nodes/{node}/aplinfo", self._download),
            ("GET", "/nodes/{node}/lxc/{vmid}/feature", self._feature),
            ("GET", "/nodes/{node}/network", self._networks),
        ]

    async def _node_status(self, values: dict[str, Any], user: str) -> dict[str, Any]:
        return node.status()

    async def _networks(self, values: dict[str, Any], user: str) -> list[dict[str, Any]]:
        bridges = sorted(path.parent.name for path in Path("/sys/class/net").glob("*/bridge"))
        if values.get("type") not in (None, "bridge", "any_bridge", "any_local_bridge", "include_sdn"):
            return []
        return [{"iface": name, "type": "bridge", "active": 1, "method": "manual"} for name in bridges]

    async def _templates(self, values: dict[str, Any], user: str) -> list[dict[str, Any]]:
        return node.templates()

    async def _download(self, values: dict[str, Any], user: str) -> str:
        name = values["template"]
        if name not in [entry["template"] for entry in node.templates()]:
            raise PveError(400, "Parameter verification failed.", {"template": "no such template"})

        async def body() -> str:
            return await volumes.download(name)

        upid: str = await self.task(self.node, "download", "", user, body)
        return upid

    async def _feature(self, values: dict[str, Any], user: str) -> dict[str, int]:
        ct = self._find_ct(values["node"], values["vmid"])
        return {"hasFeature": int(values["feature"] == "snapshot" and not _binds(ct.config))}

    def _volumes(self, name: str) -> dict[str, Any]:
        """The volumes of a storage, with the templates that are really there."""
        found: dict[str, Any] = super()._volumes(name)
        if name == "local":
            found.update(node.template_volumes())
        return found

    async def _refuse(self, user: str, values: dict[str, Any]) -> None:
        raise PveError(501, "the lab does not make this real: clone, template, migrate, suspend, resume")

    _lxc_clone = _lxc_template = _lxc_migrate = _lxc_suspend = _lxc_resume = _refuse

    # ------------------------------------------------------------ tasks

    async def task(
        self,
        where: str,
        kind: str,
        tid: Any,
        user: str,
        body: Callable[[], Awaitable[Any]],
        vm: Any = None,
        lock: bool = True,
        log: Any = (),
    ) -> str:
        """Start a task; what it does to a container happens for real before fakepve books it."""
        effect = self._effects.get(kind) if vm is not None else None
        values = REQUEST.get({})

        async def real() -> Any:
            try:
                if effect:
                    await effect(vm, values)
                return await body() or _last_words(kind, vm, values)
            except TaskError as error:
                logging.warning("%s %s: %s", kind, tid, error)
                raise
            except (engine.Refused, ProgramError) as error:
                raise TaskError(str(error)) from error
            except Exception as error:
                # A fault of the double: the caller's task must end all the same, and say whose fault it is.
                logging.exception("the lab's double failed in %s", kind)
                raise TaskError(f"the lab's double failed: {error!r}") from error
            finally:
                # After fakepve has taken its lock entries out again.
                asyncio.get_running_loop().call_soon(self.save)

        upid: str = await super().task(where, kind, tid, user, real, vm=vm, lock=lock, log=log)
        # It has not begun yet: what it logs goes into its file too, the last line when it has ended.
        self.tasks[upid]["log"] = TaskLog(upid, self.tasks[upid]["log"])
        return upid

    async def ceph_io(self, ct: Any, keys: Any = None) -> None:
        """fakepve's point where a guest's volumes are touched: a container with the lock `create` gets them here."""
        await super().ceph_io(ct, keys)
        values = REQUEST.get({})
        if "ostemplate" not in values or int(values["vmid"]) != ct.vmid or volumes.path(_rootfs(ct)).exists():
            return
        try:
            root = await volumes.create_from(_rootfs(ct), volumes.template(values["ostemplate"]))
            await self._make_volumes(ct)
            await guest.prepare(root, values.get("password"), values.get("ssh-public-keys"))
            guest.configure(root, ct.config)
        except (OSError, ProgramError) as error:
            await engine.destroy(ct.vmid, ct.config, {})
            raise TaskError(str(error)) from error

    async def _make_volumes(self, ct: Any) -> None:
        """Make the volumes that fakepve has given names to."""
        for volume in engine.own_volumes(ct.config):
            if not volumes.path(volume).exists():
                await volumes.create(volume)

    async def _start_steps(self, ct: Any, user: str, skiplock: bool = False) -> None:
        """Start a container for real, with its pending changes."""
        if ct.template:
            raise TaskError("you can't start a CT if it's a template")
        if not skiplock:
            self._task_lock(ct, allow=("mounted",))
        self._apply(ct)
        await self._make_volumes(ct)
        await engine.start(ct.vmid, ct.config)
        await self._watch(ct)

    async def _ct_powerdown(self, ct: Any, timeout: int, force: bool) -> None:
        """Shut a container down for real; at the end of the time (seconds) kill it, when that was asked for."""
        if not await engine.shutdown(ct.vmid, timeout):
            if not force:
                raise TaskError(f"command 'lxc-stop -n {ct.vmid} --nokill --timeout {timeout}' failed: exit code 1")
            await engine.kill(ct.vmid)
        self._stopped(ct)

    async def _stop(self, ct: Any, values: dict[str, Any]) -> None:
        if not values.get("skiplock"):
            self._task_lock(ct, allow=("mounted",))
        await engine.kill(ct.vmid)
        self._stopped(ct)

    async def _destroy(self, ct: Any, values: dict[str, Any]) -> None:
        self._task_lock(ct)
        if ct.status == "running":
            if not values.get("force"):
                return
            await engine.kill(ct.vmid)
            self._stopped(ct)
        await engine.destroy(ct.vmid, ct.config, ct.snapshots)

    async def _snapshot(self, ct: Any, values: dict[str, Any]) -> None:
        name = values["snapname"]
        self._task_lock(ct)
        if name in ct.snapshots:
            return
        if _binds(ct.config):
            raise TaskError("snapshot feature is not available")
        for volume in _snapshot_volumes(ct.config):
            await volumes.delete_snapshot(volume, name)
            await volumes.snapshot(volume, name)
        hot = _hot(ct, name)
        hot.parent.mkdir(exist_ok=True)
        hot.unlink(missing_ok=True)
        if ct.status == "running":
            hot.touch()

    async def _delete_snapshot(self, ct: Any, values: dict[str, Any]) -> None:
        name = values["snapname"]
        self._task_lock(ct)
        for volume in _snapshot_volumes(ct.snapshots.get(name, {})):
            await volumes.delete_snapshot(volume, name)

    async def _rollback(self, ct: Any, values: dict[str, Any]) -> None:
        name = values["snapname"]
        self._task_lock(ct)
        snapshot = ct.snapshots.get(name)
        if snapshot is None or snapshot.get("snapstate"):
            return
        if ct.status == "running":
            await engine.kill(ct.vmid)
            self._stopped(ct)
        for volume in _snapshot_volumes(snapshot):
            await volumes.rollback(volume, name)
            if _hot(ct, name).exists():
                # ext4 that was mounted when its snapshot was taken is mounted again only after a wait (mmp).
                await asyncio.sleep(setting("mmp-seconds"))

    # ------------------------------------------------------------ configuration

    async def _update_config(
        self, ct: Any, user: str, values: dict[str, Any], deletes: list[str], reverts: list[str]
    ) -> None:
        """Change the configuration, and the running container as far as Proxmox does that.

        A running container that cannot take one of the changes takes none. Of a stopped one the file is written before
        a bridge that does not exist is noticed.
        """
        for key, value in values.items():
            if re.fullmatch(r"dev\d+", key):
                try:
                    engine.device(value)
                except engine.Refused as error:
                    raise PveError(500, str(error)) from error
        running = ct.status == "running"
        if running:
            errors = {key: words for key, value in values.items() if (words := _cannot_plug(key, str(value)))}
            if errors:
                raise PveError(400, "Parameter verification failed.", errors)
        before, pending, volumes_before = dict(ct.config), dict(ct.pending), self._all_volumes(ct)
        await super()._update_config(ct, user, values, deletes, reverts)
        await self._make_volumes(ct)
        if running:
            try:
                await self._hotplug(ct, before)
            except PveError:
                ct.config, ct.pending = before, pending
                raise
        for volume in volumes_before - self._all_volumes(ct):
            await volumes.delete(volume)
        if not running:
            for net in guest.networks(ct.config).values():
                engine.need_bridge(net, PveError)

    @staticmethod
    def _all_volumes(ct: Any) -> set[str]:
        return {volume for section in (ct.config, *ct.snapshots.values()) for volume in engine.own_volumes(section)}

    async def _hotplug(self, ct: Any, before: dict[str, Any]) -> None:
        for key in sorted(set(before) | set(ct.config)):
            old, new = before.get(key), ct.config.get(key)
            found = re.fullmatch(r"(dev|mp|net)(\d+)", key)
            if old == new or not found:
                continue
            kind, number = found.group(1), int(found.group(2))
            try:
                if kind == "net" and new is None:
                    await engine.unplug_network(ct.vmid, number)
                elif kind == "net":
                    await engine.plug_network(
                        ct.vmid, number, guest.properties(old) if old else None, guest.properties(new)
                    )
                elif kind == "dev" and new is not None:
                    await engine.plug_device(ct.vmid, ct.config, new)
                elif kind == "mp" and new is not None:
                    await engine.plug_mount(ct.vmid, ct.config, new)
            except (engine.Refused, ProgramError, OSError) as error:
                words = f"unable to hotplug {key}: {error}"
                raise PveError(400, "Parameter verification failed.", {key: words}) from error

    # ------------------------------------------------------------ running containers

    async def _watch(self, ct: Any) -> None:
        """Book a container as running, and be told when its first process ends."""
        pid = await engine.init_pid(ct.vmid)
        if pid is None:
            raise TaskError(f"startup for container '{ct.vmid}' failed")
        ct.status, ct.pid = "running", pid
        ct.started_at = Path(f"/proc/{pid}").stat().st_ctime
        handle, loop = os.pidfd_open(pid), asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(handle)
            os.close(handle)
            task = loop.create_task(self._ended(ct, pid))
            self._watchers.add(task)
            task.add_done_callback(self._watchers.discard)

        loop.add_reader(handle, ended)

    async def _ended(self, ct: Any, pid: int) -> None:
        """A container's first process has ended: of itself, unless a task of ours has booked that already."""
        while ct.pid == pid:
            if not ct.lock_holder and "STOPPED" in await engine.info(ct.vmid, "-s"):
                break
            await asyncio.sleep(0.05)
        if ct.pid != pid:
            return
        self._stopped(ct)
        self.save()
        if engine.mark(ct.vmid).exists():

            async def body() -> None:
                await self._start_steps(ct, "root@pam", skiplock=True)

            await self.task(self.node, "vzreboot", ct.vmid, "root@pam", body, vm=ct)

    def _stopped(self, ct: Any) -> None:
        ct.status, ct.pid, ct.started_at = "stopped", None, None
        engine.unmount_nodes(ct.vmid)


class TaskLog(list[str]):
    """A task's log, which lies in the file that Proxmox keeps it in too."""

    def __init__(self, upid: str, lines: list[str]) -> None:
        super().__init__()
        # UPID:NODE:PID:PSTART:START:…: by the last digit of its start.
        self._file = TASKS / upid.split(":")[4][-1] / upid
        self._file.parent.mkdir(parents=True, exist_ok=True)
        for line in lines:
            self.append(line)

    def append(self, line: str) -> None:
        """One more line."""
        super().append(line)
        with self._file.open("a") as file:
            file.write(f"{line}\n")


def folders() -> None:
    """The cluster's file system as far as guests go: a folder for each node, and a link to this one's."""
    own = PVE / "nodes" / socket.gethostname()
    for kind in ("lxc", "qemu-server"):
        folder, link = own / kind, PVE / kind
        folder.parent.mkdir(parents=True, exist_ok=True)
        if link.is_dir() and not link.is_symlink():
            link.rename(folder)
        folder.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(folder.relative_to(PVE))


def setting(name: str) -> float:
    """A number that the lab has put into a file of that name; 0 without one."""
    file = SETTINGS / name
    return float(file.read_text()) if file.exists() else 0.0


def _digest(ct: Any) -> str:
    for section in (ct.config, ct.pending, *ct.snapshots.values()):
        conf.normalise(section)
    return hashlib.sha1(conf.render(ct.config, ct.pending, ct.snapshots).encode()).hexdigest()


def _hot(ct: Any, name: str) -> Path:
    """The mark of a snapshot of a running container."""
    return SETTINGS / "hot-snapshots" / f"{ct.vmid}-{name}"


def _last_words(kind: str, ct: Any, values: dict[str, Any]) -> str | None:
    """What a task that ends well may still say: a file system that could not grow is no more than a line."""
    if kind != "resize" or not (SETTINGS / "resize-fails").exists():
        return None
    name = engine.volume_of(ct.config[values["disk"]]).partition(":")[2]
    return (
        "Failed to update the container's filesystem: command 'unshare -m -- sh -c 'mount --make-rprivate / && mount "
        f"/dev/pve/{name} /tmp && resize2fs /dev/pve/{name}'' failed: exit code 1"
    )


def _cannot_plug(key: str, value: str) -> str | None:
    """Why a running container cannot take this value."""
    try:
        if re.fullmatch(r"net\d+", key):
            engine.need_bridge(guest.properties(value))
        elif re.fullmatch(r"mp\d+", key) and value.removeprefix("volume=").startswith("/"):
            engine.mount(value)
    except engine.Refused as error:
        return f"unable to hotplug {key}: {error}"
    return None


def _rootfs(ct: Any) -> str:
    return engine.volume_of(ct.config["rootfs"])


def _binds(config: dict[str, Any]) -> list[str]:
    """The mount points that show a path of the node, which no snapshot can hold."""
    return [
        key for key, value in config.items() if re.fullmatch(r"mp\d+", key) and engine.volume_of(value).startswith("/")
    ]


def _snapshot_volumes(config: dict[str, Any]) -> list[str]:
    return engine.own_volumes({key: value for key, value in config.items() if not key.startswith("unused")})


async def main() -> None:
    """Serve until the daemon is stopped; containers go on running then."""
    pve = LabPve()
    await pve.serve()
    await asyncio.Event().wait()
