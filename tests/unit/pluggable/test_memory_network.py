"""`pluggable.testing.MemoryNetwork` beside Twisted's reactor on loopback: one suite for both."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorTCP, IReactorTime, ITCPTransport
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pluggable.testing import MemoryNetwork

reactor: Any = _reactor
HOST = "127.0.0.1"


class Whole(Protocol):
    """A protocol that remembers what happened to it."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.events: list[Any] = []

    def dataReceived(self, data: bytes) -> None:
        assert "lost" not in self.events
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.events += ["lost", type(reason.value)]


@implementer(IHalfCloseableProtocol)
class Halves(Whole):
    """One that is closed by halves."""

    def readConnectionLost(self) -> None:
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")


class Producer:
    """A streaming producer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class Contract:
    """What Twisted's TCP does."""

    assertEqual: Callable[..., Any]  # noqa: N815  unittest's names
    assertIn: Callable[..., Any]  # noqa: N815
    addCleanup: Callable[..., Any]  # noqa: N815
    network: Any

    async def turn(self) -> None:
        """Let what is on its way go on."""
        raise NotImplementedError

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await self.turn()

    async def pair(self, kind: type[Whole]) -> tuple[Any, Any]:
        """The two ends of a connection."""
        accepted: list[Whole] = []

        def build() -> Whole:
            accepted.append(kind())
            return accepted[-1]

        self.port = await TCP4ServerEndpoint(self.network, 0, interface=HOST).listen(Factory.forProtocol(build))
        self.addCleanup(lambda: maybeDeferred(self.port.stopListening))
        connecting = connectProtocol(TCP4ClientEndpoint(self.network, HOST, self.port.getHost().port), kind())
        await self.until(lambda: connecting.called and accepted)
        client = await connecting
        self.addCleanup(self.end, client, accepted[0])
        return client, accepted[0]

    async def _end(self, *ends: Whole) -> None:
        for end in ends:
            if "lost" not in end.events:
                end.transport.abortConnection()
        await self.until(lambda: all("lost" in end.events for end in ends))

    def end(self, *ends: Whole) -> Deferred[None]:
        """Leave nothing behind."""
        return Deferred.fromCoroutine(self._end(*ends))

    async def test_ends_know_each_others_addresses(self) -> None:
        """The port is the one that listens."""
        near, far = await self.pair(Whole)
        self.assertEqual(near.transport.getPeer(), far.transport.getHost())
        self.assertEqual(near.transport.getHost(), far.transport.getPeer())
        self.assertEqual(far.transport.getHost(), self.port.getHost())
        verifyObject(ITCPTransport, near.transport)

    async def test_octets_arrive_in_order_in_both_directions(self) -> None:
        """Many more than arrive at once."""
        near, far = await self.pair(Whole)
        for number in range(100):
            near.transport.write(bytes([number]) * 5_000)
            far.transport.writeSequence([b"x", bytes([number])])
        await self.until(lambda: len(far.received) == 500_000 and len(near.received) == 200)
        self.assertEqual(far.received, b"".join(bytes([number]) * 5_000 for number in range(100)))
        self.assertEqual(near.received[1::2], bytes(range(100)))

    async def test_a_closed_connection_ends_after_what_was_written(self) -> None:
        """Both ends are done."""
        near, far = await self.pair(Whole)
        near.transport.write(b"last ")
        near.transport.loseConnection()
        near.transport.write(b"words")
        await self.until(lambda: near.events and far.events)
        self.assertEqual((far.received, far.events), (b"last words", ["lost", ConnectionDone]))
        self.assertEqual(near.events, ["lost", ConnectionDone])

    async def test_an_aborted_connection_is_lost(self) -> None:
        """The end that aborts knows why."""
        near, far = await self.pair(Halves)
        near.transport.abortConnection()
        await self.until(lambda: near.events and far.events)
        self.assertEqual((near.events, far.events), (["lost", ConnectionAborted], ["lost", ConnectionLost]))

    async def test_a_half_that_is_closed_leaves_the_other_open(self) -> None:
        """The end of both halves is the protocol's to decide."""
        near, far = await self.pair(Halves)
        near.transport.write(b"quest")
        near.transport.loseWriteConnection()
        near.transport.write(b"ion")
        await self.until(lambda: near.events and far.events)
        near.transport.write(b"too late")
        await self.turn()
        self.assertEqual((near.events, far.events, far.received), (["write lost"], ["read lost"], b"question"))
        far.transport.write(b"answer")
        far.transport.loseConnection()
        await self.until(lambda: "read lost" in near.events and "lost" in far.events)
        self.assertEqual(near.received, b"answer")
        near.transport.loseConnection()
        await self.until(lambda: "lost" in near.events)
        self.assertEqual(near.events, ["write lost", "read lost", "lost", ConnectionDone])

    async def test_a_protocol_without_halves_is_lost_at_its_peers_end(self) -> None:
        """As it would be without the peer's half."""
        near, far = await self.pair(Whole)
        near.transport.loseWriteConnection()
        await self.until(lambda: near.events and far.events)
        self.assertEqual((near.events, far.events), (["lost", ConnectionDone], ["lost", ConnectionDone]))

    async def test_a_paused_end_receives_nothing_until_it_is_resumed(self) -> None:
        """Neither octets nor the end."""
        near, far = await self.pair(Whole)
        far.transport.pauseProducing()
        near.transport.write(b"hello")
        near.transport.loseConnection()
        await self.until(lambda: near.events)
        self.assertEqual((far.received, far.events), (b"", []))
        far.transport.resumeProducing()
        await self.until(lambda: far.events)
        self.assertEqual((far.received, far.events), (b"hello", ["lost", ConnectionDone]))

    async def test_a_producer_is_paused_while_the_peer_does_not_read(self) -> None:
        """It goes on when there is room, and stops when the connection is lost."""
        near, far = await self.pair(Whole)
        far.transport.pauseProducing()
        producer = Producer()
        near.transport.registerProducer(producer, True)
        near.transport.write(bytes(20_000_000))
        await self.until(lambda: producer.told)
        far.transport.resumeProducing()
        await self.until(lambda: len(far.received) == 20_000_000)
        await self.until(lambda: len(producer.told) > 1)
        far.transport.abortConnection()
        await self.until(lambda: near.events)
        self.assertEqual(producer.told, ["pause", "resume", "stop"])

    async def test_a_connection_is_not_closed_before_its_pull_producer_has_gone(self) -> None:
        """It is asked for all that it has."""
        near, far = await self.pair(Whole)

        class Pulled(Producer):
            def resumeProducing(self) -> None:
                self.told.append("resume")
                near.transport.write(b"x")
                if len(self.told) == 5:
                    near.transport.unregisterProducer()

        producer = Pulled()
        near.transport.registerProducer(producer, False)
        near.transport.loseConnection()
        await self.until(lambda: near.events and far.events)
        self.assertEqual((far.received, producer.told), (b"xxxxx", ["resume"] * 5))

    async def test_a_paused_producer_goes_on_before_the_end(self) -> None:
        """It may have more to write."""
        near, far = await self.pair(Whole)

        class Last(Producer):
            def resumeProducing(self) -> None:
                super().resumeProducing()
                near.transport.write(b"x")
                near.transport.unregisterProducer()

        producer = Last()
        near.transport.registerProducer(producer, True)
        far.transport.pauseProducing()
        near.transport.write(bytes(20_000_000))
        await self.until(lambda: producer.told)
        near.transport.loseConnection()
        far.transport.resumeProducing()
        await self.until(lambda: near.events and far.events)
        self.assertEqual((len(far.received), producer.told), (20_000_001, ["pause", "resume"]))

    async def test_a_port_without_a_listener_refuses(self) -> None:
        """Also one that has stopped."""
        await self.pair(Whole)
        port = self.port.getHost().port
        await maybeDeferred(self.port.stopListening)
        connecting = connectProtocol(TCP4ClientEndpoint(self.network, HOST, port), Whole())
        await self.until(lambda: connecting.called)
        self.assertEqual((await failure_of(connecting)).type, ConnectionRefusedError)

    async def test_an_address_that_is_in_use_cannot_be_listened_on(self) -> None:
        """The error names the reason as the kernel does."""
        await self.pair(Whole)
        endpoint = TCP4ServerEndpoint(self.network, self.port.getHost().port, interface=HOST)
        failure = await failure_of(endpoint.listen(Factory.forProtocol(Whole)))
        assert isinstance(failure.value, CannotListenError)
        self.assertEqual(failure.value.socketError.errno, errno.EADDRINUSE)

    async def test_an_attempt_can_be_cancelled(self) -> None:
        """Nothing is connected then."""
        await self.pair(Whole)
        connecting = connectProtocol(TCP4ClientEndpoint(self.network, HOST, self.port.getHost().port), Whole())
        connecting.cancel()
        self.assertEqual((await failure_of(connecting)).type, ConnectingCancelledError)

    async def test_a_client_factory_is_told_what_becomes_of_its_connection(self) -> None:
        """As its interface says."""
        near, _far = await self.pair(Whole)
        told: list[str] = []

        class Told(ClientFactory):
            noisy = False
            protocol = Whole

            def startedConnecting(self, connector: Any) -> None:
                told.append("started")

            def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
                told.append("failed")

            def clientConnectionLost(self, connector: Any, reason: Failure) -> None:
                told.append("lost")

        connector = self.network.connectTCP(HOST, self.port.getHost().port, Told())
        self.assertEqual(connector.getDestination(), near.transport.getPeer())
        for _ in range(5):
            await self.turn()
        connector.disconnect()
        await self.until(lambda: "lost" in told or "failed" in told)
        self.assertIn(told, (["started", "lost"], ["started", "failed"]))


