"""Tests of torknock.channel.integrity: octets as they come, and the time as a clock says it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from torknock.channel.integrity import ANNOUNCED_WITHIN, Integrity
from torknock.protocol.knock import integrity_code

SECRET = b"a secret"
PAYLOAD = b"first octets"


class Upper(Protocol):
    """Remembers what it received."""

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Wire(StringTransport):
    """A TCP connection that gives what it receives to the protocol it has then."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.uppers: list[Upper] = []
        isn = 0xABCD0000 | integrity_code(SECRET, PAYLOAD)
        self.lower = Integrity(self.clock, [b"another", SECRET], len(PAYLOAD), isn)
        self.lower.announced.addCallback(self.announced)
        self.protocol: Protocol = self.lower
        self.lower.makeConnection(self)

    def announced(self, octets: bytes | None) -> None:
        """As the connection of a bridge does."""
        if octets is not None:
            self.protocol = Upper()
            self.uppers.append(self.protocol)
            self.protocol.dataReceived(octets)


class IntegrityTests(SynchronousTestCase):
    """What is passed on, and what is reset."""

    @given(st.binary(max_size=20), st.lists(st.integers(0, 40), max_size=5))
    def test_the_cut_does_not_matter(self, more: bytes, cuts: list[int]) -> None:
        """All that was said comes up, in order, once it is what was announced."""
        wire, octets = Wire(), PAYLOAD + more
        places = sorted({0, *(cut for cut in cuts if cut < len(octets)), len(octets)})
        for start, end in itertools.pairwise(places):
            self.assertEqual(bool(wire.uppers), start >= len(PAYLOAD))
            wire.protocol.dataReceived(octets[start:end])
        self.assertEqual([upper.received for upper in wire.uppers], [octets])
        self.assertEqual(wire.clock.getDelayedCalls(), [])
        self.assertFalse(wire.disconnected)

    def assert_reset(self, wire: Wire) -> None:
        self.assertTrue(wire.disconnected)
        self.assertEqual(wire.uppers, [])
        self.assertEqual(wire.value(), b"")
        self.assertEqual(wire.clock.getDelayedCalls(), [])

    def test_anything_else_is_reset(self) -> None:
        """And what follows it is not looked at, even if it were right."""
        wire = Wire()
        wire.protocol.dataReceived(PAYLOAD[:-1] + b"?")
        self.assert_reset(wire)
        wire.protocol.dataReceived(PAYLOAD)
        self.assert_reset(wire)

    def test_too_late_is_reset(self) -> None:
        """However little is missing."""
        wire = Wire()
        wire.protocol.dataReceived(PAYLOAD[:-1])
        wire.clock.advance(ANNOUNCED_WITHIN)
        self.assert_reset(wire)

    def test_an_early_end_is_reset(self) -> None:
        """The half-close of a client that has said too little is not answered in kind."""
        wire = Wire()
        wire.protocol.dataReceived(PAYLOAD[:-1])
        IHalfCloseableProtocol(wire.protocol).readConnectionLost()
        self.assert_reset(wire)

    def test_a_connection_that_is_lost_leaves_no_timer(self) -> None:
        """Nothing remains of it."""
        wire = Wire()
        wire.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(wire.clock.getDelayedCalls(), [])
