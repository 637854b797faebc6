"""How many SYNs may leave for a bridge that does not answer (protocol.md §2.4). Pure: times are arguments."""

from __future__ import annotations

from collections import deque

WINDOW = 125.0
"""Seconds in which the limits hold: two minutes, and a margin for timers that are late."""

SYNS = 11
"""SYNs at most, with those that the kernel sends again: as many as a plain connect that is never answered."""

PORTS = 3
"""Source ports at most; those of SYNs that slipped (`torknock.interfaces.Slipped`) come in addition."""

SENT_AT = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 11.0, 19.0, 35.0, 67.0)
"""Seconds after `connect` at which Linux sends an unanswered SYN (net.ipv4.tcp_syn_linear_timeouts=4, 6.5 and newer).

Older kernels send at 0, 1, 3, 7, 15, 31 and 63 s: at no moment more.
"""

_BEFORE = 0.1
"""Seconds by which a socket is closed before its next SYN would leave."""


class Budget:
    """The SYNs that failed of late, and what they leave for the next: at most `SYNS` and `PORTS` in each `WINDOW`."""

    def __init__(self) -> None:
        self._dials: deque[tuple[list[float], float]] = deque(maxlen=PORTS)
        self._slipped: deque[float] = deque(maxlen=SYNS)

    def ready_at(self) -> float:
        """When the next SYN may leave, from another port; minus infinity if nothing is in its way."""
        syns = self._syns()
        ready = [float("-inf")]
        if len(self._dials) == PORTS:
            ready.append(self._dials[0][1] + WINDOW)
        if len(syns) >= SYNS:
            ready.append(syns[-SYNS] + WINDOW)
        return max(ready)

    def timeout(self, now: float, wanted: float) -> float:
        """For how many seconds, *wanted* at most, a SYN that leaves *now* may be waited for; *now* is not too early."""
        syns = self._syns()
        for number, after in enumerate(SENT_AT[1:], 2):
            if after >= wanted:
                break
            if number + sum(sent > now + after - WINDOW for sent in syns) > SYNS:
                return after - _BEFORE
        return wanted

    def spend(self, at: float, until: float) -> None:
        """A SYN left *at* that time, and its socket was open *until* then."""
        self._dials.append(([at + after for after in SENT_AT if not after or after < until - at], until))

    def spend_slipped(self, at: float) -> None:
        """A SYN left *at* that time which this host itself spoiled. It counts, and its port does not."""
        self._slipped.append(at)

    def clear(self) -> None:
        """The bridge admitted this client."""
        self._dials.clear()
        self._slipped.clear()

    def _syns(self) -> list[float]:
        return sorted([*self._slipped, *(sent for syns, _ in self._dials for sent in syns)])
