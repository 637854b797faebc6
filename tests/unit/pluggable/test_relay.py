"""`pluggable.relay`."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import os
import socket
from typing import Any, ClassVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from pluggable import splice
from pluggable.relay import EARLY_LIMIT, READ_SIZE, Half, Links, Single, join

reactor: Any = _reactor


class Link(StringTransport):
    """A link that can be closed by halves, and remembers what was asked of it."""

    bufferSize = 65536  # noqa: N815  Twisted's name

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.asked.append("no delay")

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.asked.append("keep alive")

    def loseWriteConnection(self) -> None:
        self.asked.append("half-close")

    def abortConnection(self) -> None:
        self.asked.append("abort")


class Whole(StringTransport):
    """A link that cannot be closed by halves, though a method lent from below says otherwise."""

    below: ClassVar[StringTransport] = StringTransport()

    def __getattr__(self, name: str) -> Any:
        if name == "loseWriteConnection":
            return self.below.loseConnection
        raise AttributeError(name)


def halves(one: StringTransport, other: StringTransport) -> tuple[Half, Half]:
    """Two halves on their links, not joined yet."""
    made = Half(), Half()
    for half, link in zip(made, (one, other), strict=True):
        half.makeConnection(link)
    return made


class JoinTests(SynchronousTestCase):
    """`join`, and the halves of what is joined."""

    def setUp(self) -> None:
        self.left, self.right = Link(), Link()
        self.one, self.other = halves(self.left, self.right)

    @given(st.lists(st.tuples(st.booleans(), st.binary())), st.integers(0, 10))
    def test_octets_come_out_as_they_went_in(self, said: list[tuple[bool, bytes]], joined_after: int) -> None:
        """Whenever the links are joined."""
        left, right = Link(), Link()
        one, other = halves(left, right)
        for number, (from_left, octets) in enumerate(said):
            if number == joined_after:
                join(one, other)
            (one if from_left else other).dataReceived(octets)
        if len(said) <= joined_after:
            join(one, other)
        self.assertEqual(right.value(), b"".join(octets for from_left, octets in said if from_left))
        self.assertEqual(left.value(), b"".join(octets for from_left, octets in said if not from_left))

    def test_links_are_set_to_no_delay_and_to_keep_alive(self) -> None:
        """As far as they have a say in it."""
        self.assertEqual(self.left.asked, ["no delay", "keep alive"])
        self.assertEqual(self.left.bufferSize, READ_SIZE)
        halves(StringTransport(), StringTransport())

    def test_a_full_link_pauses_the_other(self) -> None:
        """Each is the other's producer, and goes on when there is room."""
        join(self.one, self.other)
        self.assertTrue(self.left.streaming and self.right.streaming)
        self.assertIs(self.left.producer, self.right)
        self.assertIs(self.right.producer, self.left)

    def test_an_end_is_passed_on_by_halves(self) -> None:
        """What the other side says still arrives; the end of both is the end."""
        join(self.one, self.other)
        self.one.readConnectionLost()
        self.assertEqual(self.right.asked[-1], "half-close")
        self.assertIsNone(self.right.producer)
        self.other.writeConnectionLost()
        self.other.dataReceived(b"still")
        self.assertEqual(self.left.value(), b"still")
        self.assertFalse(self.left.disconnecting or self.right.disconnecting)
        self.other.readConnectionLost()
        self.assertTrue(self.right.disconnecting)
        self.one.writeConnectionLost()
        self.assertTrue(self.left.disconnecting)

    def test_a_link_that_knows_no_halves_is_closed(self) -> None:
        """A method of the transport below is not its own."""
        whole = Whole()
        one, other = halves(Link(), whole)
        join(one, other)
        one.readConnectionLost()
        self.assertTrue(whole.disconnecting)
        self.assertFalse(whole.below.disconnecting)

    def test_the_loss_of_one_link_closes_the_other(self) -> None:
        """After what it still has to send, without a producer that is gone."""
        join(self.one, self.other)
        self.one.connectionLost()
        self.assertTrue(self.right.disconnecting)
        self.assertIsNone(self.right.producer)
        self.other.connectionLost()
        self.assertFalse(self.left.disconnecting)

    def test_a_link_lost_before_is_a_loss(self) -> None:
        """Joining what is gone closes what is left."""
        self.one.connectionLost()
        join(self.one, self.other)
        self.assertTrue(self.right.disconnecting)
        self.assertFalse(self.left.disconnecting)

    def test_an_end_before_is_a_loss(self) -> None:
        """Nobody is left to speak to."""
        self.one.readConnectionLost()
        self.assertTrue(self.left.disconnecting)

    def test_what_arrives_before_the_join_is_bounded(self) -> None:
        """A bridge may not fill our memory."""
        with capturedLogs() as events:
            self.one.dataReceived(bytes(EARLY_LIMIT))
            self.assertEqual(events, [])
            self.one.dataReceived(b"x")
        self.assertEqual((self.left.asked[-1], len(events)), ("abort", 1))


