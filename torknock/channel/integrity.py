"""The integrity code on the bridge: a connection begins with what its knock announced (knock.md).

Order of events: the connection is made, octets arrive, and exactly one of *announced*, *refused*, *too late* or *lost*
settles it. Nothing is written, and no upper protocol sees an octet before that.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.protocol.knock import integrity_code

ANNOUNCED_WITHIN = 15.0
"""Seconds that the client has, from the TCP handshake on, to send what its SYN announced."""


@implementer(IHalfCloseableProtocol)
class Integrity(Protocol):
    """Holds back the first *covered* octets until all are there, and checks whether they are what *isn* announced.

    *secrets* are those of the lines whose knock it was.
    """

    transport: Any

    def __init__(self, clock: IReactorTime, secrets: Collection[bytes], covered: int, isn: int) -> None:
        self._clock = clock
        self._secrets = secrets
        self._covered = covered
        self._announced = isn & 0xFFFF
        self._held = bytearray()
        self._deadline: IDelayedCall | None = None
        self.announced: Deferred[bytes | None] = Deferred()
        """Fires with all that was received if it begins with what was announced; another protocol takes over then.

        Fires with None if the octets are wrong, come too late or never: the connection has been reset.
        """

    def connectionMade(self) -> None:
        """TCP stands: the time runs."""
        self._deadline = self._clock.callLater(ANNOUNCED_WITHIN, self._refuse)

    def dataReceived(self, data: bytes) -> None:
        """Hold *data* back, and check once it is enough."""
        self._held += data
        if len(self._held) < self._covered or self._deadline is None:
            return
        payload = bytes(self._held[: self._covered])
        announced = self._announced.to_bytes(2)
        codes = [integrity_code(secret, payload).to_bytes(2) for secret in self._secrets]
        if any(hmac.compare_digest(code, announced) for code in codes):
            self._settle(bytes(self._held))
        else:
            self._refuse()

    def readConnectionLost(self) -> None:
        """The client has sent all, and that is too little."""
        self._refuse()

    def writeConnectionLost(self) -> None:
        """Nothing is written here."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client has left."""
        self._settle(None)

    def _refuse(self) -> None:
        self.transport.abortConnection()
        self._settle(None)

    def _settle(self, received: bytes | None) -> None:
        if self._deadline is not None:
            if self._deadline.active():
                self._deadline.cancel()
            self._deadline = None
            self.announced.callback(received)
