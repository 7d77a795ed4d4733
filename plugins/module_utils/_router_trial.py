# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Try another llama-server beside a running router: with its command line, its presets, and its smallest model.

What the router runs with is taken from its process, so that nothing can differ from it: arguments, environment, user.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _llama_dry_run
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import Preset, served_name
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_files import Sized
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import telling

_UNKNOWN = re.compile(r"option '(?P<key>[^']*)' not recognized in preset '(?P<section>[^']*)'")
_BAD_ARGUMENT = re.compile(r"^error(: invalid argument| while handling argument).*", re.MULTILINE)
# A process that sees none of the cards takes nothing of their memory.
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "GGML_VK_VISIBLE_DEVICES": ""}
_STOP_TIMEOUT = 10  # seconds


@dataclass(frozen=True)
class Running:
    """How a process was started."""

    args: list[str]
    environ: dict[str, str]
    uid: int
    gid: int
    groups: list[int]

    @classmethod
    def of(cls, pid: int) -> Running:
        def read(name: str) -> str:
            with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="surrogateescape") as file:
                return file.read()

        try:
            words, variables, status = read("cmdline"), read("environ"), read("status")
        except OSError as error:
            raise RouterError(
                f"the router's process {pid} was wanted readable: {error.strerror}; run as root (become)"
            ) from None
        ids = {line.partition(":")[0]: line.split()[1:] for line in status.splitlines()}
        return cls(
            words[:-1].split("\0")[1:],
            dict(pair.partition("=")[::2] for pair in variables.split("\0") if "=" in pair),
            int(ids["Uid"][1]),
            int(ids["Gid"][1]),
            [int(group) for group in ids["Groups"]],
        )


def room_beside(plan: Mapping[str, Any], limit: int, name: str) -> bool:
    """Whether a plan has room for one more process of model `name`, whatever `limit` models the router runs."""
    loads = {
        model["name"]: {part["device"]: part["total_mib"] for part in model["devices"]} for model in plan["models"]
    }
    if not plan["devices"] or name not in loads or limit < 1:
        return False
    for device in plan["devices"]:
        taken = sorted((load.get(device["name"], 0) for load in loads.values()), reverse=True)
        if sum(taken[:limit]) + loads[name].get(device["name"], 0) > device["usable_mib"]:
            return False
    return True


