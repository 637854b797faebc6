"""The bridge's host interferes: its memory ends, its clock jumps, its tor restarts. What is carried all the same."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator

from contrib.bench.table import Figure
from contrib.weekly.ends import Ends, Traffic, back, carried, every, virtual

_STEPS = (3600.0, -3600.0, 86400.0, -86400.0)
_SHORTER_THAN_BELIEVED = 30.0
"""Seconds: a bridge follows a step of its clock after a minute (architecture.md)."""


def memory(minutes: float) -> Iterator[Figure]:
    """The server may have no more memory than it has, for 20 seconds at a time, while clients connect."""
    with Ends() as ends:
        with Traffic(ends, threads=16, kilobytes=64):
            for _ in every(20.0, minutes):
                pid = ends.service.process.pid
                before = resource.prlimit(pid, resource.RLIMIT_AS, (virtual(pid), resource.RLIM_INFINITY))
                time.sleep(20.0)
                resource.prlimit(pid, resource.RLIMIT_AS, before)
        yield back("memory", ends)


def clock(minutes: float) -> Iterator[Figure]:
    """The server's clock is wrong by an hour or a day, either way, for half a minute at a time."""
    with Ends() as ends:
        with Traffic(ends) as traffic:
            for number in every(10.0, minutes):
                ends.service.skew(_STEPS[number % len(_STEPS)])
                time.sleep(_SHORTER_THAN_BELIEVED)
                ends.service.skew(0.0)
        yield from carried("clock", traffic, 0.95)


def restart(minutes: float) -> Iterator[Figure]:
    """The server is killed (SIGKILL) and started again every 10 seconds, as a tor that restarts does."""
    with Ends() as ends:
        with Traffic(ends) as traffic:
            for _ in every(10.0, minutes):
                ends.service.process.send_signal(signal.SIGKILL)
                ends.service.process.wait()
                ends.service.start()
        yield from carried("restart", traffic, 0.5)
        yield back("restart", ends)
