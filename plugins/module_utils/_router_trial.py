# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Try another llama-server beside a running router: with its command line, its presets, and its smallest model.

It runs as a twin of the router's unit (`_unit_twin`): with its command line, environment, user and sandbox.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _llama_dry_run
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import Preset, served_name
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_api import RouterError
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_files import Sized
from ansible_collections.homelab.llamacpp.plugins.module_utils._router_state import telling
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run
from ansible_collections.homelab.llamacpp.plugins.module_utils._unit_twin import TIME_LIMIT, Settings, Twin

PROGRAM = "llama-server"

_UNKNOWN = re.compile(r"option '(?P<key>[^']*)' not recognized in preset '(?P<section>[^']*)'")
_BAD_ARGUMENT = re.compile(r"^error(: invalid argument| while handling argument).*", re.MULTILINE)
# A process that sees none of the cards takes nothing of their memory.
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "GGML_VK_VISIBLE_DEVICES": ""}
_SPARE = 30  # seconds beside those that are waited for, after which systemd ends it
_LARGEST = 1 << 20  # bytes of an answer


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
    """Of the binary `server`, as `unit` would run it. `timeout` in seconds is to load the model and to answer, each.

    UnitError when systemd cannot tell, or run it.
    """

    def __init__(self, run: Run, unit: str, server: str, timeout: float) -> None:
        self._run = run
        self.server = server
        self.timeout = timeout
        self.settings = Settings.of(run, unit)
        if os.path.basename(self.settings.program) != PROGRAM:
            raise RouterError(
                f"expected {unit} to start {PROGRAM} itself, found {self.settings.program}: its options cannot be told"
                " from the unit; name llama-server with its options in ExecStart="
            )

    def reads(self, presets: str | None) -> None:
        """RouterError unless it takes the router's command line and every option in its presets."""
        text = _text(presets) if presets else ""
        with Twin(self._run, self.settings).made() as twin:
            refused = self._refusal(twin, text if presets else None)
            reasons = []
            # Each line is emptied at most once, so there are no more rounds than lines.
            for _line in range(text.count("\n") + 2):
                if not refused:
                    break
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
                refused = self._refusal(twin, text)
        if reasons:
            raise RouterError(
                f"{self.server} was wanted to read {presets or 'the command line'} as the router does, it refuses:"
                f" {'; '.join(reasons)}. Take out or rename what it names, or stay with the build that serves"
            )

    def _refusal(self, twin: Twin, text: str | None) -> str:
        more = ["--host", _llama_dry_run.HOST, "--offline"]
        if text is not None:
            more += ["--models-preset", twin.write("models.ini", text)]
        command = twin.command(self.server, self.settings.words, more, {"LLAMA_CACHE": twin.runtime})
        ended = twin.to_its_end(command, _llama_dry_run.TIMEOUT)
        refused = _llama_dry_run.refusal(ended.said)
        if refused is not None:
            return refused
        complaint = _BAD_ARGUMENT.search(ended.said)
        if complaint:
            return f"{complaint.group()} (on the command line of the unit, see llama_router_options)"
        if ended.status == TIME_LIMIT:
            raise RouterError(self._wanted(f"it took more than {_llama_dry_run.TIMEOUT} s"))
        said = _llama_dry_run.last_words(ended.said)
        raise RouterError(self._wanted(f"it ended with {ended.status} and said: {said}"))

    def _wanted(self, found: str) -> str:
        return (
            f"{self.server} was wanted to read the router's command line and presets, {found}; stay with the build that"
            " serves, or build it anew"
        )

    def answers(self, sized: Sized, on_gpu: bool) -> str:
        """Load this model and answer from it, on a socket that only the router's user reaches. What it answered.

        `on_gpu` takes all options that the router gives the model; else it takes no memory of a card.
        """
        with Twin(self._run, self.settings).made() as twin:
            address = os.path.join(twin.runtime, "server.sock")
            environment = {"LLAMA_CACHE": twin.runtime}
            without: list[str] = []
            if on_gpu:
                words = _without(sized.model.args[1:], ("--host", "--port"))
            else:
                words = ["--model", sized.path, "--ctx-size", "512", "--parallel", "1", "--device", "none"]
                words += ["--n-gpu-layers", "0"]
                # What says of a model makes it a server of that one; what sees no card takes nothing of its memory.
                without = self.settings.names("LLAMA_")
                environment.update(_NO_GPU)
            command = twin.command(self.server, "", [*words, "--host", address, "--offline"], environment, without)
            try:
                with twin.running(command, 2 * self.timeout + _SPARE):
                    return self._ask(twin, address, sized.writes)
            except RouterError as error:
                said = " | ".join(telling(twin.said().splitlines())) or "nothing"
                raise RouterError(
                    f"{self.server} was wanted to answer from {sized.model.id} beside the router, {error}; it said:"
                    f" {said}. Stay with the build that serves, or build it anew"
                ) from None

    def _ask(self, twin: Twin, address: str, text: bool) -> str:
        deadline = time.monotonic() + self.timeout
        while _call(address, "GET", "/health", None, 2)[0] != 200:
            ended = twin.ended()
            if ended:
                raise RouterError(f"it ended with {ended.status} before it was ready")
            if time.monotonic() > deadline:
                raise RouterError(f"it does not serve after {self.timeout:g} s")
            time.sleep(0.05)
        if not text:
            return ""
        question = {"prompt": "Once upon a time", "n_predict": 8, "ignore_eos": True, "temperature": 0}
        status, answer = _call(address, "POST", "/completion", question, self.timeout)
        tokens = answer.get("tokens_predicted", 0)
        if status == 200 and isinstance(tokens, int) and tokens > 0 and twin.ended() is None:
            return printable(answer.get("content", ""))
        deadline = time.monotonic() + 1
        while status == 0 and twin.ended() is None and time.monotonic() < deadline:  # it may just end
            time.sleep(0.05)
        ended = twin.ended()
        found = f"ended with {ended.status}" if ended else f"answered with status {status}"
        raise RouterError(f"it loaded the model and {found} when it was asked")


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, address: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.address)


def _call(address: str, method: str, path: str, body: object, timeout: float) -> tuple[int, dict[str, Any]]:
    """Status and answer; status 0 when none came."""
    connection = _SocketConnection(address, timeout)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read(_LARGEST))
        return response.status, answer if isinstance(answer, dict) else {}
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
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
