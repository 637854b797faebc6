"""TLS over a TCP connection of Twisted's, as fast as Python lets OpenSSL be.

Octets go through OpenSSL in as few and as large pieces as there are. Nothing waits here in either direction: what the
upper protocol does not take stays in the network, what the network does not take is in the TCP transport, whose
back-pressure is passed on. TLS answers by itself, too: a peer that asks for new keys (RFC 8446 §4.6.3) and does not
read is not read from either.

Order of events: `begin`, then `handshakeDone` or `broken`, then `received` until `carry`. After `carry` the upper
protocol gets what Twisted's TCP gives: data, at most one end of each direction, one loss. These never happen:

- `received` or the upper protocol's `dataReceived` while the upper side has paused, after `turn_deaf`, or from within
  itself (`_reading`).
- Data after the peer's end: `_end` waits until `_held` has been handed on.
- A write to TLS after its end: `_write_ended`.
- Two producers at the TCP transport: one `_Valve` is registered at a time, from `connectionMade` to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IProtocol, IPushProducer, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.channel.bios import renew

_AT_ONCE = 120 * 1024
"""Octets that are read from the network, or given to OpenSSL, at once. From 128 KiB on, malloc asks the kernel."""

_RECORD = 16 * 1024
"""Octets that a TLS record holds at most (RFC 8446 §5.1)."""

_OVERHEAD = 64
"""Octets that a record is longer than what it holds, with room to spare."""

_ANSWERS_AT_MOST = 4 * 1024
"""Octets that TLS itself may write while TCP's buffer is over its limit. An honest peer's rare new keys stay far below,
so that two ends that are both writing never wait for each other."""


@implementer(ITransport, IConsumer, IPushProducer, IHalfCloseableProtocol)
class TLSPump(Protocol):
    """The lower protocol of a TCP connection, and the transport of an *upper* one once `carry` is called.

    A subclass says what TLS it is (`begin`), what happens when the handshake is done (`handshakeDone`), and what
    becomes of the connection until it is carried (`received`, `broken`, `gone`).
    """

    transport: Any
    ssl: SSL.Connection
    disconnecting = False

    def __init__(self) -> None:
        self._upper: IProtocol | None = None
        self._handshaking = True
        self._held = b""
        self._dry = False
        """Whether OpenSSL has made all that it can of what it was given."""
        self._swollen = self._busy = False
        """Whether its BIOs keep room for more than a record, and whether more of that size is likely to come."""
        self._end: Callable[[], None] | None = None
        """What comes after `_held`: the peer's end, or what broke."""
        self._paused = False
        self._producing = False
        self._full = False
        self._answered = 0
        self._stalled = False
        self._reading = False
        self._read_ended = False
        self._write_ended = False
        self._deaf = False

    # What a subclass decides.

    def begin(self) -> SSL.Connection:
        """TLS for the TCP connection that stands, with memory BIOs; its side is set."""
        raise NotImplementedError

    def handshakeDone(self) -> None:
        """TLS stands; what is written now leaves together with the handshake's last octets."""

    def received(self, octets: bytes) -> None:
        """*octets* came out of TLS, before `carry` was called."""

    says_alerts = True
    """Whether a peer that breaks TLS before `carry` was called gets OpenSSL's alert."""

    def broken(self, reason: str) -> None:
        """The peer does not speak TLS as it should, before `carry` was called; the alert, if any, has been written."""

    def gone(self) -> None:
        """TCP is over, and no upper protocol stands on it."""

    # What a subclass may do.

    def carry(self, upper: IProtocol, rest: bytes = b"") -> None:
        """From now on the connection is *upper*'s; the first that it receives is *rest*."""
        self.transport.bufferSize = _AT_ONCE  # not before: only a peer with a proof gets this memory
        self._upper = upper
        self._held = rest
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
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(_Valve(self), True)
        self.ssl = self.begin()
        self._advance()

    def dataReceived(self, data: bytes) -> None:
        """*data* came from the network."""
        if self._deaf:
            return
        self.ssl.bio_write(data)
        self._dry = False
        self._held_at_once(len(data))
        if self._handshaking:
            self._advance()
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
        if upper is not None:
            upper.connectionLost(reason)
        self.gone()

    # TLS.

    def _advance(self) -> None:
        """Go on with the handshake."""
        try:
            self.ssl.do_handshake()
        except SSL.WantReadError:
            self._flush(_RECORD)
        except SSL.Error as error:
            self._break(error)
        else:
            self._handshaking = False
            self.handshakeDone()
            self._answer()  # the handshake's end, unless it left with what was written
            self._read()

    def _read(self) -> None:
        """Hand on what OpenSSL can make of what it was given."""
        if self._reading:
            return
        self._reading = True
        try:
            while not (self._paused or self._deaf or self._read_ended):
                if self._held:
                    octets, self._held = self._held, b""
                    (self.received if self._upper is None else self._upper.dataReceived)(octets)
                elif self._end is not None:
                    end, self._end = self._end, None
                    end()
                elif self._dry:
                    break
                else:
                    self._decrypt()
        finally:
            self._reading = False
        self._shrink()

    def _held_at_once(self, size: int) -> None:
        """OpenSSL's BIOs have had to hold *size* octets."""
        self._busy = size >= _AT_ONCE
        self._swollen = self._swollen or size > _RECORD + _OVERHEAD

    def _shrink(self) -> None:
        """Give back the room that OpenSSL's BIOs keep, once they are empty."""
        if self._swollen and self._dry and not (self._busy or self._deaf):
            self._swollen = False
            renew(self.ssl)

    def _decrypt(self) -> None:
        """Take what there is from OpenSSL, however many records it came in."""
        pieces, size = [], 0
        try:
            while size < _AT_ONCE:
                pieces.append(self.ssl.recv(_RECORD))
                size += len(pieces[-1])
        except SSL.WantReadError:
            self._dry = True
        except SSL.ZeroReturnError:
            self._end = self._peer_finished
        except SSL.Error as error:
            self._end = partial(self._break, error)
        self._held = b"".join(pieces)
        self._answer()

    def _answer(self) -> None:
        """Give TCP what OpenSSL has written of its own accord; read no further if the peer leaves too much of it."""
        if self._deaf:
            return
        answered = self._flush(_RECORD)
        if self._full:
            self._answered += answered
        if self._answered > _ANSWERS_AT_MOST and not self._stalled:
            self._stalled = True
            self.transport.pauseProducing()

    def _filled(self) -> None:
        """TCP's buffer is over its limit."""
        self._full = True

    def _drained(self) -> None:
        """TCP's buffer is empty."""
        self._full, self._answered = False, 0
        if self._stalled:
            self._stalled = False
            if not self._paused:
                self.transport.resumeProducing()

    def _peer_finished(self) -> None:
        self._read_ended = True
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.readConnectionLost()
        else:
            self.loseConnection()

    def _break(self, error: SSL.Error) -> None:
        if self.says_alerts or self._upper is not None:
            self._flush(_RECORD)
        self.turn_deaf()
        if self._upper is None:
            self.broken(_reason(error))
        else:
            self._lose(f"the peer broke TLS: {_reason(error)}")

    def _lose(self, reason: str) -> None:
        """The upper protocol loses its connection; TCP's ends once what was written has left, as usual."""
        self.disconnecting = True
        self.turn_deaf()
        upper, self._upper = self._upper, None
        self.leave()
        if upper is not None:
            upper.connectionLost(Failure(ConnectionLost(reason)))

    def _flush(self, about: int) -> int:
        """Give TCP what OpenSSL has written, *about* so many octets; how many there were."""
        flushed = 0
        while True:
            try:
                octets = self.ssl.bio_read(about)
            except SSL.WantReadError:
                return flushed
            self.transport.write(octets)
            flushed += len(octets)
            if len(octets) < about:
                return flushed

    # The upper protocol's transport.

    def write(self, data: bytes) -> None:
        """Send *data*; what is written after the end is dropped, as Twisted's transports do."""
        if len(data) > _AT_ONCE:
            view = memoryview(data)
            for start in range(0, len(data), _AT_ONCE):
                self._write(view[start : start + _AT_ONCE])
        elif data:
            self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        if not self._write_ended:
            self.ssl.sendall(data)
            self._flush(len(data) + (len(data) // _RECORD + 1) * _OVERHEAD)
            self._held_at_once(len(data))
            self._shrink()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send the octets in *data*, one after the other."""
        self.write(b"".join(data))

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
        self.ssl.shutdown()
        self._write_ended = True
        self._flush(_RECORD)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let the TCP transport's buffer pause *producer*."""
        if self._producing:
            raise RuntimeError("a producer is registered already")
        self._producing = True
        self.transport.unregisterProducer()
        self.transport.registerProducer(_Valve(self, producer), streaming)

    def unregisterProducer(self) -> None:
        """No more of `registerProducer`'s."""
        self._producing = False
        self.transport.unregisterProducer()
        if not self.disconnecting:
            self.transport.registerProducer(_Valve(self), True)

    def pauseProducing(self) -> None:
        """Hand nothing on until `resumeProducing`."""
        self._paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Hand on what has come, and read on."""
        self._paused = False
        if not self._deaf:
            self._read()
        if not (self._paused or self._stalled):
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Close the connection."""
        self.loseConnection()

    def getPeer(self) -> Any:
        """The TCP connection's peer."""
        return self.transport.getPeer()

    def getHost(self) -> Any:
        """The TCP connection's own address."""
        return self.transport.getHost()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """TCP's option."""
        self.transport.setTcpNoDelay(enabled)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """TCP's option."""
        self.transport.setTcpKeepAlive(enabled)


@implementer(IPushProducer)
class _Valve:
    """What TCP's buffer pauses and resumes: *pump*, and the upper protocol's *producer* if there is one."""

    def __init__(self, pump: TLSPump, producer: Any = None) -> None:
        self._pump, self._producer = pump, producer

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._pump._filled()
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._pump._drained()
        if self._producer is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        if self._producer is not None:
            self._producer.stopProducing()


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words, which hold neither secrets nor addresses."""
    if error.args and isinstance(error.args[0], list):
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "TLS failed"
    return str(error) or "TLS failed"
