"""Run the parts that are named on the command line, or all, and print each figure in a line as soon as it is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from contrib.bench.table import Figure
from contrib.weekly import faults, fuzz, hosts, kills, mutation, soak

PARTS: dict[str, float] = {
    "soak": 12.0, "kills": 5.0, "flush": 5.0, "link": 5.0, "loss": 5.0, "mtu": 4.0, "stop": 2.0, "revoke": 3.0,
    "memory": 4.0, "clock": 4.0, "restart": 4.0,
    "mutation": 30.0,
    "fuzz": 120.0,
}  # fmt: skip
"""Each part, and the minutes that it takes unless `--minutes` says otherwise."""

_SINGLE: dict[str, Callable[[float], Iterator[Figure]]] = {
    "soak": soak.figures, "kills": kills.figures, "flush": faults.flush, "link": faults.link, "loss": faults.loss,
    "mtu": faults.mtu, "stop": faults.stop, "revoke": faults.revoke,
    "memory": hosts.memory, "clock": hosts.clock, "restart": hosts.restart,
}  # fmt: skip


def figures(
    name: str, minutes: float | None, corpus: Path | None, mutants: mutation.Plan | None = None
) -> Iterator[Figure]:
    """Those of the part, or of the parser, that is called *name*."""
    if name == "mutation":
        yield from mutation.figures(mutants or mutation.Plan.read(), minutes)
    elif name == "fuzz":
        yield from fuzz.figures(fuzz.names(), minutes or PARTS[name], corpus)
    elif name in PARTS:
        yield from _SINGLE[name](minutes or PARTS[name])
    else:
        yield from fuzz.figures([name], minutes or PARTS["fuzz"] / len(fuzz.names()), corpus)


def line(figure: Figure) -> str:
    """*figure* as it is printed: part, what, value; the bound, and whether it is kept, if there is one."""
    result = "ok" if figure.held else "FAILED"
    bound = f"({figure.bound})  {result}" if figure.bound else ""
    return f"{figure.benchmark:8} {figure.what}: {figure.value:.4g} {figure.unit} {bound}".rstrip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="contrib/weekly/run", description=__doc__)
    parser.add_argument("name", nargs="*", help="parts, or parsers to fuzz alone; every part if none is named")
    parser.add_argument("--list", action="store_true", help="print what there is, and run nothing")
    parser.add_argument("--minutes", type=float, help="so long for each that is named")
    parser.add_argument("--corpus", type=Path, help="where fuzzing keeps what it has found, from week to week")
    parser.add_argument("--seed", type=int, help="which mutants are chosen; the recorded seed if it is not given")
    parser.add_argument("--each", type=int, help="how many mutants of each file; the recorded number if not given")
    parser.add_argument("--room", action="append", default=[], help="mutants of this folder or file only; repeatable")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.name if name not in (*PARTS, *fuzz.names())]
    if unknown:
        parser.error(f"{', '.join(unknown)}: see --list")
    try:
        arguments.mutants = mutation.Plan.read(arguments.room, arguments.seed, arguments.each)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> int:
    """0 if every figure kept its bound."""
    arguments = _arguments()
    if arguments.list:
        print("\n".join(f"{name:8} {minutes:g} minutes" for name, minutes in PARTS.items()))
        print("fuzz has:", ", ".join(fuzz.names()))
        return 0
    held = True
    for name in arguments.name or PARTS:
        for figure in figures(name, arguments.minutes, arguments.corpus, arguments.mutants):
            print(line(figure), flush=True)
            held = held and figure.held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
