"""How often a user of `torknock dial` may dial, so that none can take it from the others. Pure: times are arguments."""

from __future__ import annotations

BURST = 200
"""Dials that a user may make at once."""

PER_SECOND = 5.0
"""Dials a second that come in addition: at most 1,700 in the 5 minutes for which a 4-tuple is remembered."""

_USERS = 1024


class Quotas:
    """What each user, told by a number, has left. Root has no quota: it needs no service to dial."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._left)

    def wait(self, user: int, now: float) -> float:
        """Take one dial from *user*'s quota at *now*: 0.0, or the seconds after which there is one again."""
        if user == 0:
            return 0.0
        left = self._now_left(user, now)
        if left < 1:
            return (1 - left) / PER_SECOND
        if len(self._left) >= _USERS:
            self._left = {each: has for each, has in self._left.items() if self._now_left(each, now) < BURST}
        self._left[user] = left - 1, now
        return 0.0

    def _now_left(self, user: int, now: float) -> float:
        left, then = self._left.get(user, (float(BURST), now))
        return min(left + (now - then) * PER_SECOND, BURST)
