"""Which 4-tuples were dialled lately, so that none comes twice while it would tell something (protocol.md §2.4)."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from math import ceil, inf
from typing import Any

SAME_TUPLE_AFTER = 300.0
"""Seconds in which no 4-tuple comes twice: Linux's own second ISN would follow from its first."""

AT_MOST = 32_768
"""4-tuples that are remembered; more than there are ephemeral ports to dial one bridge from."""

Name = tuple[Any, ...]
"""A socket address, as `getsockname` gives it."""

Pair = tuple[Name, Name]
"""Source and target."""

_Route = tuple[Name, Name]
"""A pair without its source port."""


class NoneFree(OSError):
    """No 4-tuple may be dialled now; *what* says why. The next one may be in *again_in* seconds."""

    def __init__(self, number: int, what: str, again_in: float) -> None:
        super().__init__(number, f"{what}; try again in {ceil(again_in)} s")


class Tuples:
    """When each 4-tuple was dialled last, by any user of this host: at most *each* of a user, *at_most* in all.

    A user who has dialled too many has to wait. Where there are too many users for all, what the one with the most has
    dialled is forgotten first.
    """

    def __init__(self, each: int = AT_MOST, at_most: int = AT_MOST) -> None:
        self._each, self._at_most = each, at_most
        self._whose: dict[Pair, int] = {}
        self._dialled: dict[int, dict[Pair, float]] = {}  # of each user, the oldest first
        self._ports: dict[_Route, dict[int, float]] = {}  # the oldest first

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._whose

    def __len__(self) -> int:
        return len(self._whose)

    def last(self, pair: Pair) -> float:
        """When *pair* was dialled, minus infinity if that is not known."""
        return self._dialled[self._whose[pair]][pair] if pair in self._whose else -inf

    def ports(self, pair: Pair) -> Mapping[int, float]:
        """When each source port was dialled last that differs from *pair* in nothing else; the oldest first."""
        return self._ports.get(_route(pair), {})

    def is_free(self, pair: Pair, now: float) -> bool:
        """Whether *pair* may be dialled at *now*."""
        return now - self.last(pair) >= SAME_TUPLE_AFTER

    def take(self, pair: Pair, now: float, user: int = 0) -> None:
        """*pair* is dialled at *now*, by a *user* who is told by a number.

        Raises `NoneFree` if it is not free, or if this user has dialled too many others since it would be.
        """
        if not self.is_free(pair, now):
            what = "this source port was used in the last 5 minutes"
            raise NoneFree(errno.EADDRNOTAVAIL, what, self.last(pair) + SAME_TUPLE_AFTER - now)
        own = self._dialled.get(user, {})
        if len(own) >= self._each and pair not in own:
            oldest = next(iter(own))
            if not self.is_free(oldest, now):
                what = f"this user has dialled {self._each} times in the last 5 minutes"
                raise NoneFree(errno.ENOBUFS, what, own[oldest] + SAME_TUPLE_AFTER - now)
            self._forget(oldest)
        self._forget(pair)
        if len(self._whose) >= self._at_most:
            most = max(self._dialled, key=lambda each: len(self._dialled[each]))
            self._forget(next(iter(self._dialled[most])))
        self._whose[pair] = user
        self._dialled.setdefault(user, {})[pair] = now
        self._ports.setdefault(_route(pair), {})[pair[0][1]] = now

    def _forget(self, pair: Pair) -> None:
        user = self._whose.pop(pair, None)
        if user is not None:
            del self._dialled[user][pair]
            if not self._dialled[user]:
                del self._dialled[user]
            ports = self._ports[_route(pair)]
            del ports[pair[0][1]]
            if not ports:
                del self._ports[_route(pair)]


def _route(pair: Pair) -> _Route:
    source, target = pair
    return (source[0], *source[2:]), target
