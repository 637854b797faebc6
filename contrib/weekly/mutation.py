"""Changes the pure files a little, here and there, and shows which changes no unit test of their room notices."""

from __future__ import annotations

import ast
import compileall
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from contrib.bench.table import Figure
from contrib.weekly.mutants import Mutant, difference, mutants, sample
from contrib.weekly.reached import Imports

ROOT = Path(__file__).parents[2]

ACCEPTED = Path(__file__).with_name("survivors.toml")
"""The survivors that are known, each with the reason why no test has to notice it; and the sample that they are of."""

_ALSO = (
    "pluggable/arguments.py", "pluggable/environment.py", "pluggable/extorport.py", "pluggable/logs.py",
    "pluggable/relay.py", "pluggable/report.py", "pluggable/socks.py", "torknock/bridge/counts.py",
    "torknock/bridge/keeper.py", "torknock/bridge/ledger.py", "torknock/bridge/refusals.py",
    "torknock/bridge/spending.py", "torknock/client/clock_offset.py", "torknock/client/deferred_dial.py",
    "torknock/client/knocker.py", "torknock/client/round_errors.py", "torknock/client/rounds.py",
    "torknock/client/syns.py", "torknock/privileged/dial/tuples.py",
)  # fmt: skip
"""Files that decide much, beside those that call themselves pure."""

_TESTS = {"torknock/redact.py": "tests/unit/operate", "torknock/service/posture_table.py": "tests/unit/privileged"}
"""Where the tests are of a file that lies in no room, or is tested in another."""

_TREE = ("contrib", "pluggable", "tests", "torknock", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "pyproject.toml")

_STARTS = re.compile(r"sys\.executable|spawnProcess|getProcess|CliRunner|subprocess")
"""What a test says that starts programs."""

_BESIDE = 10.0
"""Seconds that a mutant's tests may take, beside four times what they took without it."""