class Trial:
    """Of the binary `server`. `timeout` in seconds is for it to load the model and to answer, each."""

    def __init__(self, server: str, running: Running, timeout: float) -> None:
        self.server = server
        self.running = running
        self.timeout = timeout

    def reads(self, presets: str | None) -> None:
        """RouterError unless it takes the router's command line and every option in its presets."""
        text = _text(presets) if presets else ""
        refused = self._refusal(text if presets else None)
        if not refused:
            return
        reasons = []
        while refused:
            unknown = _UNKNOWN.search(refused)
            section = served_name(unknown["section"]) if unknown else ""
            number = Preset(text).line_number(section, unknown["key"]) if unknown else 0
            if not unknown or not number:
                reasons.append(refused)
                break
            reasons.append(f"preset {unknown['section']!r}, line {number}: it does not know {unknown['key']!r}")
            # Emptied, so that the numbers stay, and asked again: the operator is to hear of all of them at once.
            lines = text.split("\n")  # str.splitlines knows line ends that a preset does not
            lines[number - 1] = ""
            text = "\n".join(lines)
            refused = self._refusal(text)
        raise RouterError(
            f"{self.server} was wanted to read {presets or 'the command line'} as the router does, it refuses:"
            f" {'; '.join(reasons)}. Take out or rename what it names, or stay with the build that serves"
        )

    def _refusal(self, text: str | None) -> str:
        with self._scratch() as folder:
            argv = [self.server, *self.running.args, "--host", _llama_dry_run.HOST, "--offline"]
            if text is not None:
                argv += ["--models-preset", self._write(folder, text)]
            environ = {**self.running.environ, "LLAMA_CACHE": folder}
            try:
                # Ansible's run_command takes no other user, and cannot leave a process running.
                done = subprocess.run(  # pylint: disable=ansible-bad-function
                    argv,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    errors="replace",
                    timeout=_llama_dry_run.TIMEOUT,
                    check=False,
                    cwd=folder,
                    **self._user(),
                )
            except subprocess.TimeoutExpired:
                raise RouterError(self._wanted(f"it took more than {_llama_dry_run.TIMEOUT} s")) from None
            except OSError as error:
                raise RouterError(self._wanted(f"it cannot be run: {error.strerror}")) from None
        refused = _llama_dry_run.refusal(done.stdout)
        if refused is not None:
            return refused
        complaint = _BAD_ARGUMENT.search(done.stdout)
        if complaint:
            return f"{complaint.group()} (on the command line of the unit, see llama_router_options)"
        raise RouterError(
            self._wanted(f"it ended with {done.returncode} and said: {_llama_dry_run.last_words(done.stdout)}")
        )

    def _wanted(self, found: str) -> str:
        return (
            f"{self.server} was wanted to read the router's command line and presets, {found}; stay with the build that"
            " serves, or build it anew"
        )

    def answers(self, sized: Sized, on_gpu: bool) -> str:
        """Load this model and answer from it, on a socket that only the router's user reaches. What it answered.

        `on_gpu` takes all options that the router gives the model; else it takes no memory of a card.
        """
        with self._scratch() as folder:
            address = os.path.join(folder, "server.sock")
            if on_gpu:
                words = _without(sized.model.args[1:], ("--host", "--port"))
                environ = {**self.running.environ, "LLAMA_CACHE": folder}
            else:
                words = ["--model", sized.path, "--ctx-size", "512", "--parallel", "1", "--device", "none"]
                words += ["--n-gpu-layers", "0"]
                environ = {**_llama_dry_run.environment(self.running.environ), **_NO_GPU, "LLAMA_CACHE": folder}
            # It goes when this process is killed, too.
            argv = ["setpriv", "--pdeathsig", "KILL", self.server, *words, "--host", address, "--offline"]
            # Without a name in the folder of the router's user, by which that one could lead root to another file.
            with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as output:
                process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                    argv,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    **self._user(),
                )
                try:
                    return self._ask(process, address, sized.writes)
                except RouterError as error:
                    output.seek(0)
                    said = " | ".join(telling(output.read().splitlines())) or "nothing"
                    raise RouterError(
                        f"{self.server} was wanted to answer from {sized.model.id} beside the router, {error}; it said:"
                        f" {said}. Stay with the build that serves, or build it anew"
                    ) from None
                finally:
                    _end(process)

    def _ask(self, process: subprocess.Popen[bytes], address: str, text: bool) -> str:
        deadline = time.monotonic() + self.timeout
        while _call(address, "GET", "/health", None, 2)[0] != 200:
            if process.poll() is not None:
                raise RouterError(f"it ended with {process.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise RouterError(f"it does not serve after {self.timeout:g} s")
            time.sleep(0.05)
        if not text:
            return ""
        question = {"prompt": "Once upon a time", "n_predict": 8, "ignore_eos": True, "temperature": 0}
        status, answer = _call(address, "POST", "/completion", question, self.timeout)
        if status == 200 and answer.get("tokens_predicted", 0) > 0 and process.poll() is None:
            return str(answer.get("content", ""))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        found = f"ended with {process.returncode}" if process.poll() is not None else f"answered with status {status}"
        raise RouterError(f"it loaded the model and {found} when it was asked")

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="router-trial-") as folder:
            os.chown(folder, self.running.uid, self.running.gid)
            yield folder

    def _write(self, folder: str, text: str) -> str:
        path = os.path.join(folder, "models.ini")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:
            file.write(text)
            os.fchown(file.fileno(), self.running.uid, self.running.gid)
        return path

    def _user(self) -> dict[str, Any]:
        return {"user": self.running.uid, "group": self.running.gid, "extra_groups": self.running.groups}


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, address: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.address)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _call(address: str, method: str, path: str, body: object, timeout: float) -> tuple[int, dict[str, Any]]:
    """Status and answer; status 0 when none came."""
    connection = _SocketConnection(address, timeout)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        return response.status, answer if isinstance(answer, dict) else {}
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()


def _without(args: Sequence[str], options: Sequence[str]) -> list[str]:
    """The arguments without these options, which take a value each."""
    kept: list[str] = []
    words = iter(args)
    for word in words:
        if word in options:
            next(words, None)
        else:
            kept.append(word)
    return kept


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise RouterError(f"{path} was wanted readable: {error.strerror}; run as root (become)") from None
