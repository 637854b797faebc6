"""How many SYNs had no valid token and no valid knock, and the warning that there are too many.

The law: two events ask the gate, a status (`fresh`) and each minute's end (`end_minute`), in any order, also while the
answer to the one before is waited for: one question serves both (`Question`). The gate's own count starts at 0 whenever
the gate is opened. What may never happen: the sum falls; a SYN is counted twice, or in two minutes; a question that
fails, or that is answered too late, changes a count; the log has two warnings within an hour.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from torknock.bridge.question import Question
from torknock.bridge.status_report import odds
from torknock.errors import TorknockError

_log = Logger()

MINUTE = 60.0
"""How often `Refusals.end_minute` wants to be called."""

_BRUTE_FORCE = 1_000
"""Refused SYNs in a `MINUTE` that may be an attempt to find a token by trying."""

_SUPPRESSED = 3_600.0
"""Seconds after a warning in the log without a further one."""

_FRESH = 1.0
"""Seconds after a question without a further one."""


class Refusals:
    """The sum of what the gate counts.

    *refused* is `IGate.refused`; *tokens* returns how many ISNs open a connection now.
    """

    def __init__(
        self, clock: IReactorTime, refused: Callable[[], Deferred[int | None]], tokens: Callable[[], int]
    ) -> None:
        self._refused = refused
        self._question = Question(clock, self._ask, _FRESH)
        self._minutes = _Minutes(clock, tokens)
        self._gate = 0
        """What the gate said last."""
        self.ever: int | None = None
        """None if the gate does not count."""

    @property
    def brute_force(self) -> int:
        """How many this minute or the last one had, whichever had more; 0 if they are too few to warn of."""
        return self._minutes.brute_force

    def fresh(self) -> Deferred[None]:
        """Fires when the count is at most a second old, or after a timeout."""
        return self._question.answered()

    async def end_minute(self) -> None:
        """A minute is over: what it had counts for one more."""
        await self.fresh()
        self._minutes.end()

    async def _ask(self) -> None:
        try:
            counted = await self._refused()
        except TorknockError as error:
            _log.debug("the gate's count of refused SYNs is not known: {reason}", reason=str(error))
            return
        if counted is None:
            self.ever = None
            return
        new = counted - self._gate if counted >= self._gate else counted
        self._gate = counted
        self.ever = (self.ever or 0) + new
        self._minutes.add(new)


class _Minutes:
    """The refused SYNs of this minute and of the last one; warns in the log if they are too many for *tokens*."""

    def __init__(self, clock: IReactorTime, tokens: Callable[[], int]) -> None:
        self._clock, self._tokens = clock, tokens
        self._this = self._last = 0
        self._warned_at = -_SUPPRESSED

    @property
    def brute_force(self) -> int:
        count = max(self._this, self._last)
        return count if count >= _BRUTE_FORCE else 0

    def end(self) -> None:
        """The next minute begins."""
        self._last, self._this = self._this, 0

    def add(self, count: int) -> None:
        """So many more were refused."""
        self._this += count
        if self.brute_force and self._clock.seconds() - self._warned_at >= _SUPPRESSED:
            self._warned_at = self._clock.seconds()
            tokens = self._tokens()
            _log.warn(
                "possible brute force: {count} SYNs without a valid token in the last minute (further warnings "
                "suppressed); {tokens} live tokens: {odds}",
                count=f"{self.brute_force:,}",
                tokens=f"{tokens:,}",
                odds=odds(tokens),
            )
