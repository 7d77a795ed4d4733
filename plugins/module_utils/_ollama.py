# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An Ollama beside the router: how its unit is in each mode, and how it was before anybody asked for one.

A unit file in /etc, where Ollama's installer puts it, is one that systemctl refuses to mask: it goes aside for the
link to /dev/null, in the same folder and under a name that systemd passes over, and comes back with the next mode.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._systemd import Run, Unit

MODES = ("disabled", "fallback", "exclusive", "untouched")
# The last name among drop-ins wins, and `systemctl edit` writes override.conf.
DROP_IN = "zz-homelab-llamacpp.conf"
KEPT = ".before-homelab-llamacpp"
MANAGED = "# From the role homelab.llamacpp.ollama; what is changed here is changed back.\n"
TEXTS = {
    "fallback": "[Service]\nEnvironment=OLLAMA_KEEP_ALIVE=0\n",
    # Conflicts works in both directions. The order says that the one is down before the other begins.
    "exclusive": "[Unit]\nConflicts={router}\nAfter={router}\n",
}
_LARGEST = 1 << 20  # bytes of an answer
TIMEOUT = 10  # seconds for an answer of Ollama's
_STARTS = 2  # seconds that a process may take from its start to its program


class OllamaError(Exception):
    """What was wanted, what was found, what mends it."""


@dataclass(frozen=True)
class State:
    """How the unit is, or shall be. `drop_in` is the text of ours, "" for none."""

    enabled: bool
    active: bool
    masked: bool
    drop_in: str = ""


