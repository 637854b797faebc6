"""Random SYNs that a closed port absorbs in a second of processor time, behind a gate and without one.

The wires here are virtual, so a SYN is received and answered in the time of the process that sends it, which is part of
the figure. Many short runs take turns, and of each kind a fast one counts: what else the machine does only slows a run.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from time import process_time

from contrib.bench.table import Figure
from tests.support.netns import Host, Lab
from tests.support.packets import LINUX_SYN_OPTIONS, flood, resets
from torknock.protocol.door import Door
from torknock.service.ruleset import HiddenPorts, admit, load

TOKENS = (0, 24, 100_000)
SECONDS = 0.2
RUNS = 25


def _absorbed(source: Host, target: Host, port: int) -> float:
    """SYNs a second of processor time that *target* has answered with RST."""
    before, began = resets(target), process_time()
    flood(source, target.address, port, SECONDS, options=LINUX_SYN_OPTIONS)
    return (resets(target) - before) / (process_time() - began)


def _fast(rates: list[float]) -> float:
    """The rate that one run in eight reaches."""
    return sorted(rates)[-max(1, len(rates) // 8)]


def figures() -> Iterator[Figure]:
    """The rates, and those with a gate as a part of the one without."""
    door = Door("::", 443)
    with Lab() as lab:
        bridge, probe = lab.host("bridge"), lab.host("probe")
        rules = {-1: ""}
        for count in TOKENS:
            tokens = [1 + secrets.randbelow(2**32 - 1) for _ in range(count)]
            rules[count] = load(door, HiddenPorts(1, 2)) + (admit(door.table, tokens, 900) if tokens else "")
        rates: dict[int, list[float]] = {count: [] for count in rules}
        for _ in range(RUNS):
            for count, text in rules.items():
                bridge.run(["nft", "-f", "-"], f"flush ruleset\n{text}")
                rates[count].append(_absorbed(probe, bridge, 443))
    without = _fast(rates.pop(-1))
    yield Figure("gate", "closed port, no gate", without / 1000, "1,000 SYN/s")
    for count, measured in rates.items():
        yield Figure("gate", f"with / without, {count:,} tokens", _fast(measured) / without, "ratio", at_least=0.85)
