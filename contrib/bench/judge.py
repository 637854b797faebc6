"""SYNs of strangers that are judged a second, from the kernel's queue to the kernel's RST, for 1 and 50 knock lines.

The judge runs in a network namespace: `python -m contrib.bench.judge LINES`.
"""

from __future__ import annotations

import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from contrib.bench.table import Figure
from tests.support.netns import Host, Lab
from tests.support.packets import LINUX_SYN_OPTIONS, flood
from torknock.bridge.knocks import Judge
from torknock.privileged.gate.kernel import Kernel
from torknock.privileged.gate.nftables import DoorTable
from torknock.protocol.bridge_line import Line, Scheme
from torknock.protocol.door import Door
from torknock.protocol.syn import SYN
from torknock.service.ruleset import HiddenPorts

SECONDS = 3.0
RUNS = 3
OFFERED = 40_000
_BATCH = 1024


async def _judge(reactor: Any, lines: int) -> None:
    judge = Judge(remember=lambda *_knock: None, warn=lambda _told: None)
    judge.lines({str(number): Line(secrets.token_bytes(32), None, scheme=Scheme.KNOCK) for number in range(lines)})
    judged = 0

    def ask(syns: Sequence[SYN]) -> Sequence[bool]:
        nonlocal judged
        judged += len(syns)
        return judge.judge(syns, time.monotonic())

    claims = tempfile.TemporaryDirectory()
    table = DoorTable(Kernel(reactor), Door("::", 443), HiddenPorts(1, 2), ask, Path(claims.name) / "doors")
    await table.open(judging=True)
    print("ready", flush=True)

    def answer() -> None:
        """Tell how many were judged so far, to whoever asks with a line."""
        sys.stdin.readline()
        print(judged, flush=True)

    reactor.addReader(_Asked(answer))
    await Deferred()


class _Asked:
    """Standard input, as a thing to read."""

    def __init__(self, answer: Any) -> None:
        self.doRead = answer

    def fileno(self) -> int:
        """Standard input's."""
        return 0

    def logPrefix(self) -> str:
        """See `ILoggingContext`."""
        return "bench"

    def connectionLost(self, reason: Any) -> None:
        """The measuring process is gone."""


def _offer(source: Host, target: Host) -> None:
    """Send `OFFERED` SYNs a second: more than that is work for the kernel, which takes the processor from the judge."""
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < SECONDS:
        if sent < passed * OFFERED:
            sent += flood(source, target.address, 443, 0, batch=_BATCH, options=LINUX_SYN_OPTIONS)
        else:
            time.sleep(0.001)


def _judged(source: Host, target: Host, lines: int) -> float:
    process: subprocess.Popen[str] = target.popen(
        [sys.executable, "-m", "contrib.bench.judge", str(lines)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    rates = []
    for _ in range(RUNS):
        counts = []
        for _ in range(2):
            process.stdin.write("\n")
            process.stdin.flush()
            counts.append((int(process.stdout.readline()), time.monotonic()))
            if len(counts) == 1:
                _offer(source, target)
        (before, began), (after, ended) = counts
        rates.append((after - before) / (ended - began))
    process.kill()
    process.wait()
    return statistics.median(rates)


def figures() -> Iterator[Figure]:
    """The medians of `RUNS` runs each."""
    for lines, bound in ((1, 20), (50, 5)):
        with Lab() as lab:
            rate = _judged(lab.host("probe"), lab.host("bridge"), lines)
        yield Figure("judge", f"SYNs judged, {lines} knock lines", rate / 1000, "1,000 SYN/s", at_least=bound)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(_judge(reactor, int(sys.argv[1]))))
