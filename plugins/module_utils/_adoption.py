# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A router that was set up by hand, as the variables of an inventory that reproduce it.

The command line wins over the presets, and these over the environment, as in llama-server: what had no effect there is
left out, and said. So is what is an error in a llama-server of today.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.homelab.llamacpp.plugins.module_utils import _models_dir, _options
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_source import NAME
from ansible_collections.homelab.llamacpp.plugins.module_utils._names import BadName, line, printable
from ansible_collections.homelab.llamacpp.plugins.module_utils._preset_ini import Preset, served_name

# Options of the router's own that have a variable.
VARIABLES = {
    "host": "llama_router_host",
    "port": "llama_router_port",
    "models-max": "llama_router_models_max",
    "models-autoload": "llama_router_autoload",
    "sleep-idle-seconds": "llama_router_sleep_idle_seconds",
}
# Options of the router's own that have none; all others are the models'.
ROUTER = frozenset(
    [
        "threads-http",
        "timeout",
        "webui",
        "path",
        "api-prefix",
        "cors-origins",
        "cors-methods",
        "cors-headers",
        "cors-credentials",
        "ui-config",
        "ui-config-file",
        "webui-config",
        "webui-config-file",
        "log-file",
        "log-prefix",
        "log-timestamps",
        "log-colors",
        "log-disable",
        "rpc",
        "sse-ping-interval",
        "media-path",
        "slots",
        "props",
    ]
)
# What the role does by itself.
OWN = frozenset({"metrics", "reuse-port", "log-verbosity"})
_NOT_THE_MODELS = ROUTER | OWN | _options.RESERVED | frozenset(VARIABLES)
# Lead to a model's files, and become its sources.
FILES = ("model", "mmproj", "hf-repo", "hf-file", "model-url")
TOKEN = "hf-token"
_LONGEST_LINE = 1000  # characters of what is told
# Where the unit of llama_router sees nothing (ProtectHome).
HIDDEN = ("/home/", "/root/", "/run/user/")
KEY = re.compile(r"[^\s#]\S{15,}")


class Words:
    """A llama-server's command line: canonical option to value, in the order of its words; the last one of each."""

    def __init__(self, words: Sequence[str]) -> None:
        self.options: dict[str, Any] = {}
        self.unknown: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            name = word.lstrip("-")
            option = _options.find(name) if word.startswith("-") else None
            if option is None:
                instead = _options.REPLACED.get(name)
                value = rest.pop(0) if not instead and rest and not _is_option(rest[0]) else ""
                value = _options.masked(word, value)
                if instead:
                    key, _colon, text = instead.partition(": ")
                    self.unknown.append(f"{word}: no option any more; {instead} in its place")
                    if text and _options.find(key):
                        self.options[key] = text
                else:
                    word = word.partition("=")[0]
                    self.unknown.append(f"{word} {value}".strip() + ": not known to this collection's table of options")
            elif option.kind == "flag":
                self.options[option.name] = name not in option.negations
            elif option.kind in ("exits", "removed", "pair"):
                del rest[: 2 if option.kind == "pair" else 1 if option.kind == "removed" else 0]
                self.unknown.append(f"{word}: {_options.complaint(name) or 'no preset can have it'}")
            elif "on" in option.words and (not rest or _is_option(rest[0])):
                self.options[option.name] = "on"  # as older builds took --flash-attn
            elif not rest:
                self.unknown.append(f"{word}: its value is missing")
            else:
                self._set(option, rest.pop(0))

    def _set(self, option: _options.Option, text: str) -> None:
        value = _options.from_text(option.name, text)
        if option.kind == "repeatable" and option.name in self.options:
            self.unknown.append(f"--{option.name} {text}: a preset can have it only once")
        else:
            self.options[option.name] = value


def _is_option(word: str) -> bool:
    return word.startswith("-") and _options.find(word.lstrip("-")) is not None


