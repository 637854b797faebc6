"""`pluggable.lifetime`."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pluggable.lifetime import STOP_LIMIT, Lifetime
from pluggable.relay import Half


@implementer(IListeningPort)
class Port:
    """A port that counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def startListening(self) -> None:
        """It does."""

    def stopListening(self) -> Deferred[None]:
        self.closed += 1
        return succeed(None)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 443)


class CutLink(StringTransport):
    """A link that ends at once when it is cut."""

    def __init__(self, lifetime: Lifetime) -> None:
        super().__init__()
        self.half = Half()
        self.half.makeConnection(self)
        self._lifetime = lifetime
        lifetime.links.add(self.half)
        self.cut = False

    def abortConnection(self) -> None:
        self.cut = True
        self.end()

    def end(self) -> None:
        self.half.connectionLost()
        self._lifetime.links.discard(self.half)


class LifetimeTests(SynchronousTestCase):
    """`Lifetime`."""

    def setUp(self) -> None:
        self.clock, self.port, self.stops = Clock(), Port(), 0
        self.lifetime = Lifetime(self.clock)
        self.start: Deferred[None] = succeed(None)
        self.lifetime.add_port(self.port)
        self.lifetime.add_stop(self.count_stop)

    def count_stop(self) -> None:
        self.stops += 1

    async def started(self) -> None:
        await self.start

    def running(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.lifetime.run(self.started()))

    def test_a_transport_that_does_not_stop_is_waited_for_within_the_limit(self) -> None:
        """arti kills it after five seconds."""
        self.lifetime.add_stop(lambda: Deferred())
        running = self.running()
        self.lifetime.terminate()
        self.assertNoResult(running)
        self.clock.advance(STOP_LIMIT)
        self.successResultOf(running)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_a_stop_that_fails_keeps_no_other_from_being_called(self) -> None:
        """The failure is logged."""

        def fails() -> None:
            raise ZeroDivisionError

        self.lifetime.add_stop(fails)
        self.lifetime.add_stop(self.count_stop)
        running = self.running()
        self.lifetime.terminate()
        self.successResultOf(running)
        self.assertEqual((self.stops, len(self.flushLoggedErrors(ZeroDivisionError))), (2, 1))

    def test_a_drain_keeps_the_links_and_ends_with_the_last_one(self) -> None:
        """The port is closed at once."""
        links = CutLink(self.lifetime), CutLink(self.lifetime)
        running = self.running()
        self.lifetime.drain()
        self.assertEqual((self.port.closed, self.stops), (1, 0))
        for link in links:
            self.assertNoResult(running)
            link.end()
        self.successResultOf(running)
        self.assertEqual([link.cut for link in links], [False, False])

    def test_a_second_drain_and_a_termination_cut_the_links(self) -> None:
        """Neither waits for a peer."""
        for ends in ((Lifetime.drain, Lifetime.drain), (Lifetime.drain, Lifetime.terminate), (Lifetime.terminate,)):
            self.setUp()
            link, running = CutLink(self.lifetime), self.running()
            for end in ends:
                end(self.lifetime)
            self.successResultOf(running)
            self.assertTrue(link.cut)

    def test_a_start_that_is_not_over_is_cancelled_at_the_end(self) -> None:
        """tor may end a transport at any time; that is logged as no fault."""
        for end in (Lifetime.drain, Lifetime.terminate):
            self.setUp()
            cancelled: list[Any] = []
            self.start = Deferred(cancelled.append)
            running = self.running()
            end(self.lifetime)
            self.successResultOf(running)
            self.assertEqual((len(cancelled), self.lifetime.is_ending), (1, True))

    def test_a_start_that_fails_leaves_the_process_running(self) -> None:
        """tor would start it again every second."""

        async def fails() -> None:
            raise ZeroDivisionError

        running = Deferred.fromCoroutine(self.lifetime.run(fails()))
        self.assertNoResult(running)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertFalse(self.lifetime.is_ending)
        self.lifetime.terminate()
        self.successResultOf(running)

    @given(st.lists(st.sampled_from([Lifetime.drain, Lifetime.terminate]), min_size=1), st.booleans())
    def test_ports_and_transports_are_stopped_once_in_any_order_of_ends(self, ends: list[Any], before: bool) -> None:
        """Also if the end comes before the start."""
        self.setUp()
        if before:
            ends[0](self.lifetime)
        running = self.running()
        for end in ends:
            end(self.lifetime)
        self.successResultOf(running)
        self.assertEqual((self.port.closed, self.stops, self.clock.getDelayedCalls()), (1, 1, []))
