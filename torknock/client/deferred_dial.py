"""A link whose first octets must be known before its bridge is dialled (knock.md, "What a listener does").

Tor speaks to its bridge only once it is told that there is one. So it is told at once, and what it says first is
collected; then the bridge is dialled, and gets it in one piece. If that fails, the link is closed: it is too late to
say more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pluggable.relay import Single

_log = Logger()

Dialled = Callable[[bytes], IStreamClientEndpoint]
"""The bridge to dial, given the first octets that it will be sent."""


@implementer(IStreamClientEndpoint)
class DialOnFirstBytes:
    """The bridge that *dialled* returns once the link has said *size* octets; its *address* is only named."""

    def __init__(self, size: int, address: IAddress, dialled: Dialled) -> None:
        self._size, self._address, self._dialled = size, address, dialled

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Fires at once: the bridge is yet to be dialled."""
        upper = protocolFactory.buildProtocol(self._address)
        assert upper is not None  # noqa: S101  the factory refuses no connection
        upper.makeConnection(_Link(upper, self._size, self._address, self._dialled))
        return succeed(upper)


@implementer(ITransport, IConsumer, IPushProducer, IHalfCloseableProtocol)
class _Link(Protocol):
    """The transport of the protocol *upper*; a protocol itself, once there is a connection below.

    The writer is paused from the last of the first octets on, so that no more is held than was written at once.
    """

    transport: Any  # None while there is no connection

    def __init__(self, upper: IProtocol, size: int, address: IAddress, dialled: Dialled) -> None:
        self._upper: Any = upper
        self._size, self._address, self._dialled = size, address, dialled
        self._said: list[bytes] = []
        self._dialling: Deferred[IProtocol] | None = None
        self._producer: Any = None
        self._write_ended = self._over = False

    # The transport, as `upper` knows it.

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)
        elif not (self._over or self._write_ended):
            self._said.append(data)
            if self._dialling is None and sum(map(len, self._said)) >= self._size:
                self._dial()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.transport is not None:
            self.transport.registerProducer(producer, streaming)
        elif self._over:
            producer.stopProducing()
        else:
            self._producer = producer
            if self._dialling is not None:
                producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None
        if self.transport is not None:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        if self.transport is not None:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        if self.transport is not None:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseWriteConnection(self) -> None:
        """Say no more; who has not even said the first octets has said nothing."""
        self._write_ended = True
        if self.transport is not None:
            self.transport.loseWriteConnection()
        elif self._dialling is None:
            self._end(Failure(ConnectionDone()))

    def loseConnection(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()
        else:
            self._end(Failure(ConnectionDone()))

    def abortConnection(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()
        else:
            self._end(Failure(ConnectionAborted()))

    def getPeer(self) -> IAddress:
        return self._address

    def getHost(self) -> IAddress:
        return self._address if self.transport is None else self.transport.getHost()

    # The dialling.

    def _dial(self) -> None:
        if self._producer is not None:
            self._producer.pauseProducing()
        self._said = [b"".join(self._said)]
        self._dialling = self._dialled(self._said[0][: self._size]).connect(Single(self))
        self._dialling.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not self._over:
            _log.warn("the bridge was not reached after tor had begun to speak: {reason}", reason=str(failure.value))
            self._end(failure)

    def _end(self, reason: Failure) -> None:
        if self._over:
            return
        self._over = True
        self._said.clear()
        if self._dialling is not None:
            self._dialling.cancel()
        self._upper.connectionLost(reason)

    # The protocol, as the connection knows it.

    def connectionMade(self) -> None:
        """Send what was said, at once and in one piece."""
        if self._over:
            self.transport.abortConnection()
            return
        for wish in ("setTcpNoDelay", "setTcpKeepAlive"):
            if (grant := getattr(self.transport, wish, None)) is not None:
                grant(True)
        self.transport.write(b"".join(self._said))
        self._said.clear()
        if self._write_ended:
            self.transport.loseWriteConnection()
        elif self._producer is not None:
            self.transport.registerProducer(self._producer, True)
            self._producer.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        self._upper.dataReceived(data)

    def readConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._over:
            self._over = True
            self._upper.connectionLost(reason)
