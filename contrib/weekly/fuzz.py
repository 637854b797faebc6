"""Fuzzing for coverage: each parser of what attackers, people or other programs write gets inputs of its own making."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from contrib.bench.table import Figure
from contrib.weekly.targets import TARGETS

_HANGS_AFTER = 60
"""Seconds after which an input ends the parser's process; a busy machine is no fault (`target.SECONDS_AN_INPUT`)."""

_MEGABYTES = 2048


def names() -> list[str]:
    """The parsers."""
    return list(TARGETS)


def figures(chosen: Sequence[str], minutes: float, corpus: Path | None) -> Iterator[Figure]:
    """The faults of each of the parsers *chosen*, which share so many *minutes*.

    The inputs that reach new code are kept in the directory *corpus* for the next time; None keeps those of faults.
    """
    with tempfile.TemporaryDirectory(prefix="torknock-fuzz-") as made:
        for name in chosen:
            directory = (corpus or Path(made)) / name
            directory.mkdir(parents=True, exist_ok=True)
            faults = (corpus or Path(tempfile.gettempdir())) / f"torknock-{name}-"
            yield _fuzzed(name, directory.absolute(), faults.absolute(), max(1, round(60 * minutes / len(chosen))))


def _fuzzed(name: str, directory: Path, faults: Path, seconds: int) -> Figure:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "contrib.weekly.fuzz_one", name, directory,
         f"-max_total_time={seconds}", f"-artifact_prefix={faults}", f"-timeout={_HANGS_AFTER}",
         f"-rss_limit_mb={_MEGABYTES}", "-print_final_stats=1"],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    if done.returncode:
        print(f"{done.stdout}{done.stderr}"[-4000:], file=sys.stderr)
    inputs = int(executed[1]) if executed else 0
    return Figure("fuzz", f"{name}, faults in {inputs:,} inputs", float(done.returncode != 0), "faults", at_most=0)
