"""A bridge that cannot start yet, because of its files or the host's clock: the port stays closed until it can."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.errors import TorknockError
from torknock.kernel.interfaces import IReactor

_log = Logger()

_RETRIED_EVERY = 1.0


@implementer(IListeningPort)
class ReopeningDoor:
    """Calls *open*, which failed with *error* the first time, every second until it succeeds.

    tor does not restart a transport that could not start, so this one starts with a closed port. Its address is *host*.
    """

    def __init__(
        self,
        reactor: IReactor,
        open: Callable[[], Coroutine[Deferred[Any], Any, IListeningPort]],
        error: TorknockError,
        host: IAddress,
    ) -> None:
        self._reactor, self._open, self._host = reactor, open, host
        self._door: IListeningPort | None = None
        self._trouble = ""
        self._say(error)
        self._opening = Deferred.fromCoroutine(self._retry())
        self._opening.addErrback(self._ended)

    async def _retry(self) -> None:
        while self._door is None:
            await deferLater(self._reactor, _RETRIED_EVERY)
            try:
                self._door = await self._open()
            except TorknockError as error:
                self._say(error)
            else:
                _log.warn("port open again: what had closed it is mended")

    def _say(self, error: TorknockError) -> None:
        if str(error) != self._trouble:
            _log.error("port closed: {reason}. It opens by itself once this is fixed", reason=str(error))
        self._trouble = str(error)

    def _ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("port closed: opening it failed", failure=failure)

    def startListening(self) -> None:
        """Nothing to do: it opens by itself."""

    def stopListening(self) -> Any:
        """Close the port, or stop trying to open it."""
        self._opening.cancel()
        return None if self._door is None else self._door.stopListening()

    def getHost(self) -> IAddress:
        """The public address that is protected."""
        return self._host
