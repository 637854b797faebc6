"""Tests of torknock.client.deferred_dial: what is said before there is a connection, and what becomes of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pluggable.relay import Half, join
from tests.support.strategies import pieces
from torknock.client.deferred_dial import DialOnFirstBytes

ADDRESS = IPv4Address("TCP", "192.0.2.7", 443)
SAID = b"what tor says first, and then some more"
SIZE = 20


class Tor(StringTransport):
    """Tor's connection."""

    aborted = half_closed = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True


class Wire(Tor):
    """The bridge's connection, whose writes are kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.options: dict[str, bool] = {}

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.options["no delay"] = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.options["keep alive"] = enabled


@implementer(IStreamClientEndpoint)
class Bridge:
    """An endpoint that connects when the test says."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.cancelled = False
        self.wire = Wire()

    def dialled(self, payload: bytes) -> Bridge:
        self.payloads.append(payload)
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        self.factory = protocolFactory
        self.result: Deferred[IProtocol] = Deferred(self._cancel)
        return self.result

    def _cancel(self, result: Deferred[IProtocol]) -> None:
        self.cancelled = True

    def answers(self) -> IProtocol:
        """The connection stands."""
        lower = self.factory.buildProtocol(ADDRESS)
        assert lower is not None
        lower.makeConnection(self.wire)
        self.result.callback(lower)
        return lower


