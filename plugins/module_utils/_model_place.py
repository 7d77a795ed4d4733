# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brings the files of one model into their places: all of them made ready and checked first, then all put."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Union

from ansible_collections.homelab.llamacpp.plugins.module_utils import _files, _gguf, _model_record, _part
from ansible_collections.homelab.llamacpp.plugins.module_utils._download import Download, Wanted
from ansible_collections.homelab.llamacpp.plugins.module_utils._http import Client, FetchError
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_local import loaded_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_record import Entry
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_source import Item, Resolved
from ansible_collections.homelab.llamacpp.plugins.module_utils._model_store import PART, Store, sha256_of
from ansible_collections.homelab.llamacpp.plugins.module_utils._pace import Limit
from ansible_collections.homelab.llamacpp.plugins.module_utils._part import Part
from ansible_collections.homelab.llamacpp.plugins.module_utils._staged import Copied, HardLinked, Linked, Moved

Staged = Union[Part, Linked, HardLinked, Copied, Moved]


class Step(NamedTuple):
    """What brings a file into its place: keep, twin (a hard link to `twin`), link, hardlink, copy, move or fetch."""

    item: Item
    how: str
    twin: str = ""

    def to_fetch(self, store: Store) -> int:
        """Bytes that have still to come from a server."""
        return self.item.size - _part.arrived(store.path(self.item.place) + PART) if self.how == "fetch" else 0

    def to_write(self, store: Store) -> int:
        """Bytes that will be needed on the disk."""
        return self.item.size if self.how == "copy" else self.to_fetch(store)


class Settings(NamedTuple):
    rate: float  # bytes a second, 0 for no limit
    retries: int
    mode: int  # of new files
    attributes: Callable[[str], bool]  # gives a path its owner, group and mode; says whether that changed it
    waits: Callable[[str], None]  # is told the name of a model that another run has
    unreadable: Callable[[os.stat_result], str]  # what keeps the file's readers from a file as it is, empty for nothing


