"""Run the benchmarks named on the command line, or those that need nothing special, and print one table of figures."""

from __future__ import annotations

import sys
from importlib import import_module

from contrib.bench.table import table

BENCHMARKS = ("relay", "gate", "timing", "race", "judge", "knock", "timestamp", "tokens", "memory", "web")

ON_REQUEST = ("classify",)
"""Those that need more than `contrib/set-up` installs."""


def main() -> int:
    """0 if every figure kept its bound."""
    names = sys.argv[1:] or BENCHMARKS
    unknown = [name for name in names if name not in (*BENCHMARKS, *ON_REQUEST)]
    if unknown:
        known = ", ".join((*BENCHMARKS, *ON_REQUEST))
        print(f"contrib/bench/run: {', '.join(unknown)}: there are {known}", file=sys.stderr)
        return 2
    rows = []
    for name in names:
        benchmark = import_module(f"contrib.bench.{name}")
        if name in ON_REQUEST and (missing := benchmark.missing()):
            print(f"contrib/bench/run: {name} needs {missing}", file=sys.stderr)
            return 2
        print(f"measuring {name}", file=sys.stderr, flush=True)
        rows += list(benchmark.figures())
    print(table(rows))
    return 0 if all(figure.held for figure in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
