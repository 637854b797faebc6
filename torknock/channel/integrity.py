"""The integrity code on the bridge: what a connection says first is what its knock announced (knock.md)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.protocol.knock import integrity_code

ANNOUNCED_WITHIN = 15.0
"""Seconds that the client has, from the TCP handshake on, to send what its SYN announced."""


@implementer(IHalfCloseableProtocol)
class Integrity(Protocol):
    """Holds back the first *covered* octets until all are there, and becomes *upper* if they are what *isn* announced.

    If they are not, come too late or never, the connection is reset and *upper* never made. *secrets* are those of the
    lines whose knock it was.
    """

    transport: Any

    def __init__(
        self, clock: IReactorTime, secrets: Collection[bytes], covered: int, isn: int, upper: Callable[[], IProtocol]
    ) -> None:
        self._clock = clock
        self._secrets = secrets
        self._covered = covered
        self._announced = isn & 0xFFFF
        self._upper = upper
        self._held = bytearray()
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """TCP stands: the time runs."""
        self._deadline = self._clock.callLater(ANNOUNCED_WITHIN, self._refuse)

    def dataReceived(self, data: bytes) -> None:
        """Hold *data* back, check, or pass it on."""
        self._held += data
        if len(self._held) < self._covered or self._deadline is None:
            return
        payload = bytes(self._held[: self._covered])
        announced = self._announced.to_bytes(2)
        codes = [integrity_code(secret, payload).to_bytes(2) for secret in self._secrets]
        if not any(hmac.compare_digest(code, announced) for code in codes):
            self._refuse()
            return
        self._in_time()
        upper = self._upper()
        self.transport.protocol = upper
        upper.makeConnection(self.transport)
        upper.dataReceived(bytes(self._held))

    def readConnectionLost(self) -> None:
        """The client has said all, and that is too little."""
        self._refuse()

    def writeConnectionLost(self) -> None:
        """Nothing is written here."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody waits any more."""
        self._in_time()

    def _refuse(self) -> None:
        self._in_time()
        self.transport.abortConnection()

    def _in_time(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
