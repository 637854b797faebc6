"""`pluggable.socks_port`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

from twisted.internet import defer, error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pluggable.errors import NotAllowed
from pluggable.interfaces import IClientTransport, Request
from pluggable.relay import Half, Links
from pluggable.socks import SUCCEEDED
from pluggable.socks_port import DIAL_LIMIT, HANDSHAKE_LIMIT, SOCKSFactory, SOCKSLimits

GREETING = b"\x05\x02\x00\x02"
NAMED = b"\x01\x07a=1;b=2\x01\x00"
CONNECT = b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"


class Link(StringTransport):
    """A link that remembers whether it was cut."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


@implementer(IClientTransport, IStreamClientEndpoint)
class Awaiting:
    """A transport that connects when the test says so."""

    def __init__(self) -> None:
        self.cancelled = False
        self.refuses: Exception | None = None

    def start(self) -> Deferred[None]:
        return defer.succeed(None)

    def stop(self) -> None:
        """Nothing."""

    def endpoint(self, request: Request) -> IStreamClientEndpoint:
        if self.refuses is not None:
            raise self.refuses
        self.request = request
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        self.factory = protocolFactory
        self.connecting: Deferred[IProtocol] = Deferred(self._cancel)
        return self.connecting

    def _cancel(self, deferred: Deferred[Any]) -> None:
        self.cancelled = True
        deferred.errback(error.ConnectingCancelledError(None))

    def connected(self) -> tuple[IProtocol, Link]:
        """The bridge has been reached; its link, of which tor has not been told."""
        protocol, link = self.factory.buildProtocol(None), Link()  # type: ignore[arg-type]
        assert protocol is not None
        protocol.makeConnection(link)
        return protocol, link


class Single:
    """One place."""

    taken = 0

    def take(self) -> bool:
        free = not self.taken
        self.taken = 1
        return free

    def give_back(self) -> None:
        self.taken -= 1


