# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change the engines in plugins/module_utils at random places, and print how many changes the fast tests notice.

Usage: mutants.py [--sample N] [--seed N] [--own] [--tests] [ENGINE ...]

A mutant is one engine with one change: a comparison, a constant, a condition, an operator, an exception that is no
longer caught, or a statement that is left out. It is killed if a test fails. Per engine the score is printed that its
own test file reaches (tests/unit/plugins/module_utils/test_ENGINE.py), and the one that all fast tests reach that
concern it: those that import the engine, or a plugin that imports it. Survivors are printed as a line of the engine.

The sample depends on the seed, the engine's name and its text alone. All runs on a copy of the checkout. As root it
runs in namespaces of its own, with everything but the copy read-only: a mutant may remove or kill what it should not.

Neither mutmut nor cosmic-ray fits here. mutmut (3.8) names a mutant by its file's path (`plugins.module_utils._part`)
and finds it by the module's name (`ansible_collections.homelab.llamacpp.plugins.module_utils._part`), mutates only
what is in functions, and cannot reach the processes that tests start. cosmic-ray (8.7) writes each mutant into the
checkout, starts Python, pytest and ansible-core anew for it, and leaves out no statements.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = "ansible_collections.homelab.llamacpp"
ENGINES = "plugins/module_utils"
_ISOLATED = "MUTANTS_ISOLATED"
_MEMORY = 8 << 30  # bytes of a test process: some mutants allocate without end
_OTHER: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
}
_NO_BEHAVIOUR = re.compile(r"__all__ = .*|\w+ = [\d.]+\.\d+|\w*(SECONDS|TIMEOUT) = \d+", re.DOTALL)
_SKIPPED = ("annotation", "returns", "decorator_list", "type_comment")


@dataclass(frozen=True)
class Mutant:
    line: int
    lines: range  # of its statement, up to the change
    before: str
    after: str
    text: str


def mutants(source: str) -> list[Mutant]:
    tree = ast.parse(source)
    made = []
    for parent, field, index, node, first in list(_places(tree, 0)):
        holder = getattr(parent, field)
        before = ast.unparse(node)
        for other in _changes(parent, field, node):
            if index is None:
                setattr(parent, field, other)
            else:
                holder[index] = other
            made.append(
                Mutant(node.lineno, range(first, node.end_lineno + 1), before, ast.unparse(other), ast.unparse(tree))
            )
        if index is None:
            setattr(parent, field, node)
        else:
            holder[index] = node
    return made


def _places(parent: ast.AST, first: int) -> Iterator[tuple[ast.AST, str, int | None, ast.AST, int]]:
    """Every statement and expression that runs, with where it hangs, and the first line of its statement."""
    for field, value in ast.iter_fields(parent):
        if field in _SKIPPED:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or _is_for_readers(parent, node):
                continue
            begins = node.lineno if isinstance(node, (ast.stmt, ast.ExceptHandler)) else first
            if isinstance(node, (ast.stmt, ast.expr)):
                yield parent, field, index, node, begins
            yield from _places(node, begins)


def _is_for_readers(parent: ast.AST, node: ast.AST) -> bool:
    """Changed it would be no other program, but for how long it takes."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(node, ast.Expr) and ast.unparse(node).startswith("time.sleep("):
        return True
    if isinstance(parent, ast.Module) and isinstance(node, ast.Assign):
        # Names for others to import, and times, which no test asserts.
        return bool(_NO_BEHAVIOUR.fullmatch(ast.unparse(node)))
    if isinstance(node, ast.Constant) and isinstance(parent, ast.JoinedStr):
        return True
    if isinstance(parent, ast.keyword) and parent.arg in ("encoding", "timeout", "help", "metavar"):
        return True
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _changes(parent: ast.AST, field: str, node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Constant):
        yield from _other_constant(node)
    elif isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            other = copy.copy(node)
            other.ops = [*node.ops[:number], _OTHER[type(operator)](), *node.ops[number + 1 :]]
            yield other
    elif isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in _OTHER:
        other = copy.copy(node)
        other.op = _OTHER[type(node.op)]()
        yield other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Tuple) and isinstance(parent, ast.ExceptHandler):
        for dropped in node.elts:
            yield ast.Tuple([one for one in node.elts if one is not dropped], ast.Load())
    elif field == "test" and isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)):
        yield ast.UnaryOp(ast.Not(), node)
    elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        yield ast.Return(ast.Constant(None))
    elif _can_be_left_out(node):
        yield ast.Pass()


def _can_be_left_out(node: ast.AST) -> bool:
    """Without a name that is missing then: that would be noticed by every test."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, (ast.Yield, ast.YieldFrom))
    if isinstance(node, ast.Assign):
        return not isinstance(node.targets[0], (ast.Name, ast.Tuple))
    return isinstance(node, (ast.Raise, ast.AugAssign, ast.Break, ast.Continue))


