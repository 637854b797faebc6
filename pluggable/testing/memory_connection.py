"""A TCP connection in memory: two transports that implement `ITCPTransport`, each the other's peer.

The law, which is that of Twisted's TCP:

- Nothing happens within a call of a transport's method: octets, ends and losses arrive when the clock is advanced, by 0
  seconds if need be, and in the order in which they were sent.
- A transport that is paused delivers nothing, neither octets nor an end, until it is resumed.
- `loseConnection` and `loseWriteConnection` take effect when the clock is advanced, after all that was written until
  then; a producer that was paused, or that is to be pulled, goes on before that. `abortConnection` drops what has not
  arrived.
- After `loseConnection` and `abortConnection` the protocol receives nothing more.
- At its peer's end a half-closeable protocol has `readConnectionLost`; any other protocol has lost the connection.
- A protocol has `connectionLost` once, and nothing after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

_FIN, _RST = object(), object()


@dataclass(slots=True)
class _Producer:
    registered: Any
    streaming: bool
    paused: bool = False


@implementer(ITCPTransport)
class MemoryTransport:
    """One end of a connection, for *protocol*; *host* and *peer* are its addresses."""

    bufferSize = 64 * 1024  # noqa: N815  Twisted's name
    """Octets that arrive at once, and that may wait at the peer before a producer is paused."""

    def __init__(self, clock: Clock, protocol: Any, host: Any, peer: Any) -> None:
        self._clock, self._protocol, self._addresses = clock, protocol, (host, peer)
        self._peer = self
        self._incoming: deque[Any] = deque()
        """What was sent to this end and has not arrived: octets, then perhaps `_FIN` or `_RST`."""
        self._paused = self._closing = self._fin_sent = self._lost = False
        self._producer: _Producer | None = None

    def connect(self, peer: MemoryTransport) -> None:
        """Make *peer* the other end, and tell both protocols, the peer's first."""
        self._peer, peer._peer = peer, self
        for end in (peer, self):
            end._protocol.makeConnection(end)

    def write(self, data: bytes) -> None:
        """See `ITransport`."""
        if self._fin_sent or self._lost or not data:
            return
        if self._peer._lost:
            self._send(_RST, to=self)
            return
        for at in range(0, len(data), self._peer.bufferSize):
            self._send(bytes(data[at : at + self._peer.bufferSize]), to=self._peer)
        if self._closing:
            self._clock.callLater(0, self._close)
        producer, is_full = self._producer, self._peer._waiting() > self.bufferSize
        if producer is not None and producer.streaming and not producer.paused and is_full:
            producer.paused = True
            producer.registered.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See `ITransport`."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """See `ITransport`."""
        self._closing = True
        self._clock.callLater(0, self._close)

    def loseWriteConnection(self) -> None:
        """See `ITCPTransport`."""
        self._clock.callLater(0, self._close_write)

    def abortConnection(self) -> None:
        """See `IAbortable` and `ITCPTransport`."""
        if not self._lost:
            self._closing = self._fin_sent = True
            self._peer._incoming.clear()
            self._send(_RST, to=self._peer)
            self._clock.callLater(0, self._lose, ConnectionAborted())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        if self._producer is not None:
            raise RuntimeError(f"{self._producer.registered} is registered already")
        if self._lost:
            producer.stopProducing()
            return
        self._producer = _Producer(producer, streaming)
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self._producer = None
        if self._closing:
            self._clock.callLater(0, self._close)

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._paused = False
        self._clock.callLater(0, self._deliver)

    def stopProducing(self) -> None:
        """See `IProducer`."""
        self.loseConnection()

    def getHost(self) -> Any:
        """See `ITransport`."""
        return self._addresses[0]

    def getPeer(self) -> Any:
        """See `ITransport`."""
        return self._addresses[1]

    def getTcpNoDelay(self) -> bool:
        """Nothing is delayed."""
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is delayed."""

    def getTcpKeepAlive(self) -> bool:
        """Nothing is lost on the way."""
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing is lost on the way."""

    def _waiting(self) -> int:
        return sum(len(each) for each in self._incoming if isinstance(each, bytes))

    def _send(self, what: Any, to: MemoryTransport) -> None:
        to._incoming.append(what)
        self._clock.callLater(0, to._deliver)

    def _close_write(self) -> None:
        if not (self._fin_sent or self._lost):
            self._fin()
            if IHalfCloseableProtocol.providedBy(self._protocol):
                self._protocol.writeConnectionLost()

    def _fin(self) -> None:
        if not self._fin_sent:
            self._fin_sent = True
            self._send(_FIN, to=self._peer)

    def _deliver(self) -> None:
        while self._incoming and not (self._paused or self._closing or self._lost):
            first = self._incoming.popleft()
            if first is _RST:
                self._fin_sent = True
                self._lose(ConnectionLost())
            elif first is not _FIN:
                self._protocol.dataReceived(first)
                self._peer._resume_producer()
            elif IHalfCloseableProtocol.providedBy(self._protocol):
                self._protocol.readConnectionLost()
            else:
                self._fin()
                self._lose(ConnectionDone())

    def _resume_producer(self) -> None:
        producer = self._producer
        if producer is not None and (producer.paused or not producer.streaming) and not self._peer._incoming:
            producer.paused = False
            producer.registered.resumeProducing()

    def _close(self) -> None:
        producer = self._producer
        if self._lost or (producer is not None and not producer.streaming):
            return
        if producer is not None and producer.paused:
            producer.paused = False
            producer.registered.resumeProducing()
            return
        self._fin()
        self._lose(ConnectionDone())

    def _lose(self, error: Exception) -> None:
        if not self._lost:
            self._lost = True
            self._incoming.clear()
            self._peer._resume_producer()
            producer, self._producer = self._producer, None
            if producer is not None:
                producer.registered.stopProducing()
            self.lost(Failure(error))

    def lost(self, reason: Failure) -> None:
        """The connection is lost; called once."""
        self._protocol.connectionLost(reason)
