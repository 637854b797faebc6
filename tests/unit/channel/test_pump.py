"""Tests of torknock.channel.pump on Twisted's own TCP transport, and with OpenSSL's own programs as peers."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor as _reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.unit.channel import peer
from tests.unit.channel.wire import accepted
from torknock.channel import tls_server
from torknock.channel.hello import Hello, OpenSSLHello
from torknock.channel.tls_client import ClientTLS
from torknock.channel.tls_server import ServerTLS
from torknock.protocol.bridge_line import Line

reactor: Any = _reactor

HOST = "127.0.0.1"
ISN = 77
LINE = Line(b"s" * 32, peer.PIN)
MEGABYTE = bytes(1 << 20)


class Listener(Protocol):
    """Keeps what it hears."""

    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self._awaited = (b"", Deferred[None]())
        self.over: Deferred[str] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        words, fires = self._awaited
        if words and words in self.heard and not fires.called:
            fires.callback(None)

    def hears(self, words: bytes) -> Deferred[None]:
        """Fires when *words* were heard."""
        self._awaited = (words, Deferred())
        self.dataReceived(b"")
        return self._awaited[1]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(type(reason.value).__name__)


class Hasty(Listener):
    """Closes with a producer that the transport has paused, and that says no more."""

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self.transport.write(MEGABYTE * 16)
        self.transport.loseConnection()

    def pauseProducing(self) -> None:
        """Nothing to do."""

    def resumeProducing(self) -> None:
        """Nothing to do."""

    def stopProducing(self) -> None:
        """Nothing to do."""


class Program(ProcessProtocol):
    """A program that is spoken to in lines."""

    transport: Any

    def __init__(self) -> None:
        self.said = Listener()
        self.over: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.said.dataReceived(data)

    def errReceived(self, data: bytes) -> None:
        self.said.dataReceived(data)

    def end(self) -> None:
        """End it, if it has not ended."""
        if not self.over.called:
            self.transport.signalProcess("KILL")

    def processEnded(self, reason: Failure) -> None:
        self.over.callback(None)


class One(Factory[Any]):
    """Gives a connection the one protocol that there is."""

    noisy = False

    def __init__(self, protocol: IProtocol) -> None:
        self.only = protocol

    def buildProtocol(self, addr: object) -> Any:
        return self.only


class PumpTests(TestCase):
    """What only a real transport, or a real peer, shows."""

    timeout = 60  # a failure here is a connection that never ends

    def setUp(self) -> None:
        # trial has loaded OpenSSL before a test can say how.
        self.patch(tls_server, "sends_tickets", lambda context: False)
        self.client = ClientTLS(reactor, random.SystemRandom(), self.make_hello())

    def make_hello(self) -> Hello:
        """Whose ClientHello the client has."""
        return OpenSSLHello()

    async def dial(self, port: int, upper: IProtocol) -> IProtocol:
        """Our client's lower protocol, carrying *upper*."""
        lower, opened = self.client.open(LINE, ISN, HOST, upper)
        await TCP4ClientEndpoint(reactor, HOST, port).connect(One(lower))
        await opened
        return lower

    async def test_closing_with_a_paused_producer(self) -> None:
        """What was written before the close arrives, and the connection ends though its producer never finishes."""
        server = ServerTLS(reactor, peer.PRIVATE_KEY, random.SystemRandom())
        there, here = Hasty(), Listener()
        port = reactor.listenTCP(0, One(accepted(server.accept([LINE], ISN, there))), interface=HOST)
        self.addCleanup(port.stopListening)
        await self.dial(port.getHost().port, here)
        ends = await gatherResults([there.over, here.over])
        self.assertEqual(ends, ["ConnectionDone", "ConnectionDone"])
        self.assertEqual(hashlib.sha256(here.heard).digest(), hashlib.sha256(MEGABYTE * 16).digest())

    async def test_memory_is_for_who_has_proved(self) -> None:
        """Until a connection is carried, Twisted's own buffer size stands."""
        server = ServerTLS(reactor, peer.PRIVATE_KEY, random.SystemRandom())
        there = Listener()
        lower = accepted(server.accept([LINE], ISN, there))
        port = reactor.listenTCP(0, One(lower), interface=HOST)
        self.addCleanup(port.stopListening)
        stranger = Listener()
        await TCP4ClientEndpoint(reactor, HOST, port.getHost().port).connect(One(stranger))
        stranger.transport.write(b"no TLS")
        await stranger.over
        self.assertEqual(lower.transport.bufferSize, FileDescriptor.bufferSize)  # type: ignore[attr-defined]
        self.assertIsNone(there.transport)

    async def test_key_update(self) -> None:
        """`openssl s_server` asks for new keys (RFC 8446 §4.6.3), and both sides go on with them."""
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        key = peer.KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "both.pem").write_bytes(key + peer.certificate(HOST).public_bytes(Encoding.PEM))
        program = Program()
        arguments = ["openssl", "s_server", "-accept", f"{HOST}:0", "-cert", str(folder / "both.pem"), "-tls1_3"]
        reactor.spawnProcess(program, arguments[0], arguments, env={"PATH": "/usr/bin"})
        self.addCleanup(program.end)
        await program.said.hears(b"ACCEPT " + HOST.encode() + b":")
        port = int(program.said.heard.partition(b"ACCEPT ")[2].partition(b"\n")[0].rpartition(b":")[2])
        here = Listener()
        await self.dial(port, here)
        here.transport.write(b"ready\n")
        await program.said.hears(b"ready\n")
        program.transport.write(b"K\n")
        number = 0
        while b"SSL_do_handshake -> 1" not in program.said.heard:  # which it prints when it hears something
            number += 1
            here.transport.write(b"word %d\n" % number)
            await program.said.hears(b"word %d\n" % number)
        program.transport.write(b"told\n")
        await here.hears(b"told\n")
        here.transport.write(b"answered\n")
        await program.said.hears(b"answered\n")
        program.transport.write(b"Q\n")
        await program.over
        await here.over
