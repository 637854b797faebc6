"""What every channel does, over TCP connections of the kernel's, on loopback: one suite, run against each channel.

Then what is channel `tls`'s alone: peers that know nothing of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IProtocol, IPushProducer, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pluggable.relay import Half, join
from tests.unit.channel import peer
from tests.unit.channel.wire import accepted
from torknock.channel import tls_server
from torknock.channel.hello import Hello, OpenSSLHello
from torknock.channel.interfaces import ChannelFailed, IClientChannel, IServerChannel
from torknock.channel.raw import Raw
from torknock.channel.tls_client import ClientTLS
from torknock.channel.tls_server import ServerTLS
from torknock.protocol.bridge_line import Channel, Line

reactor: Any = _reactor

HOST = "127.0.0.1"
ISN = 0x01020304
LINE = Line(b"s" * 32, peer.PIN)
MEGABYTE = bytes(range(256)) * 4096
"""2**20 octets."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class Talker(Protocol):
    """Sends so many megabytes as fast as it may, says that this was all, and hears the peer out."""

    transport: Any

    def __init__(self, megabytes: int, halting: bool = False) -> None:
        self.left = megabytes
        self.halting = halting
        """Whether to pause after each piece that is heard."""
        self.heard = hashlib.sha256()
        self.size = self.most_waiting = 0
        self.going = True
        self.ends: list[str] = []
        self.over: Deferred[Talker] = Deferred()

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        self.heard.update(data)
        self.size += len(data)
        if self.halting:
            self.transport.pauseProducing()
            reactor.callLater(0, self.transport.resumeProducing)

    def resumeProducing(self) -> None:
        self.going = True
        while self.going and self.left > 0:
            self.left -= 1
            self.transport.write(MEGABYTE)
            tcp = getattr(self.transport, "transport", self.transport)
            self.most_waiting = max(self.most_waiting, len(tcp.dataBuffer) + tcp._tempDataLen)
        if not self.left and self.going:
            self.left = -1
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def pauseProducing(self) -> None:
        self.going = False

    def stopProducing(self) -> None:
        self.going = False

    def readConnectionLost(self) -> None:
        self.ends.append("read")
        self._close_if_both()

    def writeConnectionLost(self) -> None:
        self.ends.append("write")
        self._close_if_both()

    def _close_if_both(self) -> None:
        if len(self.ends) == 2:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ends.append(type(reason.value).__name__)
        self.over.callback(self)


@implementer(IHalfCloseableProtocol)
class Digest(Protocol):
    """Hears its peer out, then answers with the SHA-256 of what it heard, and closes."""

    transport: Any

    def connectionMade(self) -> None:
        self.heard = hashlib.sha256()

    def dataReceived(self, data: bytes) -> None:
        self.heard.update(data)

    def readConnectionLost(self) -> None:
        self.transport.write(self.heard.digest())
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass


class Closing(Protocol):
    """Ends its connection at once."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.loseConnection()


class Echo(Protocol):
    """Says what it hears."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Built(Factory[Any]):
    """Gives connections what *build* makes, and adds to *going* what fires when one is over."""

    noisy = False

    def __init__(self, build: Callable[[], IProtocol], going: list[Deferred[None]]) -> None:
        self._build, self._going = build, going

    def buildProtocol(self, addr: object) -> Any:
        protocol: Any = self._build()
        lost, over = protocol.connectionLost, Deferred[None]()
        self._going.append(over)

        def connectionLost(reason: Failure) -> None:
            lost(reason)
            over.callback(None)

        protocol.connectionLost = connectionLost
        return protocol


@implementer(IHalfCloseableProtocol)
class Hears(Protocol):
    """Keeps what it hears, and how its connection ended."""

    transport: Any

    def __init__(self) -> None:
        self.made = 0
        self.heard = b""
        self.ended: list[Failure] = []
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.append(reason)
        self.over.callback(None)


if TYPE_CHECKING:
    _Case = TestCase
else:  # trial would run a suite that is a TestCase itself
    _Case = object


