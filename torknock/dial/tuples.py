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


class NoneFree(OSError):
    """No 4-tuple may be dialled now; the text says why."""


class Tuples:
    """When each 4-tuple was dialled last, by any user of this host: at most *each* of a user, *at_most* in all.

    A user who has dialled too many has to wait. Where there are too many users for all, what the one with the most has
    dialled is forgotten first.
    """

    def __init__(self, each: int = AT_MOST, at_most: int = AT_MOST) -> None:
        self._each, self._at_most = each, at_most
        self._whose: dict[Pair, int] = {}
        self._dialled: dict[int, dict[Pair, float]] = {}  # of each user, the oldest first

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._whose

    def __len__(self) -> int:
        return len(self._whose)

    def last(self, pair: Pair) -> float:
        """When *pair* was dialled, minus infinity if that is not known."""
        return self._dialled[self._whose[pair]][pair] if pair in self._whose else -inf

    def is_free(self, pair: Pair, now: float) -> bool:
        """Whether *pair* may be dialled at *now*."""
        return now - self.last(pair) >= SAME_TUPLE_AFTER

    def take(self, pair: Pair, now: float, user: int = 0) -> None:
        """*pair* is dialled at *now*, by a *user* who is told by a number.

        Raises `NoneFree` if it is not free, or if this user has dialled too many others since it would be.
        """
        if not self.is_free(pair, now):
            raise NoneFree(errno.EADDRNOTAVAIL, "no source port was found that is free and unused for 5 minutes")
        own = self._dialled.get(user, {})
        if len(own) >= self._each and pair not in own:
            oldest = next(iter(own))
            if not self.is_free(oldest, now):
                raise NoneFree(errno.ENOBUFS, f"this user has dialled {self._each} times in the last 5 minutes")
            self._forget(oldest)
        self._forget(pair)
        if len(self._whose) >= self._at_most:
            most = max(self._dialled, key=lambda each: len(self._dialled[each]))
            self._forget(next(iter(self._dialled[most])))
        self._whose[pair] = user
        self._dialled.setdefault(user, {})[pair] = now

    def _forget(self, pair: Pair) -> None:
        user = self._whose.pop(pair, None)
        if user is not None:
            del self._dialled[user][pair]
            if not self._dialled[user]:
                del self._dialled[user]
