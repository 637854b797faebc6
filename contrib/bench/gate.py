"""Random SYN/s that a closed port absorbs behind a gate of 100,000 tokens, and without a gate."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Iterator

from contrib.bench.table import Figure
from tests.support.netns import Host, Lab
from tests.support.packets import LINUX_SYN_OPTIONS, flood
from torknock.gate.ruleset import Door, admit, load

TOKENS = 100_000
SECONDS = 2.0
RUNS = 5


def _absorbed(source: Host, target: Host, port: int) -> float:
    """SYNs a second that *target* has answered with RST."""
    before = _resets(target)
    flood(source, target.address, port, SECONDS, options=LINUX_SYN_OPTIONS)
    return (_resets(target) - before) / SECONDS


def _resets(host: Host) -> int:
    counts = host.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split() for line in counts if line.startswith("Tcp:"))
    return int(values[names.index("OutRsts")])


def figures() -> Iterator[Figure]:
    """The medians of `RUNS` runs that take turns, and their ratio."""
    with Lab() as lab:
        bridge, probe = lab.host("bridge"), lab.host("probe")
        door = Door("::", 443, 1, 2)
        tokens = [1 + secrets.randbelow(2**32 - 1) for _ in range(TOKENS)]
        gated, closed = [], []
        for _ in range(RUNS):
            closed.append(_absorbed(probe, bridge, 443))
            bridge.run(["nft", "-f", "-"], load(door) + admit(door.table, tokens, 900))
            gated.append(_absorbed(probe, bridge, 443))
            bridge.run(["nft", "flush", "ruleset"])
    with_gate, without = statistics.median(gated), statistics.median(closed)
    yield Figure("gate", "closed port, behind the gate", with_gate / 1000, "1,000 SYN/s")
    yield Figure("gate", "closed port, no gate", without / 1000, "1,000 SYN/s")
    yield Figure("gate", "with / without", with_gate / without, "ratio", at_least=0.85)
