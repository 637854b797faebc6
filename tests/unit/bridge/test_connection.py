"""Tests of torknock.bridge.connection and torknock.bridge.accept: connections over loopback, SYNs that Linux saved."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pluggable.arrivals import ORPortFactory
from pluggable.environment import ServerEnvironment
from pluggable.relay import Links, Single
from tests.support.recording import Client
from tests.unit.channel import peer
from torknock.bridge.accept import Listener
from torknock.bridge.connection import Parts, accept_all
from torknock.bridge.counts import Counts
from torknock.bridge.upstream import Upstream
from torknock.channel import tls_server
from torknock.channel.tls_server import ServerTLS
from torknock.kernel.descriptor_limit import Places
from torknock.kernel.socket_options import TCP_SAVE_SYN
from torknock.keyring.issued import Issued
from torknock.protocol.bridge_line import Channel, Line, Scheme
from torknock.protocol.syn import SYN

reactor: Any = _reactor
HOST = "127.0.0.1"
GREETING = b"this is tor"


def issued(channel: Channel = Channel.RAW, scheme: Scheme = Scheme.TOKEN, integrity: int = 0) -> Issued:
    """A line called alice."""
    line = Line(b"s" * 32, peer.PIN, channel=channel, scheme=scheme, integrity=integrity)
    return Issued("alice", line, 0, None, None)


class Keeper:
    """Opens for *lines*, once *spent* has fired."""

    def __init__(self) -> None:
        self.lines: tuple[Issued, ...] = (issued(),)
        self.spent: Deferred[None] | None = None
        self.syns: list[SYN] = []

    async def lines_for(self, syn: SYN) -> tuple[Issued, ...]:
        self.syns.append(syn)
        if self.spent is not None:
            await self.spent
        return self.lines


class Tor(Protocol):
    """Greets, and keeps what it receives."""

    factory: TorFactory

    def connectionMade(self) -> None:
        self.factory.clients.append(self)
        self.received = b""
        assert self.transport is not None
        self.transport.write(GREETING)

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class TorFactory(Factory[Any]):
    """An ORPort."""

    noisy = False

    def __init__(self) -> None:
        self.clients: list[Tor] = []

    def buildProtocol(self, addr: object) -> Tor:
        made = Tor()
        made.factory = self
        return made


class ConnectionTests(TestCase):
    """What becomes of a connection, step by step."""

    timeout = 60

    def setUp(self) -> None:
        # trial has loaded OpenSSL before a test can say how.
        self.patch(tls_server, "sends_tickets", lambda context: False)
        self.tor = TorFactory()
        self.orport = reactor.listenTCP(0, self.tor, interface=HOST)
        orport = (HOST, self.orport.getHost().port)
        environment = ServerEnvironment(Path("/"), True, ("rot",), None, None, or_port=orport)
        self.links = Links()
        factory = ORPortFactory(reactor, environment, "rot", self.links)
        self.upstream = Upstream(reactor, factory.probe)
        self.addCleanup(self.upstream.stop)
        self.keeper: Any = Keeper()
        self.counts = Counts(reactor)
        channel = ServerTLS(reactor, peer.PRIVATE_KEY, random.SystemRandom())
        self.places = Places(1, "")
        listening = socket.create_server((HOST, 0))
        listening.setblocking(False)
        listening.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        self.port = listening.getsockname()[1]
        self.listener = Listener(reactor, self.port)
        self.heard: list[SYN] = []
        self.listener.adopt([listening], self.heard.append)
        self.revoked: set[str] = set()
        parts = Parts(
            reactor, self.places, self.keeper, self.counts, channel, factory, self.upstream,
            revoked=lambda each: each.name in self.revoked,
        )  # fmt: skip
        self.accepting = Deferred.fromCoroutine(accept_all(self.listener, parts))
        self.made: list[Client] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end()))

    async def end(self) -> None:
        """Leave nothing behind."""
        await self.listener.close()
        await self.accepting
        for each in self.made:
            each.transport.abortConnection()
        await self.until(lambda: all(each.lost is not None for each in self.made) and self.free())
        await maybeDeferred(self.orport.stopListening)

    def free(self) -> bool:
        """Whether the place is free."""
        if self.places.take():
            self.places.give_back()
            return True
        return False

    async def until(self, holds: Any) -> None:
        """Return once *holds* is true."""
        while not holds():
            await deferLater(reactor, 0.01)

    async def client(self) -> Client:
        """One that has connected; it may have been reset by then."""
        made = Client()
        try:
            await TCP4ClientEndpoint(reactor, HOST, self.port).connect(Single(made))
        except ConnectError:
            made.lost = Failure()
        else:
            self.made.append(made)
        return made

    async def assert_reset(self, client: Client) -> None:
        """It received nothing, and tor heard nothing of it."""
        await self.until(lambda: client.lost is not None)
        self.assertEqual((client.received, self.tor.clients), (b"", []))

    def counted(self) -> tuple[int, int, int]:
        """SYNs, connections with a proof and without."""
        totals = self.counts.totals
        return totals.get("let_in", 0), totals.get("opened", 0), totals.get("given_nothing", 0)

    async def test_a_connection_is_relayed_and_counted_until_its_end(self) -> None:
        """Both directions; it is cut as its line is."""
        client = await self.client()
        client.transport.write(b"hello")
        await self.until(lambda: client.received == GREETING and self.tor.clients[0].received == b"hello")
        self.assertEqual(self.counted(), (1, 1, 0))
        self.assertEqual((len(self.links), self.free()), (1, False))
        [line] = self.counts.in_use
        self.assertEqual((line.name, line.connections), ("alice", 1))
        self.assertEqual(self.heard, self.keeper.syns)
        self.assertEqual(self.counts.cut("alice"), 1)
        await self.until(lambda: self.counts.in_use == () and self.free())
        self.assertEqual(len(self.links), 0)

    async def test_nothing_is_read_before_the_syn_is_spent(self) -> None:
        """While the disk does not answer the client waits."""
        self.keeper.spent = Deferred()
        client = await self.client()
        client.transport.write(b"hello")
        await self.until(lambda: self.keeper.syns)
        self.assertEqual((self.counted(), self.tor.clients), ((0, 0, 0), []))
        self.keeper.spent.callback(None)
        await self.until(lambda: client.received == GREETING)

    async def test_a_syn_that_opens_nothing_is_reset(self) -> None:
        """As one that was spent before."""
        self.keeper.lines = ()
        await self.assert_reset(await self.client())
        self.assertEqual(self.counted(), (0, 0, 0))

    async def test_a_connection_without_a_place_is_reset_and_its_syn_spent(self) -> None:
        """The next one has the place of the first, once that has ended."""
        first = await self.client()
        await self.until(lambda: first.received)
        second = await self.client()
        await self.until(lambda: second.lost is not None)
        self.assertEqual((second.received, len(self.keeper.syns), self.counted()), (b"", 2, (2, 1, 0)))
        first.transport.abortConnection()
        await self.until(self.free)
        third = await self.client()
        await self.until(lambda: third.received == GREETING)

    async def test_octets_that_the_syn_did_not_announce_are_reset(self) -> None:
        """Before tor hears of the client."""
        self.keeper.lines = (issued(scheme=Scheme.KNOCK, integrity=4),)
        client = await self.client()
        client.transport.write(b"others")
        await self.assert_reset(client)
        self.assertEqual(self.counted(), (1, 0, 0))

    async def test_a_client_without_a_proof_is_counted_and_logged(self) -> None:
        """tor hears nothing of it."""
        self.keeper.lines = (issued(Channel.TLS),)
        with capturedLogs() as logged:
            client = await self.client()
            client.transport.write(b"GET / HTTP/1.0\r\n\r\n")
            await self.until(lambda: client.lost is not None)
        self.assertEqual((self.counted(), self.tor.clients), ((1, 0, 1), []))
        self.assertIn("no valid proof (the client does not speak TLS", "\n".join(map(formatEvent, logged)))

    async def test_a_line_that_is_revoked_between_the_syn_and_the_proof_opens_nothing(self) -> None:
        """Its other connections may have been cut by then."""
        self.keeper.spent = spent = Deferred[None]()
        client = await self.client()
        await self.until(lambda: bool(self.keeper.syns))
        self.revoked.add("alice")
        spent.callback(None)
        await self.assert_reset(client)
        self.assertEqual((self.counted(), self.counts.in_use), ((1, 0, 0), ()))

    async def test_the_port_is_to_be_closed_when_tor_takes_no_client(self) -> None:
        """The client is reset, and tor is asked until it takes clients again."""
        await maybeDeferred(self.orport.stopListening)
        await self.assert_reset(await self.client())
        await self.until(lambda: self.upstream.refusing is not None)
        self.assertEqual(self.counted(), (1, 1, 0))

    async def test_a_fault_costs_one_connection(self) -> None:
        """It is logged, and the next one is served."""
        lines, self.keeper.lines = self.keeper.lines, (None,)
        await self.assert_reset(await self.client())
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.keeper.lines = lines
        await self.until(self.free)
        client = await self.client()
        await self.until(lambda: client.received == GREETING)

    async def test_what_waits_when_the_listener_is_closed_is_still_spent(self) -> None:
        """The gate let it through, so its SYN was answered."""
        waiting: Sequence[socket.socket] = [socket.create_connection((HOST, self.port)) for _ in range(3)]
        for each in waiting:
            self.addCleanup(each.close)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.listener.close()
        self.assertEqual(len(self.keeper.syns), 3)
        for each in waiting:
            each.close()

    async def test_a_connection_without_a_saved_syn_is_dropped(self) -> None:
        """Such as one to a socket for which the kernel saved none."""
        listening = socket.create_server((HOST, 0))
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self.listener.adopt([listening])
        await self.assert_reset(await self.client())
        self.assertEqual(self.keeper.syns, [])
