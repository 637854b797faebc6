"""Tests of torknock.service.conversation: who may ask what, when, how often."""

from __future__ import annotations

import os
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.support.strategies import pieces
from torknock.service import conversation, descriptors
from torknock.service.conversation import TIMEOUT, PeerConnection
from torknock.service.factory import CONNECTIONS, PER_USER, PeerFactory
from torknock.service.grammar import LINE_AT_MOST, Malformed
from torknock.service.interfaces import IConversation, Reply
from torknock.service.peers import Peer
from torknock.service.questions import PeerGone

REQUESTS = (b"one", b"later", b"malformed", b"sockets", b"last")


class Wire(StringTransport):
    """A transport whose socket has a peer: this process."""

    def __init__(self, handle: socket.socket) -> None:
        super().__init__()
        self.handle = handle
        self.passed: list[int] = []
        self.ended = False
        self.aborted = False

    def getHandle(self) -> socket.socket:
        return self.handle

    def sendFileDescriptor(self, descriptor: int) -> None:
        self.passed.append(descriptor)

    def loseWriteConnection(self) -> None:
        self.ended = True

    def abortConnection(self) -> None:
        self.aborted = True

    def said(self) -> list[str]:
        """The lines that were sent since the last time."""
        said: list[str] = self.value().decode("ascii").splitlines()
        self.clear()
        return said


@implementer(IConversation)
class Echo:
    """Says what it hears, or does what it is told."""

    def __init__(self, connection: PeerConnection) -> None:
        self.connection = connection
        self.later: Deferred[str] = Deferred()
        self.made: list[socket.socket] = []
        self.ends = 0

    async def answer(self, line: str) -> Reply:
        match line:
            case "later":
                return Reply("ok " + await self.later)
            case "sockets":
                self.made = [socket.socket(), socket.socket()]
                return Reply("ok", tuple(self.made))
            case "broken":
                raise RuntimeError("192.0.2.1")
            case "malformed":
                raise Malformed("not that")
            case "last":
                return Reply("ok last", last=True)
        return Reply("ok " + line)

    def ended(self) -> None:
        self.ends += 1


