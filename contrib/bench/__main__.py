"""Run the benchmarks named on the command line, or all, and print their figures as one table."""

from __future__ import annotations

import sys
from importlib import import_module

from contrib.bench.table import table

BENCHMARKS = ("relay", "gate", "timing", "race", "judge", "knock", "timestamp", "tokens", "memory", "web")


def main() -> int:
    """0 if every figure kept its bound."""
    names = sys.argv[1:] or BENCHMARKS
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"contrib/bench/run: {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    rows = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        rows += list(import_module(f"contrib.bench.{name}").figures())
    print(table(rows))
    return 0 if all(figure.held for figure in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