class LinksTests(SynchronousTestCase):
    """`Links`."""

    def test_the_last_one_is_waited_for(self) -> None:
        """And none is not waited for at all."""
        links, one, other = Links(), Half(), Half()
        self.successResultOf(links.all_closed())
        links.add(one)
        links.add(other)
        gone = links.all_closed()
        links.discard(one)
        self.assertNoResult(gone)
        links.discard(other)
        self.successResultOf(gone)


@implementer(IHalfCloseableProtocol)
class Talker(Protocol):
    """Says something, ends first or after the other side, and hears all that the other side says."""

    transport: Any

    def __init__(self, says: bytes, ends_first: bool = True) -> None:
        self.says, self.ends_first, self.heard = says, ends_first, hashlib.sha256()
        self.length = 0
        self.ended: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.says)
        if self.ends_first:
            self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self.heard.update(data)
        self.length += len(data)

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """It was ours."""

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        self.ended.callback(None)


class SocketTests(TestCase):
    """Relays of real sockets."""

    async def relay(self, wrapped: bool, there: bytes, back: bytes) -> None:
        """A talker, a relay, another talker."""
        far = Talker(back, ends_first=not wrapped)
        target = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(lambda: far))
        self.addCleanup(target.stopListening)
        front, behind = Half(), Half()
        factory: Any = Factory.forProtocol(lambda: front)
        if wrapped:
            factory = WrappingFactory(factory)
            factory.protocol = ProtocolWrapper
        relay = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(relay.stopListening)
        near = Talker(there)
        await TCP4ClientEndpoint(reactor, "127.0.0.1", relay.getHost().port).connect(Factory.forProtocol(lambda: near))
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", target.getHost().port)
        await endpoint.connect(Factory.forProtocol(lambda: behind))
        while front.transport is None:
            turn: Deferred[None] = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn
        join(front, behind)
        await gatherResults([near.ended, far.ended])
        self.assertEqual((far.length, far.heard.digest()), (len(there), hashlib.sha256(there).digest()))
        if not wrapped:
            self.assertEqual((near.length, near.heard.digest()), (len(back), hashlib.sha256(back).digest()))

    async def test_both_sides_say_all_they_have_and_end(self) -> None:
        """Through back-pressure and half-closes no octet is lost."""
        await self.relay(False, bytes(range(256)) * 40_000, bytes(reversed(range(256))) * 30_000)

    async def test_a_silent_end_is_passed_on(self) -> None:
        """One side has nothing to say."""
        await self.relay(False, b"", b"all of it" * 100_000)

    async def test_a_wrapper_without_halves_delivers_one_way(self) -> None:
        """What was said before the end arrives before the end."""
        await self.relay(True, b"all of it" * 100_000, b"")

    async def test_a_kernel_that_does_not_splice(self) -> None:
        """Twisted relays what it does not, and nothing is lost."""

        def refuses(*_arguments: object, **_options: object) -> int:
            raise OSError(errno.EINVAL, "no")

        self.patch(os, "splice", refuses)
        await self.relay(False, bytes(range(256)) * 10_000, b"back" * 50_000)

    async def test_octets_cross_in_a_process_without_free_descriptors(self) -> None:
        """No pipe is to be had."""
        self.patch(splice, "_pipe", lambda: None)
        await self.relay(False, bytes(range(256)) * 10_000, b"back" * 50_000)

    async def test_peers_that_do_not_read_hold_few_pipes(self) -> None:
        """Above the limit Twisted relays, and nothing is lost; no descriptor is left once the relays have ended."""
        self.patch(splice, "_pipes", [])
        self.patch(splice, "_PIPES_AT_MOST", splice._Pipe.open + 1)
        await deferLater(reactor, 0)  # a reactor that runs has descriptors of its own
        before = len(os.listdir("/proc/self/fd"))
        pairs = [socket.socketpair() for _ in range(10)]
        for ours, theirs in pairs:
            ours.setblocking(False)
            theirs.setblocking(False)
        halves = [Half() for _ in pairs]
        for half, (_, theirs) in zip(halves, pairs, strict=True):
            with theirs:
                reactor.adoptStreamConnection(theirs.fileno(), socket.AF_UNIX, Single(half))
        sending = [ours for ours, _ in pairs[::2]]
        for one, other in zip(halves[::2], halves[1::2], strict=True):
            join(one, other)
        sent = [0] * len(sending)
        quiet = 0
        while quiet < 20:
            quiet += 1
            for number, each in enumerate(sending):
                with contextlib.suppress(BlockingIOError):
                    sent[number] += each.send(bytes(1 << 16))
                    quiet = 0
            await deferLater(reactor, 0)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 2 * len(pairs) + 2)
        got = [0] * len(sending)
        while got != sent:
            for number, (ours, _) in enumerate(pairs[1::2]):
                with contextlib.suppress(BlockingIOError):
                    got[number] += len(ours.recv(1 << 20))
            await deferLater(reactor, 0)
        for ours, _ in pairs:
            ours.close()
        while not all(half.lost for half in halves):
            await deferLater(reactor, 0.01)
        for pipe in splice._pipes:
            pipe.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    async def test_pipes_are_given_back_when_a_relay_ends(self) -> None:
        """A link that has nothing to say holds none, and few are kept."""
        kept: list[Any] = []
        self.patch(splice, "_pipes", kept)
        await self.relay(False, bytes(range(256)) * 10_000, b"back" * 50_000)
        self.assertTrue(1 <= len(kept) <= 8, len(kept))
        for pipe in kept:
            self.assertRaises(BlockingIOError, os.read, pipe.out, 1)
            pipe.close()

    async def test_what_has_ended_is_freed_at_once(self) -> None:
        """An idle process never collects cycles: a relay leaves none."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        await self.relay(False, b"there" * 100_000, b"back" * 100_000)
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn
        self.assertEqual([each for each in gc.get_objects() if isinstance(each, splice.Way)], [])

    async def test_a_peer_that_does_not_read(self) -> None:
        """What it is sent waits in the kernel, and its relay is as small as an idle one; then it gets all of it."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        ends = [socket.create_connection(listening.getsockname()) for _ in range(2)]
        halves = [Half(), Half()]
        for half in halves:
            accepted, _ = listening.accept()
            with accepted:
                accepted.setblocking(False)
                reactor.adoptStreamConnection(accepted.fileno(), accepted.family, Single(half))
        join(*halves)
        sending, silent = ends
        sending.setblocking(False)
        sent = stalls = 0
        while stalls < 20:
            try:
                sent += sending.send(bytes(1 << 16))
                stalls = 0
            except BlockingIOError:
                stalls += 1
            await deferLater(reactor, 0.005)
        self.assertEqual([len(half.transport.dataBuffer) for half in halves], [0, 0])
        sending.shutdown(socket.SHUT_WR)
        silent.setblocking(False)
        got = 0
        while got < sent:
            try:
                got += len(silent.recv(1 << 20))
            except BlockingIOError:
                await deferLater(reactor, 0.005)
        for end in ends:
            end.close()
        while not all(half.lost for half in halves):
            await deferLater(reactor, 0.005)
