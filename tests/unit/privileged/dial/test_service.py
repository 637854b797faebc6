"""Tests of torknock.privileged.dial.service: hostile requests, and dials over loopback with a repair mode in memory."""

from __future__ import annotations

import errno
import socket
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.memory_repair import MemoryRepair
from tests.support.reactor import reactor
from tests.support.strategies import pieces
from tests.unit.service.test_conversation import Wire
from torknock.kernel.socket_options import TCP_REPAIR
from torknock.privileged.dial.quotas import BURST, Quotas
from torknock.privileged.dial.service import Dialling, dial_service
from torknock.privileged.dial.timestamp import Stamp
from torknock.privileged.dial.tuples import Tuples
from torknock.service.dial_requests import DIALLING, parse
from torknock.service.grammar import Malformed
from torknock.service.interfaces import Reply
from torknock.service.peers import Guests, Peer, peer

hosts = st.sampled_from(["127.0.0.1", "::1", "127.0.0.0/8", "localhost", "0.0.0", "::0", ""])
numbers = st.sampled_from(["0", "-1", "65536", "4294967296", "01", "7 7 7 7", "x", ""])
verbs = st.sampled_from(["dial", "stamped", "guard", "isn", "ok", ""])
almost = st.tuples(verbs, hosts, numbers, numbers).map(" ".join)
hostile = st.one_of(st.binary(max_size=400), st.lists(almost, max_size=3).map(lambda said: "\n".join(said).encode()))


def is_request(said: bytes) -> bool:
    """Whether *said* begins with a request, which would be dialled: hypothesis tries texts of other tests, too."""
    try:
        parse(said.partition(b"\n")[0].decode("latin-1"))
    except Malformed:
        return False
    return True


class FuzzTests(SynchronousTestCase):
    """Octets of all kinds."""

    def setUp(self) -> None:
        self.near, self.far = socket.socketpair()
        self.addCleanup(self.near.close)
        self.addCleanup(self.far.close)
        self.me = peer(self.near).uid

    @given(hostile.filter(lambda said: not is_request(said)).flatmap(lambda said: pieces(said + b"\n")))
    def test_octets_that_are_no_request_end_the_connection(self, heard: list[bytes]) -> None:
        """One line says that they are no request, and the connection ends; the next peer is heard."""
        clock = Clock()
        service = dial_service(cast(Any, clock), Guests(frozenset({self.me}), frozenset()), 16)
        for said in (heard, [b"dial here\n"]):
            connection, wire = service.buildProtocol(None), Wire(self.near)
            connection.makeConnection(wire)
            for piece in said:
                connection.dataReceived(piece)
            [line] = wire.said()
            self.assertEqual((line[:7], wire.ended), ("no bad ", True))
            connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((service.connections, clock.getDelayedCalls()), (set(), []))


class MemoryPeer:
    """A peer of whom only the answers are there."""

    def __init__(self, answer: str | None) -> None:
        self.peer = Peer(12345, frozenset())
        self.told: list[str] = []
        self.answer = answer

    def tell(self, line: str) -> None:
        self.told.append(line)

    def exchange(self, line: str, _within: float) -> str | None:
        self.told.append(line.partition(" ")[0])
        return self.answer


class DialTests(TestCase):
    """A program that listens on loopback."""

    def setUp(self) -> None:
        program = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.addCleanup(program.close)
        self.program, self.port = program, program.getsockname()[1]
        self.kernel, self.quotas = MemoryRepair(), Quotas()

    async def dial(self, line: str, answer: str | None = "isn 7") -> tuple[Reply, list[str]]:
        """The reply to *line*, and what is said before; *answer* is the peer's to a TSval."""
        asking = MemoryPeer(answer)
        dialling = Dialling(reactor, cast(Any, asking), Tuples(), self.quotas, self.kernel.dialer())
        reply = cast(Reply, await cast(Any, dialling.answer(line)))
        self.assertTrue(reply.last)
        for each in reply.descriptors:
            each.close()
        self.assertEqual(self.kernel.still_open(), 0)
        return reply, asking.told

    async def test_the_socket_is_the_answer(self) -> None:
        """The peer hears before that the SYN has left; it may be told where from."""
        for line in (f"dial 127.0.0.1 {self.port} 7", f"dial 127.0.0.1 {self.port} 7 127.0.0.1"):
            reply, told = await self.dial(line)
            self.assertEqual((reply.text, len(reply.descriptors), told), ("ok", 1, [DIALLING]))
        self.assertEqual(self.kernel.left, [("127.0.0.1", self.port, 7)] * 2)

    async def test_the_peer_chooses_the_isn_of_a_stamped_dial(self) -> None:
        """If it does not, or not in time, no SYN leaves."""
        line = f"stamped 127.0.0.1 {self.port}"
        while (reply := (await self.dial(line))[0]).text != "ok":
            self.assertRegex(reply.text, "^no (late|slipped) ")  # this host was too busy
        self.assertEqual(self.kernel.left[-1], ("127.0.0.1", self.port, 7))
        self.kernel.left.clear()
        for answer in (None, "isn 0"):
            reply, told = await self.dial(line, answer)
            self.assertRegex(reply.text, "^no late ")
            self.assertEqual(told, ["tsval"])
        self.assertEqual(self.kernel.left, [])
        self.patch(Stamp, "missed", lambda *_: True)
        while (reply := (await self.dial(line))[0]).text.startswith("no late "):
            pass
        self.assertRegex(reply.text, "^no slipped ")

    async def test_why_there_is_no_connection(self) -> None:
        """The errno, and what to do."""
        self.kernel.refuses = {TCP_REPAIR: errno.EPERM}
        reply, told = await self.dial(f"dial 127.0.0.1 {self.port} 7")
        self.assertRegex(reply.text, f"^no cannot {errno.EPERM} this process lacks CAP_NET_ADMIN")
        self.assertEqual(told, [])
        self.kernel.refuses = {}
        self.program.close()
        reply, told = await self.dial(f"dial 127.0.0.1 {self.port} 7")
        self.assertRegex(reply.text, f"^no failed {errno.ECONNREFUSED} Connection refused")
        self.assertEqual(told, [DIALLING])

    async def test_a_user_who_dials_too_often_waits(self) -> None:
        """And is told how long."""
        for _ in range(BURST):
            self.quotas.wait(12345, reactor.seconds())
        reply, _ = await self.dial(f"dial 127.0.0.1 {self.port} 7")
        self.assertRegex(reply.text, r"^no busy this user dials too often; the next dial is possible in \d\.\d s$")
        self.assertEqual(self.kernel.left, [])
