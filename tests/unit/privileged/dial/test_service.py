"""Tests of torknock.privileged.dial.service: hostile requests. That it dials is for tests/kernel."""

from __future__ import annotations

import socket
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.support.strategies import pieces
from tests.unit.service.test_conversation import Wire
from torknock.privileged.dial.service import dial_service
from torknock.service.dial_requests import parse
from torknock.service.grammar import Malformed
from torknock.service.peers import Guests, peer

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
    def test_any_octets(self, heard: list[bytes]) -> None:
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