class ChannelContract(_Case):
    """What `IClientChannel` and `IServerChannel` promise. Subclasses set both ends and the line."""

    timeout = 120  # a failure here is a connection that never ends
    client: IClientChannel
    server: IServerChannel
    line: Line

    def setUp(self) -> None:
        self._going: list[Deferred[None]] = []
        self.addCleanup(lambda: gatherResults(self._going))

    def listen(self, build: Callable[[], IProtocol]) -> int:
        """The port where connections get what *build* makes; the test ends when they have."""
        port = reactor.listenTCP(0, Built(build, self._going), interface=HOST)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def serve(self, upper: IProtocol) -> int:
        """The port of a bridge of ours, with *upper* behind it."""
        return self.listen(lambda: accepted(self.server.accept([self.line], ISN, upper)))

    def dial(self, port: int, upper: IProtocol) -> Deferred[None]:
        """A client of ours."""
        lower, opened = self.client.open(self.line, ISN, HOST, upper)
        _connect(port, lower)
        return opened

    async def made(self, end: Hears) -> None:
        """Wait until *end* is connected: `dial` does not wait for the TCP handshake, as a knocker does."""
        while not end.made:
            await _turn()

    async def test_one_hundred_megabytes_each_way(self) -> None:
        """At once, unharmed, with both directions ended for themselves, and with little waiting in memory."""
        here, there = Talker(100), Talker(100)
        await self.dial(self.serve(there), here)
        await gatherResults([here.over, there.over])
        expected = hashlib.sha256()
        for _ in range(100):
            expected.update(MEGABYTE)
        for talker in (here, there):
            self.assertEqual((talker.size, talker.heard.digest()), (100 << 20, expected.digest()))
            self.assertEqual(sorted(talker.ends), ["ConnectionDone", "read", "write"])
            self.assertLess(talker.most_waiting, 2 << 20)

    async def test_a_halting_reader(self) -> None:
        """Nothing is lost between a writer in haste and a reader that pauses after every piece."""
        here, there = Talker(16), Talker(1, halting=True)
        await self.dial(self.serve(there), here)
        await gatherResults([here.over, there.over])
        self.assertEqual(there.heard.digest(), hashlib.sha256(MEGABYTE * 16).digest())
        self.assertEqual(here.heard.digest(), hashlib.sha256(MEGABYTE).digest())
        self.assertLess(here.most_waiting, 2 << 20)

    async def test_a_relay_at_each_end(self) -> None:
        """The end of what an application says crosses relay, channel, and relay, and the answer comes back whole."""
        behind, bridge, knock, before = Half(), Half(), Half(), Half()
        await _connect(self.listen(Digest), behind)
        await self.dial(self.serve(bridge), knock)
        while bridge.transport is None:
            await _turn()
        join(bridge, behind)
        port = self.listen(lambda: before)
        go = threading.Event()
        answer = deferToThread(_ask, port, go, MEGABYTE * 20)
        while before.transport is None:
            await _turn()
        join(knock, before)
        go.set()
        self.assertEqual(await answer, hashlib.sha256(MEGABYTE * 20).digest())

    def test_both_ends_are_channels(self) -> None:
        """They have the methods of the interfaces."""
        verifyObject(IClientChannel, self.client)
        verifyObject(IServerChannel, self.server)

    async def test_a_transport_has_what_a_relay_needs(self) -> None:
        """On both ends, as the interfaces' module says; and `opened` fires once the protocol is connected."""
        here, there = Hears(), Hears()
        await self.dial(self.serve(there), here)
        await self.made(here)
        here.transport.write(b"hello")
        while there.heard != b"hello":
            await _turn()
        for end in (here, there):
            for interface in (ITransport, IConsumer, IPushProducer):
                self.assertTrue(interface.providedBy(end.transport))
            for name in ("abortConnection", "loseWriteConnection"):
                self.assertTrue(callable(getattr(end.transport, name)))
        here.transport.loseConnection()
        await gatherResults([here.over, there.over])

    async def test_the_bridge_learns_which_line_it_is(self) -> None:
        """The index of a line that the client has, once."""
        proved: list[int] = []
        there, here = Hears(), Hears()

        def build() -> IProtocol:
            lower, whose = self.server.accept([self.line] * 2, ISN, there)
            whose.addCallback(proved.append)
            return lower

        await self.dial(self.listen(build), here)
        await self.made(here)
        here.transport.write(b"hello")
        here.transport.loseConnection()
        await gatherResults([here.over, there.over])
        self.assertEqual((len(proved), there.heard), (1, b"hello"))
        self.assertIn(proved[0], range(2))

    async def test_an_abort_is_no_orderly_end(self) -> None:
        """Neither of the client's nor of the bridge's: the other end can tell it from a connection that was closed."""
        for aborted in (0, 1):
            ends = Hears(), Hears()
            await self.dial(self.serve(ends[1]), ends[0])
            await self.made(ends[0])
            ends[0].transport.write(b"hello")
            while ends[1].heard != b"hello":
                await _turn()
            ends[aborted].transport.abortConnection()
            await gatherResults([end.over for end in ends])
            self.assertFalse(ends[1 - aborted].ended[0].check(ConnectionDone))

    async def test_a_protocol_is_connected_when_opened_fires_or_never(self) -> None:
        """At a peer that closes at once; the channel blames it, or the protocol hears of the end."""
        here = Hears()
        opened = self.dial(self.listen(Closing), here)
        try:
            await opened
        except ChannelFailed:
            self.assertEqual((here.made, here.ended), (0, []))
        else:
            await here.over
            self.assertEqual((here.made, len(here.ended)), (1, 1))


