"""Many connections at once, for long, with traffic through both ends: what stays, and the memory of each end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from contrib.bench.table import Figure
from contrib.weekly.ends import Ends, Session, resident
from torknock.kernel.descriptor_limit import raise_descriptor_limit

CONNECTIONS = 800
_KILOBYTES = 4
_AT_MOST = 120.0
"""Kilobytes of a connection, on each side."""

_KEPT_AT_MOST = 1.25
"""Memory after a second run, measured against that after the first: what a leak would raise."""


def figures(minutes: float) -> Iterator[Figure]:
    """The first run takes the memory, a second, shorter one shows whether it is used again."""
    raise_descriptor_limit()
    with Ends() as ends:
        pids = {"client": ends.child.process.pid, "server": ends.service.process.pid}
        before = {name: resident(pid) for name, pid in pids.items()}
        during: dict[str, int] = {}
        failed = _run(ends, minutes * 0.8, during, pids)
        after = {name: resident(pid) for name, pid in pids.items()}
        failed += _run(ends, minutes * 0.2, {}, pids)
        again = {name: resident(pid) for name, pid in pids.items()}
        yield Figure("soak", f"of {2 * CONNECTIONS} connections, those that broke", failed, "", at_most=0)
        for name in pids:
            each = (during[name] - before[name]) / CONNECTIONS
            back = (during[name] - after[name]) / max(1, during[name] - before[name])
            yield Figure("soak", f"{name}, memory of a connection", each, "KB", at_most=_AT_MOST)
            yield Figure("soak", f"{name}, share of it that is given back", back, "")
            yield Figure("soak", f"{name}, memory after a second run / after the first", again[name] / after[name], "",
                         at_most=_KEPT_AT_MOST)  # fmt: skip


def _run(ends: Ends, minutes: float, during: dict[str, int], pids: dict[str, int]) -> int:
    """Hold the connections, with traffic, for so many *minutes*; how many broke.

    *during* gets the memory that each end has then.
    """
    failed = 0
    sessions: list[Session] = []
    with contextlib.ExitStack() as stack:
        until = time.monotonic() + 60 * minutes
        for _ in range(CONNECTIONS):
            try:
                sessions.append(stack.enter_context(ends.session()))
            except OSError:
                failed += 1
        while sessions:
            for session in list(sessions):
                try:
                    session.exchange(_KILOBYTES)
                except OSError:
                    sessions.remove(session)
                    failed += 1
            if time.monotonic() > until:
                break
        during.update({name: resident(pid) for name, pid in pids.items()})
    time.sleep(5.0)  # both ends hear of it
    return failed