class Placer:
    def __init__(self, store: Store, client: Client, settings: Settings) -> None:
        self._store = store
        self._client = client
        self._settings = settings
        self._limit = Limit(settings.rate)
        self._sums: dict[tuple[Any, ...], str] = {}  # of files that had to be read, by how they were then
        self._mutex = threading.Lock()
        self.fetched = 0  # bytes

    def steps(self, name: str, resolved: Resolved) -> list[Step]:
        """What there is to do for a model. Raises FetchError for files that are in the way and are not ours."""
        recorded = self._store.record.get(name, {"files": {}})["files"]
        steps = [self._step(item, recorded.get(item.place)) for item in resolved.items]
        self._check_hard_links(steps)
        places = {item.place for item in resolved.items}
        foreign = [
            place
            for place in self._store.of_model(name)
            if place.endswith(".gguf") and place not in recorded and not os.path.islink(self._store.path(place))
        ]
        kept = {step.item.place for step in steps if step.how == "keep"}
        in_the_way = [place for place in foreign if place not in kept]
        if in_the_way:
            different = any(place in places for place in in_the_way)
            raise FetchError(
                f"{name}: {', '.join(map(self._store.path, in_the_way))} was not put there by this module and"
                f" {'is not what the source has' if different else 'would be in the way of the model'}; move it away,"
                " or take the source out of the model to keep it as it is"
            )
        return steps

    def _step(self, item: Item, recorded: Mapping[str, Any] | None) -> Step:
        if item.method == "link":
            same = recorded and recorded.get("link") == item.path and self._store.as_recorded(item.place, recorded)
            return Step(item, "keep" if same or self._links_there(item) else "link")
        if item.place not in self._store.damaged and self._has(item, recorded):
            return Step(item, "keep")
        twin = self._store.twin(item.sha256, item.place) if item.sha256 else None
        if twin:
            return Step(item, "twin", twin[0])
        return Step(item, item.method or "fetch")

    def _links_there(self, item: Item) -> bool:
        with contextlib.suppress(OSError):
            return os.readlink(self._store.path(item.place)) == item.path
        return False

    def _has(self, item: Item, recorded: Mapping[str, Any] | None) -> bool:
        """Whether the content is in its place. What neither source nor record tells is read, if it could be the one."""
        path = self._store.path(item.place)
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) != item.size:
            return False
        known = recorded and self._store.as_recorded(item.place, recorded) and recorded.get("sha256")
        return (known or self.sum_of(path)) == (item.sha256 or self.sum_of(item.path))

    def sum_of(self, path: str) -> str:
        """The SHA-256 of a file, read once as long as it stays as it is."""
        status = os.stat(path)
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._sums:
            self._sums[key] = sha256_of(path)
        return self._sums[key]

    def _check_hard_links(self, steps: Sequence[Step]) -> None:
        """A hard link has the operator's own owner and mode, which stay: they have to suit the file's readers."""
        for step in steps:
            if step.how == "hardlink":
                source = os.path.realpath(step.item.path)
                reason = self._settings.unreadable(os.stat(source))
                if reason:
                    raise FetchError(
                        f"{source}: method hardlink keeps a file's owner and mode, and {reason}; run chmod a+r on it,"
                        " or take method copy"
                    )

    def place(
        self, name: str, identity: str, resolved: Resolved, report: Callable[[int], None], connections: int
    ) -> None:  # fmt: skip
        """Do it, and record it. Thread-safe. Raises FetchError and GGUFError; the model is then as it was."""
        with self._store.alone(name, self._settings.waits):
            # Now that no other run has the model: one may just have finished with it.
            steps = self.steps(name, resolved)
            for step in steps:
                self._make_folders(step.item.place)
            staged: dict[str, Staged] = {}
            try:
                for step in steps:
                    if step.how == "fetch":
                        staged[step.item.place] = self._part(step.item)
                self._fetch([step.item for step in steps if step.how == "fetch"], staged, report, connections)
                for step in steps:
                    if step.how not in ("keep", "fetch"):
                        staged[step.item.place] = self._stage(step, report)
                self._check(resolved, staged)
                self._put(name, identity, resolved, steps, staged)
            finally:
                for one in staged.values():
                    one.close()

    def _part(self, item: Item) -> Part:
        path = self._store.path(item.place) + PART
        return Part(path, item.size, item.sha256, self._settings.mode)

    def _fetch(
        self, items: Sequence[Item], staged: Mapping[str, Staged], report: Callable[[int], None], connections: int
    ) -> None:  # fmt: skip
        wanted = []
        for item in items:
            part = staged[item.place]
            if isinstance(part, Part):
                wanted.append(Wanted(item.url, part))
        if not wanted:
            return
        download = Download(wanted, self._client, connections, self._limit, self._settings.retries, report)
        try:
            download.run()
        finally:
            with self._mutex:
                self.fetched += download.fetched

    def _stage(self, step: Step, report: Callable[[int], None]) -> Staged:
        item, target = step.item, self._store.path(step.item.place)
        if step.how == "twin":
            return self._twin(step, target)
        if step.how == "link":
            return Linked(item.path, target)
        if step.how == "hardlink":
            return self._hard_link(item, target)
        kind = Copied if step.how == "copy" else Moved
        one = kind(item.path, target, self._settings.mode, report)
        if item.sha256 not in ("", one.sha256):
            one.close()
            raise FetchError(
                f"{item.path}: its SHA-256 was expected to be {item.sha256}, it is {one.sha256}; mend one of both"
            )
        return one

    def _twin(self, step: Step, target: str) -> HardLinked:
        """Another model's file, which another run may take away or replace meanwhile."""
        found = self._store.twin(step.item.sha256, step.item.place)
        with contextlib.suppress(FileNotFoundError):
            if found:
                one = HardLinked(self._store.path(found[0]), target, step.item.sha256)
                status = one.status()
                if (status.st_size, status.st_mtime_ns) == (found[1]["size"], found[1]["mtime_ns"]):
                    return one
                one.close()
        raise FetchError(
            f"{self._store.path(step.twin)} had the content of {step.item.place}, and another run has removed or"
            " replaced it; run again"
        )

    def _hard_link(self, item: Item, target: str) -> HardLinked:
        source = os.path.realpath(item.path)  # not to another name of a symbolic link
        try:
            one = HardLinked(source, target)
        except OSError as error:
            raise FetchError(
                f"{target} cannot be a second name of {source}: {error.strerror}; take method copy or move, or"
                " bring both onto one file system"
            ) from None
        try:
            one.sha256 = self.sum_of(one.path)
            if item.sha256 not in ("", one.sha256):
                raise FetchError(
                    f"{source}: its SHA-256 was expected to be {item.sha256}, it is {one.sha256}; mend one of both"
                )
        except BaseException:
            one.close()
            raise
        return one

    def _check(self, resolved: Resolved, staged: Mapping[str, Staged]) -> None:
        """Every file is GGUF and reaches to its end, and shards are of one model, before any is put."""
        for role in sorted({item.role for item in resolved.items}):
            paths = {
                os.path.basename(item.place): staged[item.place].path
                if item.place in staged
                else self._store.path(item.place)
                for item in resolved.items
                if item.role == role
            }
            for name in sorted(paths):
                if os.path.isdir(paths[name]):
                    model = _gguf.read_model(loaded_of(paths[name]))
                else:
                    model = _gguf.read_model(name, lambda one: _gguf.read_header(paths[one]), paths.__contains__)  # noqa: B023
                if not model.complete:
                    raise FetchError(
                        f"{paths[name]}: the model must be whole, and the file ends early; look at its source"
                    )

    def _put(
        self, name: str, identity: str, resolved: Resolved, steps: Sequence[Step], staged: Mapping[str, Staged]
    ) -> None:
        store = self._store
        before = set(store.of_model(name))
        recorded = store.record.get(name, {"files": {}})
        as_it_was = not staged and store.in_place(recorded)
        shared = {step.item.place for step in steps if self._is_shared(step, recorded)}
        for item in resolved.items:
            target = store.path(item.place)
            if item.place in staged:
                if item.method != "link" and item.place not in shared:
                    self._settings.attributes(staged[item.place].path)
                staged[item.place].put(target)
        store.remove(sorted(before - {item.place for item in resolved.items}))
        sums = {}
        for item in resolved.items:
            if item.method != "link":
                known = staged[item.place].sha256 if item.place in staged else item.sha256
                sums[item.place] = known or self.sum_of(store.path(item.place))
        # From when on a process that began before has other files, also those that a run put which was broken off here.
        when = _model_record.now()
        if as_it_was:
            when = {"placed": 0, **{key: recorded[key] for key in when if key in recorded}}
        store.write(name, {**store.entry_of(identity, resolved, sums, shared), **when})
        store.damaged.difference_update(item.place for item in resolved.items)

    def _is_shared(self, step: Step, recorded: Entry) -> bool:
        """Whether a file is one of the operator's own under another name, whose owner and mode are not ours."""
        item = step.item
        if step.how == "twin":
            twin = self._store.twin(item.sha256, item.place)
            return bool(twin and twin[1].get("shared"))
        if step.how == "keep":
            if recorded["files"].get(item.place, {}).get("shared"):
                return True
            with contextlib.suppress(OSError):
                return item.method == "hardlink" and os.path.samefile(self._store.path(item.place), item.path)
            return False
        return step.how == "hardlink"

    def _make_folders(self, place: str) -> None:
        """The folder of a model's files, in the place of a link to one. Raises UntrustedPath."""
        parts = place.split("/")
        for count in range(1, len(parts)):
            path = self._store.path("/".join(parts[:count]))
            if os.path.islink(path):
                os.unlink(path)
            if not os.path.isdir(path):
                os.mkdir(path, 0o755)
                self._settings.attributes(path)
            _files.check_folder(path)


def files_of(store: Store, entry: Entry) -> dict[str, Any]:
    """What a model in its place has: path, files, projector, draft, size."""
    by_role: dict[str, list[str]] = {}
    for place, found in sorted(entry["files"].items()):
        by_role.setdefault(found["role"], []).append(store.path(place))
    first = by_role["model"][0]
    with contextlib.suppress(FetchError):
        first = loaded_of(first)
    return {
        "path": first,
        "files": sorted(path for paths in by_role.values() for path in paths),
        "projector": by_role.get("projector", [None])[0],
        "draft": by_role.get("draft", [None])[0],
        "size": sum(found["size"] for found in entry["files"].values()),
    }