class RawTests(ChannelContract, TestCase):
    """Channel `raw`."""

    def setUp(self) -> None:
        super().setUp()
        self.client = self.server = Raw()
        self.line = Line(b"s" * 32, None, channel=Channel.RAW)


class TLSTests(ChannelContract, TestCase):
    """Channel `tls`."""

    def setUp(self) -> None:
        super().setUp()
        # trial has loaded OpenSSL before a test can say how.
        self.patch(tls_server, "sends_tickets", lambda context: False)
        chance = random.SystemRandom()
        self.server = ServerTLS(reactor, peer.PRIVATE_KEY, chance)
        self.client = ClientTLS(reactor, chance, self.make_hello())
        self.line = LINE

    def make_hello(self) -> Hello:
        """Whose ClientHello the client has."""
        return OpenSSLHello()

    async def test_a_blocking_client(self) -> None:
        """A client out of pyOpenSSL and hmac alone is carried, and hears its own octets."""
        port = self.serve(Echo())
        self.assertEqual(await deferToThread(_independent_client, port), MEGABYTE)

    async def test_a_blocking_server(self) -> None:
        """A bridge out of pyOpenSSL and hmac alone finds our proof right, for this ISN and session."""
        with socket.create_server((HOST, 0)) as listener:
            heard = deferToThread(_independent_server, listener)
            talker = Talker(1)
            await self.dial(listener.getsockname()[1], talker)
            self.assertEqual(await heard, hashlib.sha256(MEGABYTE).digest())
            await talker.over
        self.assertEqual(talker.heard.digest(), hashlib.sha256(b"heard").digest())


def _connect(port: int, protocol: IProtocol) -> Deferred[Any]:
    return TCP4ClientEndpoint(reactor, HOST, port).connect(Built(lambda: protocol, []))


def _turn() -> Deferred[None]:
    """Fires when the reactor has gone around once."""
    turned: Deferred[None] = Deferred()
    reactor.callLater(0, turned.callback, None)
    return turned


def _ask(port: int, go: threading.Event, question: bytes) -> bytes:
    """What a service answers when it has heard *question*, which is asked after *go*, and its end."""
    with socket.create_connection((HOST, port), 60) as connection:
        go.wait(60)
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b""))


@contextlib.contextmanager
def _blocking(connection: socket.socket) -> Iterator[socket.socket]:
    """OpenSSL wants a socket that blocks."""
    with connection:
        connection.settimeout(None)
        yield connection


def _independent_client(port: int) -> bytes:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    with _blocking(socket.create_connection((HOST, port), 60)) as connection:
        client = SSL.Connection(context, connection)
        client.set_connect_state()
        client.do_handshake()
        client.sendall(peer.hello(peer.proof(LINE.secret, LINE.bridge_name, peer.exported(client, ISN)), 1024))
        heard = b""
        for start in range(0, len(MEGABYTE), 1 << 15):
            client.sendall(MEGABYTE[start : start + (1 << 15)])
            while len(heard) < start + (1 << 15):
                heard += client.recv(1 << 15)
        client.shutdown()
        with contextlib.suppress(SSL.ZeroReturnError):
            client.recv(1)
        return heard


def _independent_server(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    with _blocking(connection) as accepted:
        server = SSL.Connection(peer.server_context(peer.certificate(HOST)), accepted)
        server.set_accept_state()
        first = server.recv(1 << 14)
        expected = peer.proof(LINE.secret, LINE.bridge_name, peer.exported(server, ISN))
        pad = int.from_bytes(first[32:34], "big")
        if first[:32] != expected or len(first) != 34 + pad or pad > 1024:
            raise AssertionError("the first record is not a right hello")
        heard = hashlib.sha256()
        with contextlib.suppress(SSL.ZeroReturnError):
            while True:
                heard.update(server.recv(1 << 14))
        server.sendall(b"heard")
        server.shutdown()
        return heard.digest()