async def failure_of(deferred: Deferred[Any]) -> Failure:
    """The failure of *deferred*."""
    try:
        await deferred
    except Exception as error:  # noqa: BLE001  the caller looks at it
        return Failure(error)
    raise AssertionError("no failure")


class MemoryTests(Contract, TestCase):
    """In memory."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()

    async def turn(self) -> None:
        self.network.advance(0)


class LoopbackTests(Contract, TestCase):
    """In Twisted's reactor."""

    network = reactor
    timeout = 60

    async def turn(self) -> None:
        await deferLater(reactor, 0.001)


class MemoryNetworkTests(SynchronousTestCase):
    """What only a network in memory has."""

    def test_it_is_a_reactor_for_tcp_and_time(self) -> None:
        """As far as endpoints need one."""
        for interface in (IReactorTCP, IReactorTime):
            verifyObject(interface, MemoryNetwork())

    def test_a_silent_address_ends_with_the_timeout(self) -> None:
        """Also if something listens there."""
        network = MemoryNetwork()
        network.silent.add(("192.0.2.1", 443))
        connecting = connectProtocol(TCP4ClientEndpoint(network, "192.0.2.1", 443, timeout=7), Whole())
        network.advance(6.9)
        self.assertNoResult(connecting)
        network.advance(0.1)
        self.assertTrue(issubclass(self.failureResultOf(connecting, TimeoutError).type, ConnectError))