def _other_constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, (int, float)):
        yield ast.Constant(value + 1)
    elif isinstance(value, str) and value and " " not in value:
        yield ast.Constant(value + "~")
    elif isinstance(value, bytes) and value:
        yield ast.Constant(value + b"~")


def imports(path: Path) -> set[str]:
    """The plugins of this collection that a file imports, as `module_utils._part`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{COLLECTION}.plugins."):
            package = str(node.module)[len(f"{COLLECTION}.plugins.") :]
            found |= {package, *(f"{package}.{name.name}" for name in node.names)}
    return found


class Copy:
    """A copy of the checkout in `top` where the collection is found by its name."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = top.joinpath(*COLLECTION.split("."))
        files = subprocess.check_output(
            ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], text=True
        ).split("\0")
        for name in files:
            if name and (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        plugins = self.root / "plugins"
        self._plugins = {
            ".".join(path.relative_to(plugins).with_suffix("").parts): imports(path) for path in plugins.rglob("*.py")
        }
        self._tests = {path: imports(path) for path in sorted((self.root / "tests" / "unit").rglob("test_*.py"))}
        sys.path.insert(0, str(top))
        os.environ.update(PYTHONPATH=str(top), ANSIBLE_COLLECTIONS_PATH=str(top), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
        os.environ["HOME"] = str(top)  # where Ansible has its temporary files
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False
        os.chdir(self.root)
        self._time = 0

    def put(self, path: Path, text: str) -> None:
        """With another time than any text before it, by which Python knows that what it has compiled is of another."""
        path.write_text(text, encoding="utf-8")
        self._time += 1
        os.utime(path, (self._time, self._time))

    def tests(self, engine: str) -> tuple[list[Path], list[Path]]:
        """The engine's own test file, and the others that concern it."""
        name = f"module_utils.{engine}"
        near = {name} | {plugin for plugin, imported in self._plugins.items() if name in imported}
        own = [path for path in self._tests if path.parent.name == "module_utils" and path.stem == f"test{engine}"]
        direct = [path for path, imported in self._tests.items() if name in imported and path not in own]
        return own, direct + [p for p, i in self._tests.items() if near & i and p not in own and p not in direct]

    def passes(self, run: Run, limit: float) -> bool:
        """Whether these tests pass, in a process of their own that ends after `limit` seconds."""
        child = os.fork()
        if not child:
            _run_tests(run)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                _kill(child)
                return status == 0
            time.sleep(0.01)
        _kill(child)
        os.waitpid(child, 0)
        return False


class Run:
    """A pytest plugin: run some tests of these files, and note which of them come to which line of `engine`.

    Lines are noted under the test that ran, or under "" while pytest imports the files.
    """

    def __init__(self, files: Sequence[Path], only: set[str] | None = None, engine: Path | None = None) -> None:
        self.files = [path for path in files if only is None or any(_file_of(test) in str(path) for test in only)]
        self.engine = str(engine)
        self._only = only
        self._tests: dict[int, list[str]] = {}
        self._now = ""
        self.notes = Path(tempfile.gettempdir()) / "lines.json"
        self.notes.unlink(missing_ok=True)

    def lines(self) -> dict[int, set[str]]:
        return {int(line): set(tests) for line, tests in json.loads(self.notes.read_text()).items()}

    def begin(self) -> None:
        if self.engine != "None" and hasattr(sys, "monitoring"):
            sys.monitoring.use_tool_id(sys.monitoring.COVERAGE_ID, "mutants")
            sys.monitoring.register_callback(sys.monitoring.COVERAGE_ID, sys.monitoring.events.LINE, self._line)
            sys.monitoring.set_events(sys.monitoring.COVERAGE_ID, sys.monitoring.events.LINE)

    def _line(self, code: CodeType, line: int) -> object:
        if code.co_filename == self.engine:
            self._tests.setdefault(line, []).append(self._now)
        return sys.monitoring.DISABLE  # until the next test

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self._only is not None:
            items[:] = [item for item in items if item.nodeid in self._only]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._now = nodeid
        if hasattr(sys, "monitoring"):
            sys.monitoring.restart_events()

    def pytest_sessionfinish(self) -> None:
        if self.engine != "None":
            self.notes.write_text(json.dumps(self._tests))


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _run_tests(run: Run) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in () if os.environ.get("MUTANTS_SHOW") else (0, 1, 2):
        os.dup2(nothing, number)
    import pytest

    code = 3
    try:
        run.begin()
        options = ["-x", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
        code = int(pytest.main([*options, *map(str, run.files)], [run]))
    finally:
        os._exit(code)


def _kill(leader: int) -> None:
    """What a test has left running goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


class Unmutated(Exception):
    """Tests fail by themselves, so nothing can be said."""


def _names(files: Sequence[Path]) -> list[str]:
    return [path.name for path in files]


def measure(checkout: Copy, engine: str, sample: int, seed: int, own_alone: bool) -> tuple[int, int, int]:
    """How many mutants of this engine there were, and were killed by its own tests, and by all fast ones."""
    path = checkout.root / ENGINES / f"{engine}.py"
    source = path.read_text(encoding="utf-8")
    every = mutants(source)
    chosen = random.Random(f"{seed} {engine}").sample(every, min(sample, len(every)))
    own, others = checkout.tests(engine)
    others = [] if own_alone else others
    scores = []
    alive = chosen
    for files in (own, others):
        if files and alive:
            checkout.put(path, source)
            begun = time.monotonic()
            base = Run(files, engine=path)
            if not checkout.passes(base, 600):
                raise Unmutated(f"{engine}: these tests do not pass without a mutant: {' '.join(_names(files))}")
            limit = 20 + 5 * (time.monotonic() - begun)
            seen = base.lines()
            alive = [
                mutant for mutant in alive if _survives(checkout, path, mutant, Run(files, _near(mutant, seen)), limit)
            ]
        scores.append(len(chosen) - len(alive))
    checkout.put(path, source)
    for mutant in alive:
        print(f"  {engine}.py:{mutant.line}: {_short(mutant.before)}  ->  {_short(mutant.after)}")
    return len(chosen), scores[0], scores[1]


def _near(mutant: Mutant, seen: dict[int, set[str]]) -> set[str] | None:
    """The tests that come to the changed statement; None for all: of one that runs when the engine is imported.

    A line that no test comes to may be one of a process that a test starts.
    """
    tests = {test for line in mutant.lines for test in seen.get(line, ())}
    return None if "" in tests or not tests else tests


def _survives(checkout: Copy, path: Path, mutant: Mutant, run: Run, limit: float) -> bool:
    checkout.put(path, mutant.text)
    return checkout.passes(run, limit)


def _short(text: str) -> str:
    return " ".join(text.split())[:100]


def isolate() -> None:
    """Go on in namespaces of its own, where only the temporary directory can be written to."""
    if os.geteuid() != 0 or os.environ.get(_ISOLATED):
        return
    os.environ[_ISOLATED] = "1"
    prepare = 'mount -o remount,ro,bind / && mount -t tmpfs -o mode=1777 none /tmp && ip link set lo up && exec "$@"'
    spaces = ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child"]
    os.execvp("unshare", [*spaces, "sh", "-c", prepare, "sh", sys.executable, *sys.argv])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=15, help="mutants of an engine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--own", action="store_true", help="only run each engine's own test file, which is fast")
    parser.add_argument("--tests", action="store_true", help="only print which tests concern each engine")
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help="as _part; all by default")
    wanted = parser.parse_args()
    there = sorted(path.stem for path in (ROOT / ENGINES).glob("_*.py") if path.stem != "__init__")
    unknown = sorted(set(wanted.engines) - set(there))
    if unknown:
        parser.error(f"no such engine in {ENGINES}: {', '.join(unknown)}")
    isolate()
    # For the processes that are forked from here: imported once, and not used here. The collection is imported in each.
    import ansible.module_utils.basic  # noqa: F401
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401

    total = [0, 0, 0]
    failed = False
    with tempfile.TemporaryDirectory() as top:
        checkout = Copy(Path(top))
        for engine in wanted.engines or there:
            if wanted.tests:
                print(engine, *(str(p.relative_to(checkout.root)) for tests in checkout.tests(engine) for p in tests))
                continue
            begun = time.monotonic()
            try:
                counts = measure(checkout, engine, wanted.sample, wanted.seed, wanted.own)
            except Unmutated as error:
                print(error, flush=True)
                failed = True
                continue
            total = [before + count for before, count in zip(total, counts)]
            print(_score(engine, *counts), f"({time.monotonic() - begun:.0f} s)", flush=True)
        os.chdir(ROOT)
    print(_score("all", *total))
    sys.exit(failed)


def _score(name: str, count: int, own: int, fast: int) -> str:
    percent = f"{100 * fast // count} %" if count else "-"
    return f"{name:28} own tests {own:4}/{count:<4} all fast tests {fast:4}/{count:<4} {percent:>5}"


if __name__ == "__main__":
    main()
