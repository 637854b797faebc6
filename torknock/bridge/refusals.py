"""How many SYNs had no valid token and no valid knock, and the warning that there are too many."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

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
"""The gate is asked no more often than this."""

_PATIENCE = 2.0
"""So long the gate has for its answer; the last one serves then."""


class Refusals:
    """The sum of what the gate counts, which starts at 0 whenever the gate is opened.

    *refused* is `IGate.refused`; *tokens* returns how many ISNs open a connection now.
    """

    def __init__(
        self, clock: IReactorTime, refused: Callable[[], Deferred[int | None]], tokens: Callable[[], int]
    ) -> None:
        self._clock = clock
        self._refused = refused
        self._tokens = tokens
        self.ever: int | None = None
        """None if the gate does not count."""
        self._gate = 0
        self._minute = 0
        self._last_minute = 0
        self._warned_at = -_SUPPRESSED
        self._asked_at = -_FRESH
        self._asking: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    @property
    def brute_force(self) -> int:
        """How many this minute or the last one had, whichever had more; 0 if they are too few to warn of."""
        count = max(self._minute, self._last_minute)
        return count if count >= _BRUTE_FORCE else 0

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
        """A minute is over: what it had counts for one more."""
        await self.fresh()
        self._last_minute, self._minute = self._minute, 0

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
        self._warn()

    def _warn(self) -> None:
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

    def _answered(self, result: object) -> None:
        self._asking = None
        if isinstance(result, Failure):
            _log.failure("what the gate refused is not known", failure=result)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)