class SOCKSFactoryTests(SynchronousTestCase):
    """`SOCKSFactory`: tor on one side, a transport on the other."""

    def setUp(self) -> None:
        self.clock, self.links, self.transport = Clock(), Links(), Awaiting()
        self.tor = Link()
        self.half: Half = SOCKSFactory(self.clock, "rot", self.transport, self.links).buildProtocol(None)
        self.half.makeConnection(self.tor)

    def ask(self) -> None:
        self.half.dataReceived(GREETING + NAMED + CONNECT)
        self.assertEqual(self.tor.value(), b"\x05\x02\x01\x00")
        self.tor.clear()

    def assert_refused(self, reply: bytes, events: Sequence[Any], tracebacks: int = 0) -> None:
        self.assertEqual(self.tor.value(), reply)
        self.assertTrue(self.tor.disconnecting)
        self.assertEqual(len([event for event in events if event["log_format"] == "{transport}: {reason}"]), 1)
        self.assertEqual(len(self.flushLoggedErrors()), tracebacks)
        self.half.connectionLost(Failure(error.ConnectionDone()))
        self.assertEqual((len(self.links), self.clock.getDelayedCalls()), (0, []))

    def test_success_is_said_when_the_bridge_is_reached(self) -> None:
        """Not before; and what the bridge has said already follows it."""
        self.ask()
        self.assertEqual(self.transport.request.arguments, (("a", "1"), ("b", "2")))
        protocol, bridge = self.transport.connected()
        protocol.dataReceived(b"early")
        self.assertEqual(self.tor.value(), b"")
        self.transport.connecting.callback(protocol)
        self.assertEqual(self.tor.value(), SUCCEEDED + b"early")
        self.half.dataReceived(b"hello")
        self.assertEqual(bridge.value(), b"hello")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_connection_that_is_over_leaves_nothing(self) -> None:
        """Without the garbage collector, which an idle process runs too rarely."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        self.assertEqual([each() for each in self.over()], [None] * 3)

    def over(self) -> list[weakref.ref[Any]]:
        """What stood between tor and the bridge, and is let go as Twisted's transports do."""
        self.ask()
        upstream, _bridge = self.transport.connected()
        self.transport.connecting.callback(upstream)
        left: list[weakref.ref[Any]] = [weakref.ref(each) for each in (self.half, self.half.opening, upstream)]
        for half in (self.half, upstream):
            half.connectionLost(Failure(error.ConnectionDone()))
        del self.half, self.transport.connecting, self.transport.factory
        self.tor.producer = None
        return left

    def test_a_failure_is_said_and_logged(self) -> None:
        """The reply of its cause, one line for the operator, the end."""
        with capturedLogs() as events:
            self.ask()
            self.transport.connecting.errback(error.ConnectionRefusedError())
            self.assert_refused(b"\x05\x05\x00\x01" + bytes(6), events)

    def test_arguments_that_will_not_do_are_said(self) -> None:
        """`endpoint` may raise."""
        self.transport.refuses = NotAllowed("revoked")
        with capturedLogs() as events:
            self.ask_in_vain()
            self.assert_refused(b"\x05\x02\x00\x01" + bytes(6), events)

    def ask_in_vain(self) -> None:
        self.half.dataReceived(GREETING + NAMED)
        self.tor.clear()
        self.half.dataReceived(CONNECT)

    def test_where_all_places_are_taken_a_request_is_refused(self) -> None:
        """By a general failure, which is not logged here; the next one is served when a place is given back."""
        places = Single()
        factory = SOCKSFactory(self.clock, "rot", self.transport, self.links, SOCKSLimits(places=places))

        def answer() -> tuple[Half, bytes]:
            half, tor = factory.buildProtocol(None), Link()
            half.makeConnection(tor)
            half.dataReceived(GREETING + NAMED + CONNECT)
            return half, tor.value()

        first, said = answer()
        self.assertEqual(said, b"\x05\x02\x01\x00")
        with capturedLogs() as events:
            second, said = answer()
        self.assertEqual((said, list(events)), (b"\x05\x02\x01\x00\x05\x01\x00\x01" + bytes(6), []))
        for half in (second, first):
            half.connectionLost(Failure(error.ConnectionDone()))
        self.assertEqual(places.taken, 0)
        self.assertEqual(answer()[1], b"\x05\x02\x01\x00")

    def test_a_mistake_in_a_transport_is_a_general_failure(self) -> None:
        """tor hears of it, and the log has the traceback."""
        self.transport.refuses = ZeroDivisionError()
        with capturedLogs() as events:
            self.ask_in_vain()
            self.assert_refused(b"\x05\x01\x00\x01" + bytes(6), events, tracebacks=1)

    def test_a_bridge_that_is_silent_is_given_up(self) -> None:
        """tor itself would wait for minutes."""
        with capturedLogs() as events:
            self.ask()
            self.clock.advance(DIAL_LIMIT)
            self.assertTrue(self.transport.cancelled)
            self.assert_refused(b"\x05\x06\x00\x01" + bytes(6), events)

    def test_a_transport_has_the_limit_that_its_author_names(self) -> None:
        """It is told when that is over; other requests' limits are their own."""
        for start, limit in ((0.0, 7.0), (3.0, 135.0)):
            self.tor, self.transport, self.links = Link(), Awaiting(), Links()
            factory = SOCKSFactory(self.clock, "rot", self.transport, self.links, SOCKSLimits(dial_limit=limit))
            self.half = factory.buildProtocol(None)
            self.half.makeConnection(self.tor)
            self.clock.advance(start)
            self.ask()
            self.assertEqual(self.transport.request.deadline, self.clock.seconds() + limit)
            self.clock.advance(limit - 0.1)
            self.assertFalse(self.transport.cancelled)
            with capturedLogs() as events:
                self.clock.advance(0.1)
                self.assertTrue(self.transport.cancelled)
                self.assert_refused(b"\x05\x06\x00\x01" + bytes(6), events)
            self.assertIn(f"within {limit:.0f} s", str(events[-1]["reason"]))

    def test_a_tor_that_is_silent_is_given_up(self) -> None:
        """It asks within seconds or never."""
        with capturedLogs() as events:
            self.clock.advance(HANDSHAKE_LIMIT)
            self.assert_refused(b"\x05\xff", events)

    def test_tor_may_not_speak_before_it_is_answered(self) -> None:
        """Whether its octets come with the request or after it."""
        with capturedLogs() as events:
            self.ask()
            protocol, bridge = self.transport.connected()
            self.half.dataReceived(b"hello")
            self.assertTrue(self.transport.cancelled and bridge.aborted)
            protocol.connectionLost(Failure(error.ConnectionAborted()))
            self.half.dataReceived(b"hello again")
            self.assert_refused(b"\x05\x01\x00\x01" + bytes(6), events)

    def test_a_bridge_that_hangs_up_at_once_is_no_success(self) -> None:
        """Success and then the end would tell tor's user nothing."""
        with capturedLogs() as events:
            self.ask()
            protocol, _bridge = self.transport.connected()
            protocol.connectionLost(Failure(error.ConnectionDone()))
            self.transport.connecting.callback(protocol)
            self.assert_refused(b"\x05\x05\x00\x01" + bytes(6), events)

    def test_a_tor_that_leaves_ends_the_dialling(self) -> None:
        """Nothing is sent for nobody."""
        self.ask()
        self.half.readConnectionLost()
        self.assertTrue(self.tor.disconnecting)
        self.half.connectionLost(Failure(error.ConnectionDone()))
        self.assertTrue(self.transport.cancelled)
        self.assertEqual((len(self.links), self.clock.getDelayedCalls()), (0, []))
