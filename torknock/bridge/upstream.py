"""Whether tor takes clients: to admit one that tor then refuses would spend a token for nothing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from torknock.errors import TorknockError

_log = Logger()

_SOON, _RARELY = 0.5, 8.0
"""Seconds between two questions, at first and at most."""

_STEADY = 60.0
"""Seconds for which tor must have taken clients to be asked `_SOON` again."""


class TorRefuses(TorknockError):
    """tor takes no clients."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"tor takes no clients ({reason.rstrip('.')}): it hibernates, is shutting down, has no network or does not "
            "answer",
            "torknock doctor bridge tells which, and until when",
        )


class Upstream:
    """Asks tor, once it has refused a client, until it takes clients.

    *probe* raises the reason if tor takes none.
    """

    def __init__(self, clock: IReactorTime, probe: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> None:
        self._clock, self._probe = clock, probe
        self.refusing: TorRefuses | None = None
        """Why clients are not to be admitted; None if tor takes them."""
        self._pause = _SOON
        self._steady_since = -_STEADY
        self._asking: Deferred[None] | None = None

    def turned_away(self) -> None:
        """tor has refused a client: ask it, unless that is being done. A client's fault closes nothing."""
        if self._asking is None or self._asking.called:
            self._asking = Deferred.fromCoroutine(self._ask())
            self._asking.addErrback(self._ended)

    def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        if self._clock.seconds() - self._steady_since >= _STEADY:
            self._pause = _SOON
        while (reason := await self._reason()) is not None:
            self.refusing = self.refusing or TorRefuses(str(reason))
            await deferLater(self._clock, self._pause)
            self._pause = min(2 * self._pause, _RARELY)
        if self.refusing is not None:
            self.refusing, self._steady_since = None, self._clock.seconds()

    async def _reason(self) -> Exception | None:
        try:
            await self._probe()
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, no client can be served
            return error
        return None

    def _ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("whether tor takes clients is not known", failure=failure)
