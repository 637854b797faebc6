"""TLS over a TCP connection of Twisted's, as fast as Python allows.

Octets go through TLS in as few and as large pieces as there are. Nothing waits here in either direction: what the
upper protocol does not take stays in the network, what the network does not take is in the TCP transport, whose
back-pressure is passed on. TLS answers by itself, too: a peer that asks for new keys (RFC 8446 §4.6.3) and does not
read is not read from either.

Order of events at the side: `begin`, then `handshakeDone` or `broken`, then `received` until `carry`; `gone` is the
last, unless the connection is carried. After `carry` the upper protocol gets what Twisted's TCP gives: data, at most
one end of each direction, one loss. These never happen:

- `received` or the upper protocol's `dataReceived` while the upper side has paused, after `turn_deaf`, or from within
  itself (`_reading`).
- Data after the peer's end: `Engine.end` waits until `Engine.held` has been handed on.
- A write to TLS after its end: `_write_ended`.
- An event at the side once the connection is carried or lost: it is let go then, and no cycle of references is left.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IProtocol, IPushProducer, ITransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.channel.engine import AT_ONCE, RECORD, Engine, in_words
from torknock.channel.flow import Flow
from torknock.channel.layer import Layer
from torknock.channel.side import Side


@implementer(ITransport, IConsumer, IPushProducer, IHalfCloseableProtocol)
class TLSPump(Layer):
    """The lower protocol of a TCP connection, and the transport of an *upper* one once `carry` is called.

    *side* is told what happens before that, and calls `carry`, `turn_deaf` or `leave`.
    """

    engine: Engine
    disconnecting = False
    _flow: Flow

    def __init__(self, side: Side) -> None:
        self._side: Side | None = side
        self._upper: IProtocol | None = None
        self._reading = False
        self._read_ended = False
        self._write_ended = False
        self._deaf = False

    # What a side may do.

    def carry(self, upper: IProtocol, rest: bytes = b"") -> None:
        """From now on the connection is *upper*'s; the first that it receives is *rest*."""
        self.transport.bufferSize = AT_ONCE  # not before: only a peer with a proof gets this memory
        self._side, self._upper = None, upper
        self.engine.held = rest
        upper.makeConnection(self)

    def turn_deaf(self) -> None:
        """Drop unseen whatever comes, and say no more."""
        self._deaf = self._write_ended = True

    def leave(self) -> None:
        """End the TCP connection once what was written has left."""
        self.transport.unregisterProducer()  # what it wrote would be dropped, and TCP would wait for it
        self.transport.loseConnection()

    # The TCP connection's protocol.

    def connectionMade(self) -> None:
        """TCP stands: begin."""
        if self.disconnecting:
            self.transport.abortConnection()
            return
        assert self._side is not None  # noqa: S101  nothing is carried yet
        self.transport.setTcpNoDelay(True)
        self._flow = Flow(self.transport)
        self.engine = Engine(self._side.begin())
        self._advance(self._side)

    def dataReceived(self, data: bytes) -> None:
        """*data* came from the network."""
        if self._deaf:
            return
        self.engine.feed(data)
        if self.engine.handshaking and self._side is not None:
            self._advance(self._side)
        else:
            self._read()

    def readConnectionLost(self) -> None:
        """The peer has ended TCP's one direction, which it may once it has ended TLS's (RFC 8446 §6.1)."""
        if self._upper is None or self.disconnecting:
            self.leave()
        elif not self._read_ended:
            self._lose("the peer ended TCP before it had ended TLS")

    def writeConnectionLost(self) -> None:
        """Never: TCP's directions are closed together, since Twisted may lose what a half-closed one has received."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """TCP is over; if TLS was not, the upper protocol is told of a loss."""
        if reason.check(ConnectionDone) and not self._read_ended and not self.disconnecting:
            reason = Failure(ConnectionLost("the peer ended TCP before it had ended TLS"))
        self.disconnecting = True
        self.turn_deaf()
        upper, self._upper = self._upper, None
        side, self._side = self._side, None
        if upper is not None:
            upper.connectionLost(reason)
        if side is not None:
            side.gone()

    # TLS.

    def _advance(self, side: Side) -> None:
        """Go on with the handshake."""
        try:
            done = self.engine.handshake()
        except SSL.Error as error:
            self._break(error)
            return
        if not done:
            self._flush(RECORD)
            return
        side.handshakeDone()
        self._answer()  # the handshake's end, unless it left with what was written
        self._read()

    def _read(self) -> None:
        """Hand on what TLS can make of what it was given."""
        if self._reading:
            return
        self._reading = True
        engine = self.engine
        try:
            while not (self._flow.paused or self._deaf or self._read_ended):
                if engine.held:
                    self._hand_on(engine.take())
                elif engine.end is not None:
                    self._end(engine.end)
                elif engine.dry:
                    break
                else:
                    engine.decrypt()
                    self._answer()
        finally:
            self._reading = False
        if not self._deaf:
            engine.shrink()

    def _hand_on(self, octets: bytes) -> None:
        if self._upper is not None:
            self._upper.dataReceived(octets)
        elif self._side is not None:
            self._side.received(octets)

    def _answer(self) -> None:
        """Give TCP what TLS has written of its own accord."""
        if not self._deaf:
            self._flow.answered(self._flush(RECORD))

    def _end(self, why: SSL.Error) -> None:
        """Nothing more comes, for that reason."""
        self.engine.end = None
        if not isinstance(why, SSL.ZeroReturnError):
            self._break(why)
            return
        self._read_ended = True
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.readConnectionLost()
        else:
            self.loseConnection()

    def _break(self, error: SSL.Error) -> None:
        if self._side is None or self._side.says_alerts:
            self._flush(RECORD)
        self.turn_deaf()
        if self._side is not None:
            self._side.broken(in_words(error))
        else:
            self._lose(f"the peer broke TLS: {in_words(error)}")

    def _lose(self, reason: str) -> None:
        """The upper protocol loses its connection; TCP's ends once what was written has left, as usual."""
        self.disconnecting = True
        self.turn_deaf()
        upper, self._upper = self._upper, None
        self.leave()
        if upper is not None:
            upper.connectionLost(Failure(ConnectionLost(reason)))

    def _flush(self, about: int) -> int:
        """Give TCP what TLS has written, *about* so many octets; how many there were."""
        flushed = 0
        while octets := self.engine.written(about):
            self.transport.write(octets)
            flushed += len(octets)
            if len(octets) < about:
                break
        return flushed

    # The upper protocol's transport.

    def write(self, data: bytes) -> None:
        """Send *data*; what is written after the end is dropped, as Twisted's transports do."""
        if len(data) > AT_ONCE:
            view = memoryview(data)
            for start in range(0, len(data), AT_ONCE):
                self._write(view[start : start + AT_ONCE])
        elif data:
            self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        if not self._write_ended:
            self._flush(self.engine.encrypt(data))
            self.engine.held_at_once(len(data))
            if not self._deaf:
                self.engine.shrink()

    def loseWriteConnection(self) -> None:
        """Say no more: `close_notify`, which leaves the other direction open (RFC 8446 §6.1)."""
        if not self._write_ended:
            self._finish()
            if IHalfCloseableProtocol.providedBy(self._upper):
                self._upper.writeConnectionLost()

    def loseConnection(self) -> None:
        """Close both directions, once what was written has left; nothing is received any more, a producer is let go."""
        if not self.disconnecting:
            self.disconnecting = True
            if not self._write_ended:
                self._finish()
            self.turn_deaf()
            self.leave()

    def abortConnection(self) -> None:
        """Close the connection at once, with RST."""
        self.disconnecting = True
        self.turn_deaf()
        if self.transport is not None:
            self.transport.abortConnection()

    def _finish(self) -> None:
        self.engine.finish()
        self._write_ended = True
        self._flush(RECORD)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let the TCP transport's buffer pause *producer*."""
        self._flow.register(producer, streaming)

    def unregisterProducer(self) -> None:
        """No more of `registerProducer`'s."""
        self._flow.unregister(over=self.disconnecting)

    def pauseProducing(self) -> None:
        """Hand nothing on until `resumeProducing`."""
        self._flow.pause()

    def resumeProducing(self) -> None:
        """Hand on what has come, and read on."""
        self._flow.paused = False
        if not self._deaf:
            self._read()
        self._flow.resume()
