"""How many SYNs the gate has refused, and whether somebody guesses."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from torknock.errors import TorknockError

_log = Logger()

MINUTE = 60.0
"""How often `Refusals.end_minute` wants to be called."""

_GUESSES = 1_000
"""Refused SYNs in a `MINUTE` that are an attempt to guess."""

_FRESH = 1.0
"""The gate is asked no more often than this."""

_PATIENCE = 2.0
"""So long the gate has for its answer; the last one serves then."""


class Refusals:
    """The sum of what the gate counts, which begins anew whenever the gate is opened.

    *refused* is `IGate.refused`.
    """

    def __init__(self, clock: IReactorTime, refused: Callable[[], Deferred[int | None]]) -> None:
        self._clock = clock
        self._refused = refused
        self.ever: int | None = None
        """None if nobody counts."""
        self.guessing = False
        """Whether there were too many in this minute or in the last."""
        self._gate = 0
        self._minute = 0
        self._last_minute = 0
        self._asked_at = -_FRESH
        self._asking: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    @property
    def lately(self) -> int:
        """Those of this minute or of the last, whichever had more."""
        return max(self._minute, self._last_minute)

    def fresh(self) -> Deferred[None]:
        """Fires when the count is at most a second old, or after `_PATIENCE`."""
        if self._asking is None and self._clock.seconds() - self._asked_at >= _FRESH:
            self._asked_at = self._clock.seconds()
            self._asking = Deferred.fromCoroutine(self._ask())
            self._asking.addBoth(self._answered)
        if self._asking is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting.addTimeout(_PATIENCE, self._clock, lambda _result, _seconds: None)

    async def end_minute(self) -> None:
        """A minute is over; a calm one ends the guessing."""
        await self.fresh()
        self._last_minute, self._minute = self._minute, 0
        self.guessing = self._last_minute >= _GUESSES

    async def _ask(self) -> None:
        try:
            counted = await self._refused()
        except TorknockError as error:
            _log.debug("what the gate refused is not known: {reason}", reason=str(error))
            return
        if counted is None:
            self.ever = None
            return
        new = counted - self._gate if counted >= self._gate else counted
        self._gate = counted
        self.ever = (self.ever or 0) + new
        self._minute += new
        if self._minute >= _GUESSES and not self.guessing:
            self.guessing = True
            _log.warn("somebody guesses: {count} wrong SYNs within a minute; this is said once", count=self._minute)

    def _answered(self, result: object) -> None:
        self._asking = None
        if isinstance(result, Failure):
            _log.failure("what the gate refused is not known", failure=result)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)
