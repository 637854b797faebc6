"""Tests of torknock.client.hang_up: when a bridge has hung up."""

from __future__ import annotations

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from torknock.client.hang_up import HangUpWatch

DONE, LOST, ABORTED = (Failure(error()) for error in (ConnectionDone, ConnectionLost, ConnectionAborted))


class Upper(Protocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def dataReceived(self, data: bytes) -> None:
        self.told.append(data)

    def connectionLost(self, reason: Failure = DONE) -> None:
        self.told.append(reason)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Upper):
    """The same, of both directions."""

    def readConnectionLost(self) -> None:
        self.told.append("read")

    def writeConnectionLost(self) -> None:
        self.told.append("write")


class HeardTests(SynchronousTestCase):
    """`HangUpWatch`."""

    def opened(self, upper: Upper) -> HangUpWatch:
        self.hung_up = 0

        def hung_up() -> None:
            self.hung_up += 1

        heard = HangUpWatch(upper, hung_up)
        self.transport = StringTransport()
        heard.makeConnection(self.transport)
        self.assertIs(upper.transport, self.transport)
        return heard

    def test_a_peer_that_ends_it_at_once(self) -> None:
        """In order, or not."""
        heard = self.opened(HalfCloseable())
        heard.readConnectionLost()
        self.assertEqual(self.hung_up, 1)
        heard.connectionLost(DONE)
        self.assertEqual(self.hung_up, 1)
        self.opened(HalfCloseable()).connectionLost(LOST)
        self.assertEqual(self.hung_up, 1)

    def test_a_peer_that_has_spoken(self) -> None:
        """One octet is enough."""
        heard = self.opened(HalfCloseable())
        heard.dataReceived(b"x")
        heard.readConnectionLost()
        heard.connectionLost(LOST)
        self.assertEqual(self.hung_up, 0)

    def test_a_connection_that_this_end_closes_is_no_hang_up(self) -> None:
        """Then the peer is not to blame."""
        for reason in (DONE, ABORTED):
            self.opened(HalfCloseable()).connectionLost(reason)
            self.assertEqual(self.hung_up, 0)
        heard = self.opened(HalfCloseable())
        heard.writeConnectionLost()
        heard.readConnectionLost()
        self.assertEqual(self.hung_up, 0)

    def test_all_octets_are_handed_on(self) -> None:
        """To a protocol that may be half-closed, and to one that may not."""
        upper = HalfCloseable()
        heard = self.opened(upper)
        heard.dataReceived(b"x")
        heard.writeConnectionLost()
        heard.readConnectionLost()
        heard.connectionLost(DONE)
        self.assertEqual(upper.told, [b"x", "write", "read", DONE])
        plain = Upper()
        heard = self.opened(plain)
        heard.readConnectionLost()
        self.assertTrue(self.transport.disconnecting)
        heard.connectionLost(DONE)
        self.assertEqual(plain.told, [DONE])