class Case(SynchronousTestCase):
    """A service, and its peers."""

    def setUp(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Everything anew."""
        self.clock = Clock()
        self.made: list[Echo] = []
        self.service = PeerFactory(self.clock, lambda _: True, self.converse)
        self.near, far = socket.socketpair()
        self.addCleanup(self.near.close)
        self.addCleanup(far.close)

    def converse(self, connection: PeerConnection) -> Echo:
        self.made.append(Echo(connection))
        return self.made[-1]

    def come(self) -> tuple[PeerConnection, Wire]:
        """Another peer."""
        connection = self.service.buildProtocol(None)
        assert isinstance(connection, PeerConnection)
        wire = Wire(self.near)
        connection.makeConnection(wire)
        return connection, wire

    def goes(self, connection: PeerConnection) -> None:
        connection.connectionLost(Failure(ConnectionDone()))


class RequestTests(Case):
    """What is asked."""

    def test_requests_are_answered_in_order(self) -> None:
        """In order, as long as the peer stays."""
        connection, wire = self.come()
        connection.dataReceived(b"one\ntwo words\n")
        connection.dataReceived(b"three\n")
        self.clock.advance(1000)
        self.assertEqual(wire.said(), ["ok one", "ok two words", "ok three"])
        self.goes(connection)
        self.assertEqual((self.made[0].ends, self.service.connections), (1, set()))

    def test_one_at_a_time(self) -> None:
        """A peer that does not wait for its answer is sent away, and what it asked for is given up."""
        connection, wire = self.come()
        connection.dataReceived(b"later\n")
        connection.dataReceived(b"more\n")
        self.assertEqual(wire.said(), ["no bad one request at a time"])
        self.assertTrue(wire.ended)
        self.goes(connection)
        self.assertEqual(self.made[0].ends, 1)

    def test_who_goes_is_forgotten(self) -> None:
        """Its request is cancelled, and nothing is sent to it."""
        connection, wire = self.come()
        cancelled: list[Deferred[str]] = []
        self.made[0].later = Deferred(cancelled.append)
        connection.dataReceived(b"later\n")
        self.goes(connection)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual((wire.said(), self.made[0].ends, self.service.connections), ([], 1, set()))

    def test_a_malformed_line_ends_the_conversation(self) -> None:
        """No line, or none of the service's grammar: one line says so, and it is over."""
        for said in (b"\n", b"a  b\n", b"\xff\n", b"x" * LINE_AT_MOST, b"malformed\n"):
            connection, wire = self.come()
            connection.dataReceived(said + b"more\n")
            [line] = wire.said()
            self.assertEqual(line[:7], "no bad ")
            self.assertTrue(wire.ended)
        self.assertEqual(self.service.connections, set())

    def test_a_fault_of_ours(self) -> None:
        """It is logged, the peer is told no more than that, and the service stays up."""
        connection, wire = self.come()
        connection.dataReceived(b"broken\n")
        self.assertEqual(wire.said(), ["no broken the service has a fault, which its log tells"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        connection, wire = self.come()
        connection.dataReceived(b"one\n")
        self.assertEqual(wire.said(), ["ok one"])

    def test_a_reply_may_be_the_last(self) -> None:
        """A reply may be the last."""
        connection, wire = self.come()
        connection.dataReceived(b"last\none\n")
        self.assertEqual((wire.said(), wire.ended, self.made[0].ends), (["ok last"], True, 1))

    def test_sockets_stay_open_until_they_are_sent(self) -> None:
        """They stay open until they are sent for sure: with the next request, or the end."""
        for goes in (False, True):
            connection, wire = self.come()
            connection.dataReceived(b"sockets\n")
            made = self.made[-1].made
            self.assertEqual(wire.passed, [each.fileno() for each in made])
            if goes:
                self.goes(connection)
            else:
                connection.dataReceived(b"one\n")
            self.assertEqual([each.fileno() for each in made], [-1, -1])

    def test_who_does_not_read(self) -> None:
        """It is sent away before its answers fill the memory."""
        connection, wire = self.come()
        self.assertIs(wire.producer, connection)
        connection.pauseProducing()
        self.assertTrue(wire.aborted)

    def test_who_does_not_read_the_last_line(self) -> None:
        """Its connection does not stay, and nothing more of it is looked at."""
        connection, wire = self.come()
        connection.dataReceived(b"last\n")
        connection.dataReceived(b"one\n")
        self.clock.advance(TIMEOUT - 0.1)
        self.assertFalse(wire.aborted)
        self.clock.advance(0.1)
        self.assertEqual((wire.aborted, wire.said()), (True, ["ok last"]))
        self.goes(connection)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(
        st.one_of(
            st.binary(max_size=300),
            st.lists(st.sampled_from([*(each + b"\n" for each in REQUESTS), b"a", b" ", b"\xff"])).map(b"".join),
        ).flatmap(pieces)
    )
    def test_any_octets_are_answered_line_by_line(self, heard: list[bytes]) -> None:
        """Each reply is one line; behind `no` it is over; the next peer is answered."""
        self.begin()
        connection, wire = self.come()
        for piece in heard:
            connection.dataReceived(piece)
        said = wire.said()
        self.assertEqual([line.split(" ")[0] for line in said[:-1]], ["ok"] * (len(said) - 1) if said else [])
        self.goes(connection)
        self.assertEqual((self.made[0].ends, self.clock.getDelayedCalls(), self.service.connections), (1, [], set()))
        connection, wire = self.come()
        connection.dataReceived(b"one\n")
        self.assertEqual(wire.said(), ["ok one"])
        self.goes(connection)


class PatienceTests(Case):
    """Who is slow, who is too many, who may not."""

    def test_a_line_that_does_not_end_in_time_ends_the_conversation(self) -> None:
        """A line that was begun ends within 5 s, and so the first one, which may not have begun."""
        for begun in (b"", b"on"):
            connection, wire = self.come()
            connection.dataReceived(b"")
            connection.dataReceived(begun)
            self.clock.advance(TIMEOUT - 0.1)
            self.assertEqual(wire.said(), [])
            self.clock.advance(0.1)
            self.assertEqual(wire.said(), ["no bad no line came within 5 seconds"])
            self.assertTrue(wire.ended)

    def test_octet_by_octet(self) -> None:
        """An octet of a line gains it no further 5 s."""
        connection, wire = self.come()
        connection.dataReceived(b"one\n")
        self.clock.advance(100)
        for _ in range(6):
            connection.dataReceived(b"x")
            self.clock.advance(0.9)
        self.assertTrue(wire.ended)

    def come_as(self, uid: int) -> tuple[PeerConnection, Wire]:
        """Another peer, of the user *uid*."""
        self.patch(conversation, "peer", lambda _: Peer(uid, frozenset()))
        return self.come()

    def test_one_peer_too_many_is_told_that_the_service_is_busy(self) -> None:
        """One more is told so; when one goes there is room again."""
        connections = [self.come()[0] for _ in range(PER_USER)]
        _, wire = self.come()
        self.assertEqual(wire.said(), ["no busy this service talks to 32 programs of a user at most"])
        self.assertTrue(wire.ended)
        self.goes(connections[0])
        connection, wire = self.come()
        connection.dataReceived(b"one\n")
        self.assertEqual(wire.said(), ["ok one"])

    def test_too_many_of_one_user(self) -> None:
        """Others find the service free; when one of that user's goes there is room again."""
        self.service.a_user = 2
        connections = [self.come()[0] for _ in range(2)]
        _, wire = self.come()
        self.assertEqual(wire.said(), ["no busy this service talks to 2 programs of a user at most"])
        connections[1].peer = Peer(connections[0].peer.uid + 1, frozenset())
        connection, wire = self.come()
        connection.dataReceived(b"one\n")
        self.assertEqual(wire.said(), ["ok one"])

    def test_no_user_keeps_others_out(self) -> None:
        """However many programs of others there are: who has more places than the newcomer gives one up."""
        users = range(1000, 1000 + CONNECTIONS // PER_USER)
        connections = [self.come_as(uid) for uid in users for _ in range(PER_USER)]
        for _ in range(3):
            connection, wire = self.come_as(2000)
            connection.dataReceived(b"one\n")
            self.assertEqual(wire.said(), ["ok one"])
        self.assertEqual(len(self.service.connections), CONNECTIONS)
        self.assertEqual(sum(wire.ended for _, wire in connections), 3)
        _, wire = self.come_as(1000)
        self.assertEqual(wire.said()[0][:7], "no busy")

    def test_a_user_who_may_not_ask_is_told_so(self) -> None:
        """Nothing that it says is heard."""
        asked: list[Peer] = []

        def may_ask(peer: Peer) -> bool:
            asked.append(peer)
            return False

        self.service.may_ask = may_ask
        connection, wire = self.come()
        connection.dataReceived(b"one\n")
        [line] = wire.said()
        self.assertEqual((line[:11], [peer.uid for peer in asked], self.made), ("no refused ", [os.getuid()], []))
        self.assertTrue(wire.ended)

    def test_too_many_who_do_not_go(self) -> None:
        """Those who were sent away may read why, as long as they are not more than are talked to."""
        self.service.may_ask = lambda _: False
        connections, wires = zip(*(self.come() for _ in range(CONNECTIONS)), strict=True)
        connection, wire = self.come()
        self.assertEqual(
            [(each.ended, each.disconnecting) for each in (*wires, wire)].count((True, False)), CONNECTIONS
        )
        self.assertEqual((wire.ended, wire.disconnecting, wire.said()[0][:11]), (False, True, "no refused "))
        for each in (*connections, connection):
            self.goes(each)
        self.assertEqual((self.service.lingering, self.clock.getDelayedCalls()), (set(), []))

    def test_the_service_can_end_every_conversation(self) -> None:
        """The service can end every conversation."""
        wires = [self.come()[1] for _ in range(3)]
        self.service.hang_up()
        self.assertEqual([wire.ended for wire in wires], [True] * 3)
        self.assertEqual([each.ends for each in self.made], [1] * 3)


class AskTests(Case):
    """What the service asks its peer."""

    def setUp(self) -> None:
        super().setUp()
        self.connection, self.wire = self.come()

    def test_answers_come_in_the_order_of_the_questions(self) -> None:
        """In the order of what was asked, among requests, while a request waits."""
        first, second = self.connection.ask("judge 1", "judged"), self.connection.ask("judge 2", "judged")
        self.connection.dataReceived(b"later\njudged 0\njudged 1\n")
        self.assertEqual([self.successResultOf(each) for each in (first, second)], ["judged 0", "judged 1"])
        self.made[0].later.callback("then")
        self.assertEqual(self.wire.said(), ["judge 1", "judge 2", "ok then"])

    def test_a_late_answer_is_not_taken_for_the_next(self) -> None:
        """An answer that nobody waits for any more is not taken for the next."""
        first: Deferred[Any] = self.connection.ask("judge 1", "judged").addTimeout(1.0, self.clock)
        second = self.connection.ask("judge 2", "judged")
        self.clock.advance(1.0)
        self.failureResultOf(first, TimeoutError)
        self.connection.dataReceived(b"judged 0\njudged 1\n")
        self.assertEqual(self.successResultOf(second), "judged 1")

    def test_an_answer_without_a_question_is_a_request(self) -> None:
        """Such an answer is a request like any other."""
        self.connection.dataReceived(b"judged 0\n")
        self.assertEqual(self.wire.said(), ["ok judged 0"])

    def test_a_peer_that_is_gone_does_not_answer(self) -> None:
        """Who is gone does not answer, now or later."""
        asked = self.connection.ask("judge 1", "judged")
        self.goes(self.connection)
        self.failureResultOf(asked, PeerGone)
        self.failureResultOf(self.connection.ask("judge 1", "judged"), PeerGone)
        self.connection.tell("nothing")
        self.assertEqual(self.wire.said(), ["judge 1"])

    def test_a_peer_that_never_answers(self) -> None:
        """It is not asked without end."""
        asked = [self.connection.ask("judge", "judged") for _ in range(17)]
        self.failureResultOf(asked[-1], PeerGone)
        self.assertNoResult(asked[0])
        self.goes(self.connection)
        for each in asked[:-1]:
            self.failureResultOf(each, PeerGone)


class ExchangeTests(Case):
    """`PeerConnection.exchange`, which does not wait for the reactor."""

    def setUp(self) -> None:
        super().setUp()
        self.near, self.far = socket.socketpair()
        self.addCleanup(self.near.close)
        self.addCleanup(self.far.close)
        self.near.setblocking(False)
        self.connection, _ = self.come()

    def test_the_next_line_is_the_answer(self) -> None:
        """It is the next line."""
        self.far.send(b"isn 7\n")
        self.assertEqual(self.connection.exchange("tsval 5", 60), "isn 7")
        self.assertEqual(self.far.recv(100), b"tsval 5\n")

    def test_without_a_whole_line_in_time_there_is_no_answer(self) -> None:
        """Nothing, half a line, nobody: None."""
        self.assertIsNone(self.connection.exchange("tsval 5", 0.001))
        self.far.send(b"isn")
        self.assertIsNone(self.connection.exchange("tsval 5", 60))
        self.far.close()
        self.assertIsNone(self.connection.exchange("tsval 5", 60))
        self.assertIsNone(self.connection.exchange("tsval 5", 60))

    def test_an_answer_with_descriptors_is_not_received(self) -> None:
        """An answer that brings some is none, and is not received: its close could wait."""
        reading, writing = os.pipe()
        socket.send_fds(self.far, [b"isn 7\n"], [writing])
        os.close(writing)
        self.assertIsNone(self.connection.exchange("tsval 5", 60))
        self.assertIsNone(descriptors.readable(self.near))
        self.near.close()
        self.assertEqual(os.read(reading, 1), b"")
        os.close(reading)

    def test_an_answer_that_is_no_line_is_malformed(self) -> None:
        """`Malformed`."""
        self.far.send(b"isn  7\n")
        self.assertRaises(Malformed, self.connection.exchange, "tsval 5", 60)
