"""A TCP connection in memory: deterministic, tapped, and cut into pieces of any size."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.channel.interfaces import NotProved

SERVER = IPv4Address("TCP", "192.0.2.7", 443)
CLIENT = IPv4Address("TCP", "198.51.100.3", 40000)


@implementer(ITransport)
class End:
    """One end of a connection: the transport of a protocol, with the buffer and the back-pressure of Twisted's."""

    bufferSize = 65536  # noqa: N815  Twisted's name

    def __init__(self, protocol: IProtocol, own: IPv4Address, peer: IPv4Address) -> None:
        self.protocol = protocol
        self.said: list[bytes] = []
        """Every write so far."""
        self.waiting = b""
        """What was written and did not leave yet."""
        self.connected = True
        self.disconnecting = False
        self.aborted = False
        self.paused = False
        self.most_waiting = 0
        self._own, self._peer = own, peer
        self._producer: Any = None
        self._producer_paused = False

    def write(self, data: bytes) -> None:
        if not self.connected or self.aborted:
            return
        self.said.append(bytes(data))
        self.waiting += data
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        if self._producer is not None and len(self.waiting) > self.bufferSize and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def left(self) -> None:
        """The buffer is empty."""
        if self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.disconnecting = self.aborted = True
        self.waiting = b""

    def lose(self, why: Exception) -> None:
        """The protocol is told that the connection is over, once."""
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(why))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("there is a producer")
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.loseConnection()

    def getHost(self) -> IPv4Address:
        return self._own

    def getPeer(self) -> IPv4Address:
        return self._peer

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.keep_alive = enabled


def accepted(made: tuple[IProtocol, Deferred[int]]) -> IProtocol:
    """The lower protocol that a channel has *made* for a connection of which it does not matter what is proved."""
    lower, proved = made
    proved.addErrback(lambda failure: failure.trap(NotProved))
    return lower


class Wire:
    """A connection between the protocols *client* and *server*."""

    def __init__(self, client: IProtocol, server: IProtocol, cut: int = 1 << 18) -> None:
        self.cut = cut
        """Octets that arrive at once, at most."""
        self.client = End(client, CLIENT, SERVER)
        self.server = End(server, SERVER, CLIENT)
        server.makeConnection(self.server)
        client.makeConnection(self.client)

    def run(self) -> None:
        """Move what there is to move, until nothing moves."""
        while any([self._step(self.client, self.server), self._step(self.server, self.client)]):
            pass

    def _step(self, sender: End, receiver: End) -> bool:
        if sender.aborted and sender.connected:
            sender.lose(ConnectionAborted())
            receiver.lose(ConnectionLost())
            return True
        if sender.waiting and not receiver.connected:
            sender.waiting = b""
            sender.lose(ConnectionLost())
            return True
        if sender.waiting and not receiver.paused:
            piece, sender.waiting = sender.waiting[: self.cut], sender.waiting[self.cut :]
            if not receiver.disconnecting:
                receiver.protocol.dataReceived(piece)
            if not sender.waiting:
                sender.left()
            return True
        if sender.disconnecting and not sender.waiting and sender.connected:
            sender.lose(ConnectionDone())
            self.end_of_stream(receiver)
            return True
        return False

    def end_of_stream(self, receiver: End) -> None:
        """FIN arrives at *receiver*."""
        if receiver.connected and not receiver.disconnecting:
            if IHalfCloseableProtocol.providedBy(receiver.protocol):
                receiver.protocol.readConnectionLost()
            else:
                receiver.lose(ConnectionDone())