class Adoption:
    """`inventory` are the variables, without the `keys`; `corrected` and `left` say what is other, and what is lost.

    `keys` are those that the role takes, `given` all.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], folder: str, target: str) -> None:
        self.inventory: dict[str, Any] = {}
        self.keys: list[str] = []
        self.given: list[str] = []
        self.corrected: list[str] = []
        self.left: list[str] = []
        self._folder = folder
        self._target = target
        read = Words(words)
        self.left += read.unknown
        named = {key: option for key, option in zip(environment, map(_options.find, environment)) if option}
        self._environment = self._without_refused(
            "the environment",
            {
                option.name: _options.from_text(key, environment[key])
                for key, option in named.items()
                if key.startswith("LLAMA_ARG_")
            },
        )
        own = {name: value for name, value in self._environment.items() if name in _NOT_THE_MODELS}
        self.options = {**own, **self._without_refused("the command line", read.options)}
        self._read_port()
        self._preset = self._read_preset()
        self._view = self._read_models_dir()
        self._read_keys(environment)
        self._read_own()
        common = self._read_common()
        models = self._read_models(set(self._command_line()))
        if common:
            self.inventory["llama_router_common_options"] = common
        self._read_environment(environment)
        self.inventory["llamacpp_models"] = models
        self.corrected = [printable(text, _LONGEST_LINE) for text in self.corrected]
        self.left = [printable(text, _LONGEST_LINE) for text in self.left]

    @property
    def port(self) -> int | None:
        return self.options.get("port")

    def _path(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._folder, path))

    def _read_port(self) -> None:
        """The port is a number: with any other text after its colon the key would go to another host."""
        port = self.options.get("port")
        if port is not None and not (isinstance(port, int) and 0 < port < 65536):
            del self.options["port"]
            self.left.append(f"--port {port}: it is no port")

    # --- files --------------------------------------------------------------------------------------------------------

    def _read_preset(self) -> dict[str, Any]:
        path = self.options.get("models-preset")
        if not path:
            return {}
        with open(self._path(path), encoding="utf-8", newline="") as file:
            return dict(Preset(file.read()).data())

    def _read_models_dir(self) -> dict[str, _models_dir.Entry]:
        path = self.options.get("models-dir")
        if not path:
            return {}
        view = _models_dir.view(self._path(path))
        self.corrected += [f"{path}: {problem}" for problem in view.problems]
        return {entry.id: entry for entry in view.entries}

    def _read_keys(self, environment: Mapping[str, str]) -> None:
        keys = str(self.options.get("api-key") or "").split(",")
        if self.options.get("api-key-file"):
            with open(self._path(self.options["api-key-file"]), encoding="utf-8") as file:
                keys += [line for line in file.read().split("\n") if not line.startswith("#")]
        keys += environment.get("LLAMA_API_KEY", "").split(",")
        self.given = given = list(dict.fromkeys(key for key in keys if key.strip()))
        self.keys = [key for key in given if KEY.fullmatch(key)]
        if len(self.keys) < len(given):
            self.left.append(
                f"{len(given) - len(self.keys)} of {len(given)} keys: shorter than 16 characters, or with a blank, so"
                " the role llama_router refuses it. Who uses it needs another one"
            )
        if not given:
            self.left.append("the router asks for no key: the role makes one, which its clients need then")
        elif "api-key" in self.options:
            self.corrected.append(
                "--api-key shows the key in ps and in the unit: it goes to a file for the service only"
            )

    # --- options ------------------------------------------------------------------------------------------------------

    def _without_refused(self, where: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out secrets, which no variable and no message shows, and options by which clients run commands."""
        kept = {}
        for key, value in options.items():
            name = _options.canonical(key)[0]
            why = "" if name == "api-key" else _options.refusal(key, value)
            if name == TOKEN:
                self.left.append(
                    f"{where} has a token of the hub: give it to llama_models (llama_models_token out of a vault)"
                )
            elif why:
                self.left.append(f"{where} has {why}")
            else:
                kept[key] = value
        return kept

    def _read_own(self) -> None:
        for name, variable in VARIABLES.items():
            if name in self.options:
                self.inventory[variable] = self.options[name]
        limit = self.inventory.setdefault("llama_router_models_max", 4)
        if limit == 0:
            del self.inventory["llama_router_models_max"]
            self.corrected.append("--models-max 0 has no limit at all: the limit is computed from the devices")
        router = {}
        for name in ROUTER.intersection(self.options):
            option = _options.find(name)
            if option and self.options[name] is False:
                router[option.negations[0]] = True
            else:
                router[name] = self.options[name]
        if router:
            self.inventory["llama_router_options"] = router
        for name in ("ssl-key-file", "ssl-cert-file"):
            if name in self.options:
                self.left.append(f"--{name} {self.options[name]}: name the certificate in the inventory yourself")

    def _command_line(self) -> dict[str, Any]:
        """The models' options on it."""
        return {name: value for name, value in self.options.items() if name not in _NOT_THE_MODELS}

    def _read_common(self) -> dict[str, Any]:
        found = {n: value for n, value in self._environment.items() if n not in _NOT_THE_MODELS and n not in FILES}
        found.update(self._checked("*", self._preset.pop("*", {}), set(self._command_line())))
        return {**found, **self._command_line()}

    def _checked(self, section: str, options: Mapping[str, Any], overruled: set[str]) -> dict[str, Any]:
        """The options of a section that do something, by their canonical names."""
        kept: dict[str, Any] = {}
        for key, value in self._without_refused(f"[{section}]", options).items():
            name, negated = _options.canonical(key)
            instead = _options.REPLACED.get(name)
            if instead:
                new, _colon, text = instead.partition(": ")
                takes = bool(text) and _options.find(new) is not None and not key.startswith("pin")
                if takes:
                    kept[new] = text
                self.corrected.append(f"[{section}] {key} is no option any more: {instead}")
            elif name in overruled:
                shown = _options.masked(key, value)
                self.corrected.append(
                    f"[{section}] {key} = {shown} had no effect, since --{name} is on the command line"
                )
            elif _options.complaint(key):
                self.corrected.append(f"[{section}] {_options.complaint(key)}")
            else:
                kept[name] = not value if negated and isinstance(value, bool) else value
        return kept

    # --- models -------------------------------------------------------------------------------------------------------

    def _read_models(self, overruled: set[str]) -> list[dict[str, Any]]:
        models = []
        for section, options in self._preset.items():
            served = served_name(section)
            kept = self._checked(section, options, overruled - {"model"})
            entry = self._view.pop(served, None)
            source = self._source(served, kept, entry)
            if source is not None and self._can_be_written(served, source, kept):
                models.append(self._model(served, source, kept))
        for entry in self._view.values():
            shard = _models_dir.SHARD.search(entry.path)
            if shard and os.path.basename(entry.path).startswith(entry.id) and shard[1] != "00001":
                continue  # comes with the first one
            source = self._of_entry(entry)
            if self._can_be_written(entry.id, source, {}):
                models.append(self._model(entry.id, source, {}))
        return sorted(models, key=lambda model: str(model["name"]))

    def _can_be_written(self, served: str, source: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
        """Whether its names and options are lines of text, as the presets are."""
        texts = [served, *(text for place in source.values() for text in place.values()), *map(str, options.values())]
        try:
            for text in texts:
                line(text, "its name, its path and its options")
        except BadName as error:
            self.left.append(f"{served}: {error}; rename it first")
            return False
        return True

    def _source(
        self, name: str, options: dict[str, Any], entry: _models_dir.Entry | None
    ) -> dict[str, dict[str, str]] | None:
        """What a section's model comes from; takes those options away. None, with the reason told, when it is lost."""
        files = {key: str(options.pop(key)) for key in FILES if key in options}
        if "model" in files:
            path = self._path(files["model"])
            if not os.path.isfile(path):
                self.left.append(f"{name}: nothing is at {path}")
                return None
            source = {"source": self._at(path)}
            if "mmproj" in files:
                source["projector"] = self._at(self._path(files["mmproj"]))
            return source
        if "hf-repo" in files:
            repo, _colon, quant = files["hf-repo"].partition(":")
            found = {
                "repo": repo,
                **({"file": files["hf-file"]} if "hf-file" in files else {"quant": quant or "Q4_K_M"}),
            }
            return {"source": found}
        if "model-url" in files:
            return {"source": {"url": files["model-url"]}}
        if entry:
            return self._of_entry(entry)
        self.left.append(f"{name}: its section names no model, so loading it never ends")
        return None

    def _of_entry(self, entry: _models_dir.Entry) -> dict[str, dict[str, str]]:
        root = self._path(str(self.options["models-dir"]))
        inside = os.path.dirname(entry.path) != root
        alone = entry.projector is None and entry.draft is None
        # A folder stays one; its only model is named where there are others in it.
        path = os.path.dirname(entry.path) if inside and not alone else entry.path
        return {"source": self._at(path)}

    def _at(self, path: str) -> dict[str, str]:
        real = os.path.realpath(path)
        if real.endswith(".gguf") or os.path.isdir(real):
            path = real
        if not f"{path}/".startswith(HIDDEN):
            return {"path": path}
        if os.stat(path).st_dev == os.stat(_nearest(self._target)).st_dev:
            return {"path": path, "method": "hardlink"}
        self.corrected.append(
            f"{path} is on another file system than {self._target}, and the service does not see it there: it will be"
            " copied, once. To spare that, mount its storage below /srv, for instance, before this"
        )
        return {"path": path, "method": "copy"}

    def _model(self, served: str, source: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        aliases = options.pop("alias", "")
        names = [name for name in str(aliases).split(",") if name.strip()]
        name = served
        if not NAME.fullmatch(name) or ".gguf" in name:
            name = re.sub(r"[^A-Za-z0-9._+@-]", "-", name.replace(".gguf", "")).lstrip("._+@-") or "model"
            names.insert(0, served)
            self.corrected.append(f"{served} is called {name}, and still answers to {served}")
        model: dict[str, Any] = {"name": name, **source}
        if names:
            model["aliases"] = [alias.strip() for alias in names]
        if options:
            model["options"] = options
        return model

    # --- environment --------------------------------------------------------------------------------------------------

    def _read_environment(self, environment: Mapping[str, str]) -> None:
        visible = environment.get("CUDA_VISIBLE_DEVICES", "")
        if visible:
            self.inventory["llama_router_gpus"] = [
                int(gpu) if gpu.strip().isdigit() else gpu.strip() for gpu in visible.split(",")
            ]
        if "GGML_CUDA_ENABLE_UNIFIED_MEMORY" in environment:
            self.inventory["llama_router_unified_memory"] = True


def _nearest(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
