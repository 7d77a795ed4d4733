# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A double of systemctl and journalctl for one simple service, on machines where systemd is not PID 1.

It runs the unit's real command. As strict as systemd where router_service could be careless: an unknown verb or option
is an error, a changed unit file counts only after daemon-reload, a unit that was started too often starts only after
reset-failed, RuntimeDirectory goes at each stop, a crash with Restart=on-failure is `activating (auto-restart)`.

Its first argument is `systemctl` or `journalctl`; SYSTEMD_DOUBLE names the folder of its state: NAME.service (the unit
file), calls (each call, a line).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(os.environ["SYSTEMD_DOUBLE"])
CLEAN = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)  # systemd.service(5), SuccessExitStatus=
IDLE = {
    "active": "inactive",
    "sub": "dead",
    "pid": 0,
    "supervisor": 0,
    "read": None,
    "starts": [],
    "code": "0",
    "status": "0",
    "result": "success",
}


def fail(message: str, status: int = 1) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)


class Service:
    def __init__(self, name: str) -> None:
        if not name.endswith(".service"):
            fail(f"double: name the unit with its suffix, not {name}")
        self.name = name
        self.file = HOME / name
        self.memory = HOME / f"{name}.json"
        self.journal = HOME / f"{name}.journal"
        self.lock = HOME / f"{name}.lock"

    # --- what is known ---

    def remembered(self) -> dict[str, Any]:
        return json.loads(self.memory.read_text()) if self.memory.exists() else dict(IDLE)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A verb and the supervisor of a service that ends do not overwrite each other's word."""
        with self.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def remember(self, **changes: Any) -> None:
        with self.alone():
            self._remember(**changes)

    def _remember(self, **changes: Any) -> None:
        beside = self.memory.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps({**self.remembered(), **changes}))
        beside.rename(self.memory)

    def text(self) -> str | None:
        """The unit as systemd has read it; it reads a unit that it does not know yet by itself."""
        read = self.remembered()["read"]
        if read is None and self.file.exists():
            read = self.file.read_text()
            self.remember(read=read)
        return read

    def setting(self, key: str) -> list[str]:
        """Of [Service]; an empty one takes those before it back."""
        values: list[str] = []
        section = ""
        for line in (self.text() or "").splitlines():
            name, equals, value = line.partition("=")
            if line.startswith("["):
                section = line
            elif section == "[Service]" and equals and name == key:
                values = [*values, value] if value else []
        return values

    def last(self, key: str, default: str = "") -> str:
        return self.setting(key)[-1] if self.setting(key) else default

    @property
    def starts_once(self) -> bool:
        return self.last("Type") == "oneshot"

    def properties(self) -> dict[str, str]:
        text = self.text()
        now = self.remembered()
        return {
            "LoadState": "not-found" if text is None else "loaded",
            "ActiveState": now["active"],
            "SubState": now["sub"],
            "NeedDaemonReload": "yes" if text is not None and text != self.file.read_text() else "no",
            "MainPID": str(now["pid"]),
            "FragmentPath": "" if text is None else str(self.file),
            "DropInPaths": "",
            "User": self.last("User"),
            "Group": self.last("Group"),
            "ExecMainCode": now["code"],
            "ExecMainStatus": now["status"],
            "Result": now["result"],
        }

    # --- verbs ---

    def restart(self) -> None:
        if self.text() is None:
            fail(f"Failed to restart {self.name}: Unit {self.name} not found.", 5)
        if self.properties()["NeedDaemonReload"] == "yes":
            print(
                f"Warning: The unit file of {self.name} changed on disk. Run 'systemctl daemon-reload'.",
                file=sys.stderr,
            )
        self.stop()
        starts = [moment for moment in self.remembered()["starts"] if time.time() - moment < 10]
        if len(starts) >= 5 and "StartLimitIntervalSec=0" not in (self.text() or ""):
            self.remember(active="failed", sub="failed")
            fail(f"Job for {self.name} failed.\nstart request repeated too quickly")
        self.remember(starts=[*starts, time.time()], active="activating", sub="start-pre")
        if not self.prepare():
            self.remember(active="failed", sub="failed")
            fail(f"Job for {self.name} failed because the control process exited with error code.")
        if os.fork() == 0:
            self.supervise()
        while self.remembered()["sub"] == "start-pre" or (self.starts_once and self.remembered()["supervisor"]):
            time.sleep(0.01)
        if self.starts_once and self.remembered()["active"] == "failed":
            fail(f"Job for {self.name} failed because the control process exited with error code.")

    start = restart

    def prepare(self) -> bool:
        for folder in self.setting("RuntimeDirectory"):
            (HOME / "run" / folder).mkdir(parents=True)
        for command in self.setting("ExecStartPre"):
            argv = shlex.split(command)  # no shell: what needs one names it
            if not argv[0].startswith("/"):
                fail(f"double: ExecStartPre= has to name its program by its path, not {argv[0]}")
            done = subprocess.run(argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            with self.journal.open("a") as journal:
                print(*(f"{time.time()} {line}" for line in done.stdout.splitlines()), sep="\n", file=journal)
            if done.returncode != 0:
                return False
        return True

    def supervise(self) -> None:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        argv = shlex.split(self.last("ExecStart"))
        file = self.last("StandardOutput").partition("file:")[2]
        limit = self.last("TimeoutStartSec" if self.starts_once else "RuntimeMaxSec", "inf")
        folder = self.last("WorkingDirectory") or None
        while True:
            with open(file or os.devnull, "ab") as output:
                process = subprocess.Popen(
                    argv,
                    stderr=subprocess.STDOUT,
                    stdout=output if file else subprocess.PIPE,
                    text=True,
                    cwd=folder,
                    start_new_session=True,
                )
            killer = threading.Timer(min(float(limit), 1e6), os.killpg, (process.pid, signal.SIGKILL))
            killer.daemon = True
            killer.start()
            active, sub = ("activating", "start") if self.starts_once else ("active", "running")
            self.remember(active=active, sub=sub, pid=process.pid, supervisor=os.getpid())
            if process.stdout:
                with self.journal.open("a") as journal:
                    for line in process.stdout:
                        print(time.time(), line, end="", file=journal, flush=True)
            status = process.wait()
            late = killer.finished.is_set()
            killer.cancel()
            if file:  # KillMode=control-group
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            self.clear()
            with self.alone():
                ended = {"code": "2" if status < 0 else "1", "status": str(abs(status)), "pid": 0}
                if status == 0 or -status in CLEAN:
                    self._remember(active="inactive", sub="dead", supervisor=0, **ended)
                    os._exit(0)
                # What is told to stop is not started again, but it has failed if it did not end well.
                if self.last("Restart", "no") == "no" or self.remembered()["sub"] == "stop-sigterm":
                    result = "timeout" if late else "signal" if status < 0 else "exit-code"
                    self._remember(active="failed", sub="failed", supervisor=0, result=result, **ended)
                    os._exit(0)
                self._remember(active="activating", sub="auto-restart", pid=0)
            time.sleep(float(self.setting("RestartSec")[0]))
            if not self.prepare():
                self.remember(active="failed", sub="failed", supervisor=0)
                os._exit(0)

    def stop(self) -> None:
        with self.alone():
            now = self.remembered()
            if not now["supervisor"]:
                return
            if not now["pid"]:  # it waits before it tries again
                os.kill(now["supervisor"], signal.SIGKILL)
                self._remember(active="inactive", sub="dead", supervisor=0)
                return
            self._remember(active="deactivating", sub="stop-sigterm")
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(now["pid"], signal.SIGTERM)
        while self.remembered()["supervisor"]:
            time.sleep(0.01)

    def clear(self) -> None:
        for folder in self.setting("RuntimeDirectory"):
            shutil.rmtree(HOME / "run" / folder, ignore_errors=True)


def systemctl(args: list[str]) -> None:
    with (HOME / "calls").open("a") as calls:
        print(*args, file=calls)
    if args == ["daemon-reload"]:
        for file in HOME.glob("*.service"):
            Service(file.name).remember(read=file.read_text())
        return
    verb, name, *options = args
    service = Service(name)
    if verb == "show" and len(options) == 1 and options[0].startswith("--property="):
        found = service.properties()
        for key in options[0].partition("=")[2].split(","):
            print(f"{key}={found[key]}")
    elif verb == "reset-failed" and not options:
        failed = service.remembered()["active"] == "failed"
        service.remember(starts=[], **({"active": "inactive", "sub": "dead"} if failed else {}))
    elif verb in ("start", "restart", "stop") and not options:
        getattr(service, verb)()
    else:
        fail(f"Unknown command verb or option: {' '.join(args)}")


def journalctl(args: list[str]) -> None:
    known = {"--unit": "", "--since": "", "--lines": "", "--output": ""}
    words = iter(args)
    for word in words:
        if word in known:
            known[word] = next(words)
        elif word not in ("--no-pager", "--quiet"):
            fail(f"journalctl: unrecognized option '{word}'")
    if known["--output"] != "cat" or not known["--since"].startswith("@"):
        fail("double: --output cat and --since @SECONDS alone are known")
    with contextlib.suppress(FileNotFoundError):
        written = Service(known["--unit"]).journal.read_text().splitlines()
        entries = [line.split(" ", 1) for line in written if line]
        lines = [text for moment, text in entries if float(moment) >= float(known["--since"][1:])]
        print("\n".join(lines[-int(known["--lines"]) :]))


if __name__ == "__main__":
    {"systemctl": systemctl, "journalctl": journalctl}[sys.argv[1]](sys.argv[2:])
