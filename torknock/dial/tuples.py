"""Which 4-tuples were dialled lately, so that none comes twice while it would tell something (protocol.md §2.4)."""

from __future__ import annotations

import errno
from math import inf
from typing import Any

SAME_TUPLE_AFTER = 300.0
"""Seconds in which no 4-tuple comes twice: Linux's own second ISN would follow from its first."""

AT_MOST = 32_768
"""4-tuples that are remembered; more than there are ephemeral ports to dial one bridge from."""

Name = tuple[Any, ...]
"""A socket address, as `getsockname` gives it."""

Pair = tuple[Name, Name]
"""Source and target."""


class Tuples:
    """When each 4-tuple was dialled last; at most *at_most* of them, of which old ones are forgotten for new ones."""

    def __init__(self, at_most: int = AT_MOST) -> None:
        self._at_most = at_most
        self._dialled: dict[Pair, float] = {}  # the oldest first

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._dialled

    def __len__(self) -> int:
        return len(self._dialled)

    def last(self, pair: Pair) -> float:
        """When *pair* was dialled, minus infinity if that is not known."""
        return self._dialled.get(pair, -inf)

    def take(self, pair: Pair, now: float) -> None:
        """*pair* is dialled at *now*.

        Raises `OSError` if it was within `SAME_TUPLE_AFTER`, and if so many others were that no more can be remembered.
        """
        if now - self.last(pair) < SAME_TUPLE_AFTER:
            raise OSError(errno.EADDRNOTAVAIL, "every source port was used in the last 5 minutes")
        while len(self._dialled) >= self._at_most:
            oldest = next(iter(self._dialled))
            if now - self._dialled[oldest] < SAME_TUPLE_AFTER:
                raise OSError(errno.ENOBUFS, "too many connections were dialled in the last 5 minutes")
            del self._dialled[oldest]
        self._dialled.pop(pair, None)
        self._dialled[pair] = now
