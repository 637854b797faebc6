"""Erases from the keyring what would derive the tokens of lines and epochs that are over (protocol.md §2.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from torknock.keyring.file import KeyringLocked, KeyringUnreadable
from torknock.keyring.queue import KeyringQueue
from torknock.protocol.token import EPOCH, NEIGHBOURS, epoch_at

_log = Logger()

_PAUSE = 20.0
_LINES_A_TURN = 500
"""Lines of one transaction: what else is asked of the keyring waits for it."""


class Forgetting:
    """Lets the lines of *keyring* begin with the oldest epoch that could still be needed, from `start` to `stop`.

    Revoked lines lose their secret, and so do those that have expired. Only what has been over for an epoch of *clock*
    is erased, whatever *now*, the date, returned in between: a clock that was wrong for a moment costs nothing.
    """

    def __init__(self, keyring: KeyringQueue, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._keyring, self._clock, self._now = keyring, clock, now
        self._readings: deque[tuple[float, int]] = deque()
        """Readings of both clocks: steady time and epoch, from the newest that is an epoch old."""
        self._trouble = ""
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """Look now, and every few seconds from now on."""
        self._running = Deferred.fromCoroutine(self._keep())
        self._running.addErrback(_ended)

    def stop(self) -> None:
        """Leave the rest to the next process."""
        if self._running is not None:
            self._running.cancel()
            self._running = None

    async def _keep(self) -> None:
        while True:
            try:
                await self._look()
            except KeyringLocked:  # which the queue says
                pass
            except KeyringUnreadable as error:
                if str(error) != self._trouble:
                    _log.error("cannot erase the keys of what is over: {reason}", reason=str(error))
                self._trouble = str(error)
            else:
                self._trouble = ""
            await deferLater(self._clock, _PAUSE)

    async def _look(self) -> None:
        since = self._clock.seconds() - EPOCH
        self._readings.append((self._clock.seconds(), epoch_at(self._now())))
        while len(self._readings) > 1 and self._readings[1][0] <= since:
            self._readings.popleft()
        if self._readings[0][0] > since:
            await self._keyring.run(self._keyring.keyring.erase, 0)
            return
        oldest = min(epoch for _, epoch in self._readings)
        await self._keyring.run(self._keyring.keyring.erase, oldest * EPOCH)
        while await self._keyring.run(self._keyring.keyring.advance, oldest - NEIGHBOURS, _LINES_A_TURN):
            await deferLater(self._clock, 0)


def _ended(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("the keys of what is over are not erased any more, because that broke", failure=failure)
