"""tor's ends of the connections that a transport carries: at a client to its SOCKS port, at a bridge from a client.

The law of one link: tor's greeting is written at once. Then octets belong to the handshake until it is over, and
to `received` from then on. A fault in the handshake closes the link; nothing is received after that. Of a success
and a refusal one happens, once. `received` only grows, and `lost` is last.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from pluggable.testing.tor_extorport import TorExtendedORPort
from pluggable.testing.tor_socks import SOCKSAnswerFault, TorSOCKS


class SOCKSRefused(Exception):
    """The transport has not connected tor to the bridge. `reply` is the REP octet of SOCKS5 (RFC 1928 §6)."""

    def __init__(self, reply: int, reason: str) -> None:
        super().__init__(reason)
        self.reply = reply


class TorLink(Protocol):
    """One link. `received` has the octets that have come so far, `lost` is whether no more will come.

    tor closes a connection as a whole, and takes the end of its peer for the end of the connection.
    """

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost = False
        self._waiting: list[tuple[int, Deferred[bytes]]] = []

    def write(self, octets: bytes) -> None:
        """Send *octets* to the other end."""
        self.transport.write(octets)

    def close(self) -> None:
        """Close the link after what was written."""
        self.transport.loseConnection()

    def abort(self) -> None:
        """Cut the link."""
        self.transport.abortConnection()

    def receive(self, size: int) -> Deferred[bytes]:
        """`received`, once it has *size* octets, or as it is when the link is lost."""
        waiting: Deferred[bytes] = Deferred()
        self._waiting.append((size, waiting))
        self._tell()
        return waiting

    def dataReceived(self, data: bytes) -> None:
        """Called by the transport."""
        self.received += data
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Called by the transport."""
        self.lost = True
        self._tell()

    def _tell(self) -> None:
        ready = [each for each in self._waiting if self.lost or len(self.received) >= each[0]]
        self._waiting = [each for each in self._waiting if each not in ready]
        for _, waiting in ready:
            waiting.callback(self.received)


class LinkToBridge(TorLink):
    """tor's link at a client, opened by *socks*; `opened` fails with `SOCKSRefused`."""

    def __init__(self, socks: TorSOCKS) -> None:
        super().__init__()
        self._socks = socks
        self.opened: Deferred[LinkToBridge] = Deferred(lambda _: self.abort())

    def connectionMade(self) -> None:
        """Called by the transport."""
        self.write(self._socks.greeting())

    def dataReceived(self, data: bytes) -> None:
        """Called by the transport."""
        if self._socks.reply is not None:
            super().dataReceived(data)
            return
        try:
            self.write(self._socks.feed(data))
        except SOCKSAnswerFault as fault:
            self._refused(1, str(fault))
            return
        if self._socks.reply == 0:
            self.opened.callback(self)
            super().dataReceived(self._socks.rest)
        elif self._socks.reply is not None:
            self._refused(self._socks.reply, f"the transport answers with {self._socks.reply}")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Called by the transport."""
        super().connectionLost(reason)
        self._refused(1, "the transport closed the connection")

    def _refused(self, reply: int, reason: str) -> None:
        if not self.opened.called:
            self.opened.errback(SOCKSRefused(reply, reason))
            self.close()


class LinkToClient(TorLink):
    """tor's link at a bridge, from a client that a transport brings to the Extended ORPort."""

    def __init__(self, handshake: TorExtendedORPort) -> None:
        super().__init__()
        self._handshake = handshake
        self.accepted = False
        """Whether the handshake is over, and tor has taken the client."""

    @property
    def user_address(self) -> str | None:
        """The client's `ip:port`, as the transport told tor; None if it told none."""
        return self._handshake.user_address

    @property
    def transport_name(self) -> str | None:
        """The transport that has brought the client."""
        return self._handshake.transport

    def connectionMade(self) -> None:
        """Called by the transport."""
        self.write(self._handshake.greeting())

    def dataReceived(self, data: bytes) -> None:
        """Called by the transport."""
        if self.accepted:
            super().dataReceived(data)
            return
        self.write(self._handshake.feed(data))
        if self._handshake.closed:
            self.close()
        elif self._handshake.accepted:
            self.accepted = True
            super().dataReceived(self._handshake.rest)
