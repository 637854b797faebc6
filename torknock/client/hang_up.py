"""Notices a bridge that ends a connection without having sent an octet: it lets clients in, and refuses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IHalfCloseableProtocol)
class HangUpWatch(Protocol):
    """The protocol *upper*, of which *hung_up* is called if the peer ends the connection and has sent nothing.

    If this end closes it first, the peer has done nothing wrong.
    """

    transport: Any

    def __init__(self, upper: IProtocol, hung_up: Callable[[], object]) -> None:
        self._upper: Any = upper
        self._hung_up: Callable[[], object] | None = hung_up

    def connectionMade(self) -> None:
        """Connect *upper* to the same transport."""
        self._upper.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """The peer has sent octets: it does not refuse this client."""
        self._hung_up = None
        self._upper.dataReceived(data)

    def readConnectionLost(self) -> None:
        """The peer has closed its direction."""
        self._report()
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """All that this end sent has arrived, and its direction is closed."""
        self._hung_up = None
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over; this end closed it in order, or aborted it, if *reason* says so."""
        if not reason.check(ConnectionDone, ConnectionAborted):
            self._report()
        self._upper.connectionLost(reason)

    def _report(self) -> None:
        hung_up, self._hung_up = self._hung_up, None
        if hung_up is not None:
            hung_up()