class FirstOctetsTests(SynchronousTestCase):
    """`DialOnFirstBytes`, with tor's link joined to it as `pluggable` joins links."""

    def setUp(self) -> None:
        self.bridge = Bridge()
        upper = Half()
        factory: Factory[Half] = Factory.forProtocol(lambda: upper)
        endpoint = DialOnFirstBytes(SIZE, ADDRESS, self.bridge.dialled)
        self.assertIs(self.successResultOf(endpoint.connect(factory)), upper)
        self.upper = upper
        self.tor, self.wire = Half(), Tor()
        self.tor.makeConnection(self.wire)
        join(self.tor, upper)

    def lost(self, half: Any) -> None:
        half.connectionLost(Failure(ConnectionDone()))

    def test_it_provides_the_interfaces_of_a_transport(self) -> None:
        """It is a transport as others are."""
        for interface in (ITransport, IConsumer, IPushProducer, IHalfCloseableProtocol):
            verifyObject(interface, self.upper.transport)
        link = self.upper.transport
        self.assertEqual((link.getPeer(), link.getHost()), (ADDRESS, ADDRESS))
        self.tor.dataReceived(SAID)
        self.bridge.answers()
        self.assertEqual((link.getPeer(), link.getHost()), (ADDRESS, self.bridge.wire.getHost()))

    @given(pieces(SAID))
    def test_the_cut_does_not_matter(self, cut: list[bytes]) -> None:
        """The ISN covers the first octets, and one write carries all that was said."""
        self.setUp()
        for piece in cut:
            self.tor.dataReceived(piece)
        self.assertEqual(self.bridge.payloads, [SAID[:SIZE]])
        self.bridge.answers()
        self.assertEqual(self.bridge.wire.writes, [SAID])

    @given(st.binary(max_size=SIZE - 1))
    def test_nothing_is_dialled_before_the_last_octet_is_there(self, said: bytes) -> None:
        """One octet less is not enough."""
        self.setUp()
        self.tor.dataReceived(said)
        self.assertEqual(self.bridge.payloads, [])

    def test_octets_pass_in_both_directions_after_the_dial(self) -> None:
        """A link like any other."""
        self.tor.dataReceived(SAID)
        lower = self.bridge.answers()
        lower.dataReceived(b"welcome")
        self.assertEqual(self.wire.value(), b"welcome")
        self.tor.dataReceived(b"thanks")
        self.assertEqual(self.bridge.wire.writes, [SAID, b"thanks"])
        self.assertIs(self.bridge.wire.producer, self.wire)
        self.lost(lower)
        self.assertTrue(self.wire.disconnecting)

    def test_tor_is_paused_while_the_bridge_is_dialled(self) -> None:
        """So that no more is held than tor said at once."""
        self.tor.dataReceived(SAID)
        self.assertEqual(self.wire.producerState, "paused")
        self.bridge.answers()
        self.assertEqual(self.wire.producerState, "producing")

    def test_octets_from_before_the_relay_pause_tor_too(self) -> None:
        """What tor said before the links were joined is paused for, too."""
        bridge, upper, tor, wire = Bridge(), Half(), Half(), Tor()
        factory: Factory[Half] = Factory.forProtocol(lambda: upper)
        self.successResultOf(DialOnFirstBytes(SIZE, ADDRESS, bridge.dialled).connect(factory))
        tor.makeConnection(wire)
        tor.dataReceived(SAID)
        join(tor, upper)
        self.assertEqual((bridge.payloads, wire.producerState), ([SAID[:SIZE]], "paused"))
        bridge.answers()
        self.assertEqual((bridge.wire.writes, wire.producerState), ([SAID], "producing"))

    def test_a_bridge_that_is_not_reached_closes_the_connection(self) -> None:
        """Tor was told that there is a bridge: all that is left is to close; the log says why."""
        self.tor.dataReceived(SAID)
        with capturedLogs() as logs:
            self.bridge.result.errback(ConnectionRefusedError())
        self.assertIn("refused", str(logs[0]["reason"]))
        self.assertTrue(self.wire.disconnecting)

    def test_a_tor_that_hangs_up_ends_the_dial(self) -> None:
        """Before it has said enough, and while the bridge is dialled."""
        self.tor.dataReceived(SAID[:5])
        self.lost(self.tor)
        self.assertTrue(self.upper.lost)
        self.assertEqual(self.bridge.payloads, [])
        self.setUp()
        self.tor.dataReceived(SAID)
        self.lost(self.tor)
        self.assertTrue(self.bridge.cancelled)
        self.bridge.factory.buildProtocol(ADDRESS).makeConnection(self.bridge.wire)  # type: ignore[union-attr]
        self.assertTrue(self.bridge.wire.aborted)

    def test_a_half_closed_tor_is_passed_on_or_ends_the_dial(self) -> None:
        """Half-closed: with all said it is passed on, with too little it is the end."""
        self.tor.dataReceived(SAID)
        self.tor.readConnectionLost()
        self.bridge.answers()
        self.assertEqual((self.bridge.wire.writes, self.bridge.wire.half_closed), ([SAID], True))
        self.setUp()
        self.tor.dataReceived(SAID[:5])
        self.tor.readConnectionLost()
        self.assertTrue(self.upper.lost)
        self.assertTrue(self.wire.disconnecting)

    def test_what_is_written_after_the_end_is_dropped(self) -> None:
        """It dials no bridge, and is not sent behind what was said before."""
        self.upper.transport.loseConnection()
        self.upper.transport.write(SAID)
        self.assertEqual(self.bridge.payloads, [])
        self.setUp()
        self.tor.dataReceived(SAID)
        self.upper.transport.loseWriteConnection()
        self.upper.transport.write(b"more")
        self.bridge.answers()
        self.assertEqual(self.bridge.wire.writes, [SAID])

    def test_a_bridge_is_paused_while_tor_does_not_read(self) -> None:
        """And goes on once tor does: no more is held than was read at once."""
        self.tor.dataReceived(SAID)
        self.bridge.answers()
        link: Any = self.wire.producer
        link.pauseProducing()
        self.assertEqual(self.bridge.wire.producerState, "paused")
        link.resumeProducing()
        self.assertEqual(self.bridge.wire.producerState, "producing")

    def test_small_writes_leave_at_once_and_a_dead_bridge_is_noticed(self) -> None:
        """As on every connection of ours: TCP_NODELAY, SO_KEEPALIVE."""
        self.tor.dataReceived(SAID)
        self.bridge.answers()
        self.assertEqual(self.bridge.wire.options, {"no delay": True, "keep alive": True})

    def test_who_left_while_the_bridge_was_dialled_is_not_asked_for_more(self) -> None:
        """What they have said is sent all the same."""
        self.tor.dataReceived(SAID)
        self.upper.transport.unregisterProducer()
        self.bridge.answers()
        self.assertEqual((self.bridge.wire.writes, self.bridge.wire.producer), ([SAID], None))
        self.assertEqual(self.wire.producerState, "paused")

    def test_the_bridge_says_no_more(self) -> None:
        """Half-closed the other way: tor may go on."""
        self.tor.dataReceived(SAID)
        lower: Any = self.bridge.answers()
        lower.readConnectionLost()
        self.assertTrue(self.wire.half_closed)
        self.tor.dataReceived(b"still here")
        self.assertEqual(self.bridge.wire.writes[-1], b"still here")
        lower.writeConnectionLost()

    def test_it_can_be_aborted_at_any_time(self) -> None:
        """At any time."""
        self.upper.abort()
        self.assertTrue(self.upper.lost)
        self.setUp()
        self.tor.dataReceived(SAID)
        self.bridge.answers()
        self.upper.abort()
        self.assertTrue(self.bridge.wire.aborted)