class Ollama:
    """`memory` is the file that remembers the state before; it and /etc are looked for below `root`, / on a machine."""

    def __init__(self, run: Run, unit: str, router: str, memory: str, root: str = "/") -> None:
        self._run = run
        self._unit = Unit(run, unit)
        self._router = router
        self._memory = os.path.join(root, memory.lstrip("/"))
        self._file = os.path.join(root, "etc/systemd/system", unit)
        self._drop_in = os.path.join(f"{self._file}.d", DROP_IN)

    # --- what is there ------------------------------------------------------------------------------------------------

    def found(self) -> bool:
        return self._unit.state().loaded != "not-found"

    def now(self) -> State:
        shown = self._unit.properties("ActiveState", "UnitFileState")
        return State(
            enabled=shown["UnitFileState"].startswith("enabled"),
            active=shown["ActiveState"] in ("active", "activating", "reloading", "deactivating"),
            masked=os.path.islink(self._file) and os.readlink(self._file) == os.devnull,
            drop_in=_text(self._drop_in),
        )

    def router_is_up(self) -> bool:
        return Unit(self._run, self._router).state().up

    def wanted(self, mode: str) -> State:
        """How it shall be, by how it is now and how it was before the first mode."""
        now, (was, modes) = self.now(), self._remembered()
        if mode == "untouched" and not modes:
            return now
        # Once this stopped it, or could have, it runs again if it did before. Else an operator did, and meant it.
        stopped = any(last in ("disabled", "exclusive") and last != mode for last in modes)
        active = was.active or now.active if stopped else now.active
        if mode == "untouched":
            return replace(was, active=active and not was.masked, drop_in="")
        if mode == "disabled":
            return State(enabled=False, active=False, masked=True)
        drop_in = MANAGED + TEXTS[mode].format(router=self._router)
        if mode == "exclusive":
            # At boot systemd would start either of two that exclude each other: it is the router.
            return State(enabled=False, active=active and not self.router_is_up(), masked=False, drop_in=drop_in)
        return State(enabled=was.enabled, active=active, masked=False, drop_in=drop_in)

    def warnings(self, mode: str, url: str) -> list[str]:
        """What does not do what an operator may think, or what this cannot reach."""
        if not self.found():
            if _answer(url) is not None:
                return [f"an Ollama answers at {url}, and there is no {self._unit.name}: in a container of its own, or"
                        " started by hand? It is left alone and keeps its VRAM"]  # fmt: skip
            return []
        told = []
        shown = self._unit.properties("Environment")["Environment"]
        if mode != "disabled" and "OLLAMA_MAX_LOADED_MODELS=0" in shlex.split(shown):
            told.append(
                f"OLLAMA_MAX_LOADED_MODELS=0 of {self._unit.name} means automatic, not none: only OLLAMA_KEEP_ALIVE=0"
                " frees its VRAM (mode fallback)"
            )
        if mode == "exclusive" and Unit(self._run, self._router).state().loaded == "not-found":
            told.append(
                f"there is no {self._router} on this machine now, and Conflicts= reaches no other one: for an Ollama in"
                " another guest than the router take disabled or fallback"
            )
        return told

    # --- what is done -------------------------------------------------------------------------------------------------

    def apply(self, mode: str) -> None:
        """Bring it there. After UnitError and OSError, or when it was killed, the next run goes on."""
        now, wanted, (was, modes) = self.now(), self.wanted(mode), self._remembered()
        if mode == "untouched" and not modes:
            return
        begins = modes != [mode]
        if begins and mode != "untouched":
            # Both, until it is done: a run that is cut off, or in which something fails, is gone on with by the next.
            self._remember(was, list(dict.fromkeys([*(modes or ["untouched"]), mode])))
        if not wanted.active and now.active:
            self._unit.stop()
        if wanted.masked and not now.masked:
            if now.enabled:
                self._unit.enable(False)
            self._mask()
        elif now.masked and not wanted.masked:
            self._unmask()
        if wanted.drop_in != now.drop_in:
            self._write_drop_in(wanted.drop_in)
        if begins or (wanted.masked, wanted.drop_in) != (now.masked, now.drop_in):
            self._unit.daemon_reload()
        if not wanted.masked and wanted.enabled != self.now().enabled:
            self._unit.enable(wanted.enabled)
        environment = "fallback" in (*modes, mode) and (begins or wanted.drop_in != now.drop_in)
        if wanted.active and (environment or not now.active):
            self._unit.restart()
        if mode == "untouched":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._memory)
        elif begins:
            self._remember(was, [mode])

    def check_environment(self) -> None:
        """The process that runs keeps no model. OllamaError when something else has the last word."""
        pid = self._unit.state().main_pid
        if not pid:
            return
        # Until it runs its program, a process that systemd has just made has another environment.
        deadline = time.monotonic() + _STARTS
        found = _keep_alive(pid)
        while found != "0" and time.monotonic() < deadline:
            time.sleep(0.05)
            found = _keep_alive(pid)
        if found != "0":
            raise OllamaError(
                f"OLLAMA_KEEP_ALIVE=0 was wanted of {self._unit.name}, its process has {found or 'none'!r}: a drop-in"
                f" that is read after {DROP_IN}, or an EnvironmentFile=, says so (systemctl cat {self._unit.name});"
                " take that line away"
            )

    def _mask(self) -> None:
        os.makedirs(os.path.dirname(self._file), exist_ok=True)
        if os.path.lexists(self._file):
            os.replace(self._file, self._file + KEPT)
        os.symlink(os.devnull, self._file)

    def _unmask(self) -> None:
        if os.path.lexists(self._file + KEPT):
            os.replace(self._file + KEPT, self._file)
        else:
            os.unlink(self._file)

    def _write_drop_in(self, text: str) -> None:
        folder = os.path.dirname(self._drop_in)
        if text:
            _files.replace(self._drop_in, text, 0o644, create_mode=0o755)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._drop_in)
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # if there is nothing else in it

    # --- the state before ---------------------------------------------------------------------------------------------

    def _remembered(self) -> tuple[State, list[str]]:
        """How it was before the first mode, and the last mode, or those of a change that did not come to its end.

        As it is now, and none, when there was none.
        """
        try:
            found = json.loads(_files.read(self._memory))
            return State(**found["before"]), [str(mode) for mode in found["modes"]]
        except FileNotFoundError:
            return self.now(), []
        except (KeyError, TypeError, ValueError, RecursionError):
            raise OllamaError(
                f"{self._memory} was wanted with the state of {self._unit.name} before the role changed it, and cannot"
                " be read; remove it, and the state as it is now becomes that one"
            ) from None

    def _remember(self, was: State, modes: list[str]) -> None:
        text = json.dumps({"before": asdict(was), "modes": modes}) + "\n"
        _files.replace(self._memory, text, 0o644, create_mode=0o755)


def held_mib(url: str) -> tuple[list[str], int]:
    """The models that an Ollama has loaded, and the VRAM that it says they take, in MiB; none without an answer."""
    answer = _answer(url + "/api/ps")
    models = answer.get("models") if isinstance(answer, dict) else None
    found = [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    sizes = [model["size_vram"] for model in found if isinstance(model.get("size_vram"), int)]
    return [printable(model.get("name")) for model in found], sum(sizes) >> 20


def _answer(url: str) -> Any:
    """The JSON at an address, "" for anything else that answers, None where nothing does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT) as response:
            return json.loads(response.read(_LARGEST))
    except (ValueError, RecursionError, http.client.HTTPException, urllib.error.HTTPError):
        return ""
    except OSError:
        return None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _keep_alive(pid: int) -> str:
    with open(f"/proc/{pid}/environ", "rb") as file:
        environment = dict(line.partition(b"=")[::2] for line in file.read().split(b"\0"))
    return environment.get(b"OLLAMA_KEEP_ALIVE", b"").decode(errors="replace")