@dataclass(frozen=True, slots=True)
class Survivor:
    """One that is accepted."""

    file: str
    function: str
    line: str
    change: str
    reason: str

    @property
    def name(self) -> tuple[str, str, str]:
        """As that of the mutant."""
        return self.function, self.line, self.change


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: of each file *each* mutants, which *seed* chooses."""

    files: Sequence[str]
    seed: int
    each: int
    accepted: Sequence[Survivor]

    @classmethod
    def read(cls, rooms: Sequence[str] = (), seed: int | None = None, each: int | None = None) -> Self:
        """The recorded plan, or another; with *rooms*, only for files that lie in one of these folders, or are named.

        Raises `ValueError` if an accepted survivor has no reason, and if no file lies in *rooms*.
        """
        recorded = tomllib.loads(ACCEPTED.read_text())
        accepted = [Survivor(**survivor) for survivor in recorded["survivor"]]
        for survivor in accepted:
            if not survivor.reason.strip():
                raise ValueError(f"{ACCEPTED.name}: no reason for {survivor.change} in {survivor.file}")
        chosen = [file for file in pure_files() if not rooms or {file, *Path(file).parts} & {*rooms}]
        if not chosen:
            raise ValueError(f"no pure file in {', '.join(rooms)}")
        return cls(chosen, recorded["seed"] if seed is None else seed, each or recorded["each"], accepted)


def pure_files() -> list[str]:
    """Those whose first lines say "Pure", and some others that decide much."""
    found = []
    for path in (*ROOT.glob("torknock/**/*.py"), *ROOT.glob("pluggable/*.py")):
        file = path.relative_to(ROOT).as_posix()
        said = ast.get_docstring(ast.parse(path.read_text())) or ""
        if path.name != "__init__.py" and ("Pure" in said or file in _ALSO):
            found.append(file)
    return sorted(found)


def figures(plan: Plan, minutes: float | None, root: Path = ROOT) -> Iterator[Figure]:
    """For each file of *plan*, how many mutants survive that are not accepted. Each is printed as a diff.

    After so many *minutes* the rest is left out. Raises `RuntimeError` if the tests fail without a mutant.
    """
    started = time.monotonic()
    stale = 0
    with Tree(root) as tree:
        for number, file in enumerate(plan.files):
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                print(f"mutation: no time for {', '.join(plan.files[number:])}", file=sys.stderr)
                break
            drawn, survived = tree.survivors(file, plan.seed, plan.each)
            accepted = [survivor for survivor in plan.accepted if survivor.file == file]
            known = {survivor.name for survivor in accepted}
            for mutant in survived:
                if mutant.name not in known:
                    print(_shown(file, (root / file).read_text(), mutant), file=sys.stderr)
            gone = _gone(accepted, (root / file).read_text(), drawn, survived)
            for survivor, why in gone:
                print(f"{ACCEPTED.name}: {survivor.change} in {file}, {survivor.function}: {why}", file=sys.stderr)
            stale += len(gone)
            unknown = sum(mutant.name not in known for mutant in survived)
            what = f"{file}, survivors of {len(drawn)} mutants"
            yield Figure("mutation", what, unknown, "not accepted", at_most=0)
    yield Figure("mutation", "accepted survivors to take out of the list", stale, "")


def _gone(
    accepted: Sequence[Survivor], text: str, drawn: Sequence[Mutant], survived: Sequence[Mutant]
) -> list[tuple[Survivor, str]]:
    """Those of *accepted* that are none any more, and why."""
    possible = {mutant.name for mutant in mutants(text)}
    noticed = {mutant.name for mutant in drawn} - {mutant.name for mutant in survived}
    found = [(survivor, "its line has changed") for survivor in accepted if survivor.name not in possible]
    return found + [(survivor, "a test notices it") for survivor in accepted if survivor.name in noticed]


def _shown(file: str, text: str, mutant: Mutant) -> str:
    """A survivor as a diff, and as it would stand in the list."""
    fields = {"file": file, "function": mutant.function, "line": mutant.line, "change": mutant.change, "reason": ""}
    entry = "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    return f"\nsurvived, {file}:{mutant.number}\n{difference(text, mutant, file)}\n\n[[survivor]]\n{entry}\n"


class Tree:
    """A copy of the tree in a temporary directory, in which one file at a time has a mutant."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._writes = 0

    def __enter__(self) -> Self:
        self._made = tempfile.TemporaryDirectory(prefix="torknock-tree-")
        self._path = Path(self._made.name)
        for name in _TREE:
            source = self._root / name
            if source.is_dir():
                shutil.copytree(source, self._path / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, self._path / name)
        compileall.compile_dir(self._path, quiet=2)
        self._imports = Imports(self._path)
        environment = {"PYTHONPATH": f"{self._path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
        self._trial = subprocess.Popen(
            [sys.executable, "-m", "contrib.weekly.forked_trial"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self._path, env=os.environ | environment,
        )  # fmt: skip
        self._limit = cache(self._measured)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._trial.stdin is not None:
            self._trial.stdin.close()
        self._trial.wait()
        self._made.cleanup()

    def survivors(self, file: str, seed: int, each: int) -> tuple[list[Mutant], list[Mutant]]:
        """The sample of *file*, and those mutants of it that no test of its room notices."""
        limit = self._limit(self._tests(file))
        drawn = sample(mutants((self._root / file).read_text()), seed, each)
        return drawn, [mutant for mutant in drawn if self.outcome(file, mutant, limit) == "passed"]

    def outcome(self, file: str, mutant: Mutant, limit: float) -> str:
        """What the tests say of *mutant*: "passed", "failed" or "hung"."""
        path = self._path / file
        before, then = path.read_text(), path.stat().st_mtime
        try:
            self._write(path, mutant.text, then)
            return self._asked(self._modules(file), limit)[0]
        finally:
            path.write_text(before)
            os.utime(path, (then, then))

    def _write(self, path: Path, text: str, then: float) -> None:
        """Write *text* with a date of its own: Python compiles a file again if its date is another."""
        self._writes += 1
        path.write_text(text)
        os.utime(path, (then + self._writes, then + self._writes))

    def _measured(self, tests: Path) -> float:
        """The seconds that a mutant may take."""
        started = time.monotonic()
        outcome, output = self._asked(sorted(map(self._module, _in(tests))), 600.0)
        if outcome != "passed":
            raise RuntimeError(f"the tests in {tests.relative_to(self._path)} fail without a mutant:\n{output}")
        return _BESIDE + 4 * (time.monotonic() - started)

    def _tests(self, file: str) -> Path:
        """The directory with the tests of the room that *file* is in."""
        parts = Path(file).parts
        room = parts[1] if parts[0] == "torknock" and len(parts) > 2 else parts[0]
        return self._path / _TESTS.get(file, f"tests/unit/{room}")

    def _modules(self, file: str) -> list[str]:
        """The modules of these tests that may notice a change to *file*; those that are likely to come first.

        They import it, directly or not, or start programs.
        """
        dotted = ".".join(Path(file).with_suffix("").parts)
        import_ = "from {} import {}".format(*dotted.rsplit(".", 1))

        def distance(test: Path) -> tuple[bool, bool, str]:
            text = test.read_text()
            return test.stem != f"test_{Path(file).stem}", dotted not in text and import_ not in text, str(test)

        tests = [test for test in _in(self._tests(file)) if self._path / file in self._imports.reached(test)]
        starting = [test for test in _in(self._tests(file)) if _STARTS.search(test.read_text())]
        return [self._module(test) for test in sorted({*tests, *starting}, key=distance)]

    def _module(self, test: Path) -> str:
        return ".".join(test.relative_to(self._path).with_suffix("").parts)

    def _asked(self, modules: Sequence[str], seconds: float) -> tuple[str, str]:
        assert self._trial.stdin is not None
        assert self._trial.stdout is not None
        self._trial.stdin.write(json.dumps({"modules": modules, "seconds": seconds}) + "\n")
        self._trial.stdin.flush()
        answer = json.loads(self._trial.stdout.readline())
        return answer["outcome"], answer["output"]


def _in(tests: Path) -> list[Path]:
    return [*tests.glob("**/test_*.py")]
