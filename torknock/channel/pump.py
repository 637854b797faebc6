"""TLS over a TCP connection of Twisted's, as fast as Python lets OpenSSL be.

Octets go through OpenSSL in as few and as large pieces as there are; nothing is buffered here, so that back-pressure
is the TCP transport's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

_READ_SIZE = 256 * 1024
"""Octets that are read from the network at once."""

_RECORD = 16 * 1024
"""Octets of a TLS record at most (RFC 8446 §5.1)."""

_OVERHEAD = 64
"""Octets that a record is longer than what it holds, with room to spare."""


@implementer(ITransport)
class TLSPump(Protocol):
    """The lower protocol of a TCP connection, and the transport of an *upper* one once `carry` is called.

    Subclasses say what happens in the handshake and after it: `handshakeDone`, `broken`, `received`.
    """

    transport: Any
    disconnecting = False

    def __init__(self, connection: SSL.Connection) -> None:
        self.ssl = connection
        self._upper: IProtocol | None = None
        self._handshaking = True
        self._paused = False
        self._reading = False
        self._read_ended = False
        self._write_ended = False

    # What a subclass decides.

    def handshakeDone(self) -> None:
        """TLS stands; what is written now leaves together with the handshake's last octets."""

    def broken(self, reason: str) -> None:
        """The peer does not speak TLS as it should; OpenSSL's alert has been sent."""

    def received(self, octets: bytes) -> None:
        """*octets* came out of TLS, before `carry` was called."""

    def gone(self, reason: Failure) -> None:
        """The connection was lost, before `carry` was called."""

    def carry(self, upper: IProtocol) -> None:
        """From now on the connection is *upper*'s."""
        self._upper = upper
        upper.makeConnection(self)

    # The TCP connection's protocol.

    def connectionMade(self) -> None:
        """TCP stands: begin."""
        self.transport.setTcpNoDelay(True)
        self.transport.bufferSize = _READ_SIZE
        self._advance()

    def dataReceived(self, data: bytes) -> None:
        """*data* came from the network."""
        self.ssl.bio_write(data)
        if self._handshaking:
            self._advance()
        else:
            self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """TCP is over; if TLS was not, the upper protocol is told of a loss."""
        if self._upper is None:
            self.gone(reason)
            return
        if reason.check(ConnectionDone) and not self._read_ended and not self.disconnecting:
            reason = Failure(ConnectionLost("the peer ended TCP before it had ended TLS"))
        upper, self._upper = self._upper, None
        upper.connectionLost(reason)

    def _advance(self) -> None:
        """Go on with the handshake."""
        try:
            self.ssl.do_handshake()
        except SSL.WantReadError:
            self._flush(_RECORD)
        except SSL.Error as error:
            self._flush(_RECORD)
            self.broken(_reason(error))
        else:
            self._handshaking = False
            self.handshakeDone()
            self._flush(_RECORD)
            self._read()

    def _read(self) -> None:
        """Hand on what OpenSSL can make of what it was given."""
        if self._reading:
            return
        self._reading = True
        try:
            while not self._paused and not self._read_ended:
                octets = self.ssl.recv(_RECORD)
                if self._upper is None:
                    self.received(octets)
                else:
                    self._upper.dataReceived(octets)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._peer_finished()
        except SSL.Error as error:
            self._flush(_RECORD)
            self._upset(_reason(error))
        finally:
            self._reading = False
        if not self._write_ended:
            self._flush(_RECORD)  # the answer to a KeyUpdate

    def _upset(self, reason: str) -> None:
        if self._upper is None:
            self.broken(reason)
        else:
            self.transport.abortConnection()

    def _peer_finished(self) -> None:
        self._read_ended = True
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.readConnectionLost()
        else:
            self.loseConnection()

    def _flush(self, about: int) -> None:
        """Give TCP what OpenSSL has written: *about* so many octets."""
        try:
            while True:
                self.transport.write(self.ssl.bio_read(about))
        except SSL.WantReadError:
            pass

    # The upper protocol's transport.

    def write(self, data: bytes) -> None:
        """Send *data*; what is written after the end is dropped, as Twisted's transports do."""
        if data and not self._write_ended:
            self.ssl.sendall(data)
            self._flush(len(data) + (len(data) // _RECORD + 1) * _OVERHEAD)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send the octets in *data*, one after the other."""
        self.write(b"".join(data))

    def loseWriteConnection(self) -> None:
        """Say no more: `close_notify`, which leaves the other direction open (RFC 8446 §6.1)."""
        self._finish()
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.writeConnectionLost()

    def loseConnection(self) -> None:
        """Close both directions, once everything was sent."""
        self.disconnecting = True
        self._finish()
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        """Close the connection at once, with RST."""
        self.disconnecting = True
        self.transport.abortConnection()

    def _finish(self) -> None:
        if not self._write_ended:
            self._write_ended = True
            try:
                self.ssl.shutdown()
            except SSL.Error:
                return  # the handshake is not over, or TLS is broken: there is nothing to be said
            self._flush(_RECORD)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let the TCP transport's buffer pause *producer*."""
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """No more of `registerProducer`'s."""
        self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        """Hand nothing on until `resumeProducing`."""
        self._paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Hand on what has come, and read on."""
        self._paused = False
        self._read()
        if not self._paused:
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


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words, which hold neither secrets nor addresses."""
    if error.args and isinstance(error.args[0], list):
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "TLS failed"
    return str(error) or "TLS failed"
