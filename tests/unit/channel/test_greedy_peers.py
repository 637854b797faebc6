"""Tests of what a peer can make us keep in memory: one that does not read, and one that speaks in crumbs."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.unit.channel import peer
from tests.unit.channel.openssl import Peer
from tests.unit.channel.test_tls import Scene, Upper
from tests.unit.channel.wire import accepted
from torknock.channel import tls_server
from torknock.channel.hello import OpenSSLHello
from torknock.channel.tls_client import ClientTLS
from torknock.channel.tls_server import LEAVE_WITHIN, PROOF_WITHIN, ServerTLS
from torknock.protocol.bridge_line import Line

reactor: Any = _reactor

HOST = "127.0.0.1"
ISN = 77
LINE = Line(b"s" * 32, peer.PIN)
SMALL = 4096
"""Octets that the kernel is asked to keep for a socket: what is more must wait in the process."""

UPDATES = 40_000
"""A megabyte of requests for new keys."""

AT_MOST = 300_000
"""Octets that may wait for one connection."""


class Echo(Protocol):
    """Says what it hears."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Small(Factory[Any]):
    """Gives connections what *build* makes, and little of the kernel's memory."""

    noisy = False

    def __init__(self, build: Callable[[], IProtocol]) -> None:
        self._build = build
        self.over: Deferred[None] = Deferred()

    def buildProtocol(self, addr: object) -> Any:
        lower: Any = self._build()
        self.lower = lower
        made, lost = lower.connectionMade, lower.connectionLost

        def connectionMade() -> None:
            _shrink(lower.transport.getHandle())
            made()

        def connectionLost(reason: Failure = connectionDone) -> None:
            lost(reason)
            self.over.callback(None)

        lower.connectionMade, lower.connectionLost = connectionMade, connectionLost
        return lower

    @property
    def waiting(self) -> int:
        """Octets that wait in Twisted's buffers."""
        transport = self.lower.transport
        return len(transport.dataBuffer) + int(transport._tempDataLen)


def _shrink(tcp: socket.socket) -> None:
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        tcp.setsockopt(socket.SOL_SOCKET, buffer, SMALL)


def _small() -> socket.socket:
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    _shrink(tcp)
    tcp.settimeout(10)
    return tcp


class KeyUpdateTests(TestCase):
    """A peer out of OpenSSL that asks for new keys again and again, and does not read."""

    timeout = 60

    def setUp(self) -> None:
        # trial has loaded OpenSSL before a test can say how.
        self.patch(tls_server, "sends_tickets", lambda context: False)

    def serve(self) -> tuple[Small, socket.socket]:
        """A bridge of ours with an echo behind it, and a TCP connection to it."""
        server = ServerTLS(reactor, peer.PRIVATE_KEY, random.SystemRandom())
        factory = Small(lambda: accepted(server.accept([LINE], ISN, Echo())))
        port = reactor.listenTCP(0, factory, interface=HOST)
        self.addCleanup(port.stopListening)
        tcp = _small()
        tcp.connect((HOST, port.getHost().port))
        return factory, tcp

    async def assert_it_waits(self, factory: Small, asking: Peer) -> None:
        """The bridge, or client, stops to read before much waits for the peer."""
        taken = await deferToThread(asking.ask_for_keys, UPDATES)
        self.assertLess(factory.waiting, AT_MOST)
        self.assertLess(taken, UPDATES)

    async def test_before_the_proof(self) -> None:
        """The server keeps little for it; and the end comes when it is due, whether the peer reads or not."""
        factory, tcp = self.serve()
        self.patch(tls_server, "SILENCE", (0.2, 0.2))
        self.patch(tls_server, "PROOF_WITHIN", 3.0)
        self.patch(tls_server, "LEAVE_WITHIN", 0.2)
        with await deferToThread(Peer, tcp) as asking:
            await self.assert_it_waits(factory, asking)
            await factory.over

    async def test_after_the_proof(self) -> None:
        """Nor behind the proof; and when the peer reads at last, the connection goes on unharmed."""
        factory, tcp = self.serve()
        with await deferToThread(Peer, tcp) as asking:
            proof = peer.proof(LINE.secret, LINE.bridge_name, asking.exported(ISN))
            await deferToThread(asking.say, peer.hello(proof, 7))
            await self.assert_it_waits(factory, asking)
            self.assertEqual(await deferToThread(asking.converse, b"word"), b"word")
        await factory.over

    async def test_a_hostile_bridge(self) -> None:
        """The client does as the server does."""
        listener = _small()
        self.addCleanup(listener.close)
        listener.bind((HOST, 0))
        listener.listen()
        lower, opened = ClientTLS(reactor, random.SystemRandom(), OpenSSLHello()).open(LINE, ISN, HOST, Echo())
        factory = Small(lambda: lower)
        accepting = deferToThread(lambda: Peer(listener.accept()[0], server=True))
        await TCP4ClientEndpoint(reactor, HOST, listener.getsockname()[1]).connect(factory)
        with await accepting as asking:
            await opened
            await self.assert_it_waits(factory, asking)
        await factory.over


class CrumbTests(Scene):
    """A peer that speaks in many tiny records."""

    def test_crumbs_are_handed_on_together(self) -> None:
        """What arrives at once is handed on in one piece, however many records it came in."""
        wire, stock = self.knock()
        crumbs = bytes(range(256))
        for octet in self.prove(stock) + crumbs:
            stock.say(bytes([octet]))
        wire.run()
        self.assertEqual(self.there.heard, [crumbs])
        for octet in crumbs:
            stock.say(bytes([octet]))
        wire.run()
        self.assertEqual(self.there.heard, [crumbs, crumbs])

    def test_the_end_waits_behind_the_crumbs(self) -> None:
        """An upper protocol that has paused hears of neither end nor fault until it goes on, and then of both."""
        for finish in (True, False):
            self.there = Upper()
            wire, stock = self.knock()
            stock.say(self.prove(stock))
            wire.run()
            self.there.transport.pauseProducing()
            stock.say(b"last words")
            if finish:
                stock.finish()
            else:
                wire.client.write(b"no record at all")
            wire.server.paused = False
            wire.run()
            self.assertEqual((self.there.heard, self.there.losses), ([], []))
            self.there.transport.resumeProducing()
            wire.run()
            self.assertEqual((self.there.heard, len(self.there.losses)), ([b"last words"], 1))


class LeavingTests(Scene):
    """A peer without a proof that does not take what was written to it."""

    def test_the_end_is_not_put_off(self) -> None:
        """FIN would wait behind it; so the connection is reset a while after its end was due."""
        wire, stock = self.knock()
        stock.say(bytes(100))
        wire.run()
        wire.server.write(b"what the peer does not take")
        self.clock.advance(PROOF_WITHIN)
        self.clock.advance(self.chance.silence)
        self.assertTrue(wire.server.disconnecting)
        self.assertFalse(wire.server.aborted)
        self.clock.advance(LEAVE_WITHIN)
        self.assertTrue(wire.server.aborted)
        wire.run()
        self.assert_quiet()
